"""Each op does what its system call does, at once or after waiting."""

from __future__ import annotations

import os
import socket
import sys
import time

import pytest
from support.ports import unused_port

from proactorx.ops.constants import (
    ACCEPT,
    ACCEPT_ONE,
    DISCONNECT,
    POLL,
    POLLIN,
    POLLOUT,
    RECV,
    RECV_INTO,
    SEND,
)
from proactorx.ops.op import Overlapped, Watch
from proactorx.port.loop_port import LoopPort

from .cases import CASES
from .support import Owner, Sockets, connect_op, done, drain, error_of, fill, perform, quiet, until

EACH = pytest.mark.parametrize("case_name", CASES)
EACH_TCP_OR_UNIX = pytest.mark.parametrize("kind", ["pair", "tcp_pair"])


@EACH
def test_it_waits_and_then_ends_with_its_result(port: LoopPort, sockets: Sockets, case_name: str) -> None:
    owner = Owner()
    case = CASES[case_name](sockets, owner)
    assert port.start(case.op) is case.op
    assert case.op.state_name == "IN_FLIGHT"
    quiet(port)
    assert not case.op.done
    case.complete()
    until(port, lambda: owner.times)
    assert owner.ended == [case.op]
    assert case.op.state_name == "DONE"
    assert case.op.error == 0
    assert case.right(case.op.result())
    quiet(port)
    assert owner.times == 1
    assert port.driver.inflight == []


@pytest.mark.parametrize("case_name", [name for name in CASES if name != "connect"])
def test_what_is_there_before_it_starts_is_found(port: LoopPort, sockets: Sockets, case_name: str) -> None:
    case = CASES[case_name](sockets, None)
    if case_name == "accept":
        owner = Owner()
        case.op.on_done = owner  # a descriptor is for somebody, or closed
    case.complete()
    assert case.right(perform(port, case.op))


def test_a_result_cannot_be_had_before_the_end(port: LoopPort, sockets: Sockets) -> None:
    op = port.start(Overlapped(RECV, sockets.pair()[0].fileno(), size=1))
    with pytest.raises(RuntimeError):
        op.result()


@EACH_TCP_OR_UNIX
@pytest.mark.parametrize("size", [1, 64, 65, 16384, 16385, 1 << 20])
def test_receive_brings_what_there_is_and_then_the_end(
    port: LoopPort, sockets: Sockets, kind: str, size: int
) -> None:
    a, b = getattr(sockets, kind)()
    b.send(b"0123456789")
    data = b""
    while len(data) < 10:
        piece = perform(port, Overlapped(RECV, a.fileno(), size=size))
        assert 0 < len(piece) <= size
        data += piece
    assert data == b"0123456789"
    b.close()
    assert perform(port, Overlapped(RECV, a.fileno(), size=size)) == b""


def test_receive_into_fills_no_more_than_it_received(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    b.send(b"abc")
    buffer = bytearray(b"........")
    op = Overlapped(RECV_INTO, a.fileno(), data=memoryview(buffer)[2:6])
    assert perform(port, op) == 3
    assert op.nbytes == 3
    assert buffer == b"..abc..."
    b.close()
    assert perform(port, Overlapped(RECV_INTO, a.fileno(), data=buffer)) == 0


def test_the_owner_can_have_the_bytes_of_receive_into(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    b.send(b"abc")
    seen: list[bytes] = []
    buffer = bytearray(8)
    op = Overlapped(
        RECV_INTO, a.fileno(), data=buffer, on_done=lambda op: seen.append(bytes(buffer[: op.nbytes]))
    )
    perform(port, op)
    assert seen == [b"abc"]


@pytest.mark.parametrize("kind", [RECV, RECV_INTO], ids=["receive", "receive-into"])
def test_a_receive_of_nothing_takes_nothing(port: LoopPort, sockets: Sockets, kind: int) -> None:
    a, b = sockets.pair()
    b.send(b"hello")
    op = Overlapped(kind, a.fileno(), data=bytearray() if kind == RECV_INTO else None)
    assert not perform(port, op)
    assert drain(a) == b"hello"


@EACH_TCP_OR_UNIX
def test_disconnect_ends_a_stream_behind_what_was_sent(port: LoopPort, sockets: Sockets, kind: str) -> None:
    a, b = getattr(sockets, kind)(send_buffer=1 << 16)
    before = fill(a)
    send = port.start(Overlapped(SEND, a.fileno(), data=bytes(1 << 20)))
    receive = port.start(Overlapped(RECV, a.fileno(), size=10))
    op = port.start(Overlapped(DISCONNECT, a.fileno()))
    quiet(port)
    assert not op.done
    got = bytearray()
    while piece := perform(port, Overlapped(RECV, b.fileno(), size=1 << 16)):
        got += piece
    done(port, send, op)
    assert (send.result(), op.result(), len(got)) == (1 << 20, 0, before + (1 << 20))
    late = port.start(Overlapped(SEND, a.fileno(), data=b"late"))
    done(port, late)
    assert error_of(late) in ("EPIPE", "ESHUTDOWN")
    b.close()
    done(port, receive)  # with the end, or an error: as the system has it; Windows may wait for the other end
    assert error_of(receive) in ("", "ESHUTDOWN", "ECONNABORTED", "ECONNRESET", "ENOTCONN")


@EACH_TCP_OR_UNIX
def test_both_ends_may_disconnect(port: LoopPort, sockets: Sockets, kind: str) -> None:
    a, b = getattr(sockets, kind)()
    assert perform(port, Overlapped(SEND, a.fileno(), data=b"bye")) == 3
    assert perform(port, Overlapped(DISCONNECT, a.fileno())) == 0
    assert perform(port, Overlapped(RECV, b.fileno(), size=10)) == b"bye"
    assert perform(port, Overlapped(RECV, b.fileno(), size=10)) == b""
    assert perform(port, Overlapped(DISCONNECT, b.fileno())) == 0
    assert port.driver.inflight == []


def test_disconnect_can_be_cancelled_while_it_waits(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.tcp_pair(send_buffer=1 << 16)
    fill(a)
    send = port.start(Overlapped(SEND, a.fileno(), data=bytes(1 << 20)))
    op = port.start(Overlapped(DISCONNECT, a.fileno()))
    quiet(port)
    port.stop(op)
    done(port, op)
    assert error_of(op) == "ECANCELED"
    while not send.done:
        drain(b)
        port.run(0)
    assert perform(port, Overlapped(SEND, b.fileno(), data=b"still there")) == 11
    assert perform(port, Overlapped(RECV, a.fileno(), size=100)) == b"still there"


def test_disconnect_wants_a_connection(port: LoopPort, sockets: Sockets) -> None:
    op = port.start(Overlapped(DISCONNECT, sockets.new().fileno()))
    done(port, op)
    assert error_of(op) == "ENOTCONN"


@pytest.mark.parametrize(
    "data", [b"", b"x", bytearray(b"xy"), memoryview(b"xyz"), memoryview(b"abcdef")[1:3]]
)
def test_send_takes_any_buffer(port: LoopPort, sockets: Sockets, data: bytes) -> None:
    a, b = sockets.pair()
    assert perform(port, Overlapped(SEND, a.fileno(), data=data)) == len(data)
    assert drain(b) == bytes(data)


def test_accept_goes_on_until_it_is_cancelled(port: LoopPort, sockets: Sockets) -> None:
    listener = sockets.listener()
    owner = Owner()
    op = port.start(Overlapped(ACCEPT, listener.fileno(), on_done=owner))
    peers = set()
    for count in (1, 20):
        clients = [sockets.client(listener) for _ in range(count)]
        until(port, lambda count=count: len(owner.accepted) == count)
        for fd in owner.accepted:
            conn = sockets.keep(socket.socket(fileno=fd))
            assert not conn.get_inheritable()
            assert sys.platform == "win32" or not os.get_blocking(fd)
            peers.add(conn.getpeername())
        owner.accepted.clear()
        assert peers >= {client.getsockname() for client in clients}
        assert not op.done
    assert port.stop(op)
    done(port, op)
    assert owner.ended == [op]


def test_accept_finds_those_who_came_before_it(port: LoopPort, sockets: Sockets) -> None:
    listener = sockets.listener()
    for _ in range(5):
        sockets.client(listener)
    owner = Owner()
    port.start(Overlapped(ACCEPT, listener.fileno(), on_done=owner))
    until(port, lambda: len(owner.accepted) == 5)
    owner.close_accepted()


def test_an_accepted_descriptor_is_closed_on_exec_and_does_not_block(
    port: LoopPort, sockets: Sockets
) -> None:
    listener = sockets.listener()
    sockets.client(listener)
    fd = perform(port, Overlapped(ACCEPT_ONE, listener.fileno(), on_done=Owner()))
    sockets.keep(socket.socket(fileno=fd))
    assert not os.get_inheritable(fd)
    assert not os.get_blocking(fd)


def _addresses() -> list[tuple[int, object]]:
    found: list[tuple[int, object]] = [(socket.AF_INET, ("127.0.0.1", 0))]
    if hasattr(socket, "AF_UNIX"):
        found.append((socket.AF_UNIX, ""))
    if socket.has_ipv6:
        found.append((socket.AF_INET6, ("::1", 0)))
    return found


@pytest.mark.parametrize(("family", "address"), _addresses())
def test_connect(port: LoopPort, sockets: Sockets, family: int, address: object) -> None:
    listener = sockets.new(family)
    try:
        listener.bind(address)
    except OSError as exc:
        pytest.skip(f"no such address here: {exc}")
    listener.listen()
    sock = sockets.new(family)
    assert perform(port, connect_op(sock, listener.getsockname())) == 0
    accepted = sockets.keep(listener.accept()[0])
    accepted.send(b"x")
    assert drain(sock) == b"x"


def test_connect_of_a_blocking_socket(port: LoopPort, sockets: Sockets) -> None:
    listener = sockets.listener()
    sock = sockets.new()
    sock.setblocking(True)
    assert perform(port, connect_op(sock, listener.getsockname())) == 0
    assert sock.getpeername() == listener.getsockname()


def test_a_refused_connect(port: LoopPort, sockets: Sockets) -> None:
    op = port.start(connect_op(sockets.new(), ("127.0.0.1", unused_port())))
    done(port, op)
    assert error_of(op) == "ECONNREFUSED"
    with pytest.raises(ConnectionRefusedError):
        op.result()


def test_a_poll_for_both_directions_hears_of_either(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    both = POLLIN | POLLOUT
    assert perform(port, Overlapped(POLL, a.fileno(), events=both)) & POLLOUT
    fill(a)
    op = port.start(Overlapped(POLL, a.fileno(), events=both))
    quiet(port)
    assert not op.done
    b.send(b"x")
    done(port, op)
    assert op.result() & both == POLLIN


def test_a_poll_hears_of_a_peer_that_hung_up(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    op = port.start(Overlapped(POLL, a.fileno(), events=POLLIN))
    b.close()
    done(port, op)
    assert op.result()


def test_a_watch_is_told_in_each_turn_until_it_is_stopped(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    calls: list[int] = []
    watch = port.start(Watch(a.fileno(), POLLIN, lambda: calls.append(len(calls))))
    quiet(port)
    assert not calls
    b.send(b"x")
    until(port, lambda: len(calls) >= 3)  # a level, not an edge: the byte is still there
    drain(a)
    quiet(port)
    calls.clear()
    quiet(port)
    assert not calls
    b.send(b"y")
    until(port, lambda: calls)
    assert port.stop(watch)
    calls.clear()
    quiet(port)
    assert not calls
    assert watch.state_name == "DONE"


def test_a_watch_for_writing(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    fill(a)
    calls: list[None] = []
    port.start(Watch(a.fileno(), POLLOUT, lambda: calls.append(None)))
    quiet(port)
    assert not calls
    drain(b)
    until(port, lambda: calls)


def test_a_watch_does_not_hold_up_a_receive(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    calls: list[None] = []
    port.start(Watch(a.fileno(), POLLIN, lambda: calls.append(None)))
    op = port.start(Overlapped(RECV, a.fileno(), size=5))
    quiet(port)
    b.send(b"x")
    done(port, op)
    assert op.result() == b"x"


def test_two_watches_of_one_descriptor_are_both_told(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    heard: set[int] = set()
    port.start(Watch(a.fileno(), POLLIN, lambda: heard.add(1)))
    port.start(Watch(a.fileno(), POLLIN, lambda: heard.add(2)))
    b.send(b"x")
    until(port, lambda: heard == {1, 2})


def test_both_directions_of_one_descriptor_at_once(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    filled = fill(a)
    receive = port.start(Overlapped(RECV, a.fileno(), size=5))
    send = port.start(Overlapped(SEND, a.fileno(), data=b"tail"))
    quiet(port)
    b.send(b"hello")
    done(port, receive)
    assert not send.done
    received = drain(b)
    done(port, send)
    assert (received + drain(b))[filled:] == b"tail"


def test_a_turn_waits_no_longer_than_it_was_told(port: LoopPort, sockets: Sockets) -> None:
    port.start(Overlapped(RECV, sockets.pair()[0].fileno(), size=1))
    port.run(0)
    before = time.monotonic()
    assert port.run(0) == 0
    assert time.monotonic() - before < 0.5
    before = time.monotonic()
    while time.monotonic() - before < 0.1:
        assert port.run(0.1 - (time.monotonic() - before) if time.monotonic() - before < 0.1 else 0) == 0
    assert time.monotonic() - before < 1
