"""The figures of ``demo``: rounds of load on two servers, and what they come to."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

LOOPS = ("proactorx", "asyncio")
BUSY = 0.85  # share of a core from which a process counts as busy


@dataclass(frozen=True, slots=True)
class Round:
    """The figures of one round of load on one server."""

    rate: float  # requests per second
    p50: float  # seconds
    p90: float
    p99: float
    cpu: float  # seconds of the server per request
    server_busy: float  # share of a core
    client_busy: float  # of the busiest client
    others: float | None  # cores used by everything else on the machine


@dataclass(slots=True)
class Result:
    """Everything that :mod:`render` shows."""

    connections: int
    size: int
    seconds: float  # of one round
    rounds: dict[str, list[Round]] = field(default_factory=lambda: {name: [] for name in LOOPS})
    servers: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def median(self, loop: str, figure: str) -> float:
        """The median of `figure` (an attribute of ``Round``) over the rounds of `loop`."""
        return float(statistics.median(getattr(one, figure) for one in self.rounds[loop]))

    @property
    def loaded(self) -> bool:
        """Whether both servers were busy, so that requests per second and latency depend on them."""
        return all(self.median(loop, "server_busy") >= BUSY for loop in LOOPS)
