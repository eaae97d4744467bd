"""An op owns its buffer until its last packet, and not a moment longer."""

from __future__ import annotations

import ctypes
import gc
import socket
import sys
import warnings
import weakref
from array import array
from collections.abc import Callable
from typing import Any

import pytest

from proactorx.drivers import Choice
from proactorx.ops.constants import ACCEPT_ONE, POLL, POLLIN, RECV, RECV_INTO, SEND
from proactorx.ops.op import Overlapped
from proactorx.port.loop_port import LoopPort

from .cases import CASES
from .support import Owner, Sockets, connect_op, done, drain, fill, perform, quiet

if sys.platform != "win32":
    import resource


def _locked(buffer: bytearray) -> bool:
    """Whether somebody holds an export of `buffer`: then it cannot be resized."""
    try:
        buffer.append(0)
    except BufferError:
        return True
    buffer.pop()
    return False


def _receiving(sockets: Sockets, buffer: bytearray) -> tuple[Overlapped, Callable[[], Any]]:
    a, b = sockets.pair()
    return Overlapped(RECV_INTO, a.fileno(), data=buffer), lambda: b.send(b"x")


def _sending(sockets: Sockets, buffer: bytearray) -> tuple[Overlapped, Callable[[], Any]]:
    a, b = sockets.pair()
    fill(a)
    return Overlapped(SEND, a.fileno(), data=buffer), lambda: drain(b)


EACH = pytest.mark.parametrize("make", [_receiving, _sending])
Make = Callable[[Sockets, bytearray], tuple[Overlapped, Callable[[], Any]]]


@EACH
def test_it_is_locked_until_the_last_packet(port: LoopPort, sockets: Sockets, make: Make) -> None:
    buffer = bytearray(100)
    op, complete = make(sockets, buffer)
    port.start(op)
    assert _locked(buffer)
    port.run(0)
    assert _locked(buffer)
    complete()
    assert _locked(buffer)
    done(port, op)
    assert not _locked(buffer)


@EACH
def test_it_is_locked_while_the_owner_is_called(port: LoopPort, sockets: Sockets, make: Make) -> None:
    buffer = bytearray(100)
    seen: list[bool] = []
    op, complete = make(sockets, buffer)
    op.on_done = lambda _op: seen.append(_locked(buffer))
    port.start(op)
    port.run(0)
    complete()
    done(port, op)
    assert seen == [True]
    assert not _locked(buffer)


@EACH
@pytest.mark.parametrize("turns", [0, 2])
def test_a_cancelled_op_keeps_it_to_its_last_packet(
    port: LoopPort, sockets: Sockets, make: Make, turns: int
) -> None:
    buffer = bytearray(100)
    op, _complete = make(sockets, buffer)
    port.start(op)
    for _ in range(turns):
        port.run(0)
    port.stop(op)
    assert _locked(buffer)
    done(port, op)
    assert not _locked(buffer)


@EACH
def test_an_owner_that_raises_does_not_keep_it(port: LoopPort, sockets: Sockets, make: Make) -> None:
    def fail(_op: Overlapped) -> None:
        raise ZeroDivisionError

    buffer = bytearray(100)
    op, complete = make(sockets, buffer)
    op.on_done = fail
    port.start(op)
    complete()
    failures: list[Any] = []
    port.report = failures.append
    done(port, op)
    assert isinstance(failures.pop()["exception"], ZeroDivisionError)
    del op
    gc.collect()  # the traceback had it
    assert not _locked(buffer)


@EACH
def test_closing_the_port_releases_it(new_port: Callable[[], LoopPort], sockets: Sockets, make: Make) -> None:
    port = new_port()
    buffer = bytearray(100)
    op, _complete = make(sockets, buffer)
    port.start(op)
    port.run(0)
    port.close()
    del op
    assert not _locked(buffer)


def test_nobody_needs_to_hold_the_op_or_its_buffer(port: LoopPort, sockets: Sockets) -> None:
    """The port keeps what is in flight alive, whatever its user forgets."""
    a, b = sockets.pair()
    c, d = sockets.pair(send_buffer=4096)
    heard: list[int | None] = []
    port.start(
        Overlapped(RECV_INTO, a.fileno(), data=bytearray(1000), on_done=lambda op: heard.append(op.result()))
    )
    port.start(Overlapped(SEND, c.fileno(), data=bytearray(b"y" * 200_000)))
    gc.collect()
    junk = [bytearray(b"z" * 1000) for _ in range(100)]  # would take the place of what was freed
    received = b""
    while len(received) < 200_000:
        port.run(0)
        received += drain(d)
    assert received == b"y" * 200_000
    b.send(b"x" * 1000)
    while not heard:
        port.run(0.1)
    assert heard == [1000]
    assert all(piece == b"z" * 1000 for piece in junk)


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.parametrize("case_name", CASES)
def test_an_op_that_has_ended_is_freed(port: LoopPort, sockets: Sockets, case_name: str, turns: int) -> None:
    owner = Owner()
    owners = sys.getrefcount(owner)
    case = CASES[case_name](sockets, owner)
    if case_name == "connect":
        case = type(case)(
            connect_op(sockets.new(), sockets.listener().getsockname(), on_done=owner), *([id] * 3)
        )
        case.complete = lambda: None
    ref = weakref.ref(case.op)
    port.start(case.op)
    for _ in range(turns):
        port.run(0)
    case.complete()
    done(port, case.op)
    if case_name == "accept":
        assert case.right(case.op.result())
    owner.ended.clear()
    del case
    quiet(port)
    gc.collect()
    assert ref() is None
    assert sys.getrefcount(owner) == owners


def test_references_to_data_are_given_back(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    data = bytes(bytearray(b"data" * 10))
    before = sys.getrefcount(data)
    for _ in range(100):
        perform(port, Overlapped(SEND, a.fileno(), data=data))
        assert drain(b) == data
        op = port.start(Overlapped(SEND, a.fileno(), data=data))
        port.stop(op)
        done(port, op)
        drain(b)
    del op
    quiet(port)
    assert sys.getrefcount(data) == before


def test_a_thousand_ops_leak_nothing(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    listener = sockets.listener()

    def once() -> None:
        receive = port.start(Overlapped(RECV, a.fileno(), size=16384))
        into = port.start(Overlapped(RECV_INTO, b.fileno(), data=bytearray(65536)))
        poll = port.start(Overlapped(POLL, a.fileno(), events=POLLIN))
        accept = port.start(Overlapped(ACCEPT_ONE, listener.fileno()))
        send = port.start(Overlapped(SEND, b.fileno(), data=b"x" * 16384))
        back = port.start(Overlapped(SEND, a.fileno(), data=b"x" * 16384))
        port.run(0)
        port.stop(accept)
        port.stop(poll)  # the receive may have taken what it waits for
        done(port, receive, into, poll, accept, send, back)
        drain(a)
        drain(b)

    for _ in range(50):
        once()
    gc.collect()
    objects = len(gc.get_objects())
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        once()
    gc.collect()
    assert len(gc.get_objects()) - objects < 50
    # 200 times 100 KB would be 20 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 10_000
    assert port.driver.inflight == []


@pytest.mark.parametrize("data", [b"x", memoryview(b"x"), memoryview(bytearray(2)).toreadonly()])
def test_a_receive_needs_a_writable_buffer(data: Any) -> None:
    with pytest.raises((TypeError, BufferError)):
        Overlapped(RECV_INTO, 0, data=data)


@pytest.mark.parametrize("kind", [SEND, RECV_INTO])
def test_a_buffer_must_be_contiguous(kind: int) -> None:
    with pytest.raises(BufferError):
        Overlapped(kind, 0, data=memoryview(bytearray(10))[::2])


@pytest.mark.parametrize("data", ["text", 5, object(), [1]])
def test_a_buffer_must_be_one(data: Any) -> None:
    with pytest.raises(TypeError):
        Overlapped(SEND, 0, data=data)


@pytest.mark.parametrize(
    "make", [lambda: array("I", [0] * 4), lambda: (ctypes.c_uint32 * 4)()], ids=["array", "ctypes"]
)
def test_a_buffer_of_something_else_than_bytes(
    port: LoopPort, sockets: Sockets, make: Callable[[], Any]
) -> None:
    a, b = sockets.pair()
    target = make()
    assert perform(port, Overlapped(SEND, b.fileno(), data=array("I", [1, 2, 3, 4]))) == 16
    op = Overlapped(RECV_INTO, a.fileno(), data=target)
    seen: list[bytes] = []
    op.on_done = lambda op: seen.append(bytes(target))
    assert perform(port, op) == 16
    assert list(target) == [1, 2, 3, 4]
    assert seen == [array("I", [1, 2, 3, 4]).tobytes()]


def test_a_buffer_that_was_released_early(sockets: Sockets, port: LoopPort) -> None:
    """The op has an export of its own: releasing the view it was made from does no harm."""
    a, b = sockets.pair()
    buffer = bytearray(10)
    view = memoryview(buffer)
    op = port.start(Overlapped(RECV_INTO, a.fileno(), data=view))
    view.release()
    assert _locked(buffer)
    b.send(b"hello")
    done(port, op)
    assert buffer[:5] == b"hello"


def test_bytes_that_were_received_are_not_changed_by_later_ones(port: LoopPort, sockets: Sockets) -> None:
    """They pass through memory of the driver's, which is used again."""
    a, b = sockets.pair()
    kept = []
    for i in range(200):
        b.send(b"%03d" % i * 10)
        kept.append(perform(port, Overlapped(RECV, a.fileno(), size=64 if i % 2 else 100_000)))
    assert kept == [b"%03d" % i * 10 for i in range(200)]


def test_receive_size_is_checked(port: LoopPort, sockets: Sockets) -> None:
    with pytest.raises((ValueError, OverflowError)):
        port.start(Overlapped(RECV, sockets.pair()[0].fileno(), size=-1))


def test_an_op_that_nobody_has_ended_keeps_its_buffer_from_the_collector(driver_name: str) -> None:
    """Its port is forgotten in one cycle with it: the kernel may still write."""
    port = LoopPort(Choice(driver_name).driver)
    buffer = bytearray(100)
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        op = port.start(Overlapped(RECV_INTO, left.fileno(), data=buffer))
        op.on_done = [port, op].count
        watched = weakref.ref(op)
        del op, port
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # of the driver's own sockets
            gc.collect()
        if not driver_name.startswith("iocp"):  # there the kernel writes into the op itself, which stays
            assert watched() is None
        assert _locked(buffer)
