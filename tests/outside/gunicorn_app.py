"""What real gunicorn runs in the tests: an application,
and a worker that serves it with uvicorn on the tested loop.

gunicorn gives its workers wrappers of sockets, whose every attribute is an error once they are closed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import gunicorn.workers.base
import uvicorn


def new_loop() -> asyncio.AbstractEventLoop:
    """The loop that the test asks for."""
    word = os.environ["LOOP_WORD"]
    if word == "asyncio":
        return asyncio.SelectorEventLoop()
    import proactorx

    return proactorx.new_event_loop(word)


class Worker(gunicorn.workers.base.Worker):  # type: ignore[misc]  # gunicorn has no types
    """One process of gunicorn's, with a loop."""

    def init_signals(self) -> None:
        """Leave them to uvicorn."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    def run(self) -> None:
        """Serve until uvicorn ends."""
        with asyncio.Runner(loop_factory=new_loop) as runner:
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


async def app(scope: Any, receive: Any, send: Any) -> None:
    """/pid answers at once; /slow when its process has been asked to end."""
    assert scope["type"] == "http"
    if scope["path"] == "/slow":
        print("in flight", flush=True)
        while os.path.exists(os.environ["GATE"]):  # noqa: ASYNC240
            await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": f"{os.getpid()}".encode()})
