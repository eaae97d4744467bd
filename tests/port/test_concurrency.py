"""How many threads run: association, ``blocking()``, ``dissociate()``,
and threads that sleep without saying so.
"""

from __future__ import annotations

import threading
import time

import pytest

from proactorx import CompletionPort, Packet

from .conftest import NewPort
from .support import LIMIT, MOMENT, Member, members, needs_cpu_clock, until, waiting


def spin(member: Member, stop: threading.Event) -> None:
    """Have a thread use the processor until it is told to stop; it has begun when this returns."""
    started = threading.Event()

    def order() -> None:
        started.set()
        while not stop.is_set():
            pass

    member.stops.append(stop)
    member.begin(order)
    assert started.wait(LIMIT)


def test_a_thread_is_the_port_s_from_its_first_get_on(port: CompletionPort) -> None:
    assert (port.associated, port.running) == (0, 0)
    port.get_many(1, 0)
    assert (port.associated, port.running) == (1, 1)
    port.get_many(1, 0)
    assert (port.associated, port.running) == (1, 1)
    port.dissociate()
    port.dissociate()
    assert (port.associated, port.running) == (0, 0)


def test_a_thread_inside_get_does_not_run(port: CompletionPort) -> None:
    with members(port, 1) as (member,):
        member.wait()
        assert (port.associated, port.running) == (1, 0)
        port.post()
        member.outcome()
        assert (port.associated, port.running) == (1, 1)


@needs_cpu_clock
def test_the_limit_keeps_a_packet_from_a_waiting_thread(new_port: NewPort) -> None:
    port = new_port(1)
    with members(port, 2) as (one, other):
        port.post("first")
        assert one.do(port.get).key == "first"
        other.wait()
        # The first one runs: it uses the processor until it is told to stop.
        stop = threading.Event()
        spin(one, stop)
        port.post("second")
        time.sleep(MOMENT)
        assert other.is_quiet
        assert port.queued == 1
        stop.set()
        one.outcome()
        one.do(port.dissociate)
        assert other.outcome().key == "second"


def test_blocking_lets_another_thread_run(new_port: NewPort) -> None:
    port = new_port(1)
    with members(port, 2) as (one, other):
        port.post("first")
        assert one.do(port.get).key == "first"
        other.wait()
        port.post("second")
        inside, leave = threading.Event(), threading.Event()

        def block() -> int:
            with port.blocking():
                inside.set()
                leave.wait(LIMIT)
            return port.running

        one.begin(block)
        assert inside.wait(LIMIT)
        assert other.outcome().key == "second"
        assert port.running == 1
        leave.set()
        assert one.outcome() == 2  # above the limit, for a while


@needs_cpu_clock
def test_above_the_limit_nobody_is_released(new_port: NewPort) -> None:
    """... until fewer run than the limit says."""
    port = new_port(1)
    with members(port, 3) as (one, two, three):
        port.post("first")
        one.do(port.get)
        inside, leave = threading.Event(), threading.Event()

        def block() -> None:
            with port.blocking():
                inside.set()
                leave.wait(LIMIT)

        one.begin(block)
        assert inside.wait(LIMIT)
        port.post("second")
        two.do(port.get)
        leave.set()
        one.outcome()
        assert port.running == 2
        three.wait()
        stop = threading.Event()
        spin(one, stop)
        spin(two, stop)
        port.post("third")
        time.sleep(MOMENT)
        assert three.is_quiet
        stop.set()
        one.outcome()
        two.outcome()
        one.do(port.dissociate)  # one runs: still the limit
        stop.clear()
        spin(two, stop)
        time.sleep(MOMENT)
        assert three.is_quiet
        stop.set()
        two.outcome()
        two.do(port.dissociate)
        assert three.outcome().key == "third"


def test_blocking_may_be_nested(port: CompletionPort) -> None:
    port.get_many(1, 0)
    with port.blocking():
        with port.blocking():
            assert port.running == 0
        assert port.running == 0
    assert port.running == 1


def test_blocking_ends_with_an_exception_too(port: CompletionPort) -> None:
    port.get_many(1, 0)
    with pytest.raises(ZeroDivisionError):
        with port.blocking():
            raise ZeroDivisionError
    assert port.running == 1


def test_blocking_means_nothing_to_other_threads(port: CompletionPort) -> None:
    with port.blocking():
        assert port.associated == port.running == 0
        port.get_many(1, 0)  # joins it only now
        assert port.running == 1
    assert port.running == 1


def test_get_inside_blocking_is_refused(port: CompletionPort) -> None:
    port.get_many(1, 0)
    with port.blocking():
        with pytest.raises(RuntimeError, match="inside blocking"):
            port.get(0)
        port.dissociate()
    assert port.associated == port.running == 0


def test_getting_from_another_port_leaves_the_first(new_port: NewPort) -> None:
    one, other = new_port(1), new_port(1)
    one.get_many(1, 0)
    assert (one.associated, one.running) == (1, 1)
    other.get_many(1, 0)
    assert (one.associated, one.running) == (0, 0)
    assert (other.associated, other.running) == (1, 1)


def test_leaving_for_another_port_releases_a_thread(new_port: NewPort) -> None:
    port, elsewhere = new_port(1), new_port(1)
    with members(port, 2) as (one, other):
        port.post("first")
        one.do(port.get)
        other.wait()
        port.post("second")
        one.do(lambda: elsewhere.get_many(1, 0))
        assert other.outcome().key == "second"


def test_a_thread_that_ends_leaves(new_port: NewPort) -> None:
    port = new_port(1)
    with members(port, 1) as (waiter,):
        one = Member(port)
        port.post("first")
        one.do(port.get)
        waiter.wait()
        port.post("second")
        assert port.associated == 2
        one.end()  # associated, and running
        assert waiter.outcome().key == "second"
        # a thread that has been joined may still be about to clear its locals
        until(lambda: port.associated == 1)


@needs_cpu_clock
def test_a_thread_that_sleeps_without_saying_so_is_noticed(new_port: NewPort) -> None:
    """Linux: its state and its CPU clock tell; another thread is released in its place."""
    port = new_port(1)
    with members(port, 2) as (one, other):
        port.post("first")
        one.do(port.get)
        other.wait()
        leave = threading.Event()
        one.begin(lambda: leave.wait(LIMIT))
        port.post("second")
        assert other.outcome().key == "second"
        assert port.running == 1
        # It wakes: two run, more than the limit, and nobody is released.
        other.wait()
        stop = threading.Event()
        leave.set()
        one.outcome()
        spin(one, stop)
        port.post("third")
        time.sleep(MOMENT)
        assert other.is_quiet
        assert port.running == 1
        stop.set()
        one.outcome()
        assert one.do(lambda: port.get(LIMIT)).key == "third"


@needs_cpu_clock
def test_a_sleeper_that_wakes_counts_again(new_port: NewPort) -> None:
    port = new_port(1)
    with members(port, 3) as (one, two, three):
        port.post("first")
        one.do(port.get)
        two.wait()
        leave = threading.Event()
        one.begin(lambda: leave.wait(LIMIT))
        port.post("second")
        two.outcome()
        three.wait()
        stop = threading.Event()
        spin(two, stop)
        leave.set()
        one.outcome()
        spin(one, stop)
        until(lambda: port.running == 2)
        port.post("third")
        time.sleep(MOMENT)
        assert three.is_quiet
        stop.set()
        one.outcome()
        two.outcome()
        for member in (one, two):
            member.do(port.dissociate)
        assert three.outcome().key == "third"


@needs_cpu_clock
def test_a_waiter_whose_time_is_over_hands_its_watch_on(new_port: NewPort) -> None:
    """The oldest waiter looks after sleeping threads; when it leaves, the next one does."""
    port = new_port(1)
    with members(port, 3) as (one, oldest, other):
        port.post("first")
        one.do(port.get)
        oldest.begin(lambda: port.get_many(1, 2 * MOMENT))
        until(lambda: port.associated == 2)
        other.wait()
        stop = threading.Event()
        spin(one, stop)
        port.post("second")
        oldest.outcome()
        oldest.do(port.dissociate)
        assert other.is_quiet
        stop.set()  # from now on `one` sleeps, as it has nothing to do
        one.outcome()
        assert other.outcome().key == "second"


def test_many_threads_serve_each_packet_once(new_port: NewPort) -> None:
    port = new_port(2)

    def serve() -> list[int]:
        served = []
        while (key := port.get(LIMIT).key) is not None:
            served.append(key)
            sum(range(200))
        return served

    with members(port, 6) as threads:
        for thread in threads:
            thread.begin(serve)
        for number in range(2000):
            port.post(number)
        for _ in threads:
            port.post(None)
        assert sorted(key for thread in threads for key in thread.outcome()) == list(range(2000))


def test_a_time_out_leaves_the_thread_running(new_port: NewPort) -> None:
    port = new_port(1)
    with members(port, 2) as (one, other):
        one.do(lambda: port.get_many(1, MOMENT))
        assert port.running == 1
        other.wait()
        assert waiting(port) == 1
        port.post("next")
        assert one.do(lambda: port.get(0)) == Packet("next", None, 0, 0)
        assert other.is_quiet
