"""``demo threads``: show both pools under a load that first saturates the workers, then blocks IO threads.

Everything runs on one loop in this process. Repeated short calls to each pool measure how long they wait
meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import proactorx
from proactorx.cli.errors import NO_RICH, CliError
from proactorx.cli.story import Pool, Sample, Story
from proactorx.pool import IOThreadPool

#: The phases, and each one's share of the time.
PHASES = (("calm", 0.1), ("workers saturated", 0.35), ("IO callbacks block", 0.35), ("rest", 0.2))
ROUNDS = 3  # calls for each worker
BLOCKED = 10  # callbacks that block, for a pool that starts 2 threads at once
SAMPLES = 54  # columns of the picture
WORKERS = "proactorx-worker-"


class Counter:
    """Counts the calls that are queued and those that run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.queued: int = 0
        self.busy: int = 0

    def submit(self) -> None:
        """A call has been queued."""
        with self._lock:
            self.queued += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """A queued call runs inside this context."""
        with self._lock:
            self.queued -= 1
            self.busy += 1
        try:
            yield
        finally:
            with self._lock:
                self.busy -= 1


class Load:
    """Runs the scenario."""

    def __init__(self, story: Story, show: Callable[[], None]) -> None:
        self.story = story
        self._show = show
        self._loop = asyncio.get_running_loop()
        self._start = time.monotonic()
        self._pool = IOThreadPool(2, 64, gate=story.gate, idle=story.idle)
        self._workers = Counter()
        self._stop = threading.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Run all phases, then close both pools."""
        try:
            await self._play()
        finally:
            self._stop.set()  # not cancelled: a queued call would still count as queued
            await asyncio.gather(*self._tasks)
            await self._loop.shutdown_default_executor()
            self._pool.close()
        self._sample()

    async def _play(self) -> None:
        for background in (self._watch(), self._ask("workers"), self._ask("IO threads")):
            self._tasks.append(asyncio.create_task(background))
        until = self._start
        for phase, share in PHASES:
            self.story.phase = phase
            length = share * self.story.seconds
            if phase == "workers saturated":
                for _ in range(ROUNDS * _worker_count()):
                    self._submit(length / (ROUNDS + 0.3))
            elif phase == "IO callbacks block":
                for _ in range(BLOCKED):
                    self._pool.queue(self._stop.wait, 0.8 * length)
            until += length
            await asyncio.sleep(until - time.monotonic())

    def _submit(self, seconds: float) -> None:
        def body() -> None:
            with self._workers.running():
                self._stop.wait(seconds)

        self._workers.submit()
        self._loop.run_in_executor(None, body)

    async def _ask(self, pool: str) -> None:
        """Make short calls to one pool, and record the longest wait of each phase."""
        while not self._stop.is_set():
            phase, began = self.story.phase, time.monotonic()
            if pool == "workers":
                self._workers.submit()
                await self._loop.run_in_executor(None, self._short)
            else:
                await self._pool.call(self._loop, os.stat, ".")
            waits = self.story.waits.setdefault(phase, {})
            waits[pool] = max(waits.get(pool, 0.0), time.monotonic() - began)
            await asyncio.sleep(self.story.seconds / 200)

    def _short(self) -> None:
        with self._workers.running():
            os.stat(".")

    async def _watch(self) -> None:
        for number in range(1, SAMPLES):
            if self._stop.is_set():
                return
            self._sample()
            await asyncio.sleep(self._start + number * self.story.seconds / SAMPLES - time.monotonic())

    def _sample(self) -> None:
        stats = self._pool.stats()
        threads = sum(thread.name.startswith(WORKERS) for thread in threading.enumerate())
        self.story.log = [(entry.time - self._start, entry) for entry in stats.log]
        self.story.samples.append(
            Sample(
                time.monotonic() - self._start,
                self.story.phase,
                Pool(threads, self._workers.busy, self._workers.queued),
                Pool(stats.active, stats.working, stats.queued),
            )
        )
        self._show()


def _worker_count() -> int:
    """Return the default size of ``concurrent.futures.ThreadPoolExecutor``."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(32, cpus + 4)


def demo_threads(*, seconds: float, backend: str | None) -> int:
    """Run the command ``demo threads`` and return the exit code."""
    try:
        from proactorx.cli import picture
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        raise CliError(NO_RICH, 2) from None

    async def main() -> Story:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, proactorx.EventLoop)
        story = Story(seconds, loop.backend_info().name, seconds / 50, seconds / 25)
        with picture.live(story) as show:
            await Load(story, show).run()
        return story

    try:
        story = proactorx.run(main(), backend=backend)
    except proactorx.BackendError as error:
        raise CliError(str(error)) from None
    picture.show_story(story)
    return 0
