"""Each kind of op in a situation in which it has to wait, and what makes it end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proactorx.ops.constants import (
    ACCEPT_ONE,
    POLL,
    POLLIN,
    POLLOUT,
    RECV,
    RECV_FROM,
    RECV_INTO,
    SEND,
    SEND_TO,
)
from proactorx.ops.op import Overlapped
from proactorx.port import sockaddr

from .support import Sockets, connect_op, drain, fill

LARGE = 1_000_000  # more than one buffer of a ring takes


@dataclass
class Case:
    """A waiting op, not started yet."""

    op: Overlapped
    #: Has the peer do what the op waits for.
    complete: Callable[[], Any]
    #: Whether the result is the right one, once the op has ended.
    right: Callable[[Any], bool]
    #: Whether what the op would have taken is still there for somebody else.
    untouched: Callable[[], bool]


def _receive(kind: int, size: int) -> Callable[[Sockets, Any], Case]:
    def make(sockets: Sockets, owner: Any) -> Case:
        a, b = sockets.pair()
        buffer = bytearray(size) if kind == RECV_INTO else None
        op = Overlapped(kind, a.fileno(), size=size, data=buffer, on_done=owner)

        def right(result: Any) -> bool:
            return bool(result == b"hello" if buffer is None else result == 5 and buffer[:5] == b"hello")

        def untouched() -> bool:
            drain(a)
            b.send(b"still")
            return drain(a) == b"still"

        return Case(op, lambda: b.send(b"hello"), right, untouched)

    return make


def _receive_from(size: int, *, into: bool = False) -> Callable[[Sockets, Any], Case]:
    def make(sockets: Sockets, owner: Any) -> Case:
        a, b = sockets.udp(), sockets.udp()
        buffer = bytearray(size) if into else None
        op = Overlapped(RECV_FROM, a.fileno(), size=size, data=buffer, on_done=owner)

        def right(result: Any) -> bool:
            right = result == b"hello" if buffer is None else result == 5 and buffer[:5] == b"hello"
            return bool(right and sockaddr.parse(op.address) == b.getsockname())

        def untouched() -> bool:
            drain(a)
            b.sendto(b"still", a.getsockname())
            return drain(a) == b"still"

        return Case(op, lambda: b.sendto(b"hello", a.getsockname()), right, untouched)

    return make


def _send_to(sockets: Sockets, owner: Any) -> Case:
    a, b = sockets.datagram_pair()
    before = fill(a)
    op = Overlapped(SEND_TO, a.fileno(), data=b"x" * 1000, on_done=owner)
    return Case(op, lambda: drain(b), lambda result: result == 1000, lambda: len(drain(b)) == before)


def _send(sockets: Sockets, owner: Any) -> Case:
    a, b = sockets.pair()
    before = fill(a)
    op = Overlapped(SEND, a.fileno(), data=b"x" * 1000, on_done=owner)
    return Case(op, lambda: drain(b), lambda result: result == 1000, lambda: len(drain(b)) == before)


def _poll_in(sockets: Sockets, owner: Any) -> Case:
    a, b = sockets.pair()
    op = Overlapped(POLL, a.fileno(), events=POLLIN, on_done=owner)
    return Case(op, lambda: b.send(b"x"), lambda mask: bool(mask & POLLIN), lambda: True)


def _poll_out(sockets: Sockets, owner: Any) -> Case:
    a, b = sockets.pair()
    fill(a)
    op = Overlapped(POLL, a.fileno(), events=POLLOUT, on_done=owner)
    return Case(op, lambda: drain(b), lambda mask: bool(mask & POLLOUT), lambda: True)


def _accept_one(sockets: Sockets, owner: Any) -> Case:
    listener = sockets.listener()
    op = Overlapped(ACCEPT_ONE, listener.fileno(), on_done=owner)

    def right(fd: int) -> bool:
        sock = sockets.keep(socket.socket(fileno=fd))
        return sock.getsockname() == listener.getsockname()

    def untouched() -> bool:
        client = sockets.client(listener)
        listener.settimeout(5)
        sock = sockets.keep(listener.accept()[0])
        return bool(sock.getpeername() == client.getsockname())

    return Case(op, lambda: sockets.client(listener), right, untouched)


def _connect(sockets: Sockets, owner: Any) -> Case:
    listener = sockets.full_listener()
    sock = sockets.new()

    def complete() -> None:
        # The client tries again after a second, RFC 6298 section 2.
        sockets.keep(listener.accept()[0])

    op = connect_op(sock, listener.getsockname(), on_done=owner)
    return Case(op, complete, lambda result: result == 0 and bool(sock.getpeername()), lambda: True)


CASES: dict[str, Callable[[Sockets, Any], Case]] = {
    "receive": _receive(RECV, 5),
    "receive-large": _receive(RECV, LARGE),
    "receive-into": _receive(RECV_INTO, 16),
    "receive-into-large": _receive(RECV_INTO, LARGE),
    "receive-from": _receive_from(100),
    "receive-from-large": _receive_from(LARGE),
    "receive-from-into": _receive_from(100, into=True),
    "send": _send,
    **({"send-to": _send_to} if hasattr(socket, "AF_UNIX") else {}),  # a UDP socket always takes one more
    "poll-in": _poll_in,
    "poll-out": _poll_out,
    "accept": _accept_one,
    "connect": _connect,
}
