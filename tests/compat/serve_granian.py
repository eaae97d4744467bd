"""granian, with the loop that the session asks for."""

from __future__ import annotations

import asyncio
import sys

from granian import Granian
from granian import loops as granian_loops
from support import loops


@granian_loops.register("auto")
def build() -> asyncio.AbstractEventLoop:
    """The loop of each worker."""
    loop = loops.tested()()
    asyncio.set_event_loop(loop)
    return loop


if __name__ == "__main__":
    Granian("sessions:app", port=int(sys.argv[1]), interface="asgi", log_enabled=False).serve()
