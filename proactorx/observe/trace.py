"""The last turns of a loop as a trace: JSON in the format of Chrome's trace viewer and of Perfetto."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from proactorx.observe.stall import told

if TYPE_CHECKING:
    from proactorx.observe.seen import Seen

#: One record, as `meter` has it: began, ended, woke; packets and callbacks so far, the lower 32 bits of each.
RECORD = struct.Struct("=qqqII")
TRACKS = {1: "turns", 2: "sleeps", 3: "waits for the GIL", 4: "stalls"}

Event = dict[str, Any]


def events_of(loop: Seen) -> Iterator[Event]:
    """What the recorder has, oldest first."""
    number = loop._number
    yield {"name": "process_name", "ph": "M", "pid": number, "args": {"name": f"loop {number}"}}
    for tid, name in TRACKS.items():
        yield {"name": "thread_name", "ph": "M", "pid": number, "tid": tid, "args": {"name": name}}
    before: tuple[int, int, int, int, int] | None = None
    for record in RECORD.iter_unpack(loop._records()):
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
    for stall in told(loop):
        began = stall.ended - round(stall.seconds * 1e9)
        yield _span(number, 4, stall.kind, began, stall.ended) | {"args": {"report": stall.text}}


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


def write(loop: Seen, path: str | os.PathLike[str]) -> int:
    """Write the trace to a new file, or over an old one; how many events it has."""
    events = list(events_of(loop))
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"traceEvents": events, "displayTimeUnit": "ms"}, file)
    return len(events)
