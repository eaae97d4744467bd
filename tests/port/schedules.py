"""One port and its model, to both of which the same things happen, one at a time."""

from __future__ import annotations

import random
import socket
import time
from typing import Any

from proactorx import CompletionPort, PortClosed

from .conftest import NewPort
from .model import Model
from .support import LIMIT, Member

THREADS = 4


class Schedule:
    """A port and its model, to both of which the same things happen; threads and sockets are lent."""

    def __init__(
        self, port: CompletionPort, other: CompletionPort, threads: list[Member], sock: Any, peer: Any
    ) -> None:
        self.port, self.other, self.threads, self.sock, self.peer = port, other, threads, sock, peer
        # the threads sleep whenever they have nothing to do
        port._look_every(1e6)  # type: ignore[attr-defined]
        self.model = Model(port.concurrency)
        self.number = 0
        # the blocking() of each
        self.inside: dict[int, list[Any]] = {index: [] for index in range(len(threads))}
        port.bind(sock, "op")

    @property
    def idle(self) -> list[int]:
        """The threads that do not wait."""
        waiting = {thread.name for thread in self.model.waiters}
        return [index for index in range(len(self.threads)) if index not in waiting]

    def free(self) -> list[int]:
        """Those of them that may get."""
        return [index for index in self.idle if not self.inside[index]]

    def post(self) -> None:
        self.number += 1
        self.model.post(self.number)
        self.port.post(self.number)
        self.agree()

    def send(self) -> None:
        """An operation that ends at once."""
        self.model.post("op")
        self.port.send(self.sock, b"x")
        self.peer.recv(1)
        self.agree()

    def receive(self) -> None:
        """An operation that ends when somebody sleeps in the driver."""
        self.model.post("op")
        self.port.recv(self.sock, 1)
        self.peer.send(b"x")
        self.agree()

    def get(self, index: int, wants: int) -> None:
        self.model.get(index, wants)
        if wants == 1:
            self.threads[index].begin(lambda: [self.port.get().key])
        else:
            self.threads[index].begin(lambda: [packet.key for packet in self.port.get_many(wants)])
        self.agree()

    def poll(self, index: int, wants: int) -> None:
        self.model.get(index, wants, wait=False)
        self.threads[index].begin(lambda: [packet.key for packet in self.port.get_many(wants, 0)])
        self.agree()

    def block(self, index: int) -> None:
        self.model.block(index)
        context = self.port.blocking()
        self.inside[index].append(context)
        self.threads[index].do(context.__enter__)
        self.agree()

    def unblock(self, index: int) -> None:
        self.model.unblock(index)
        context = self.inside[index].pop()
        self.threads[index].do(lambda: context.__exit__(None, None, None))
        self.agree()

    def dissociate(self, index: int) -> None:
        self.model.leave(index)
        self.threads[index].do(self.port.dissociate)
        self.agree()

    def visit(self, index: int) -> None:
        """Another port."""
        self.model.leave(index)
        self.threads[index].do(lambda: self.other.get_many(1, 0))
        self.agree()

    def agree(self) -> None:
        """What the model has given out comes to the same threads, and nothing else happens."""
        for name, packets in self.model.released:
            assert self.threads[name].outcome() == packets
        self.model.released.clear()
        expected = len(self.model.queue), self.model.associated, self.model.running
        deadline = time.monotonic() + LIMIT
        while (self.port.queued, self.port.associated, self.port.running) != expected:
            assert time.monotonic() < deadline, f"{self.port} instead of {expected}"
            time.sleep(0)
        assert all(thread.is_quiet for thread in self.threads)

    def end(self) -> None:
        left, sent_away = self.model.close()
        assert [packet.key for packet in self.port.close()] == left
        for name in sent_away:
            assert isinstance(self.threads[name].outcome(), PortClosed)
        for index, contexts in self.inside.items():
            for context in contexts:
                self.threads[index].do(lambda context=context: context.__exit__(None, None, None))
            self.threads[index].do(self.other.dissociate)

    def step(self, dice: random.Random) -> None:
        """One thing that may happen now."""
        kind = dice.choices(
            ("post", "get", "poll", "block", "unblock", "leave", "send", "receive"), STEP_WEIGHTS
        )[0]
        index = dice.randrange(len(self.threads))
        if kind == "post":
            self.post()
        elif kind == "send":
            self.send()
        elif kind == "receive" and self.model.waiters:
            self.receive()
        elif kind == "get" and index in self.free():
            self.get(index, dice.choice((1, 1, 2, 5)))
        elif kind == "poll" and index in self.free():
            self.poll(index, dice.choice((1, 3)))
        elif kind == "block" and index in self.idle:
            self.block(index)
        elif kind == "unblock" and self.inside[index]:
            self.unblock(index)
        elif kind == "leave" and index in self.free():
            (self.dissociate if dice.random() < 0.7 else self.visit)(index)


STEP_WEIGHTS = (30, 30, 8, 8, 10, 4, 4, 6)


class World:
    """Threads and sockets that schedules take turns to use."""

    def __init__(self, new_port: NewPort) -> None:
        self.new_port = new_port
        self.other = new_port(1)
        self.threads = [Member(self.other) for _ in range(THREADS)]
        self.sock, self.peer = socket.socketpair()
        self.peer.settimeout(LIMIT)

    def schedule(self, concurrency: int) -> Schedule:
        return Schedule(self.new_port(concurrency), self.other, self.threads, self.sock, self.peer)

    def close(self) -> None:
        for thread in self.threads:
            thread.end()
        self.sock.close()
        self.peer.close()
