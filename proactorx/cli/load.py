"""The demo's client, a process of its own: ``python -m proactorx.cli.load``.

A readiness loop in plain Python that shares no code with the loops under test, so that both servers get the
same load. Each connection sends a request, waits for the whole echo, and sends the next. Commands and answers
are JSON lines on the standard streams: ``open`` connects and checks every echoed byte of several requests on
every connection, ``go`` runs the load for a time and returns the figures, ``close`` closes the connections.
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import select
import selectors
import socket
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

IN, OUT = 1, 4  # EPOLLIN and EPOLLOUT
PATIENCE = 10.0  # seconds without any answer until the server counts as stuck
CHECKS = 3  # different requests on every connection before the load starts
SPREAD = 4093  # distance, in bytes, over which the requests of the check are cut from one random block


def plain_congestion_control(sock: socket.socket) -> None:
    """Avoid bbr: it paces even loopback, so a system with that default would measure the pacing."""
    if not hasattr(socket, "TCP_CONGESTION"):
        return
    for name in (b"cubic", b"reno"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
            return


class LoadError(Exception):
    """The server sent a wrong echo, or a connection broke."""


class Poller(Protocol):
    """The methods of ``select.epoll`` that the load uses."""

    def register(self, fd: int, mask: int, /) -> Any: ...
    def modify(self, fd: int, mask: int, /) -> Any: ...
    def poll(self, timeout: float, /) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class SelectorPoller:
    """The standard library's selectors with epoll's methods, for systems without epoll."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.close: Callable[[], None] = self._selector.close

    def register(self, fd: int, mask: int) -> None:
        """Wait for the events of `mask` on `fd`."""
        self._selector.register(fd, self._events(mask))

    def modify(self, fd: int, mask: int) -> None:
        """Wait for other events."""
        self._selector.modify(fd, self._events(mask))

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        """Return (fd, mask) of each ready descriptor, after at most `timeout` seconds."""
        return [(key.fd, self._mask(events)) for key, events in self._selector.select(timeout)]

    @staticmethod
    def _events(mask: int) -> int:
        return (selectors.EVENT_READ if mask & IN else 0) | (selectors.EVENT_WRITE if mask & OUT else 0)

    @staticmethod
    def _mask(events: int) -> int:
        return (IN if events & selectors.EVENT_READ else 0) | (OUT if events & selectors.EVENT_WRITE else 0)


def new_poller() -> Poller:
    """Return the best poller for many connections."""
    if sys.platform == "linux":
        return select.epoll()
    return SelectorPoller()


class Load:
    """Connections to one server."""

    def __init__(self, port: int, connections: int, size: int) -> None:
        self.size = size
        self._poller = new_poller()
        self._buffer = bytearray(min(max(size, 4096), 256 * 1024))
        self._unsent: dict[int, memoryview] = {}
        self._sockets: dict[int, socket.socket] = {}
        try:
            for _ in range(connections):
                self._connect(port)
        except OSError as error:
            opened = len(self._sockets)
            self.close()
            raise LoadError(f"connection {opened + 1} of {connections} failed: {error}") from None

    def _connect(self, port: int) -> None:
        sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._sockets[sock.fileno()] = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain_congestion_control(sock)
        sock.setblocking(False)
        self._poller.register(sock.fileno(), IN)

    def close(self) -> None:
        """Close every connection."""
        for sock in self._sockets.values():
            sock.close()
        self._poller.close()

    def check(self) -> None:
        """Send different requests on every connection, and compare the answers with them."""
        block = memoryview(random.Random(self.size).randbytes(self.size + SPREAD))
        for turn in range(CHECKS):
            cuts = {fd: (7 * at + 1237 * turn) % SPREAD for at, fd in enumerate(self._sockets)}
            answers: dict[int, bytearray] = {fd: bytearray() for fd in self._sockets}
            waiting = set(answers)
            for fd, cut in cuts.items():
                self._send(fd, block[cut : cut + self.size])
            while waiting:
                for fd, data in self._arrivals():
                    answers[fd] += data
                    if len(answers[fd]) < self.size:
                        continue
                    if answers[fd] != block[cuts[fd] : cuts[fd] + self.size]:
                        raise LoadError(
                            f"the echo differs from the request (connection {fd}, request {turn + 1})"
                        )
                    waiting.discard(fd)

    def _arrivals(self) -> Iterator[tuple[int, memoryview]]:
        view = memoryview(self._buffer)
        for fd, mask in self._wait():
            if mask & OUT:
                self._flush(fd)
            if mask & ~OUT:
                yield fd, view[: self._receive(fd)]

    def _wait(self) -> list[tuple[int, int]]:
        events = self._poller.poll(PATIENCE)
        if not events:
            raise LoadError(f"the server has not answered for {PATIENCE:.0f} s")
        return events

    def _receive(self, fd: int) -> int:
        count = self._sockets[fd].recv_into(self._buffer)
        if not count:
            raise LoadError("the server closed a connection")
        return count

    def _send(self, fd: int, data: memoryview) -> None:
        try:
            sent = self._sockets[fd].send(data)
        except BlockingIOError:
            sent = 0
        self._keep(fd, data[sent:])

    def _keep(self, fd: int, rest: memoryview) -> None:
        if rest:
            self._unsent[fd] = rest
            self._poller.modify(fd, IN | OUT)
        elif self._unsent.pop(fd, None) is not None:
            self._poller.modify(fd, IN)

    def _flush(self, fd: int) -> None:
        self._send(fd, self._unsent[fd])

    def go(self, seconds: float) -> dict[str, Any]:
        """Run the load for ``seconds``, then wait for the outstanding answers.
        The server is idle before and after.
        """
        gc.collect()
        gc.disable()
        try:
            cpu, start = time.process_time(), time.perf_counter()
            latencies = self._pump(start + seconds)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        finally:
            gc.enable()
        return {"requests": len(latencies), "wall": wall, "cpu": cpu, "latencies": _histogram(latencies)}

    def _pump(self, stop: float) -> array[float]:
        """The inner loop. One clock reading ends a request and starts the next;
        otherwise a request takes two calls.
        """
        message = memoryview(random.randbytes(self.size))
        size, buffer, unsent, now = self.size, self._buffer, self._unsent, time.perf_counter
        receive: dict[int, Callable[[bytearray], int]] = {fd: s.recv_into for fd, s in self._sockets.items()}
        send: dict[int, Callable[[memoryview], int]] = {fd: s.send for fd, s in self._sockets.items()}
        missing = dict.fromkeys(self._sockets, size)
        started: dict[int, float] = {}
        latencies = array("d")
        record = latencies.append
        for fd in send:
            started[fd] = now()
            self._send(fd, message)
        under_way = len(send)
        while under_way:
            for fd, mask in self._wait():
                if mask != IN:
                    if fd in unsent:
                        self._flush(fd)
                    if mask == OUT:
                        continue
                count = receive[fd](buffer)
                if count != missing[fd]:
                    if not 0 < count < missing[fd]:
                        raise LoadError(
                            "more came back than was sent" if count else "the server closed a connection"
                        )
                    missing[fd] -= count
                    continue
                missing[fd] = size
                moment = now()
                record(moment - started[fd])
                if moment >= stop:
                    under_way -= 1
                    continue
                started[fd] = moment
                try:
                    sent = send[fd](message)
                except BlockingIOError:
                    sent = 0
                if sent != size:
                    self._keep(fd, message[sent:])
        return latencies


def _histogram(latencies: array[float]) -> dict[int, int]:
    """Count requests by microseconds, to three digits: the result is small,
    and several clients' results add up.
    """
    exact = Counter(int(latency * 1e6) for latency in latencies)
    out: Counter[int] = Counter()
    for micros, count in exact.items():
        step = 10 ** max(len(str(micros)) - 3, 0)
        out[micros // step * step] += count
    return dict(out)


class Client(Protocol):
    """What commands are given to."""

    def check(self) -> None: ...
    def go(self, seconds: float, /) -> dict[str, Any]: ...
    def close(self) -> None: ...


def execute(kinds: Mapping[str, Callable[[int, int, int], Client]]) -> int:
    """Execute the commands on standard input, one line of JSON each, and answer with lines of JSON."""
    client: Client | None = None
    for line in sys.stdin:
        command = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if command["do"] == "open":
                client = kinds[command.get("kind", "plain")](
                    command["port"], command["connections"], command["size"]
                )
                client.check()
            elif command["do"] == "go" and client is not None:
                answer = client.go(command["seconds"])
            elif client is not None:
                client.close()
        except (LoadError, OSError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(execute({"plain": Load}))
