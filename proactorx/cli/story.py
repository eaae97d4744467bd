"""What ``demo threads`` records of the two pools over time."""

from __future__ import annotations

from dataclasses import dataclass, field

from proactorx.pool import Growth


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool at one moment."""

    threads: int
    busy: int
    queued: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Both pools at one moment."""

    at: float  # seconds since the start
    phase: str
    workers: Pool
    io: Pool


@dataclass(slots=True)
class Story:
    """Everything that :mod:`picture` shows."""

    seconds: float
    backend: str
    gate: float
    idle: float
    phase: str = ""
    samples: list[Sample] = field(default_factory=list)
    waits: dict[str, dict[str, float]] = field(default_factory=dict)  # phase -> pool -> seconds at most
    log: list[tuple[float, Growth]] = field(default_factory=list)  # seconds since the start
