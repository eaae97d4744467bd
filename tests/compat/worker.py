"""gunicorn's worker of the page on deployment: uvicorn's, with this loop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import uvicorn
from gunicorn.workers.base import Worker as Base


class Worker(Base):  # type: ignore[misc]  # gunicorn has no types
    """One process of gunicorn's, with a loop."""

    def init_signals(self) -> None:
        """Leave them to uvicorn."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def run(self) -> None:
        """Serve until uvicorn ends."""
        from libraries import maker

        with asyncio.Runner(loop_factory=maker(os.environ.get("COMPAT_LOOP", "proactorx"))) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        beating = asyncio.create_task(self._beat())
        server = uvicorn.Server(uvicorn.Config(self.wsgi, log_level="error"))
        await server.serve(sockets=self.sockets)
        beating.cancel()
        if not server.started:
            sys.exit(3)

    async def _beat(self) -> None:
        while True:
            self.notify()
            await asyncio.sleep(0.5)
