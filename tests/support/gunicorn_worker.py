"""A worker of gunicorn's that serves with uvicorn on the tested loop, as the page on deployment has it.

gunicorn gives its workers wrappers of sockets, whose every attribute is an error once they are closed.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import gunicorn.workers.base
import uvicorn
from support import loops


class Worker(gunicorn.workers.base.Worker):  # type: ignore[misc]  # gunicorn has no types
    """One process of gunicorn's, with a loop."""

    def init_signals(self) -> None:
        """Leave them to uvicorn."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def run(self) -> None:
        """Serve until uvicorn ends."""
        with asyncio.Runner(loop_factory=loops.tested()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        beating = asyncio.create_task(self._beat())
        config = uvicorn.Config(self.wsgi, log_level="error", lifespan="off", timeout_graceful_shutdown=20)
        server = uvicorn.Server(config)
        await server.serve(sockets=self.sockets)
        beating.cancel()
        if not server.started:
            sys.exit(3)

    async def _beat(self) -> None:
        while True:
            self.notify()
            await asyncio.sleep(0.5)
