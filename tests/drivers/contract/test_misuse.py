"""Errors of the caller's are errors, not crashes; and callbacks may do what they like."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import pytest

from proactorx.ops.constants import (
    ACCEPT,
    ACCEPT_ONE,
    CONNECT,
    POLL,
    POLLIN,
    RECV,
    RECV_INTO,
    SEND,
    TRANSMIT,
)
from proactorx.ops.op import Overlapped, Watch
from proactorx.port.loop_port import LoopPort

from .support import (
    NO_DESCRIPTOR,
    NumberedFile,
    Owner,
    Sockets,
    done,
    drain,
    error_of,
    perform,
    quiet,
    reset,
    until,
)

if sys.platform != "win32":
    import fcntl

KINDS: dict[str, Callable[[int], Overlapped]] = {
    "poll": lambda fd: Overlapped(POLL, fd, events=POLLIN),
    "receive": lambda fd: Overlapped(RECV, fd, size=10),
    "receive-large": lambda fd: Overlapped(RECV, fd, size=1_000_000),
    "receive-into": lambda fd: Overlapped(RECV_INTO, fd, data=bytearray(10)),
    "send": lambda fd: Overlapped(SEND, fd, data=b"x"),
    "accept": lambda fd: Overlapped(ACCEPT, fd),
    "accept-one": lambda fd: Overlapped(ACCEPT_ONE, fd),
    "connect": lambda fd: Overlapped(CONNECT, fd, data=bytes(16)),
}
EACH = pytest.mark.parametrize("name", KINDS)


def _closed() -> int:
    """A number that no descriptor has, nor gets when the driver opens its own."""
    if sys.platform == "win32":
        return 40_000
    fd: int = fcntl.fcntl(0, fcntl.F_DUPFD, 800)
    os.close(fd)
    return fd


@EACH
def test_a_closed_descriptor_is_an_error_of_the_op(port: LoopPort, name: str) -> None:
    owner = Owner()
    op = KINDS[name](_closed())
    op.on_done = owner
    port.start(op)
    done(port, op)
    quiet(port)
    assert error_of(op) == ("EBADF" if name == "poll" else NO_DESCRIPTOR)
    assert owner.ended == [op]
    assert port.driver.inflight == []


@EACH
def test_a_very_large_descriptor(port: LoopPort, name: str) -> None:
    op = port.start(KINDS[name](2**31 - 1))
    done(port, op)
    assert error_of(op) == "EBADF"


@EACH
@pytest.mark.parametrize("fd", [-1, -2, -100, -(2**31)])
def test_a_negative_descriptor(port: LoopPort, name: str, fd: int) -> None:
    op = KINDS[name](fd)
    with pytest.raises(ValueError):
        port.start(op)
    assert op.state_name == "NEW"
    quiet(port)
    assert port.driver.inflight == []


@pytest.mark.parametrize("name", ["receive", "receive-large", "receive-into", "send", "accept", "accept-one"])
def test_a_file_is_no_socket(port: LoopPort, name: str) -> None:
    with NumberedFile(tempfile.TemporaryFile()) as file:
        op = port.start(KINDS[name](file.fileno()))
        done(port, op)
        assert error_of(op) == "ENOTSOCK"


def test_a_watch_of_a_closed_descriptor_is_refused_at_the_start(port: LoopPort) -> None:
    """As ``add_reader`` has to: a watch has no result that could say so."""
    with pytest.raises(OSError, match=None if sys.platform == "win32" else "Bad file descriptor"):
        port.start(Watch(_closed(), POLLIN, lambda: None))
    assert port.driver.inflight == []


def test_a_watch_of_a_file_is_refused_at_the_start(port: LoopPort) -> None:
    """It is always ready: a loop that watched it would never sleep."""
    with (
        NumberedFile(tempfile.TemporaryFile()) as file,
        pytest.raises(OSError if sys.platform == "win32" else PermissionError),
    ):
        port.start(Watch(file.fileno(), POLLIN, lambda: None))
    assert port.driver.inflight == []


def test_an_op_is_started_once(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    owner = Owner()
    op = port.start(Overlapped(RECV, a.fileno(), size=10, on_done=owner))
    with pytest.raises(RuntimeError):
        port.start(op)
    port.run(0)
    with pytest.raises(RuntimeError):
        port.start(op)
    b.send(b"x")
    done(port, op)
    with pytest.raises(RuntimeError):
        port.start(op)
    quiet(port)
    assert owner.times == 1
    assert op.result() == b"x"
    b.send(b"y")
    quiet(port)
    assert drain(a) == b"y"


def test_a_cancelled_op_is_not_started_again(port: LoopPort, sockets: Sockets) -> None:
    op = port.start(Overlapped(RECV, sockets.pair()[0].fileno(), size=10))
    port.stop(op)
    with pytest.raises(RuntimeError):
        port.start(op)
    done(port, op)
    with pytest.raises(RuntimeError):
        port.start(op)


@pytest.mark.parametrize("what", [None, 1, "op", object()])
def test_only_ops_are_started(port: LoopPort, what: Any) -> None:
    for method in (port.start, port.stop, port.pause, port.unpause):
        with pytest.raises(TypeError):
            method(what)


def test_an_unknown_kind_is_refused(port: LoopPort, sockets: Sockets) -> None:
    a, _b = sockets.pair()
    with pytest.raises((ValueError, OverflowError)):
        port.start(Overlapped(99, a.fileno()))
    if sys.platform != "win32":
        with pytest.raises(ValueError, match="unknown kind"):
            Overlapped(TRANSMIT, a.fileno(), size=1, position=0)


def test_ops_started_in_a_callback(port: LoopPort, sockets: Sockets) -> None:
    """A chain of a thousand, each started by the end of the one before."""
    a, b = sockets.pair()
    count = 0

    def received(op: Overlapped) -> None:
        nonlocal count
        assert op.result() == b"%04d" % count
        count += 1
        if count < 1000:
            port.start(Overlapped(RECV, a.fileno(), size=4, on_done=received))
            port.start(Overlapped(SEND, b.fileno(), data=b"%04d" % count))

    port.start(Overlapped(RECV, a.fileno(), size=4, on_done=received))
    port.start(Overlapped(SEND, b.fileno(), data=b"0000"))
    until(port, lambda: count == 1000)


def test_a_chain_does_not_starve_the_turn(port: LoopPort, sockets: Sockets) -> None:
    """What a callback starts comes in a later turn, also where it could be done at once."""
    a, b = sockets.pair()
    b.send(b"x" * 1000)
    count = 0

    def again(_op: Overlapped) -> None:
        nonlocal count
        count += 1
        if count < 1000:
            port.start(Overlapped(RECV, a.fileno(), size=1, on_done=again))

    port.start(Overlapped(RECV, a.fileno(), size=1, on_done=again))
    turns = 0
    while count < 1000:
        port.run(1)
        turns += 1
    assert turns >= 500


def test_ops_cancelled_in_a_callback(port: LoopPort, sockets: Sockets) -> None:
    pairs = [sockets.pair() for _ in range(20)]
    owners = [Owner() for _ in range(20)]
    ops = [
        port.start(Overlapped(RECV, a.fileno(), size=10, on_done=owner))
        for (a, _b), owner in zip(pairs, owners, strict=True)
    ]
    owners[0].then = lambda _op: [port.stop(op) for op in ops]
    port.run(0)
    pairs[0][1].send(b"x")
    done(port, *ops)
    quiet(port)
    assert [owner.times for owner in owners] == [1] * 20
    assert [error_of(op) for op in ops] == [""] + ["ECANCELED"] * 19


def test_an_owner_that_raises(port: LoopPort, sockets: Sockets) -> None:
    """It is reported, and the turn goes on with the packets behind."""
    pairs = [sockets.pair() for _ in range(6)]

    def fail(op: Overlapped) -> None:
        raise ZeroDivisionError(op.result().decode())

    owners = [Owner(fail if i in (1, 3) else None) for i in range(6)]
    ops = []
    for (a, b), owner in zip(pairs, owners, strict=True):
        b.send(b"data")
        ops.append(port.start(Overlapped(RECV, a.fileno(), size=10, on_done=owner)))
    failures: list[dict[str, Any]] = []
    port.report = failures.append
    while not all(op.done for op in ops):
        port.run(1)
    assert [repr(failure["exception"]) for failure in failures] == ["ZeroDivisionError('data')"] * 2
    assert [owner.times for owner in owners] == [1] * 6
    assert [op.result() for op in ops] == [b"data"] * 6
    assert port.driver.inflight == []
    assert perform(port, Overlapped(SEND, pairs[0][0].fileno(), data=b"on")) == 2


def test_a_failing_owner_of_accepts_loses_no_connection(port: LoopPort, sockets: Sockets) -> None:
    listener = sockets.listener()
    accepted: list[int] = []

    def owner(fd: Any) -> None:
        accepted.append(fd)
        if len(accepted) % 2:
            raise ZeroDivisionError

    op = port.start(Overlapped(ACCEPT, listener.fileno(), on_done=owner))
    for _ in range(10):
        sockets.client(listener)
    failures: list[dict[str, Any]] = []
    port.report = failures.append
    while len(accepted) < 10:
        port.run(1)
    assert len(failures) == 5
    assert not op.done
    for fd in accepted:
        sockets.keep(socket.socket(fileno=fd))


def test_a_watch_that_raises_goes_on(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    calls: list[None] = []

    def ready() -> None:
        calls.append(None)
        raise ZeroDivisionError

    port.start(Watch(a.fileno(), POLLIN, ready))
    b.send(b"x")
    while len(calls) < 3:
        try:
            port.run(1)
        except ZeroDivisionError:
            continue


def test_a_turn_within_a_callback(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    c, d = sockets.pair()
    inner = port.start(Overlapped(RECV, c.fileno(), size=10))
    outer = port.start(Overlapped(RECV, a.fileno(), size=10, on_done=lambda _op: done(port, inner)))
    b.send(b"outer")
    d.send(b"inner")
    done(port, outer)
    assert outer.result() == b"outer"
    assert inner.result() == b"inner"


@pytest.mark.parametrize("name", ["receive", "receive-large", "receive-into"])
def test_a_peer_that_resets_while_a_receive_waits(port: LoopPort, sockets: Sockets, name: str) -> None:
    a, b = sockets.tcp_pair()
    op = port.start(KINDS[name](a.fileno()))
    port.run(0)
    reset(b)
    done(port, op)
    assert error_of(op) == "ECONNRESET"


def test_a_peer_that_resets_while_a_send_waits(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.tcp_pair(send_buffer=8192)
    op = port.start(Overlapped(SEND, a.fileno(), data=bytes(10_000_000)))
    quiet(port)
    assert not op.done
    reset(b)
    done(port, op)
    assert error_of(op) in ("ECONNRESET", "EPIPE")
    assert 0 < op.nbytes < 10_000_000


def test_a_peer_that_resets_with_everything_waiting(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.tcp_pair()
    ops = [
        port.start(make(a.fileno())) for name, make in KINDS.items() if name.startswith(("receive", "poll"))
    ]
    port.run(0)
    reset(b)
    done(port, *ops)
    assert all(op.error or op.result() in (0, b"") or op.result() & POLLIN for op in ops)


def test_a_peer_that_resets_before_it_is_accepted(port: LoopPort, sockets: Sockets) -> None:
    """The listener lives on."""
    listener = sockets.listener()
    owner = Owner()
    port.start(Overlapped(ACCEPT, listener.fileno(), on_done=owner))
    for _ in range(5):
        reset(sockets.client(listener))
    good = sockets.client(listener)
    until(port, lambda: owner.accepted)
    names = set()
    while good.getsockname() not in names:
        for fd in owner.accepted:
            sock = sockets.keep(socket.socket(fileno=fd))
            try:
                names.add(sock.getpeername())
            except OSError:
                continue
        owner.accepted.clear()
        port.run(0.1)
    assert not owner.ended
