"""``loop.stats()``: what a loop has counted, measured and at hand, as one frozen value."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from proactorx.observe import census
from proactorx.pool.jobs import Jobs

if TYPE_CHECKING:
    from proactorx.drivers.driver import Driver
    from proactorx.observe.seen import Seen

#: Upper bounds of the buckets of all histograms in seconds: 1 us, 2 us, 4 us, ... 33.6 s.
BOUNDS = census.bounds()


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a time was how long, in fixed buckets: each has twice the width of the one before it."""

    counts: tuple[int, ...]
    """How often, for each bucket; the last one has the times that are longer than all bounds."""
    total: float
    """Seconds: the sum of all times."""
    longest: float
    """Seconds."""

    @property
    def bounds(self) -> tuple[float, ...]:
        """Seconds: a time in bucket i is less than ``bounds[i]``."""
        return BOUNDS

    @property
    def count(self) -> int:
        """How many times there were."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Seconds; 0 where there was none."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, share: float) -> float:
        """Return the bound in seconds below which this share of the times lies; at most ``longest``.

        Args:
            share: 0 to 1; 0.99 asks for what is called p99.
        """
        if not 0 <= share <= 1:
            raise ValueError(f"share must be between 0 and 1, not {share!r}")
        left = share * self.count
        for count, bound in zip(self.counts, BOUNDS, strict=False):
            left -= count
            if left <= 0:
                return min(bound, self.longest)
        return self.longest

    def since(self, earlier: Histogram) -> Histogram:
        """Return what was added after `earlier`; ``longest`` is that of all."""
        counts = tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True))
        return Histogram(counts, self.total - earlier.total, self.longest)


@dataclass(frozen=True, slots=True)
class Ops:
    """The operations of one kind that are in flight."""

    count: int
    oldest: float | None
    """Seconds since the oldest was submitted, as of the turn that did so; None: not known."""


@dataclass(frozen=True, slots=True)
class ListenerStats:
    """One listening socket that the loop accepts from."""

    fd: int
    waiting: int | None
    """Connections that the kernel has made and nobody has accepted; None: this system does not say."""
    limit: int | None
    """How many of them there may be."""


@dataclass(frozen=True, slots=True)
class TransportStats:
    """The open transports of one kind: stream, tls or datagram."""

    open: int
    buffered: int
    """Bytes written to them that the kernel has not taken yet."""
    paused_reading: int
    """How many were told ``pause_reading``."""
    paused_writing: int
    """How many have told their protocols ``pause_writing``."""


@dataclass(frozen=True, slots=True)
class ThreadStats:
    """The threads of one pool of the loop."""

    threads: int
    active: int
    """How many of them run something."""
    queued: int
    """Calls that no thread has taken yet."""
    oldest_wait: float | None
    """Seconds for which the first of those has waited; None: there is none, or, of an executor that you have
    set, it is not known."""


@dataclass(frozen=True, slots=True)
class RingStats:
    """The rings of the io_uring driver."""

    submission_entries: int
    completion_entries: int
    in_kernel: int
    """Operations that have an entry in the ring now."""
    overflows: int
    """How often completions had to wait outside of the full ring."""
    starved: int
    """How often an operation found the submission ring full."""
    rebuilds: int
    """How often the loop went on with a new ring because another thread had taken over."""


@dataclass(frozen=True, slots=True)
class LoopStats:
    """What ``loop.stats()`` says. Counts are since the loop was made; they never decrease."""

    time: float
    """``time.monotonic()`` of it."""
    backend: str
    thread: int | None
    """The identifier of the thread that runs the loop; None: it does not run."""
    turns: int
    callbacks: int
    """Handles that were taken off the ready queue."""
    packets: int
    """Packets that were dispatched."""
    running: float
    """Seconds for which the loop has run."""
    idle: float
    """Seconds of ``running`` in which it slept."""
    in_flush: float
    """Seconds spent in sending what transports had put off. This and the next two divide the time in which
    the loop did not sleep; they are estimates, from every 17th turn."""
    in_dispatch: float
    """Seconds spent in telling of packets, the callbacks of protocols included."""
    in_callbacks: float
    """Seconds spent in calling handles, the steps of tasks included."""
    current_turn: float
    """Seconds since the current turn began; 0 while the loop sleeps or does not run."""
    turn_length: Histogram
    """From one look for packets to the next: nothing else can run meanwhile. Where no timer and no operation
    waits, brief turns are timed up to 16 together, and counted when those are over."""
    lag: Histogram
    """How late things ran, once a turn: the first due timer since it was due; callbacks that were ready when
    the turn began, since the turn before it, in which they became ready, had begun (so at most that late)."""
    gil_wait: Histogram
    """After each sleep: from the return of the system call until the loop had the GIL again. Where the driver
    cannot tell (``select``), it stays empty."""
    ready: int
    """Handles in the ready queue."""
    timers: int
    cancelled_timers: int
    """How many of ``timers`` are cancelled, and not dropped yet."""
    ops: Mapping[str, Ops]
    """The operations in flight by kind."""
    listeners: tuple[ListenerStats, ...]
    transports: Mapping[str, TransportStats]
    """The open transports by kind. Pipes have none here: look at ``ops``."""
    io_threads: ThreadStats
    """Of ``loop.io_pool``."""
    workers: ThreadStats
    """Of the default executor, where that is a ``ThreadPoolExecutor``."""
    ring: RingStats | None
    """None on other drivers than io_uring."""

    @property
    def idle_share(self) -> float:
        """The share of ``running`` in which the loop slept, 0 to 1; 1 where it has never run."""
        return min(1.0, self.idle / self.running) if self.running else 1.0

    def idle_share_since(self, earlier: LoopStats) -> float:
        """Return the same of the time since `earlier` stats of this loop."""
        running = self.running - earlier.running
        return min(1.0, max(0.0, (self.idle - earlier.idle) / running)) if running > 0 else 1.0


@dataclass(frozen=True, slots=True)
class CallStats:
    """What was called, since ``loop.record(detail=True)``."""

    name: str
    """A function with its file and line; a coroutine, where tasks went on; a kind of operation, with
    the class of the protocol that was told of it."""
    count: int
    total: float
    """Seconds."""
    longest: float
    """Seconds."""


def calls_of(loop: Seen) -> tuple[CallStats, ...]:
    """What `loop` has called, where that is recorded: what took the most time in all first."""
    details = loop._calls()
    if details is None:
        return ()
    found = [CallStats(*each) for each in details.totals_by_name() if each[1]]
    return tuple(sorted(found, key=lambda each: -each.total))


def stats_of(loop: Seen) -> LoopStats:
    """Count and read; any thread may, while the loop runs."""
    figures = loop._figures()
    driver = loop._port.driver
    for name in ("turn_length", "lag", "gil_wait"):
        figures[name] = Histogram(*figures[name])
    ops, listeners = _ops(driver)
    return LoopStats(
        time=time.monotonic(),
        backend=loop._choice.info.name,
        thread=loop._thread_id,
        ops=ops,
        listeners=listeners,
        transports=_transports(loop),
        io_threads=_io_threads(loop),
        workers=_workers(loop),
        ring=_ring(driver),
        **figures,
    )


def _ops(driver: Driver) -> tuple[Mapping[str, Ops], tuple[ListenerStats, ...]]:
    ages: dict[str, list[float | None]] = {}
    listeners = []
    for name, fd, age, op in census.ops_of(driver):
        ages.setdefault(name, []).append(age)
        if census.is_listener(op):
            listeners.append(ListenerStats(fd, *(census.listen_queue(fd) or (None, None))))
    found = {
        name: Ops(len(all_), max((age for age in all_ if age is not None), default=None))
        for name, all_ in sorted(ages.items())
    }
    return MappingProxyType(found), tuple(listeners)


def _transports(loop: Seen) -> Mapping[str, TransportStats]:
    found = census.transports_of(loop._registry)
    return MappingProxyType({kind: TransportStats(*counts) for kind, counts in found.items()})


NO_THREADS = ThreadStats(0, 0, 0, None)


def _io_threads(loop: Seen) -> ThreadStats:
    pool = loop._io_pool
    if pool is None:
        return NO_THREADS
    active, working, _, queued, _, oldest = pool._counts()
    return ThreadStats(active, working, queued, oldest)


def _workers(loop: Seen) -> ThreadStats:
    executor: Any = loop._default_executor
    if not isinstance(executor, ThreadPoolExecutor):
        return NO_THREADS
    threads, queued = len(executor._threads), executor._work_queue.qsize()
    idle: int = getattr(executor._idle_semaphore, "_value", 0)
    jobs = getattr(executor, "jobs", None)
    oldest = jobs.oldest_wait() if queued and isinstance(jobs, Jobs) else None
    return ThreadStats(threads, max(0, threads - idle), queued, oldest)


def _ring(driver: Any) -> RingStats | None:
    if driver.name != "io_uring":
        return None
    return RingStats(
        submission_entries=driver.entries,
        completion_entries=driver.cq_entries,
        in_kernel=driver.in_flight,
        overflows=driver.overflows,
        starved=driver.starved,
        rebuilds=driver.rebuilds,
    )
