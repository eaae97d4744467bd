"""Stalls that a test plants, and what the watchdog says of them."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
import threading
import time
from collections.abc import Awaitable, Callable

from loop.helpers import BOUND

import proactorx
from proactorx.observe.stall import BLOCKED, CPU, UNKNOWN, Stall

Loop = proactorx.EventLoop

LINUX = sys.platform.startswith("linux")
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
#: What a busy machine may make of it, and what a system says that knows no CPU times of threads.
ALSO = {CPU} if LINUX else {UNKNOWN, BLOCKED}
AFTER = 0.05


def busy() -> bool:
    """Whether more programs want to run here than there are processors."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1)


def may_block() -> set[str]:
    """What may be said of a loop that waits in a call: on a busy machine it may not have come to that yet."""
    return {BLOCKED, UNKNOWN} | ({CPU} if busy() else set())


class Seen:
    """The stalls that are reported of a loop."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.stalls: list[Stall] = []
        self.begun = threading.Event()

    def __call__(self, stall: Stall) -> None:
        self.stalls.append(stall)
        self.begun.set()

    def find(self, kind: str) -> list[Stall]:
        return [stall for stall in self.stalls if stall.kind == kind]

    def block(self) -> None:
        """Block until somebody has told of it."""
        assert self.begun.wait(BOUND)

    def compute(self) -> None:
        """Compute until somebody has told of it."""
        end = time.monotonic() + BOUND
        while not self.begun.is_set():
            assert time.monotonic() < end

    def run(self, main: Callable[[], Awaitable[None]]) -> list[Stall]:
        """Run that as a task, and on until the end of each stall was told."""

        async def body() -> None:
            await asyncio.sleep(0.001)
            task = asyncio.create_task(main(), name="the culprit")  # type: ignore[arg-type]
            await task
            async with asyncio.timeout(BOUND):
                while not self.stalls or self.stalls[-1].phase != "ends":
                    await asyncio.sleep(0.002)

        self.loop.run_until_complete(body())
        return self.stalls


def first(seen: Seen) -> Stall:
    assert [stall.phase for stall in seen.stalls][:2] == ["begins", "ends"]
    assert seen.stalls[0].seconds >= AFTER
    assert seen.stalls[1].seconds >= seen.stalls[0].seconds
    return seen.stalls[0]
