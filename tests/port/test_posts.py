"""Posts and gets: three free values, first in, first out, waiting threads last in, first out."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections import defaultdict
from typing import Any

import pytest

import proactorx
from proactorx import CompletionPort, Packet, PortClosed

from .conftest import WINDOWS, NewPort
from .support import LIMIT, MOMENT, descriptors, keys, members, until


def test_a_packet_carries_three_free_values(port: CompletionPort) -> None:
    """PostQueuedCompletionStatus: the system neither uses nor validates them."""
    anything = object()
    port.post(["a", "list"], anything, -(2**63))
    assert port.get(0) == Packet(["a", "list"], anything, -(2**63), 0)


def test_a_packet_may_carry_nothing(port: CompletionPort) -> None:
    port.post()
    assert port.get(0) == (None, None, 0, 0)


def test_a_packet_is_like_a_tuple_with_names(port: CompletionPort) -> None:
    port.post("key", "overlapped", 3)
    key, overlapped, nbytes, error = packet = port.get()
    assert isinstance(packet, Packet)
    assert (packet.key, packet.overlapped, packet.nbytes, packet.error) == (key, overlapped, nbytes, error)
    assert repr(packet) == "Packet(key='key', overlapped='overlapped', nbytes=3, error=0)"
    assert packet == ("key", "overlapped", 3, 0) == packet
    assert packet != ("key", "overlapped", 3)
    assert packet != Packet("key", "overlapped", 4)
    assert packet != ["key", "overlapped", 3, 0]
    assert len({packet, Packet("key", "overlapped", 3), ("key", "overlapped", 3, 0)}) == 1
    assert (packet[0], packet[-1], len(packet)) == ("key", 0, 4)
    assert copy.copy(packet) == packet == pickle.loads(pickle.dumps(packet))
    match packet:
        case Packet(key, _, nbytes):
            assert (key, nbytes) == ("key", 3)
    with pytest.raises(AttributeError):
        packet.key = "another"  # type: ignore[misc]


def test_a_packet_that_holds_itself_is_collected(port: CompletionPort) -> None:
    class Key:
        packet: Packet

    port.post(Key())
    packet: Packet | None = port.get()
    assert packet is not None
    packet.key.packet = packet
    key = weakref.ref(packet.key)
    del packet
    gc.collect()
    assert key() is None


def test_values_that_cannot_be_posted(port: CompletionPort) -> None:
    with pytest.raises(OverflowError):
        port.post(nbytes=2**63)
    with pytest.raises(TypeError):
        port.post(nbytes="many")  # type: ignore[arg-type]
    assert port.queued == 0


def test_what_is_posted_is_kept_and_then_let_go(port: CompletionPort) -> None:
    anything = object()
    before = sys.getrefcount(anything)
    port.post(anything, anything)
    assert sys.getrefcount(anything) == before + 2
    packet: Packet | None = port.get()
    del packet
    assert sys.getrefcount(anything) == before


def test_first_in_first_out(port: CompletionPort) -> None:
    for number in range(1000):
        port.post(number)
    assert port.queued == 1000
    assert [port.get(0).key for _ in range(1000)] == list(range(1000))


def test_a_time_out(port: CompletionPort) -> None:
    before = time.monotonic()
    with pytest.raises(TimeoutError):
        port.get(MOMENT)
    assert time.monotonic() - before >= MOMENT
    with pytest.raises(TimeoutError):
        port.get(0)
    assert port.get_many(5, MOMENT) == []


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan")])
def test_a_time_out_that_cannot_be(port: CompletionPort, timeout: float) -> None:
    port.post()
    with pytest.raises(ValueError, match="timeout"):
        port.get(timeout)
    with pytest.raises(ValueError, match="timeout"):
        port.get_many(1, timeout)
    assert port.queued == 1


def test_a_time_out_without_end(port: CompletionPort) -> None:
    port.post("there")
    assert port.get(float("inf")).key == "there"


def test_many_at_once(port: CompletionPort) -> None:
    for number in range(10):
        port.post(number)
    assert keys(port.get_many(4)) == [0, 1, 2, 3]
    assert keys(port.get_many(100)) == [4, 5, 6, 7, 8, 9]
    with pytest.raises(ValueError, match="at least one"):
        port.get_many(0)


def test_at_most_1024_at_once(port: CompletionPort) -> None:
    for number in range(1025):
        port.post(number)
    assert len(port.get_many(1_000_000)) == 1024
    assert len(port.get_many(1_000_000)) == 1
    with pytest.raises(TypeError, match="float"):
        port.get_many(1.5, 0)  # type: ignore[arg-type]


def test_posts_cost_no_descriptor(new_port: NewPort) -> None:
    before = descriptors()
    port = new_port()
    port.post()
    port.get()
    with members(port, 1) as (member,):
        member.wait()
        port.post()
        member.outcome()
        assert descriptors() == before


def test_four_posters_and_each_one_s_order(port: CompletionPort) -> None:
    def post(poster: int) -> None:
        for number in range(500):
            port.post(poster, number)

    threads = [threading.Thread(target=post, args=(poster,)) for poster in range(4)]
    for thread in threads:
        thread.start()
    found: dict[int, list[int]] = defaultdict(list)
    for _ in range(4 * 500):
        packet = port.get(LIMIT)
        found[packet.key].append(packet.overlapped)
    for thread in threads:
        thread.join()
    assert found == {poster: list(range(500)) for poster in range(4)}


def test_the_last_to_come_is_the_first_served(new_port: NewPort) -> None:
    """Of three idle threads; twice in a row it is the same one, while the others sleep on."""
    port = new_port(3)
    with members(port, 3) as (first, second, third):
        for member in (first, second, third):
            member.wait()
        port.post("one")
        assert third.outcome().key == "one"
        third.wait()
        port.post("two")
        assert third.outcome().key == "two"
        port.post("three")
        assert second.outcome().key == "three"
        port.post("four")
        assert first.outcome().key == "four"


def test_who_comes_back_takes_the_next_at_once(new_port: NewPort) -> None:
    """Without a switch to a thread that waits."""
    port = new_port(1)
    with members(port, 2) as (busy, idle):
        port.post("first")
        assert busy.do(lambda: port.get().key) == "first"
        idle.wait()
        port.post("second")
        port.post("third")
        assert busy.do(lambda: port.get(0).key) == "second"
        assert busy.do(lambda: port.get(0).key) == "third"
        assert idle.is_quiet


def test_many_at_once_leaves_something_for_others(new_port: NewPort) -> None:
    """A thread that takes all that there is, again and again, does not keep another one waiting for ever."""
    port = new_port(2)
    with members(port, 2) as (greedy, modest):
        modest.wait()

        served = threading.Event()

        def take_all() -> None:
            while not served.is_set():
                for _ in range(8):
                    port.post()
                port.get_many(8, 0)

        greedy.begin(take_all)
        assert isinstance(modest.outcome(), Packet)
        served.set()
        greedy.outcome()


def test_a_wait_ends_with_the_first_packet(port: CompletionPort) -> None:
    with members(port, 1) as (member,):
        member.begin(lambda: keys(port.get_many(10)))
        until(lambda: port.associated == 1)
        port.post("one")
        assert member.outcome() == ["one"]


def test_how_many_may_run(new_port: NewPort) -> None:
    assert new_port(7).concurrency == 7
    assert new_port(0).concurrency >= 1
    with pytest.raises(ValueError, match="negative"):
        new_port(-1)
    with pytest.raises(TypeError, match="float"):
        new_port(1.5)


def test_a_backend_that_is_not_one() -> None:
    with pytest.raises(ValueError, match="unknown backend"):
        CompletionPort(backend="fast")
    with pytest.raises(proactorx.drivers.BackendError, match="epoll" if WINDOWS else "iocp"):
        CompletionPort(backend="epoll" if WINDOWS else "iocp")


def test_what_it_says_of_itself(port: CompletionPort, variant: str) -> None:
    assert port.backend.name == variant.partition("-")[0]
    assert "backend=" in repr(port)
    port.close()
    assert "closed" in repr(port)


def test_a_forgotten_port_is_reported(variant: str) -> None:
    def forget() -> None:
        port = CompletionPort(backend=variant.partition("-")[0])
        port.post(port.concurrency)

    with pytest.warns(ResourceWarning, match="unclosed port"):
        forget()


@pytest.mark.skipif(WINDOWS, reason="there are no alarms")
def test_a_signal_is_handled_while_a_thread_waits(port: CompletionPort) -> None:
    """Its handler runs in the main thread, inside get; an exception of it ends the get,
    and nothing is lost.
    """
    import signal

    class Stop(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, MOMENT)
        with pytest.raises(Stop):
            port.get(LIMIT)
        signal.signal(signal.SIGALRM, lambda *_: port.post("by the handler"))
        signal.setitimer(signal.ITIMER_REAL, MOMENT)
        assert port.get(LIMIT).key == "by the handler"
        signal.signal(signal.SIGALRM, lambda *_: port.close())
        signal.setitimer(signal.ITIMER_REAL, MOMENT)
        with pytest.raises(PortClosed):
            port.get(LIMIT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not WINDOWS, reason="as above, with what Windows has")
def test_control_c_ends_a_wait(port: CompletionPort) -> None:
    """Once more after that: the event that tells of it stays set."""
    import signal

    for _ in range(2):
        timer = threading.Timer(MOMENT, signal.raise_signal, [signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            port.get(LIMIT)
        timer.join()
    port.post("after it")
    assert port.get(LIMIT).key == "after it"
    assert port.get_many(1, MOMENT) == []


NO_MEMORY = """
import resource, sys
import proactorx
port = proactorx.CompletionPort(backend=sys.argv[1])
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
limit = pages * resource.getpagesize() + (48 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
posted = 0
try:
    while posted < 8_000_000:
        port.post()
        posted += 1
except MemoryError:
    while posted:
        posted -= len(port.get_many(1000, 0))
    port.post("again")
    assert port.get(0).key == "again"
    print("MemoryError")
port.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is not kept everywhere")
def test_no_room_for_a_packet(variant: str) -> None:
    """That is what it is called, and not an end of the port; what is queued can be taken."""
    done = subprocess.run(
        [sys.executable, "-c", NO_MEMORY, variant.partition("-")[0]],
        stdout=subprocess.PIPE,
        timeout=LIMIT * 5,
        check=True,
    )
    assert done.stdout == b"MemoryError\n"
