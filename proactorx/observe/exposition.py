"""The counters of all running loops as text that Prometheus reads, in the format of OpenMetrics 1.0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from proactorx.observe.running import loops
from proactorx.observe.stats import BOUNDS, Histogram, LoopStats, stats_of

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PREFIX = "proactorx_loop_"

Labels = Mapping[str, str]
Samples = Iterable[tuple[Labels, float]]


@dataclass(frozen=True)
class Family:
    """One metric: what it is called, and its values for one loop."""

    name: str
    kind: str
    help: str
    of: Callable[[LoopStats], Samples]
    unit: str = ""


def _one(of: Callable[[LoopStats], float]) -> Callable[[LoopStats], Samples]:
    return lambda stats: [({}, of(stats))]


def _by(label: str, of: Callable[[LoopStats], Mapping[str, float]]) -> Callable[[LoopStats], Samples]:
    return lambda stats: [({label: key}, value) for key, value in of(stats).items()]


def _pools(of: str) -> Callable[[LoopStats], Samples]:
    return lambda stats: [
        ({"pool": "io"}, getattr(stats.io_threads, of)),
        ({"pool": "workers"}, getattr(stats.workers, of)),
    ]


def _ring(of: str) -> Callable[[LoopStats], Samples]:
    return lambda stats: [] if stats.ring is None else [({}, getattr(stats.ring, of))]


def _paused(stats: LoopStats) -> Samples:
    for kind, each in stats.transports.items():
        yield {"kind": kind, "direction": "reading"}, each.paused_reading
        yield {"kind": kind, "direction": "writing"}, each.paused_writing


def _listeners(of: str) -> Callable[[LoopStats], Samples]:
    return lambda stats: [
        ({"fd": str(each.fd)}, getattr(each, of)) for each in stats.listeners if getattr(each, of) is not None
    ]


def _oldest(stats: LoopStats) -> Mapping[str, float]:
    return {kind: each.oldest for kind, each in stats.ops.items() if each.oldest is not None}


FAMILIES = (
    Family("turns", "counter", "Turns of the loop.", _one(lambda s: s.turns)),
    Family("callbacks", "counter", "Handles taken off the ready queue.", _one(lambda s: s.callbacks)),
    Family("packets", "counter", "Completions dispatched.", _one(lambda s: s.packets)),
    Family("running_seconds", "counter", "Time in which the loop ran.", _one(lambda s: s.running), "seconds"),
    Family("idle_seconds", "counter", "Time in which it slept.", _one(lambda s: s.idle), "seconds"),
    Family(
        "current_turn_seconds",
        "gauge",
        "Age of the current turn.",
        _one(lambda s: s.current_turn),
        "seconds",
    ),
    Family("ready", "gauge", "Handles in the ready queue.", _one(lambda s: s.ready)),
    Family("timers", "gauge", "Timers, cancelled ones included.", _one(lambda s: s.timers)),
    Family("cancelled_timers", "gauge", "Cancelled timers.", _one(lambda s: s.cancelled_timers)),
    Family(
        "ops",
        "gauge",
        "Operations in flight.",
        _by("kind", lambda s: {kind: each.count for kind, each in s.ops.items()}),
    ),
    Family(
        "oldest_op_seconds",
        "gauge",
        "Age of the oldest operation in flight.",
        _by("kind", _oldest),
        "seconds",
    ),
    Family("accept_queue", "gauge", "Connections that wait to be accepted.", _listeners("waiting")),
    Family("accept_queue_limit", "gauge", "How many of them there may be.", _listeners("limit")),
    Family(
        "transports",
        "gauge",
        "Open transports.",
        _by("kind", lambda s: {kind: each.open for kind, each in s.transports.items()}),
    ),
    Family(
        "buffered_bytes",
        "gauge",
        "Bytes written that the kernel has not taken.",
        _by("kind", lambda s: {kind: each.buffered for kind, each in s.transports.items()}),
        "bytes",
    ),
    Family("paused_transports", "gauge", "Transports that are paused.", _paused),
    Family("threads", "gauge", "Threads of the loop's pools.", _pools("threads")),
    Family("active_threads", "gauge", "Threads that run something.", _pools("active")),
    Family("queued_calls", "gauge", "Calls that wait for a thread.", _pools("queued")),
    Family("ring_overflows", "counter", "Times the completion ring was full.", _ring("overflows")),
    Family("ring_starved", "counter", "Times the submission ring was full.", _ring("starved")),
    Family("ring_rebuilds", "counter", "Rings made for another thread.", _ring("rebuilds")),
)
HISTOGRAMS = (
    ("turn_length_seconds", "Length of turns.", "turn_length"),
    ("lag_seconds", "How late timers and ready callbacks ran.", "lag"),
    ("gil_wait_seconds", "Time from the end of a sleep until the loop had the GIL.", "gil_wait"),
)


def prometheus() -> str:
    """Return what all running loops of this process count, as text in the format of OpenMetrics.

    Serve it as ``CONTENT_TYPE``. Any thread may ask; no loop waits for it.
    """
    found = [
        ({"loop": str(loop._number), "backend": stats.backend}, stats)
        for loop in loops()
        for stats in [stats_of(loop)]
    ]
    lines: list[str] = []
    for family in FAMILIES:
        samples = [(own | dict(labels), value) for own, stats in found for labels, value in family.of(stats)]
        lines += _family(family, samples)
    for name, text, attribute in HISTOGRAMS:
        lines += _head(PREFIX + name, "histogram", text, "seconds")
        for own, stats in found:
            lines += _histogram(PREFIX + name, own, getattr(stats, attribute))
    return "\n".join([*lines, "# EOF", ""])


def _head(name: str, kind: str, text: str, unit: str) -> Iterator[str]:
    yield f"# TYPE {name} {kind}"
    if unit:
        yield f"# UNIT {name} {unit}"
    yield f"# HELP {name} {text}"


def _family(family: Family, samples: list[tuple[dict[str, str], float]]) -> Iterator[str]:
    name = PREFIX + family.name
    yield from _head(name, family.kind, family.help, family.unit)
    suffix = "_total" if family.kind == "counter" else ""
    for labels, value in samples:
        yield f"{name}{suffix}{_labels(labels)} {value}"


def _histogram(name: str, labels: dict[str, str], times: Histogram) -> Iterator[str]:
    total = 0
    for count, bound in zip(times.counts, (*map(str, BOUNDS), "+Inf"), strict=True):
        total += count
        yield f"{name}_bucket{_labels(labels | {'le': bound})} {total}"
    yield f"{name}_count{_labels(labels)} {total}"
    yield f"{name}_sum{_labels(labels)} {times.total}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
