"""Numbers of descriptors come again: what waited on the old file says nothing about the new one."""

from __future__ import annotations

import os
import socket

import pytest

from proactorx.ops.constants import POLL, POLLIN, POLLOUT, RECV, SEND
from proactorx.ops.op import Overlapped, Watch
from proactorx.port.loop_port import LoopPort

from .support import Owner, Sockets, done, drain, error_of, fill, perform, quiet, until


def _again(sockets: Sockets, number: int) -> tuple[socket.socket, socket.socket]:
    """A new pair whose first descriptor has `number`, which must be closed."""
    a, b = socket.socketpair()
    if a.fileno() != number:
        os.dup2(a.fileno(), number)
        a.close()
        a = socket.socket(fileno=number)
    return sockets.keep(a), sockets.keep(b)


def test_after_ops_that_have_ended(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    number = a.fileno()
    for i in range(30):
        op = port.start(Overlapped(RECV, number, size=10))
        port.run(0)
        b.send(b"%d" % i)
        done(port, op)
        assert op.result() == b"%d" % i
        port.forget(number)
        a.close()
        b.close()
        a, b = _again(sockets, number)


def test_after_ops_that_were_cancelled(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    number = a.fileno()
    for i in range(30):
        filled = fill(a)
        ops = [port.start(Overlapped(RECV, number, size=10)), port.start(Overlapped(SEND, number, data=b"x"))]
        port.run(0)
        for op in ops:
            port.stop(op)
        done(port, *ops)
        assert {error_of(op) for op in ops} == {"ECANCELED"}
        assert len(drain(b)) == filled
        port.forget(number)
        a.close()
        b.close()
        a, b = _again(sockets, number)
        b.send(b"%d" % i)
        assert perform(port, Overlapped(RECV, number, size=10)) == b"%d" % i
        assert perform(port, Overlapped(SEND, number, data=b"back")) == 4
        assert drain(b) == b"back"


@pytest.mark.parametrize("turns", [0, 1])
def test_a_descriptor_closed_under_a_waiting_op(port: LoopPort, sockets: Sockets, turns: int) -> None:
    """Its user's mistake, but the op can still be cancelled, and its owner is told."""
    a, b = sockets.pair()
    fill(a)
    owners = [Owner() for _ in range(3)]
    ops = [
        port.start(Overlapped(RECV, a.fileno(), size=10, on_done=owners[0])),
        port.start(Overlapped(SEND, a.fileno(), data=b"x", on_done=owners[1])),
        port.start(Overlapped(POLL, a.fileno(), events=POLLIN, on_done=owners[2])),
    ]
    watch = port.start(Watch(a.fileno(), POLLOUT, lambda: None))
    for _ in range(turns):
        port.run(0)
    a.close()
    for op in (*ops, watch):
        port.stop(op)
    done(port, *ops)
    quiet(port)
    assert [owner.times for owner in owners] == [1, 1, 1]
    assert port.driver.inflight == []
    assert drain(b)


@pytest.mark.parametrize("order", ["cancel-first", "use-first", "never-cancel"])
def test_a_number_that_comes_again_under_a_waiting_op(port: LoopPort, sockets: Sockets, order: str) -> None:
    """The new file is served, whatever becomes of the op on the old one."""
    a, b = sockets.pair()
    number = a.fileno()
    old = port.start(Watch(number, POLLIN, lambda: None))
    port.run(0)
    a.close()
    c, d = _again(sockets, number)
    if order == "cancel-first":
        port.stop(old)
    new = port.start(Overlapped(RECV, number, size=10))
    port.run(0)
    if order == "use-first":
        port.stop(old)
    d.send(b"hello")
    done(port, new)
    assert new.result() == b"hello"
    fill(c)
    send = port.start(Overlapped(SEND, number, data=b"tail"))
    port.run(0)
    received = drain(d)
    done(port, send)
    assert (received + drain(d)).endswith(b"tail")
    b.close()
    port.stop(old)
    quiet(port)


def test_both_directions_on_a_number_that_came_again(port: LoopPort, sockets: Sockets) -> None:
    """The driver's idea of what the number waits for is the old file's."""
    a, _b = sockets.pair()
    number = a.fileno()
    old = port.start(Watch(number, POLLIN, lambda: None))
    port.run(0)
    a.close()
    c, d = _again(sockets, number)
    fill(c)
    writable = port.start(Overlapped(POLL, number, events=POLLOUT))
    port.run(0)
    drain(d)
    done(port, writable)
    port.stop(old)
    readable = port.start(Overlapped(POLL, number, events=POLLIN))
    d.send(b"x")
    done(port, readable)


def test_a_duplicate_outlives_its_original(port: LoopPort, sockets: Sockets) -> None:
    """epoll remembers the file for as long as any descriptor of it is open, epoll(7)."""
    a, b = sockets.pair()
    copy = sockets.keep(a.dup())
    number = a.fileno()
    op = port.start(Overlapped(RECV, number, size=10))
    port.run(0)
    port.stop(op)
    done(port, op)
    port.forget(number)
    a.close()
    b.send(b"old")
    c, d = _again(sockets, number)
    new = port.start(Overlapped(RECV, c.fileno(), size=10))
    quiet(port)
    assert not new.done
    d.send(b"new")
    done(port, new)
    assert new.result() == b"new"
    assert copy.recv(10) == b"old"


def test_two_descriptors_of_one_file(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    copy = sockets.keep(a.dup())
    ops = [port.start(Overlapped(RECV, sock.fileno(), size=1)) for sock in (a, copy)]
    port.run(0)
    b.send(b"xy")
    done(port, *ops)
    assert {op.result() for op in ops} == {b"x", b"y"}


def test_numbers_far_apart(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    for number in (300, 65, 900, 64, 129):
        os.dup2(a.fileno(), number)
        sock = sockets.keep(socket.socket(fileno=number))
        calls: list[None] = []
        watch = port.start(Watch(number, POLLIN, lambda calls=calls: calls.append(None)))
        b.send(b"x")
        until(port, lambda calls=calls: calls)
        assert drain(sock) == b"x"
        port.stop(watch)
        quiet(port)
