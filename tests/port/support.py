"""Threads that get packets when they are told to, and sockets."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import pytest

from proactorx import CompletionPort, Packet

LIMIT = 8.0  # seconds: the longest that a test waits for one thing to happen
MOMENT = 0.05  # seconds in which nothing must happen


def descriptors() -> set[int]:
    """The descriptors that this process has open; on Windows they are handles, which nobody lists: none."""
    found: set[int] = set()
    if sys.platform == "win32":
        return found
    for fd in map(int, os.listdir("/dev/fd")):  # shows its own one too, which is closed by now
        with contextlib.suppress(OSError):
            os.fstat(fd)
            found.add(fd)
    return found


def until(happened: Callable[[], Any], what: str = "it") -> None:
    """Wait until `happened`."""
    deadline = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < deadline, f"{what} has not happened in time"
        time.sleep(0.0005)


def _step_of_cpu_clock() -> float:
    """By how many seconds the CPU clock of a thread goes on at once."""
    times = [time.thread_time()]
    while len(times) < 3:
        if (now := time.thread_time()) != times[-1]:
            times.append(now)
    return times[2] - times[1]


#: Of a running thread, whose clock stands still between two looks, the port must think that it sleeps.
needs_cpu_clock = pytest.mark.skipif(
    sys.platform == "linux" and _step_of_cpu_clock() > 0.001,
    reason="this kernel counts CPU time in steps of its timer, as user-mode-linux does",
)


class Member:
    """A thread of a port, which does one thing at a time, as it is told."""

    def __init__(self, port: CompletionPort) -> None:
        self.port = port
        self.stops: list[threading.Event] = []
        self.outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._orders: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                self.outcomes.put(order())
            except Exception as exc:
                self.outcomes.put(exc)

    def do(self, order: Callable[[], Any]) -> Any:
        """Have it done by this thread, and wait for what comes of it."""
        self._orders.put(order)
        return self.outcome()

    def begin(self, order: Callable[[], Any]) -> None:
        """Have it begun."""
        self._orders.put(order)

    def wait(self, *, leave_after: bool = False) -> None:
        """Have it wait for a packet, and return when it does."""
        before = waiting(self.port)

        def order() -> Any:
            packet = self.port.get(LIMIT)
            if leave_after:
                self.port.dissociate()
            return packet

        self._orders.put(order)
        until(lambda: waiting(self.port) == before + 1, "waiting")

    def outcome(self) -> Any:
        """What came of it: a packet, for instance, or an exception."""
        return self.outcomes.get(timeout=LIMIT)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has come of it yet."""
        return self.outcomes.empty()

    def end(self) -> None:
        """End the thread, and wait for that; also one that spins, where a test has failed."""
        for stop in self.stops:
            stop.set()
        self._orders.put(None)
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


def waiting(port: CompletionPort) -> int:
    """How many threads wait (if none is inside ``blocking()``, or asleep elsewhere)."""
    return port.associated - port.running


@contextlib.contextmanager
def members(port: CompletionPort, count: int) -> Iterator[list[Member]]:
    """So many threads; the port is closed, and then they are ended."""
    made = [Member(port) for _ in range(count)]
    try:
        yield made
    finally:
        port.close()
        for member in made:
            member.end()


def keys(packets: list[Packet]) -> list[Any]:
    """The keys of packets."""
    return [packet.key for packet in packets]


class Pairs:
    """Makes non-blocking sockets and closes them all at the end."""

    def __init__(self) -> None:
        self.made: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for sock in self.made:
            sock.close()

    def keep(self, sock: socket.socket) -> socket.socket:
        """Close this one too."""
        sock.setblocking(False)
        self.made.append(sock)
        return sock

    def pair(self, kind: int = socket.SOCK_STREAM) -> tuple[socket.socket, socket.socket]:
        """Two connected Unix sockets; of TCP where Python has no others."""
        one, other = socket.socketpair(getattr(socket, "AF_UNIX", socket.AF_INET), kind)
        return self.keep(one), self.keep(other)

    def tcp(self) -> socket.socket:
        """A TCP socket that is not connected."""
        return self.keep(socket.socket())

    def udp(self) -> socket.socket:
        """A UDP socket with an address."""
        sock = self.keep(socket.socket(type=socket.SOCK_DGRAM))
        sock.bind(("127.0.0.1", 0))
        return sock

    def listener(self) -> socket.socket:
        """A TCP socket that listens."""
        return self.keep(socket.create_server(("127.0.0.1", 0)))

    def connected(self) -> tuple[socket.socket, socket.socket]:
        """Two connected TCP sockets."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = self.keep(socket.create_connection(listener.getsockname()))
            return one, self.keep(listener.accept()[0])
