"""Cancelling is a request: before, during and after completion an owner is told once, and nothing is lost."""

from __future__ import annotations

import os
import socket
import weakref

import pytest

from proactorx.ops.constants import ACCEPT, ACCEPT_ONE, POLL, POLLIN, RECV, RECV_INTO, SEND
from proactorx.ops.op import Overlapped, Watch
from proactorx.port.loop_port import LoopPort

from .cases import CASES
from .support import Owner, Sockets, connect_op, done, drain, error_of, fill, perform, quiet, until

EACH = pytest.mark.parametrize("case_name", CASES)
EACH_RECEIVE = pytest.mark.parametrize("size", [5, 100_000], ids=["small", "large"])


@EACH
@pytest.mark.parametrize("turns", [0, 1, 3])
def test_cancel_of_an_op_that_waits(port: LoopPort, sockets: Sockets, case_name: str, turns: int) -> None:
    """Before it has ever come to the kernel (no turn), and while it waits there."""
    owner = Owner()
    case = CASES[case_name](sockets, owner)
    port.start(case.op)
    for _ in range(turns):
        port.run(0)
    assert port.stop(case.op) is True
    assert case.op.state_name == "CANCELLING"
    assert not owner.ended  # packets are dispatched, never delivered from inside a call
    done(port, case.op)
    assert owner.ended == [case.op]
    assert error_of(case.op) == "ECANCELED"
    with pytest.raises(OSError):
        case.op.result()
    assert case.untouched()
    quiet(port)
    assert owner.times == 1
    assert port.driver.inflight == []


@EACH
def test_cancel_twice_is_cancel_once(port: LoopPort, sockets: Sockets, case_name: str) -> None:
    owner = Owner()
    case = CASES[case_name](sockets, owner)
    port.start(case.op)
    port.run(0)
    assert port.stop(case.op) is True
    assert port.stop(case.op) is False
    port.run(0)
    assert port.stop(case.op) is False
    quiet(port)
    assert owner.times == 1
    assert error_of(case.op) == "ECANCELED"


@pytest.mark.parametrize("case_name", [name for name in CASES if name != "connect"])
def test_cancel_after_the_end_changes_nothing(port: LoopPort, sockets: Sockets, case_name: str) -> None:
    owner = Owner()
    case = CASES[case_name](sockets, owner)
    case.complete()
    port.start(case.op)
    done(port, case.op)
    result = case.op.result()
    assert port.stop(case.op) is False
    quiet(port)
    assert case.op.result() == result
    assert case.right(result)
    assert owner.times == 1


def test_cancel_of_an_op_that_never_started(port: LoopPort, sockets: Sockets) -> None:
    op = Overlapped(RECV, sockets.pair()[0].fileno(), size=1)
    assert port.stop(op) is False
    assert op.state_name == "NEW"
    assert port.start(op) is op


@pytest.mark.parametrize("turns", [0, 1])
@EACH_RECEIVE
@pytest.mark.parametrize("kind", [RECV, RECV_INTO], ids=["receive", "receive-into"])
def test_bytes_that_come_with_the_cancel_are_given_or_kept(
    port: LoopPort, sockets: Sockets, kind: int, size: int, turns: int
) -> None:
    """The peer sends, and only then the receive is cancelled: the bytes are the op's or the next one's."""
    a, b = sockets.pair()
    buffer = bytearray(size)
    owner = Owner()
    op = port.start(
        Overlapped(kind, a.fileno(), size=size, data=buffer if kind == RECV_INTO else None, on_done=owner)
    )
    for _ in range(turns):
        port.run(0)
    b.send(b"hello")
    port.stop(op)
    done(port, op)
    quiet(port)
    assert owner.times == 1
    if op.error:
        assert error_of(op) == "ECANCELED"
        assert drain(a) == b"hello"
    else:
        assert (op.result() if kind == RECV else bytes(buffer[: op.result()])) == b"hello"
        assert drain(a) == b""


@EACH_RECEIVE
def test_an_owner_that_cancels_the_next_op_of_the_same_turn(
    port: LoopPort, sockets: Sockets, size: int
) -> None:
    """The second receive has ended already when the first one's owner cancels it."""
    a, b = sockets.pair()
    c, d = sockets.pair()
    second = Owner()
    ops = [
        Overlapped(RECV, a.fileno(), size=size, on_done=lambda _op: port.stop(ops[1])),
        Overlapped(RECV, c.fileno(), size=size, on_done=second),
    ]
    for op in ops:
        port.start(op)
    port.run(0)
    b.send(b"first")
    d.send(b"other")
    done(port, *ops)
    quiet(port)
    assert ops[0].result() == b"first"
    assert second.ended == [ops[1]]
    assert (drain(c) if ops[1].error else ops[1].result()) == b"other"


@pytest.mark.parametrize("data", [b"x", b"x" * 1000])
def test_cancel_of_a_send_that_was_done_at_once(port: LoopPort, sockets: Sockets, data: bytes) -> None:
    """Whatever the op says was sent has been sent, and it says so for ever."""
    a, b = sockets.pair()
    owner = Owner()
    op = port.start(Overlapped(SEND, a.fileno(), data=data, on_done=owner))
    port.stop(op)
    done(port, op)
    said = (op.error, op.nbytes)
    quiet(port)
    assert (op.error, op.nbytes) == said
    assert owner.times == 1
    assert len(drain(b)) == op.nbytes
    assert error_of(op) == ("" if op.nbytes else "ECANCELED")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_cancel_of_a_connect_that_was_done_at_once(port: LoopPort, sockets: Sockets) -> None:
    listener = sockets.new(socket.AF_UNIX)
    listener.bind("")
    listener.listen()
    owner = Owner()
    op = port.start(connect_op(sockets.new(socket.AF_UNIX), listener.getsockname(), on_done=owner))
    port.stop(op)
    done(port, op)
    said = op.error
    quiet(port)
    assert op.error == said
    assert owner.times == 1


def test_cancel_of_a_send_half_way_tells_how_much_was_sent(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair(send_buffer=4096)
    data = os.urandom(300_000)
    op = port.start(Overlapped(SEND, a.fileno(), data=data))
    received = b""
    while len(received) < 50_000:
        port.run(0)
        received += drain(b)
    assert not op.done
    port.stop(op)
    done(port, op)
    quiet(port)
    received += drain(b)
    assert op.nbytes == len(received) < len(data)
    assert received == data[: len(received)]
    assert error_of(op) == "ECANCELED"  # not a success: bytes are missing
    drain(b)
    quiet(port)
    assert drain(b) == b""


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("wanted", [True, False], ids=["owned", "orphaned"])
def test_a_connection_that_comes_with_the_cancel_is_not_leaked(
    port: LoopPort, sockets: Sockets, turns: int, wanted: bool
) -> None:
    """It is given to the owner, closed where there is none, or still in the listener's queue."""
    listener = sockets.listener()
    owner = Owner() if wanted else None
    op = port.start(Overlapped(ACCEPT_ONE, listener.fileno(), on_done=owner))
    for _ in range(turns):
        port.run(0)
    client = sockets.client(listener)
    port.stop(op)
    done(port, op)
    quiet(port)
    if not op.error:
        assert wanted
        sockets.keep(socket.socket(fileno=op.result()))
        return
    assert error_of(op) == "ECANCELED"
    try:
        sockets.keep(listener.accept()[0])
    except BlockingIOError:
        assert not wanted
        assert client.recv(1) == b""  # it was accepted and closed


def test_an_accept_whose_owner_left_closes_the_connection(port: LoopPort, sockets: Sockets) -> None:
    listener = sockets.listener()
    op = port.start(Overlapped(ACCEPT_ONE, listener.fileno(), on_done=Owner()))
    port.run(0)
    op.on_done = None
    client = sockets.client(listener)
    done(port, op)
    assert error_of(op) == "ECANCELED"
    assert client.recv(1) == b""


@pytest.mark.parametrize("clients", [0, 1, 30])
def test_cancel_of_a_listening_accept(port: LoopPort, sockets: Sockets, clients: int) -> None:
    """Each connection was given to the owner or waits for the next accept: none is lost,
    none is given twice.
    """
    listener = sockets.listener()
    owner = Owner()
    op = port.start(Overlapped(ACCEPT, listener.fileno(), on_done=owner))
    port.run(0)
    names = {sockets.client(listener).getsockname() for _ in range(clients)}
    port.stop(op)
    done(port, op)
    assert owner.ended == [op]
    assert error_of(op) == "ECANCELED"
    then = Owner()
    again = port.start(Overlapped(ACCEPT, listener.fileno(), on_done=then))
    until(port, lambda: len(owner.accepted) + len(then.accepted) == clients)
    port.stop(again)
    done(port, again)
    socks = [sockets.keep(socket.socket(fileno=fd)) for fd in owner.accepted + then.accepted]
    assert sorted(sock.getpeername() for sock in socks) == sorted(names)


def test_a_stopped_watch_is_silent(port: LoopPort, sockets: Sockets) -> None:
    """Also where its descriptor is ready when it is stopped."""
    a, b = sockets.pair()
    calls: list[None] = []
    watch = port.start(Watch(a.fileno(), POLLIN, lambda: calls.append(None)))
    b.send(b"x")
    until(port, lambda: calls)
    port.stop(watch)
    calls.clear()
    quiet(port)
    assert not calls
    assert watch.state_name == "DONE"


def test_a_watch_that_is_stopped_in_its_own_callback(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    calls: list[bool] = []
    watch = Watch(a.fileno(), POLLIN, lambda: calls.append(port.stop(watch)))
    port.start(watch)
    b.send(b"x")
    until(port, lambda: calls)
    quiet(port)
    assert calls == [True]
    assert watch.state_name == "DONE"


def test_the_next_op_takes_the_place_of_the_cancelled_one(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    for round_ in range(50):
        op = port.start(Overlapped(RECV, a.fileno(), size=5))
        if round_ % 2:
            port.run(0)
        port.stop(op)
        after = port.start(Overlapped(RECV, a.fileno(), size=5))
        done(port, op)
        assert error_of(op) == "ECANCELED"
        b.send(b"%05d" % round_)
        done(port, after)
        assert after.result() == b"%05d" % round_


def test_cancel_of_the_first_in_line_serves_the_second(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    ops = [port.start(Overlapped(RECV, a.fileno(), size=1)) for _ in range(3)]
    port.run(0)
    port.stop(ops[0])
    b.send(b"ab")
    done(port, *ops)
    assert error_of(ops[0]) == "ECANCELED"
    assert {ops[1].result(), ops[2].result()} == {b"a", b"b"}


def test_cancel_of_all_that_wait_in_one_line(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    ops = [port.start(Overlapped(RECV, a.fileno(), size=1)) for _ in range(40)]
    ops += [port.start(Overlapped(POLL, a.fileno(), events=POLLIN)) for _ in range(10)]
    port.run(0)
    for op in ops[::2] + ops[1::2]:
        port.stop(op)
    done(port, *ops)
    assert {error_of(op) for op in ops} == {"ECANCELED"}
    b.send(b"x")
    assert perform(port, Overlapped(RECV, a.fileno(), size=1)) == b"x"


def test_the_descriptor_is_free_once_the_op_was_told(port: LoopPort, sockets: Sockets) -> None:
    """The kernel holds the file of an op in flight; afterwards close(2) must reach the peer."""
    a, b = sockets.pair()
    filled = fill(a)
    ops = [
        port.start(Overlapped(RECV, a.fileno(), size=1)),
        port.start(Overlapped(SEND, a.fileno(), data=b"x")),
        port.start(Overlapped(POLL, a.fileno(), events=POLLIN)),
    ]
    port.run(0)
    for op in ops:
        port.stop(op)
    done(port, *ops)
    port.forget(a.fileno())
    a.close()
    assert len(drain(b)) == filled
    assert b.recv(1) == b""


def test_a_cancelled_op_is_freed(port: LoopPort, sockets: Sockets) -> None:
    a, _b = sockets.pair()
    refs = []
    for turns in (0, 1):
        op = port.start(Overlapped(RECV_INTO, a.fileno(), data=bytearray(10)))
        refs.append(weakref.ref(op))
        for _ in range(turns):
            port.run(0)
        port.stop(op)
        done(port, op)
        del op
    quiet(port)
    assert [ref() for ref in refs] == [None, None]
