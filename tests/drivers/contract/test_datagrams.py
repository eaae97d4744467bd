"""Ops that move one datagram each, with its address."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest

from proactorx.ops.constants import RECV_DGRAMS, RECV_FROM, SEND_TO
from proactorx.ops.op import Overlapped
from proactorx.port import sockaddr
from proactorx.port.loop_port import LoopPort

from .support import Owner, Sockets, done, drain, error_of, fill, perform, quiet, until

LARGEST = 65507  # over IPv4: 65,535 less two headers, RFC 791 and RFC 768
EACH_FORM = pytest.mark.parametrize("into", [False, True], ids=["new", "into"])


def receive_op(
    sock: socket.socket, size: int, into: bool, **options: Any
) -> tuple[Overlapped, bytearray | None]:
    buffer = bytearray(size) if into else None
    return Overlapped(RECV_FROM, sock.fileno(), size=size, data=buffer, **options), buffer


def datagram(op: Overlapped, buffer: bytearray | None) -> Any:
    """What a receive has brought."""
    return op.result() if buffer is None else bytes(buffer[: op.nbytes])


def send_op(sock: socket.socket, data: Any, to: socket.socket | None = None, **options: Any) -> Overlapped:
    name = None if to is None else sockaddr.pack(to.family, to.getsockname())
    return Overlapped(SEND_TO, sock.fileno(), data=data, address=name, **options)


def big(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * LARGEST)
    return sock


@EACH_FORM
@pytest.mark.parametrize("size", [0, 1, 64, 65, 16384, 16385, LARGEST])
@pytest.mark.parametrize("waits", [False, True], ids=["there", "waits"])
def test_a_datagram_of_any_size(port: LoopPort, sockets: Sockets, size: int, into: bool, waits: bool) -> None:
    a, b = big(sockets.udp()), sockets.udp()
    data = bytes(range(256)) * 256
    data = data[:size]
    op, buffer = receive_op(b, 70_000, into)
    if waits:
        port.start(op)
        quiet(port)
        assert not op.done
    assert perform(port, send_op(a, data, b)) == size
    if not waits:
        port.start(op)
    done(port, op)
    assert op.nbytes == size
    assert op.result() == (size if into else data)
    assert datagram(op, buffer) == data
    assert buffer is None or buffer[:size] == data
    assert sockaddr.parse(op.address) == a.getsockname()


@EACH_FORM
@pytest.mark.parametrize("size", [0, 3])
def test_what_does_not_fit_is_gone_and_the_next_one_is_whole(
    port: LoopPort, sockets: Sockets, size: int, into: bool
) -> None:
    a, b = sockets.udp(), sockets.udp()
    for data in (b"hello", b"next"):
        a.sendto(data, b.getsockname())
    op, buffer = receive_op(b, size, into)
    perform(port, op)
    assert datagram(op, buffer) == b"hello"[:size]
    op, buffer = receive_op(b, 100, into)
    perform(port, op)
    assert datagram(op, buffer) == b"next"


@EACH_FORM
def test_addresses_of_ipv6(port: LoopPort, sockets: Sockets, into: bool) -> None:
    a, b = (sockets.new(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2))
    try:
        a.bind(("::1", 0))
    except OSError as exc:
        pytest.skip(f"no IPv6 here: {exc}")
    b.bind(("::1", 0))
    op, buffer = receive_op(b, 100, into)
    port.start(op)
    assert perform(port, send_op(a, b"six", b)) == 3
    done(port, op)
    assert datagram(op, buffer) == b"six"
    assert sockaddr.parse(op.address) == a.getsockname()


@EACH_FORM
def test_addresses_of_unix_sockets(port: LoopPort, sockets: Sockets, tmp_path: Any, into: bool) -> None:
    nameless, a, b = (sockets.new(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(3))
    a.bind(b"")  # the kernel makes an abstract name, unix(7)
    b.bind(str(tmp_path / "b")[-100:] if len(str(tmp_path)) < 90 else b"")
    for sender in (a, nameless):
        op, buffer = receive_op(b, 100, into)
        port.start(op)
        assert perform(port, send_op(sender, b"x", b)) == 1
        done(port, op)
        assert datagram(op, buffer) == b"x"
        assert sockaddr.parse(op.address) == (a.getsockname() if sender is a else None)


def test_a_connected_socket_needs_no_address(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.udp(), sockets.udp()
    a.connect(b.getsockname())
    assert perform(port, send_op(a, bytearray(b"mutable"))) == 7
    assert drain(b) == b"mutable"


def test_a_send_without_any_address_fails(port: LoopPort, sockets: Sockets) -> None:
    op = port.start(send_op(sockets.udp(), b"x"))
    done(port, op)
    assert error_of(op) == "EDESTADDRREQ"


def test_a_datagram_that_is_too_large_is_refused(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.udp(), sockets.udp()
    op = port.start(send_op(a, bytes(LARGEST + 1), b))
    done(port, op)
    assert error_of(op) == "EMSGSIZE"


@EACH_FORM
def test_an_answer_that_nobody_listens_ends_a_receive(port: LoopPort, sockets: Sockets, into: bool) -> None:
    a = sockets.udp()
    with sockets.udp() as gone:
        a.connect(gone.getsockname())
    op, _ = receive_op(a, 100, into)
    port.start(op)
    quiet(port)
    perform(port, send_op(a, b"x"))
    done(port, op)
    assert error_of(op) == "ECONNREFUSED"
    op, _ = receive_op(a, 100, into)
    port.start(op)
    quiet(port)
    assert not op.done  # the error was told once


@EACH_FORM
def test_receives_are_served_in_line(port: LoopPort, sockets: Sockets, into: bool) -> None:
    a, b = sockets.udp(), sockets.udp()
    receives = [receive_op(b, 100, into) for _ in range(5)]
    ops = [port.start(op) for op, _ in receives]
    quiet(port)
    port.stop(ops[1])
    for n in range(4):
        a.sendto(b"%d" % n, b.getsockname())
    done(port, *ops)
    assert [datagram(op, buffer) for op, buffer in receives if not op.error] == [b"0", b"1", b"2", b"3"]
    assert error_of(ops[1]) == "ECANCELED"


def test_a_send_that_found_its_receiver_full_is_whole(port: LoopPort, sockets: Sockets) -> None:
    """The limit of the queue, in datagrams and not in bytes:
    the kernel has copied the bytes when it finds out.
    """
    a, b = sockets.datagram_pair()
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            a.send(b"x")
            count += 1
    op = port.start(send_op(a, b"whole"))
    quiet(port)
    assert not op.done
    for _ in range(count):
        assert b.recv(10) == b"x"
    done(port, op)
    assert op.result() == 5
    assert b.recv(10) == b"whole"


def test_sends_that_wait_keep_their_order(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.datagram_pair()
    fill(a)
    ops = [port.start(send_op(a, b"%d" % n)) for n in range(3)]
    quiet(port)
    assert not any(op.done for op in ops)
    seen = []

    def three() -> bool:
        try:
            while data := b.recv(100_000):
                if len(data) == 1 and data != b"\0":
                    seen.append(data)
        except BlockingIOError:
            pass
        return len(seen) == 3

    until(port, three)
    done(port, *ops)
    assert seen == [b"0", b"1", b"2"]


@EACH_FORM
def test_a_cancelled_receive_brings_its_datagram_or_leaves_it(
    port: LoopPort, sockets: Sockets, into: bool
) -> None:
    a, b = sockets.udp(), sockets.udp()
    owner = Owner()
    op, buffer = receive_op(b, 100, into, on_done=owner)
    port.start(op)
    quiet(port)
    a.sendto(b"once", b.getsockname())
    port.stop(op)
    until(port, lambda: owner.times)
    left = drain(b)
    if op.error:
        assert error_of(op) == "ECANCELED"
        assert left == b"once"
    else:
        assert datagram(op, buffer) == b"once"
        assert left == b""


def test_a_receive_needs_a_buffer_that_can_be_written(sockets: Sockets) -> None:
    with pytest.raises(TypeError):
        Overlapped(RECV_FROM, sockets.udp().fileno(), data=b"constant")


def test_the_op_of_a_transport_is_not_for_others(sockets: Sockets) -> None:
    with pytest.raises(ValueError):
        Overlapped(RECV_DGRAMS, sockets.udp().fileno())


def test_an_address_that_no_socket_has(sockets: Sockets) -> None:
    with pytest.raises(ValueError):
        Overlapped(SEND_TO, sockets.udp().fileno(), data=b"x", address=bytes(1000))
