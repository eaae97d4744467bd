"""What a shared port gives out, and what it says when it is closed."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Packet", "PortClosed"]


class Packet(NamedTuple):
    """One completion."""

    #: Of an operation: the key of the file; of a post: what was posted.
    key: Any
    #: The operation; of a post: what was posted.
    overlapped: Any
    #: The bytes that the operation moved; of a post: what was posted.
    nbytes: int
    #: The ``errno`` of an operation that failed, else 0.
    error: int


class PortClosed(RuntimeError):
    """The port has been closed."""
