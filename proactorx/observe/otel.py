"""The counters of all running loops as instruments of OpenTelemetry.

Named like those that the semantic conventions have for the event loop of Node.js: utilization and delay.
OpenTelemetry has no histogram that is asked, so of the times it gets quantiles since the last collection.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

from proactorx.observe.exposition import FAMILIES, Family
from proactorx.observe.running import loops
from proactorx.observe.stats import LoopStats, stats_of

PACKAGE = "proactorx"
LOOP, BACKEND = f"{PACKAGE}.loop", f"{PACKAGE}.backend"
SCOPE = f"{PACKAGE}.eventloop"
UNITS = {"seconds": "s", "bytes": "By", "": "1"}
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
TIMES = ("turn_length", "lag", "gil_wait")

Answer = Callable[[Any], Iterator[Any]]  # what an observable instrument is asked, and its observations


def instrument(provider: Any = None) -> None:
    """Make the instruments, once for each provider."""
    metrics: Any = importlib.import_module("opentelemetry.metrics")
    meter = metrics.get_meter(PACKAGE, meter_provider=provider)
    for family in FAMILIES:
        name = f"{SCOPE}.{family.name}"
        make = meter.create_observable_counter if family.kind == "counter" else meter.create_observable_gauge
        make(name, [_answer(family, metrics.Observation)], UNITS[family.unit], family.help)
    meter.create_observable_gauge(
        f"{SCOPE}.utilization",
        [_utilization(metrics.Observation)],
        "1",
        "Share of the time since the last collection in which the loop did not sleep.",
    )
    for times in TIMES:
        meter.create_observable_gauge(
            f"{SCOPE}.{times}.quantiles",
            [_quantiles(times, metrics.Observation)],
            "s",
            f"Quantiles of {times}.",
        )


def _each() -> Iterator[tuple[dict[str, str], LoopStats]]:
    for loop in loops():
        stats = stats_of(loop)
        yield {LOOP: str(loop._number), BACKEND: stats.backend}, stats


def _answer(family: Family, observation: Any) -> Answer:
    def answer(_options: Any) -> Iterator[Any]:
        for own, stats in _each():
            for labels, value in family.of(stats):
                yield observation(value, own | dict(labels))

    return answer


class _Earlier:
    """What each loop's stats were at the last collection."""

    def __init__(self) -> None:
        self._stats: dict[str, LoopStats] = {}

    def swap(self) -> Iterator[tuple[dict[str, str], LoopStats, LoopStats | None]]:
        """Each loop's labels, stats, and stats of the last time; loops that have gone are dropped."""
        now = {}
        for own, stats in _each():
            number = own[LOOP]
            now[number] = stats
            yield own, stats, self._stats.get(number)
        self._stats = now


def _utilization(observation: Any) -> Answer:
    earlier = _Earlier()

    def answer(_options: Any) -> Iterator[Any]:
        for own, stats, before in earlier.swap():
            idle = stats.idle_share if before is None else stats.idle_share_since(before)
            yield observation(1 - idle, own)

    return answer


def _quantiles(name: str, observation: Any) -> Answer:
    earlier = _Earlier()

    def answer(_options: Any) -> Iterator[Any]:
        for own, stats, before in earlier.swap():
            times = getattr(stats, name)
            if before is not None:
                times = times.since(getattr(before, name))
            for label, share in QUANTILES.items():
                yield observation(times.quantile(share), own | {"quantile": label})

    return answer
