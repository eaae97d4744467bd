"""The last turns of a loop as a trace: JSON in the format of Chrome's trace viewer and of Perfetto."""

from __future__ import annotations

import itertools
import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from proactorx.observe import page, tracks
from proactorx.observe.alarm import now_ns
from proactorx.observe.events import Event, instant, named, span
from proactorx.observe.flight import flights_of
from proactorx.observe.stall import Stall, told
from proactorx.observe.stats import stats_of
from proactorx.observe.tasks import tasks_of

if TYPE_CHECKING:
    from proactorx.observe.seen import Seen

#: One record, as `meter` has it: began, ended, woke or (below 0) of how many turns it is; packets and
#: callbacks so far, the lower 32 bits of each.
RECORD = struct.Struct("=qqqII")
TRACKS = {
    1: "turns",
    2: "sleeps",
    3: "waits for the GIL",
    4: "stalls",
    5: "tasks",
    tracks.PACKETS: "packets",
    tracks.CALLBACKS: "callbacks",
    tracks.HAND_OVERS: "hand-over to threads",
    tracks.OPERATIONS: "operations that have ended",
}
#: The first of the tracks of operations.
FIRST_OP = 100
MOST_OPS = 1000
MOST_TASKS = 1000
MOST_PAGES = 20

_pages = itertools.count()


def events_of(loop: Seen, most: int | None = None) -> Iterator[Event]:
    """What the recorder has, oldest first: of so many turns, or of all."""
    number = loop._number
    yield named("process_name", number, 0, f"loop {number}")
    for tid, name in TRACKS.items():
        yield named("thread_name", number, tid, name)
    yield from _turns(number, loop._records(), most)
    yield from tracks.calls_of(loop, most)
    yield from tracks.listeners_of(loop, most)
    yield from tracks.threads_of(loop, most)
    for stall in told(loop):
        began = stall.ended - round(stall.seconds * 1e9)
        yield span(number, 4, stall.kind, began, stall.ended, report=stall.text)
    yield from _ops(loop)
    yield from _tasks(loop)


def _turns(number: int, records: bytes, most: int | None) -> Iterator[Event]:
    if most is not None:
        records = records[max(0, len(records) - most * RECORD.size) :]
    before: tuple[int, int, int, int, int] | None = None
    for record in RECORD.iter_unpack(records):
        began, ended, woke, packets, callbacks = record
        if before is not None:
            if began > before[1]:
                yield span(number, 2, "sleep", before[1], woke if woke > 0 else began)
            if woke > 0:
                yield span(number, 3, "wait", woke, began)
            count = max(1, -woke)
            did = {
                "turns": count,
                "packets": (packets - before[3]) & 0xFFFFFFFF,
                "callbacks": (callbacks - before[4]) & 0xFFFFFFFF,
            }
            yield span(number, 1, "turn" if count == 1 else "turns", began, ended, **did)
        before = record


def _ops(loop: Seen) -> Iterator[Event]:
    """The operations that are in flight when this is written, each from its submission on.

    The format wants the spans of a track not to overlap: each has a track of its own.
    """
    now = now_ns()
    for place, op in enumerate(flights_of(loop, MOST_OPS)):
        if op.age is not None:
            yield named("thread_name", loop._number, FIRST_OP + place, f"{op.kind} fd {op.fd}")
            began = now - round(op.age * 1e9)
            args = {"fd": op.fd, "peer": op.peer, "task": op.task}
            yield span(loop._number, FIRST_OP + place, op.kind, began, now, **args)


def _tasks(loop: Seen) -> Iterator[Event]:
    """The tasks that are there when this is written."""
    now = now_ns()
    for task in tasks_of(loop)[:MOST_TASKS]:
        args = {"state": task.state, "stack": "\n".join(task.stack), "waits for": task.what}
        yield instant(loop._number, 5, task.name, now, **args)


def trace_of(loop: Seen, most: int | None = None) -> dict[str, Any]:
    """The whole trace, with the histograms of the loop beside it."""
    stats = stats_of(loop)
    return {
        "traceEvents": list(events_of(loop, most)),
        "displayTimeUnit": "ms",
        "otherData": {
            "loop": loop._number,
            "pid": os.getpid(),
            "backend": stats.backend,
            "written": time.strftime("%Y-%m-%d %H:%M:%S"),
            "histograms": {
                name: list(getattr(stats, name).counts) for name in ("turn_length", "lag", "gil_wait")
            },
        },
    }


def write(loop: Seen, path: str | os.PathLike[str]) -> int:
    """Write the trace to a new file, or over an old one; how many events it has.

    A name that ends in ``.html`` gets a page that draws it.
    """
    trace = trace_of(loop)
    save(trace, path)
    return len(trace["traceEvents"])


def joined(traces: list[dict[str, Any]]) -> dict[str, Any]:
    """The traces of several loops as one, with the histograms of the first."""
    return traces[0] | {"traceEvents": [event for trace in traces for event in trace["traceEvents"]]}


def write_at_each_end(
    report: Callable[[Stall], object], folder: str | os.PathLike[str]
) -> Callable[[Stall], object]:
    """Write a page for each stall that is over, too: of the last `MOST_PAGES` of the process."""

    def both(stall: Stall) -> None:
        report(stall)
        if stall.phase == "ends":
            place = next(_pages) % MOST_PAGES
            write(stall.loop, os.path.join(folder, f"stall-{os.getpid()}-{place}.html"))

    return both


def save(trace: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a trace, or the page that draws it."""
    text = json.dumps(trace)
    if os.fspath(path).endswith((".html", ".htm")):
        text = page.page(text)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
