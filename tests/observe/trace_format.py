"""The rules of the trace event format, as its specification has them, for the kinds of events that it knows.

Strict where the specification leaves something to viewers: a field that the format does not have is an error,
and so are two names of one track and times that are not finite.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

Event = dict[str, Any]

#: Fields of the top: "JSON Object Format". All but the first may be absent.
TOP = {
    *("traceEvents", "displayTimeUnit", "systemTraceEvents", "otherData"),
    *("stackFrames", "samples", "powerTraceAsString", "controllerTraceDataKey"),
}
#: Fields that events of every phase may have.
COMMON = {"name", "cat", "ph", "ts", "tts", "pid", "tid", "args", "cname"}
#: What a phase adds: (fields that it must have, fields that it may have).
PHASES: dict[str, tuple[set[str], set[str]]] = {
    "B": (set(), {"sf", "stack"}),
    "E": (set(), {"sf", "stack"}),
    "X": ({"dur"}, {"tdur", "sf", "stack", "esf", "estack"}),
    "i": (set(), {"s", "sf", "stack"}),
    "C": ({"args"}, {"id"}),
    **{phase: ({"cat", "id"}, {"scope"}) for phase in "bne"},
    **{phase: ({"cat", "id"}, {"bp"}) for phase in "stf"},
    "M": ({"args"}, set()),
}
#: The kinds of metadata, and what their arguments are called.
METADATA = {
    "process_name": ("name", str),
    "process_labels": ("labels", str),
    "process_sort_index": ("sort_index", int),
    "thread_name": ("name", str),
    "thread_sort_index": ("sort_index", int),
}
SLACK = 0.0021  # microseconds: two times are rounded to ns each


def parse(text: str) -> dict[str, Any]:
    """A file, checked."""
    content: dict[str, Any] = json.loads(text, parse_constant=_not_a_number)
    check(content)
    return content


def _not_a_number(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def check(content: dict[str, Any]) -> None:
    """Assert that this is a trace."""
    assert set(content) <= TOP
    assert content.get("displayTimeUnit") in (None, "ms", "ns")
    events = content["traceEvents"]
    for event in events:
        _alone(event)
    _names(events)
    _nesting(events)
    _async(events)


def _alone(event: Event) -> None:
    must, may = PHASES[event["ph"]]
    assert must <= set(event) <= COMMON | must | may, event
    assert isinstance(event["name"], str), event
    assert event["name"], event
    for field in ("pid", "tid"):
        assert type(event[field]) is int, event
    assert isinstance(event.get("args", {}), dict), event
    assert isinstance(event.get("cat", ""), str), event
    assert isinstance(event.get("id", 0), int | str), event
    if event["ph"] == "M":
        assert "ts" not in event or _time(event["ts"])
        field, kind = METADATA[event["name"]]
        assert set(event["args"]) == {field}, event
        assert isinstance(event["args"][field], kind), event
    else:
        assert _time(event["ts"]), event
    assert _time(event.get("dur", 0)), event
    assert event.get("s", "t") in ("g", "p", "t"), event


def _time(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0  # type: ignore[arg-type]


def _names(events: list[Event]) -> None:
    """Each track that has events has one name, and so has each process."""
    named = Counter(
        (event["name"], event["pid"], event["tid"] if event["name"] == "thread_name" else 0)
        for event in events
        if event["ph"] == "M"
    )
    assert [key for key, times in named.items() if times > 1] == []
    for event in events:
        if event["ph"] != "M":
            assert ("process_name", event["pid"], 0) in named, event
            assert ("thread_name", event["pid"], event["tid"]) in named, event


def _nesting(events: list[Event]) -> None:
    """The spans of a track are apart or one within the other; each begin has an end of its name."""
    tracks: dict[tuple[int, int], list[Event]] = {}
    for event in events:
        if event["ph"] in "XBE":
            tracks.setdefault((event["pid"], event["tid"]), []).append(event)
    for track in tracks.values():
        open_: list[tuple[str, float]] = []  # name and end of each; of a begin: no end yet
        for event in sorted(track, key=lambda each: (each["ts"], -each.get("dur", 0))):
            while open_ and open_[-1][1] <= event["ts"] + SLACK:
                open_.pop()
            if event["ph"] == "E":
                assert open_, event
                name, end = open_.pop()
                assert (name, end) == (event["name"], math.inf), event
                continue
            end = event["ts"] + event["dur"] if event["ph"] == "X" else math.inf
            assert event["ph"] == "B" or not open_ or end <= open_[-1][1] + SLACK, event
            open_.append((event["name"], end))
        assert [name for name, end in open_ if end == math.inf] == []


def _async(events: list[Event]) -> None:
    """Of each identity there is one begin and, not before it, one end; the steps are between them."""
    found: dict[tuple[object, ...], list[Event]] = {}
    for event in events:
        if event["ph"] in "bne":
            found.setdefault((event["pid"], event["cat"], event.get("scope"), event["id"]), []).append(event)
    for identity, each in found.items():
        phases = "".join(event["ph"] for event in each)
        assert re.fullmatch("bn*e", phases), (identity, phases)
        times = [event["ts"] for event in each]
        assert times == sorted(times), identity
        assert len({event["name"] for event in each}) == 1, identity
