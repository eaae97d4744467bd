"""granian, with the loop that the session asks for."""

from __future__ import annotations

import asyncio
import os
import sys

from granian import Granian, loops
from libraries import maker


@loops.register("auto")
def build() -> asyncio.AbstractEventLoop:
    """The loop of each worker."""
    loop = maker(os.environ.get("COMPAT_LOOP", "proactorx"))()
    asyncio.set_event_loop(loop)
    return loop


if __name__ == "__main__":
    Granian("sessions:app", port=int(sys.argv[1]), interface="asgi", log_enabled=False).serve()
