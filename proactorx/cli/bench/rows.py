"""What ``bench`` measures: its rows, the loops that it looks for, and the figures it gets."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from proactorx.drivers import BACKENDS

#: Other loops that are measured where they can be imported.
PEERS = ("uvloop", "winloop", "rloop", "rsloop", "zuvloop", "blazio")
OURS = BACKENDS[1:]  # without auto


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a server under load if it has a `size`, else calls on the loop alone."""

    name: str
    caption: str
    size: int = 0  # bytes of a request and of its answer
    server: str = ""  # how the server is written
    unit: str = "request"


ROWS = (
    Row("protocol-64", "protocol echo, 64 B", 64, "protocol"),
    Row("protocol-1k", "protocol echo, 1 KiB", 1024, "protocol"),
    Row("protocol-10k", "protocol echo, 10 KiB", 10240, "protocol"),
    Row("streams-1k", "streams echo, 1 KiB", 1024, "streams"),
    Row("sockets-1k", "sock_recv and sock_sendall, 1 KiB", 1024, "sockets"),
    Row("tls-1k", "TLS protocol echo, 1 KiB", 1024, "tls"),
    Row("call_soon", "call_soon", unit="call"),
    Row("call_soon_threadsafe", "call_soon_threadsafe, in the loop's thread", unit="call"),
    Row("task_create", "create_task, and the task's end", unit="task"),
    Row("timers", "call_at, and the timer fires", unit="timer"),
    Row("file-4k", "read 4 KiB: proactorx.files, executor", unit="read"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of one row on one loop."""

    cpu: float  # seconds of the server's process per request
    rate: float  # requests per second


@dataclass(frozen=True, slots=True)
class Ratio:
    """The base's CPU time over a loop's, above 1 where the loop needs less: over the rounds."""

    median: float
    low: float  # quartiles of the rounds
    high: float

    @property
    def noise(self) -> float:
        """Half the distance of the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median


@dataclass(slots=True)
class Result:
    """Everything that is drawn."""

    about: dict[str, Any]
    loops: dict[str, str] = field(default_factory=dict)  # name -> what it is, with its version
    missing: dict[str, str] = field(default_factory=dict)  # name -> why
    skipped: dict[str, str] = field(default_factory=dict)  # row -> why
    notes: list[str] = field(default_factory=list)
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)  # row -> loop -> rounds

    @property
    def base(self) -> str:
        """What the others are compared with: uvloop if it was measured, else asyncio, else the last."""
        return next((name for name in ("uvloop", "asyncio") if name in self.loops), list(self.loops)[-1])

    def cpu(self, row: str, loop: str) -> float:
        """The median CPU time per request."""
        return statistics.median(one.cpu for one in self.samples[row][loop])

    def rate(self, row: str, loop: str) -> float:
        """The median of requests per second."""
        return statistics.median(one.rate for one in self.samples[row][loop])

    def ratio(self, row: str, loop: str) -> Ratio | None:
        """How `loop` compares with the base, round by round; None where one of them was not measured."""
        base, own = self.samples[row].get(self.base), self.samples[row].get(loop)
        if not base or not own:
            return None
        found = sorted(theirs.cpu / ours.cpu for theirs, ours in zip(base, own, strict=True))
        if len(found) < 2:
            return Ratio(found[0], found[0], found[0])
        low, median, high = statistics.quantiles(found, n=4, method="inclusive")
        return Ratio(median, low, high)

    def as_json(self) -> dict[str, Any]:
        """All of it, samples included, in JSON's types."""
        rows = [
            {
                "row": row.name,
                "caption": row.caption,
                "unit": row.unit,
                "loops": {
                    loop: self._figures(row.name, loop, samples)
                    for loop, samples in self.samples[row.name].items()
                },
            }
            for row in ROWS
            if self.samples.get(row.name)
        ]
        return {
            "version": 1,
            "about": self.about,
            "base": self.base,
            "loops": self.loops,
            "missing": self.missing,
            "skipped": self.skipped,
            "notes": self.notes,
            "rows": rows,
        }

    def _figures(self, row: str, loop: str, samples: list[Sample]) -> dict[str, Any]:
        found = self.ratio(row, loop)
        return {
            "cpu": self.cpu(row, loop),
            "rate": self.rate(row, loop),
            "ratio": found and {"median": found.median, "low": found.low, "high": found.high},
            "samples": [{"cpu": one.cpu, "rate": one.rate} for one in samples],
        }
