"""Bodies that block until they are let go, and waiting for what must come."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType

LIMIT = 20.0  # seconds; no test waits longer for something that must come


def until(true: Callable[[], object]) -> None:
    """Wait, without a loop, until this is so."""
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.002)


class Blocker:
    """Call it in threads: they block until ``release``, at the latest at the end of the ``with``."""

    def __init__(self) -> None:
        self._inside = threading.Semaphore(0)
        self._released = threading.Event()

    def __call__(self) -> None:
        self._inside.release()
        assert self._released.wait(LIMIT)

    def wait_for(self, count: int = 1) -> None:
        """Wait until so many more threads have begun to block."""
        for _ in range(count):
            assert self._inside.acquire(timeout=LIMIT)

    async def begun(self, loop: asyncio.AbstractEventLoop, count: int = 1) -> None:
        """The same, while the loop runs."""
        async with asyncio.timeout(LIMIT):
            for _ in range(count):
                while not self._inside.acquire(blocking=False):
                    await asyncio.sleep(0.002)

    def release(self) -> None:
        self._released.set()

    def __enter__(self) -> Blocker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
