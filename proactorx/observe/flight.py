"""The operations in flight as data: what each waits for, and which task waits for it. Any thread may ask."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proactorx.observe import census
from proactorx.sys.python import FREE_THREADED

if TYPE_CHECKING:
    from proactorx.observe.seen import Seen

MOST_PEERS = 200
"""Of so many descriptors the system is asked who is at the other end."""


@dataclass(frozen=True)
class Flight:
    """One operation in flight."""

    kind: str
    fd: int
    age: float | None
    """Seconds; None: not known."""
    peer: str
    """Who is at the other end of the socket; of a listener: where it listens. Empty: no socket."""
    task: str
    """The name of the task that waits for it; empty: none, a protocol is told. Without a GIL: not known."""


@dataclass(frozen=True)
class Buffer:
    """What one transport has and the kernel has not taken yet."""

    fd: int
    size: int
    """Bytes."""
    peer: str


def flights_of(loop: Seen, most: int) -> list[Flight]:
    """The oldest operations of `loop`, oldest first."""
    ops = census.ops_of(loop._port.driver)
    ops.sort(key=lambda op: -(op[2] or 0))
    # Where threads are free, the owner of an operation may be freed while it is looked at.
    waiting = {} if FREE_THREADED else _waiting(loop)
    return [
        Flight(kind, fd, age, peer_of(fd) if place < MOST_PEERS else "", _task_of(op, waiting))
        for place, (kind, fd, age, op) in enumerate(ops[:most])
    ]


def buffers_of(loop: Seen) -> list[Buffer]:
    """The transports of `loop` with the most bytes that the kernel has not taken yet, the largest first."""
    return [Buffer(fd, size, peer_of(fd)) for fd, size in census.buffered_of(loop._registry)]


def _waiting(loop: Seen) -> dict[int, str]:
    """The name of each task that waits, by the identity of what it waits for."""
    everything: Any = loop
    found = {}
    for task in asyncio.all_tasks(everything):
        waiter = getattr(task, "_fut_waiter", None)
        if waiter is not None:
            found[id(waiter)] = task.get_name()
    return found


def _task_of(op: Any, waiting: dict[int, str]) -> str:
    if not waiting:
        return ""
    for candidate in _futures(op):
        name = waiting.get(id(candidate))
        if name is not None:
            return name
    return ""


def _futures(op: Any) -> Iterator[object]:
    """What a task may wait for that waits for this operation."""
    yield getattr(op, "future", None)
    protocol = getattr(census.subject_of(op), "_protocol", None)
    if protocol is None:
        return
    drains = getattr(protocol, "_drain_waiters", ())
    if isinstance(drains, Iterable):
        yield from list(drains)
    reader = getattr(protocol, "_stream_reader", None)
    yield getattr(reader, "_waiter", None)
    yield from list(getattr(protocol, "__dict__", {}).values())  # of the user's own class


def peer_of(fd: int) -> str:
    """Who is at the other end of this socket, in words."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return ""
        with socket.socket(fileno=os.dup(fd)) as sock:
            try:
                return words_of(sock.getpeername())
            except OSError:
                return words_of(sock.getsockname())  # it listens, or is not connected
    except OSError:
        return ""


def words_of(address: Any) -> str:
    """A socket address as people write it."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    if isinstance(address, bytes):
        return os.fsdecode(address)
    return str(address)
