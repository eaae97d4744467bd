"""The last turns of a loop as a trace: JSON in the format of Chrome's trace viewer and of Perfetto."""

from __future__ import annotations

import itertools
import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from proactorx.observe import page
from proactorx.observe.alarm import now_ns
from proactorx.observe.flight import flights_of
from proactorx.observe.stall import Stall, told
from proactorx.observe.stats import stats_of
from proactorx.observe.tasks import tasks_of

if TYPE_CHECKING:
    from proactorx.observe.seen import Seen

#: One record, as `meter` has it: began, ended, woke; packets and callbacks so far, the lower 32 bits of each.
RECORD = struct.Struct("=qqqII")
TRACKS = {
    1: "turns",
    2: "sleeps",
    3: "waits for the GIL",
    4: "stalls",
    5: "tasks",
    6: "packets",
    7: "callbacks",
}
#: One call, as `details` has it: began, ended, place of the name, descriptor of a packet.
CALL = struct.Struct("=qqii")
#: The first of the tracks of operations.
FIRST_OP = 100
MOST_OPS = 1000
MOST_TASKS = 1000
MOST_PAGES = 20

Event = dict[str, Any]

_pages = itertools.count()


def events_of(loop: Seen, most: int | None = None) -> Iterator[Event]:
    """What the recorder has, oldest first: of so many turns, or of all."""
    number = loop._number
    yield _name("process_name", number, 0, f"loop {number}")
    for tid, name in TRACKS.items():
        yield _name("thread_name", number, tid, name)
    yield from _turns(number, loop._records(), most)
    yield from _calls(loop, most)
    for stall in told(loop):
        began = stall.ended - round(stall.seconds * 1e9)
        yield _span(number, 4, stall.kind, began, stall.ended) | {"args": {"report": stall.text}}
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
                yield _span(number, 2, "sleep", before[1], woke or began)
            if woke:
                yield _span(number, 3, "wait", woke, began)
            yield _span(number, 1, "turn", began, ended) | {
                "args": {
                    "packets": (packets - before[3]) & 0xFFFFFFFF,
                    "callbacks": (callbacks - before[4]) & 0xFFFFFFFF,
                }
            }
        before = record


def _calls(loop: Seen, most: int | None) -> Iterator[Event]:
    """Each packet and each callback, where that is recorded."""
    details = loop._calls()
    if details is None:
        return
    kept = details.calls()
    if most is not None:
        kept = kept[max(0, len(kept) - most * CALL.size) :]
    names = details.all_names()
    for began, ended, place, fd in CALL.iter_unpack(kept):
        name = names[place]
        if fd < 0:
            yield _span(loop._number, 7, name.partition(" ")[0], began, ended) | {"args": {"code": name}}
        else:
            yield _span(loop._number, 6, name, began, ended) | {"args": {"fd": fd}}


def _ops(loop: Seen) -> Iterator[Event]:
    """The operations that are in flight when this is written, each from its submission on.

    The format wants the spans of a track not to overlap: each has a track of its own.
    """
    now = now_ns()
    for place, op in enumerate(flights_of(loop, MOST_OPS)):
        if op.age is not None:
            yield _name("thread_name", loop._number, FIRST_OP + place, f"{op.kind} fd {op.fd}")
            yield _span(loop._number, FIRST_OP + place, op.kind, now - round(op.age * 1e9), now) | {
                "args": {"fd": op.fd, "peer": op.peer, "task": op.task}
            }


def _tasks(loop: Seen) -> Iterator[Event]:
    """The tasks that are there when this is written."""
    now = now_ns() / 1e3
    for task in tasks_of(loop)[:MOST_TASKS]:
        yield {
            "name": task.name,
            "ph": "i",
            "s": "t",
            "pid": loop._number,
            "tid": 5,
            "ts": now,
            "args": {"state": task.state, "stack": "\n".join(task.stack), "waits for": task.what},
        }


def _name(kind: str, loop: int, track: int, name: str) -> Event:
    return {"name": kind, "ph": "M", "pid": loop, "tid": track, "args": {"name": name}}


def _span(loop: int, track: int, name: str, began: int, ended: int) -> Event:
    """A time, in microseconds as the format wants it."""
    return {
        "name": name,
        "ph": "X",
        "pid": loop,
        "tid": track,
        "ts": began / 1e3,
        "dur": (ended - began) / 1e3,
    }


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
