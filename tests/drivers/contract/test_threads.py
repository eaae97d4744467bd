"""A port that is driven by one thread, and then by another: nothing is lost on the way."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from proactorx.ops.constants import ACCEPT, POLLIN, RECV, RECV_INTO, SEND
from proactorx.ops.op import Overlapped, Watch
from proactorx.port.loop_port import LoopPort

from .cases import CASES
from .support import Owner, Sockets, done, drain, error_of, in_thread, quiet, until

T = TypeVar("T")
Elsewhere = Callable[[Callable[[], Any]], Any]

EACH = pytest.mark.parametrize("case_name", CASES)
TURNS = pytest.mark.parametrize("turns", [0, 1, 3])


@pytest.fixture(params=["ended", "alive"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[Elsewhere]:
    """Runs a function in another thread, which then has ended or goes on to live."""
    if request.param == "ended":
        yield in_thread
        return
    with ThreadPoolExecutor(1) as pool:
        yield lambda function: pool.submit(function).result(10)


def _attached(port: LoopPort, function: Callable[[], T]) -> Callable[[], T]:
    def run() -> T:
        port.attach_thread()
        try:
            return function()
        finally:
            port.detach_thread()

    return run


@EACH
@TURNS
def test_what_waits_is_finished_by_the_next_thread(
    port: LoopPort, sockets: Sockets, elsewhere: Elsewhere, case_name: str, turns: int
) -> None:
    if case_name == "connect" and turns != 1:
        pytest.skip("one second for each is enough once")
    owner = Owner()
    case = CASES[case_name](sockets, owner)

    def first() -> None:
        port.start(case.op)
        for _ in range(turns):
            port.run(0)

    elsewhere(_attached(port, first))
    assert not owner.ended

    def second() -> None:
        quiet(port)
        assert not owner.ended
        case.complete()
        done(port, case.op)

    _attached(port, second)()
    assert owner.ended == [case.op]
    assert error_of(case.op) == ""
    assert case.right(case.op.result())


@pytest.mark.parametrize("case_name", [name for name in CASES if name != "connect"])
@TURNS
def test_what_comes_between_two_threads_is_not_lost(
    port: LoopPort, sockets: Sockets, elsewhere: Elsewhere, case_name: str, turns: int
) -> None:
    owner = Owner()
    case = CASES[case_name](sockets, owner)

    def first() -> None:
        port.start(case.op)
        for _ in range(turns):
            port.run(0)

    elsewhere(_attached(port, first))
    case.complete()
    _attached(port, lambda: done(port, case.op))()
    assert error_of(case.op) == ""
    assert case.right(case.op.result())
    assert owner.times == 1


@pytest.mark.parametrize("case_name", [name for name in CASES if name != "connect"])
def test_what_comes_at_the_end_of_the_first_thread_is_not_lost(
    port: LoopPort, sockets: Sockets, elsewhere: Elsewhere, case_name: str
) -> None:
    """The data is there, and the thread that could see it does not look any more."""
    owner = Owner()
    case = CASES[case_name](sockets, owner)

    def first() -> None:
        port.start(case.op)
        port.run(0)
        case.complete()

    elsewhere(_attached(port, first))
    _attached(port, lambda: done(port, case.op))()
    assert error_of(case.op) == ""
    assert case.right(case.op.result())


@EACH
@TURNS
def test_a_cancel_before_the_move(
    port: LoopPort, sockets: Sockets, elsewhere: Elsewhere, case_name: str, turns: int
) -> None:
    owner = Owner()
    case = CASES[case_name](sockets, owner)

    def first() -> None:
        port.start(case.op)
        for _ in range(turns):
            port.run(0)
        port.stop(case.op)

    elsewhere(_attached(port, first))
    _attached(port, lambda: done(port, case.op))()
    assert owner.times == 1
    assert error_of(case.op) == "ECANCELED"
    assert case.untouched()


@EACH
def test_a_cancel_after_the_move(
    port: LoopPort, sockets: Sockets, elsewhere: Elsewhere, case_name: str
) -> None:
    owner = Owner()
    case = CASES[case_name](sockets, owner)

    def first() -> None:
        port.start(case.op)
        port.run(0)

    elsewhere(_attached(port, first))

    def second() -> None:
        port.stop(case.op)
        done(port, case.op)

    _attached(port, second)()
    assert owner.times == 1
    assert error_of(case.op) == "ECANCELED"
    assert case.untouched()


def test_accepts_go_on(port: LoopPort, sockets: Sockets, elsewhere: Elsewhere) -> None:
    listener = sockets.listener()
    owner = Owner()

    def first() -> None:
        port.start(Overlapped(ACCEPT, listener.fileno(), on_done=owner))
        for _ in range(3):
            sockets.client(listener)
        port.run(0)
        for _ in range(3):
            sockets.client(listener)

    elsewhere(_attached(port, first))
    for _ in range(3):
        sockets.client(listener)

    def second() -> None:
        for _ in range(3):
            sockets.client(listener)
        until(port, lambda: len(owner.accepted) == 12)

    _attached(port, second)()
    names = {sockets.keep(socket.socket(fileno=fd)).getpeername() for fd in owner.accepted}
    assert len(names) == 12
    assert not owner.ended


def test_watches_go_on(port: LoopPort, sockets: Sockets, elsewhere: Elsewhere) -> None:
    a, b = sockets.pair()
    calls: list[bytes] = []
    elsewhere(
        _attached(
            port,
            lambda: port.start(Watch(a.fileno(), POLLIN, lambda: calls.append(drain(a)))) and port.run(0),
        )
    )
    b.send(b"1")
    _attached(port, lambda: until(port, lambda: b"1" in calls))()
    b.send(b"2")
    elsewhere(_attached(port, lambda: until(port, lambda: b"2" in calls)))
    b.send(b"3")
    _attached(port, lambda: until(port, lambda: b"3" in calls))()


@pytest.mark.parametrize("size", [50, 10_000, 500_000])
def test_packets_that_were_not_dispatched_come_in_the_next_thread(
    port: LoopPort, sockets: Sockets, elsewhere: Elsewhere, size: int
) -> None:
    """Their bytes lie in memory of a ring that is replaced."""
    pairs = [sockets.pair() for _ in range(8)]

    def fail(_op: Overlapped) -> None:
        raise KeyboardInterrupt  # ends the turn; what an owner raises else is reported

    ops = []

    def first() -> None:
        for i, (a, b) in enumerate(pairs):
            b.send(b"message %d" % i)
            ops.append(port.start(Overlapped(RECV, a.fileno(), size=size, on_done=None if i else fail)))
        with pytest.raises(KeyboardInterrupt):
            while True:
                port.run(1)

    elsewhere(_attached(port, first))
    again = [Overlapped(RECV, a.fileno(), size=size) for a, _b in pairs]

    def second() -> None:
        done(port, *ops)
        for (_a, b), op in zip(pairs, again, strict=True):
            b.send(b"more")
            port.start(op)
        done(port, *again)

    _attached(port, second)()
    assert [op.result() for op in ops] == [b"message %d" % i for i in range(8)]
    assert {op.result() for op in again} == {b"more"}


@pytest.mark.parametrize("kind", ["pair", "tcp_pair"])
def test_a_transfer_that_moves_all_the_time(
    port: LoopPort, sockets: Sockets, elsewhere: Elsewhere, kind: str
) -> None:
    data = os.urandom(600_000)
    a, b = getattr(sockets, kind)(send_buffer=8192)
    got = hashlib.sha256()
    state = {"count": 0, "turn": 0}
    target = bytearray(5000)

    def receive() -> None:
        def more(op: Overlapped) -> None:
            result = op.result()
            piece = target[:result] if isinstance(result, int) else result
            state["count"] += len(piece)
            got.update(piece)
            if state["count"] < len(data):
                receive()

        state["turn"] += 1
        how = state["turn"] % 3
        if how == 0:
            op = Overlapped(RECV_INTO, b.fileno(), data=target, on_done=more)
        else:
            op = Overlapped(RECV, b.fileno(), size=5000 if how == 1 else 50_000, on_done=more)
        port.start(op)

    send = Overlapped(SEND, a.fileno(), data=data)
    port.start(send)
    receive()

    def some_turns() -> None:
        for _ in range(5):
            port.run(0.02)

    for move in range(2000):
        if state["count"] == len(data) and send.done:
            break
        run = _attached(port, some_turns)
        (elsewhere if move % 2 else lambda function: function())(run)
    assert send.result() == len(data)
    assert got.digest() == hashlib.sha256(data).digest()


def test_a_wake_from_the_thread_it_ran_in_before(port: LoopPort, elsewhere: Elsewhere) -> None:
    elsewhere(_attached(port, lambda: port.run(0.01)))

    def second() -> None:
        elsewhere(port.wake)
        port.run(30)

    _attached(port, second)()


def test_there_and_back(port: LoopPort, sockets: Sockets, elsewhere: Elsewhere) -> None:
    a, b = sockets.pair()
    for i in range(20):
        op = Overlapped(RECV, a.fileno(), size=10)
        move = elsewhere if i % 2 else lambda function: function()
        move(_attached(port, lambda op=op: (port.start(op), port.run(0))))
        b.send(b"%d" % i)
        _attached(port, lambda op=op: done(port, op))()
        assert op.result() == b"%d" % i


def test_a_ring_is_replaced_once_for_each_move(port: LoopPort, elsewhere: Elsewhere, variant: str) -> None:
    if not variant.startswith("io_uring") or "SINGLE_ISSUER" not in _flags(port):
        pytest.skip("the driver belongs to no thread")
    assert port.driver.rebuilds == 0
    for moves in (1, 2, 3):
        run = _attached(port, lambda: port.run(0.001))
        (elsewhere if moves % 2 else lambda function: function())(run)
        assert port.driver.rebuilds == moves
        run()
        if moves % 2:
            break
    before = port.driver.rebuilds
    for _ in range(3):
        _attached(port, lambda: port.run(0.001))()
    assert port.driver.rebuilds == before


def _flags(port: LoopPort) -> Any:
    port.run(0.001)
    return port.driver.describe()["setup_flags"]


def test_a_thread_that_was_not_attached_is_refused_or_served(port: LoopPort, sockets: Sockets) -> None:
    """Never a crash, never a lost packet."""
    a, b = sockets.pair()
    op = port.start(Overlapped(RECV, a.fileno(), size=10))
    port.run(0)
    b.send(b"x")

    def foreign() -> None:
        try:
            port.run(0.05)
        except RuntimeError:
            return

    in_thread(foreign)
    done(port, op)
    assert op.result() == b"x"
