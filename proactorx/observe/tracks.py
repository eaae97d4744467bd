"""Tracks of a trace beside the loop's own: threads of both pools, listeners, operations, tasks by name."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from types import CodeType
from typing import TYPE_CHECKING, Any, TypeVar

from proactorx.observe.alarm import now_ns
from proactorx.observe.events import Event, asynchronous, named, span
from proactorx.observe.flight import peer_of
from proactorx.pool.jobs import JobRecord, Jobs

if TYPE_CHECKING:
    from proactorx.observe.seen import Seen

_T = TypeVar("_T")

#: One call, as `details` has it: began, ended, when its op was submitted or the task that went on, place of
#: the name, descriptor of a packet, whether its op stays in flight.
CALL = struct.Struct("=qqqiii4x")
PACKETS = 6
CALLBACKS = 7
HAND_OVERS = 8
OPERATIONS = 9
FIRST_LISTENER = 2000
FIRST_THREAD = 10_000
FIRST_TASK = 20_000
MOST_TASKS = 300


def listeners_of(loop: Seen, most: int | None) -> Iterator[Event]:
    """Each listener has a track, with the connections that it has accepted: how long it took to make each."""
    accepts = _last(loop._registry.last_accepts(), most)
    for fd in dict.fromkeys(each[2] for each in accepts):
        yield named(
            "thread_name", loop._number, FIRST_LISTENER + fd, f"listener fd {fd} {peer_of(fd)}".rstrip()
        )
    for began, ended, listener, fd in accepts:
        yield span(loop._number, FIRST_LISTENER + listener, "accept", began, ended, fd=fd)


def threads_of(loop: Seen, most: int | None) -> Iterator[Event]:
    """Each thread of a pool has a track, with what it has run; how long each call waited is beside it."""
    numbers = itertools.count(1)
    places = itertools.count(FIRST_THREAD)
    executor: Any = loop._default_executor
    for pool, jobs in (
        ("IO threads", loop._io_pool._jobs if loop._io_pool is not None else None),
        ("workers", getattr(executor, "jobs", None)),
    ):
        if not isinstance(jobs, Jobs):
            continue
        tracks: dict[str, int] = {}
        for job in _last(jobs.last(), most):
            if job.thread not in tracks:
                tracks[job.thread] = next(places)
                yield named("thread_name", loop._number, tracks[job.thread], job.thread)
            yield from _job(loop._number, tracks[job.thread], pool, job, next(numbers))


def _job(loop: int, track: int, pool: str, job: JobRecord, number: int) -> Iterator[Event]:
    name, code = _words(job.what)
    ended = job.ended
    args = {"code": code, "pool": pool} if ended else {"code": code, "pool": pool, "state": "running"}
    yield span(loop, track, name, job.began, ended or now_ns(), **args)
    for phase, at in (("b", job.since), ("e", job.began)):
        yield asynchronous(
            phase,
            loop,
            HAND_OVERS,
            name,
            at,
            category="hand-over",
            number=number,
            pool=pool,
            thread=job.thread,
        )


def _words(what: CodeType | str) -> tuple[str, str]:
    """The name of what was called, and where it is defined."""
    if isinstance(what, CodeType):
        return what.co_qualname, f"{what.co_filename}:{what.co_firstlineno}"
    return what, ""


def calls_of(loop: Seen, most: int | None) -> Iterator[Event]:
    """Each packet and each callback, where that is recorded; the operations and tasks that they are of."""
    details = loop._calls()
    if details is None:
        return
    kept = details.calls()
    if most is not None:
        kept = kept[max(0, len(kept) - most * CALL.size) :]
    names, tasks = details.all_names(), details.all_tasks()
    flights = _Flights(loop._number)
    tracks: dict[int, int] = {}
    for began, ended, of, place, fd, more in CALL.iter_unpack(kept):
        name = names[place]
        if fd >= 0:
            yield span(loop._number, PACKETS, name, began, ended, fd=fd)
            if of:
                yield from flights.packet(name, fd, of, began, last=not more)
            continue
        yield span(loop._number, CALLBACKS, name.partition(" ")[0], began, ended, code=name)
        if not of or (of not in tracks and len(tracks) >= MOST_TASKS):
            continue
        if of not in tracks:
            tracks[of] = FIRST_TASK + len(tracks)
            title = f"Task-{of}" if of > 0 else tasks[-1 - of]
            yield named("thread_name", loop._number, tracks[of], f"task {title}")
        yield span(loop._number, tracks[of], name.partition(" ")[0], began, ended, code=name)
    yield from flights.rest()


class _Flights:
    """The operations that have completed, or brought packets: each from its submission to its last packet."""

    def __init__(self, loop: int) -> None:
        self._loop = loop
        self._open: dict[tuple[str, int, int], int] = {}
        self._numbers = itertools.count(1)

    def _event(self, phase: str, key: tuple[str, int, int], at: int, **args: object) -> Event:
        number = self._open[key]
        return asynchronous(
            phase, self._loop, OPERATIONS, key[0], at, category="operation", number=number, fd=key[1], **args
        )

    def packet(self, name: str, fd: int, since: int, at: int, *, last: bool) -> Iterator[Event]:
        """`at`: the loop was told."""
        key = name, fd, since
        if key not in self._open:
            self._open[key] = next(self._numbers)
            yield self._event("b", key, since)
        yield self._event("e" if last else "n", key, at)
        if last:
            del self._open[key]

    def rest(self) -> Iterator[Event]:
        """Those that are in flight still."""
        now = now_ns()
        for key in self._open:
            yield self._event("e", key, now, state="in flight")


def _last(items: list[_T], most: int | None) -> list[_T]:
    return items if most is None else items[max(0, len(items) - most) :]
