"""Single events of the trace event format, in the words of the format."""

from __future__ import annotations

from typing import Any

Event = dict[str, Any]


def named(kind: str, loop: int, track: int, name: str) -> Event:
    """The name of a loop or of a track."""
    return {"name": kind, "ph": "M", "pid": loop, "tid": track, "args": {"name": name}}


def span(loop: int, track: int, name: str, began: int, ended: int, **args: object) -> Event:
    """A time on a track, from ns on; the format wants microseconds."""
    return _event("X", loop, track, name, began) | {"dur": (ended - began) / 1e3, "args": args}


def instant(loop: int, track: int, name: str, at: int, **args: object) -> Event:
    """A moment on a track."""
    return _event("i", loop, track, name, at) | {"s": "t", "args": args}


def asynchronous(
    phase: str, loop: int, track: int, name: str, at: int, *, category: str, number: int, **args: object
) -> Event:
    """The begin (``b``), a step (``n``) or the end (``e``) of what may overlap others of its category."""
    return _event(phase, loop, track, name, at) | {"cat": category, "id": number, "args": args}


def _event(phase: str, loop: int, track: int, name: str, at: int) -> Event:
    return {"name": name, "ph": phase, "pid": loop, "tid": track, "ts": at / 1e3}
