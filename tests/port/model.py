"""The rules of a completion port as a program: what the compiled one is compared with.

One thing happens at a time, threads are names, and nothing sleeps: a thread is *outside* (it runs, or is
inside ``blocking()``) or *waits*.  The numbers R10 to R16 are the rules of Windows' I/O completion ports,
in this order:

R10  Packets are queued first in, first out.
R11  Waiting threads are released last in, first out: the latest waiter gets the oldest packet.
R13  A thread associates with a port at its first get, until it gets from another port, leaves, or the port
closes. R14  A packet that comes releases the latest waiter, if fewer threads run than the limit says.
R15  A thread that gets again, with packets queued, takes the next at once.
R16  A thread that blocks does not run; when it runs again, the limit may be exceeded,
and then nobody is released.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Thread:
    """What a port knows of a thread."""

    name: Any
    runs: bool = False
    blocking: int = 0  # so many blocking() it is inside of
    wants: int = 0  # so many packets at most: it waits; 0: it is outside


@dataclass
class Model:
    """One port."""

    concurrency: int
    queue: deque[Any] = field(default_factory=deque)
    waiters: list[Thread] = field(default_factory=list)  # the latest one last
    threads: dict[Any, Thread] = field(default_factory=dict)  # those that are associated
    #: What was given out, in order: to whom, and which packets.
    released: list[tuple[Any, list[Any]]] = field(default_factory=list)
    closed: bool = False

    @property
    def running(self) -> int:
        return sum(thread.runs for thread in self.threads.values())

    @property
    def associated(self) -> int:
        return len(self.threads)

    def _release(self) -> None:
        """R10, R11, R14: as long as there are packets, waiters, and room."""
        while self.queue and self.waiters and self.running < self.concurrency:
            self._give(self.waiters.pop())

    def _give(self, thread: Thread) -> None:
        packets = [self.queue.popleft() for _ in range(min(thread.wants, len(self.queue)))]
        thread.wants = 0
        thread.runs = True
        self.released.append((thread.name, packets))

    def post(self, packet: Any) -> None:
        """Also what an operation does when it has ended."""
        self.queue.append(packet)
        self._release()

    def get(self, name: Any, wants: int, *, wait: bool = True) -> None:
        """What it gets is in ``released``, now or later; without `wait`, now: perhaps an empty list."""
        thread = self.threads.setdefault(name, Thread(name))  # R13
        thread.runs = False
        thread.wants = wants
        if self.queue and self.running < self.concurrency:  # R15: before those that wait
            self._give(thread)
        elif wait:
            self.waiters.append(thread)
        else:
            thread.wants = 0
            thread.runs = True
            self.released.append((name, []))
        self._release()

    def block(self, name: Any) -> None:
        """Enter ``blocking()``."""
        if (thread := self.threads.get(name)) is not None:
            thread.blocking += 1
            thread.runs = False
            self._release()

    def unblock(self, name: Any) -> None:
        """Leave it."""
        thread = self.threads.get(name)
        if thread is not None and thread.blocking:
            thread.blocking -= 1
            thread.runs = not thread.blocking  # R16: whatever the limit says

    def leave(self, name: Any) -> None:
        """``dissociate()``, the end of the thread, or a get from another port."""
        self.threads.pop(name, None)
        self._release()

    def close(self) -> tuple[list[Any], list[Any]]:
        """The packets that are left, and the threads that are sent away."""
        left, sent_away = list(self.queue), [thread.name for thread in self.waiters]
        self.queue.clear()
        self.waiters.clear()
        self.threads.clear()
        self.closed = True
        return left, sent_away
