"""Closing a port: every op in flight ends, every owner is told once, every descriptor is given back."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable

import pytest

from proactorx.ops.constants import ACCEPT, ACCEPT_ONE, POLLIN, RECV, RECV_INTO, SEND
from proactorx.ops.op import Overlapped, Watch
from proactorx.port.loop_port import LoopPort

from .cases import CASES, Case
from .support import Owner, Sockets, descriptors, drain, error_of, in_thread, quiet, until
from .variants import new_driver

TurnsBefore = pytest.mark.parametrize("turns", [0, 2])


@TurnsBefore
def test_with_ops_of_every_kind_in_flight(
    new_port: Callable[[], LoopPort], sockets: Sockets, turns: int
) -> None:
    port = new_port()
    owners: list[Owner] = []
    cases: list[Case] = []
    for make in (*CASES.values(), *CASES.values()):
        owners.append(Owner())
        cases.append(make(sockets, owners[-1]))
        port.start(cases[-1].op)
    listening = Owner()
    accept = port.start(Overlapped(ACCEPT, sockets.listener().fileno(), on_done=listening))
    watch = port.start(Watch(sockets.pair()[0].fileno(), POLLIN, lambda: None))
    for _ in range(turns):
        port.run(0)
    port.close()
    for owner, case in zip(owners, cases, strict=True):
        assert owner.ended == [case.op]
        assert error_of(case.op) == "ECANCELED"
        assert case.untouched()
    assert listening.ended == [accept]
    assert listening.accepted == []
    assert watch.state_name == "DONE"
    assert port.driver.inflight == []
    assert port.driver.closed


@TurnsBefore
def test_what_came_before_the_close_is_told(
    new_port: Callable[[], LoopPort], sockets: Sockets, turns: int
) -> None:
    """Data and connections are there, but nobody has looked: each goes to its owner or stays where it was."""
    port = new_port()
    a, b = sockets.pair()
    listener = sockets.listener()
    owners = [Owner(), Owner(), Owner()]
    receive = port.start(Overlapped(RECV, a.fileno(), size=10, on_done=owners[0]))
    accept = port.start(Overlapped(ACCEPT_ONE, sockets.listener().fileno(), on_done=owners[1]))
    port.start(Overlapped(ACCEPT, listener.fileno(), on_done=owners[2]))
    for _ in range(turns):
        port.run(0)
    b.send(b"hello")
    for _ in range(3):
        sockets.client(listener)
    port.close()
    assert [owner.times for owner in owners] == [1, 1, 1]
    assert (drain(a) if receive.error else receive.result()) == b"hello"
    assert error_of(accept) == "ECANCELED"
    waiting = 0
    listener.setblocking(False)
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            break
        waiting += 1
    assert len(owners[2].accepted) + waiting == 3
    owners[2].close_accepted()


def test_connections_that_nobody_wants_are_closed(new_port: Callable[[], LoopPort], sockets: Sockets) -> None:
    port = new_port()
    listeners = [sockets.listener() for _ in range(2)]
    before = descriptors()
    ops = [
        port.start(Overlapped(kind, listeners[kind == ACCEPT].fileno(), on_done=Owner()))
        for kind in (ACCEPT, ACCEPT_ONE)
    ]
    port.run(0)
    for op in ops:
        op.on_done = None
    clients = {sockets.client(listener).fileno() for listener in listeners}
    port.close()
    assert descriptors() <= before | clients


def test_twice(new_port: Callable[[], LoopPort], sockets: Sockets) -> None:
    port = new_port()
    owner = Owner()
    port.start(Overlapped(RECV, sockets.pair()[0].fileno(), size=1, on_done=owner))
    port.close()
    port.close()
    assert owner.times == 1


def test_unused(new_port: Callable[[], LoopPort]) -> None:
    """A port that was never used has opened nothing, and closes."""
    before = descriptors()
    port = new_port()
    assert descriptors() == before
    port.close()
    assert port.driver.closed


def test_a_closed_port_takes_nothing_and_says_so(new_port: Callable[[], LoopPort], sockets: Sockets) -> None:
    used, unused = new_port(), new_port()
    op = used.start(Overlapped(RECV, sockets.pair()[0].fileno(), size=1))
    used.run(0)
    for port in (used, unused):
        port.close()
        late = Overlapped(RECV, sockets.pair()[0].fileno(), size=1)
        with pytest.raises(RuntimeError):
            port.start(late)
        assert late.state_name == "NEW"
        with pytest.raises(RuntimeError):
            port.run(0)
        with pytest.raises(RuntimeError):
            port.run(0.01)
        assert port.stop(op) is False
        port.wake()
        port.attach_thread()
        port.detach_thread()
        port.forget(0)


def test_an_owner_may_not_start_ops_during_the_close(
    new_port: Callable[[], LoopPort], sockets: Sockets
) -> None:
    """Else the close would never end: who receives again at each end is told that the port is closed."""
    port = new_port()
    a, _b = sockets.pair()
    refused: list[BaseException] = []

    def again(_op: Overlapped) -> None:
        try:
            port.start(Overlapped(RECV, a.fileno(), size=1, on_done=again))
        except RuntimeError as exc:
            refused.append(exc)

    port.start(Overlapped(RECV, a.fileno(), size=1, on_done=again))
    port.run(0)
    before = time.monotonic()
    port.close()
    assert time.monotonic() - before < 2
    assert len(refused) == 1
    assert port.driver.inflight == []


@pytest.mark.parametrize("size", [5, 100_000], ids=["small", "large"])
def test_from_a_callback(new_port: Callable[[], LoopPort], sockets: Sockets, size: int) -> None:
    port = new_port()
    a, b = sockets.pair()
    c, _d = sockets.pair()
    other = Owner()
    port.start(Overlapped(RECV, c.fileno(), size=1, on_done=other))
    op = port.start(Overlapped(RECV, a.fileno(), size=size, on_done=lambda _op: port.close()))
    b.send(b"hello")
    until(port, lambda: port.driver.closed)
    assert op.result() == b"hello"
    assert other.times == 1


def test_an_owner_that_raises_during_the_close(
    new_port: Callable[[], LoopPort], sockets: Sockets, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, the others are told all the same, and the close goes on."""
    port = new_port()

    def fail(_op: Overlapped) -> None:
        raise ZeroDivisionError

    owners = [Owner(fail if i == 1 else None) for i in range(4)]
    for owner in owners:
        port.start(Overlapped(RECV, sockets.pair()[0].fileno(), size=1, on_done=owner))
    port.run(0)
    port.close()
    assert [owner.times for owner in owners] == [1, 1, 1, 1]
    assert port.driver.closed
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


def test_in_another_thread(new_port: Callable[[], LoopPort], sockets: Sockets) -> None:
    port = new_port()
    owners: list[Owner] = []

    def use() -> None:
        port.attach_thread()
        for make in CASES.values():
            owners.append(Owner())
            port.start(make(sockets, owners[-1]).op)
        port.run(0)
        port.detach_thread()

    in_thread(use)
    port.close()
    assert [owner.times for owner in owners] == [1] * len(owners)
    assert {error_of(owner.ended[0]) for owner in owners} == {"ECANCELED"}


def test_opening_and_closing_many_times_leaks_nothing(
    new_port: Callable[[], LoopPort], sockets: Sockets
) -> None:
    a, b = sockets.pair()
    before = descriptors()
    for _ in range(30):
        port = new_port()
        port.start(Overlapped(RECV_INTO, a.fileno(), data=bytearray(10)))
        port.start(Overlapped(SEND, b.fileno(), data=b""))
        quiet(port)
        port.close()
    assert descriptors() == before


def test_a_port_that_was_dropped_without_close_frees_its_descriptors(sockets: Sockets, variant: str) -> None:
    a, b = sockets.pair()
    before = descriptors()
    port = LoopPort(new_driver(variant))
    port.start(Overlapped(RECV, a.fileno(), size=1))
    port.run(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # deserved
        del port
        gc.collect()
    assert descriptors() == before
    b.send(b"x")
    assert drain(a) == b"x"
