"""How many threads there are, who decides it, and what the log says of it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import pytest

from proactorx import IOThreadPool

from .support import LIMIT, Blocker, until

pytestmark = pytest.mark.ours


@pytest.fixture
def block() -> Iterator[Blocker]:
    with Blocker() as block:
        yield block


def changes(pool: IOThreadPool) -> list[tuple[int, str]]:
    return [(entry.change, entry.reason) for entry in pool.stats().log]


def test_no_thread_before_the_first_packet() -> None:
    before = threading.active_count()
    with IOThreadPool() as pool:
        assert threading.active_count() == before
        assert pool.stats() == (0, 0, 0, 0, 0, 0.0, ())


def test_at_once_up_to_the_minimum(block: Blocker) -> None:
    with IOThreadPool(3, 5, gate=1000) as pool:
        for _ in range(6):
            pool.queue(block)
        block.wait_for(3)
        stats = pool.stats()
        assert (stats.active, stats.working, stats.queued) == (3, 3, 3)
        assert stats.oldest_wait > 0
        assert changes(pool) == [(1, "minimum")] * 3
        block.release()


def test_packets_that_come_while_threads_are_idle_start_what_is_missing(block: Blocker) -> None:
    """One idle thread and five packets in a row: nobody stays behind."""
    with IOThreadPool(5, 5, gate=1000) as pool:
        pool.queue(int)
        until(lambda: pool.stats()[:2] == (1, 0))
        for _ in range(5):
            pool.queue(block)
        block.wait_for(5)
        assert pool.stats().active == 5
        block.release()


def test_an_idle_thread_is_used_again() -> None:
    with IOThreadPool(8) as pool:
        for count in range(1, 20):
            pool.queue(int)
            until(lambda count=count: pool.stats().completed == count and pool.stats().working == 0)
        assert pool.stats().active == 1


def test_the_last_to_come_is_the_first_to_go(block: Blocker) -> None:
    """The same thread is taken again and again, so that the others can retire."""
    with IOThreadPool(4, 4) as pool:
        for _ in range(4):
            pool.queue(block)
        block.wait_for(4)
        block.release()
        until(lambda: pool.stats().working == 0)
        who: list[int] = []
        for count in range(1, 11):
            pool.queue(lambda: who.append(threading.get_ident()))
            until(lambda count=count: len(who) == count and pool.stats().working == 0)
        assert len(set(who)) == 1


def test_one_more_per_gate_period_while_nothing_is_taken(block: Blocker) -> None:
    with IOThreadPool(1, 4, gate=0.05) as pool:
        for _ in range(6):
            pool.queue(block)
        block.wait_for(4)
        assert changes(pool) == [(1, "minimum")] + [(1, "starvation")] * 3
        times = [entry.time for entry in pool.stats().log]
        assert all(later - earlier >= 0.04 for earlier, later in itertools.pairwise(times[1:]))
        assert pool.stats().active == 4, "no more than the maximum"
        block.release()


def test_a_blocked_body_is_compensated(block: Blocker) -> None:
    """Packets are still taken, but by fewer threads than the minimum."""
    with IOThreadPool(2, 8, gate=0.1) as pool:
        pool.queue(block)
        block.wait_for()
        stop = threading.Event()

        def busy() -> None:
            if not stop.is_set():
                pool.queue(busy)
            time.sleep(0.001)

        for _ in range(20):
            pool.queue(busy)
        until(lambda: (1, "compensation") in changes(pool))
        stop.set()
        block.release()
        assert {reason for _, reason in changes(pool)} <= {"minimum", "compensation"}


def test_who_says_that_he_blocks_is_compensated_at_once(block: Blocker) -> None:
    with IOThreadPool(1, 4, gate=1000) as pool:

        def body() -> None:
            with pool.blocking(), pool.blocking():
                block()

        for _ in range(6):
            pool.queue(body)
        block.wait_for(4)
        assert changes(pool) == [(1, "minimum")] + [(1, "blocking")] * 3
        block.release()


def test_after_blocking_the_thread_counts_again(block: Blocker) -> None:
    with IOThreadPool(1, 4, gate=1000) as pool:

        def body() -> None:
            with pool.blocking():
                pass
            block()

        pool.queue(body)
        block.wait_for()
        pool.queue(block)
        assert pool.stats()[:4] == (1, 1, 0, 1)
        block.release()


def test_blocking_is_for_the_pools_threads() -> None:
    caught: list[BaseException] = []
    with IOThreadPool() as pool, IOThreadPool() as other:

        def body() -> None:
            try:
                with other.blocking():
                    pass
            except RuntimeError as exc:
                caught.append(exc)

        with pytest.raises(RuntimeError, match="own threads"), pool.blocking():
            pass
        pool.queue(body)
        until(lambda: caught)


def test_idle_threads_retire_and_the_last_stays(block: Blocker) -> None:
    with IOThreadPool(4, 4, idle=0.05) as pool:
        for _ in range(4):
            pool.queue(block)
        block.wait_for(4)
        block.release()
        until(lambda: pool.stats()[:3] == (1, 0, 3))
        until(lambda: changes(pool).count((-1, "idle")) == 3)
        time.sleep(0.2)
        assert pool.stats().active == 1
        done = threading.Event()
        pool.queue(done.set)
        assert done.wait(LIMIT)


def test_a_higher_minimum_starts_threads_that_are_needed(block: Blocker) -> None:
    with IOThreadPool(1, 8, gate=1000) as pool:
        for _ in range(4):
            pool.queue(block)
        block.wait_for(1)
        pool.min_threads = 3
        block.wait_for(2)
        assert pool.stats().active == 3
        block.release()


def test_a_higher_maximum_lets_the_gate_go_on(block: Blocker) -> None:
    with IOThreadPool(1, 1, gate=0.02) as pool:
        for _ in range(3):
            pool.queue(block)
        block.wait_for(1)
        time.sleep(0.1)  # the gate has given up: no thread may be started
        assert pool.stats().active == 1
        pool.max_threads = 3
        block.wait_for(2)
        block.release()


def test_a_lower_maximum_ends_idle_threads_and_no_running_call(block: Blocker) -> None:
    with Blocker() as other, IOThreadPool(4, 4) as pool:
        pool.queue(other)
        pool.queue(other)
        for _ in range(2):
            pool.queue(block)
        block.wait_for(2)
        other.wait_for(2)
        block.release()
        until(lambda: pool.stats().working == 2)
        pool.min_threads = 1
        pool.max_threads = 1
        until(lambda: pool.stats().active == 2)
        other.release()
        until(lambda: pool.stats()[:3] == (1, 0, 3))
        until(lambda: changes(pool)[4:] == [(-1, "limit lowered")] * 3)
        done = threading.Event()
        pool.queue(done.set)
        assert done.wait(LIMIT)


@pytest.mark.parametrize("value", [0, -1, 9, 1 << 40])
def test_wrong_minimum(value: int) -> None:
    with IOThreadPool(2, 8) as pool:
        with pytest.raises(ValueError):
            pool.min_threads = value
        assert (pool.min_threads, pool.max_threads) == (2, 8)


@pytest.mark.parametrize("value", [0, -1, 1, 1 << 40])
def test_wrong_maximum(value: int) -> None:
    with IOThreadPool(2, 8) as pool:
        with pytest.raises(ValueError):
            pool.max_threads = value
        assert (pool.min_threads, pool.max_threads) == (2, 8)


def test_wrong_types_and_arguments() -> None:
    with IOThreadPool(2, 8) as pool:
        for wrong in ("3", 2.5, None):
            with pytest.raises(TypeError):
                pool.min_threads = wrong  # type: ignore[assignment]
            with pytest.raises(TypeError):
                pool.max_threads = wrong  # type: ignore[assignment]
        assert (pool.min_threads, pool.max_threads) == (2, 8)
    for arguments in ((0, 1), (2, 1), (-1,), (1, 0)):
        with pytest.raises(ValueError):
            IOThreadPool(*arguments)
    for times in ({"idle": 0}, {"gate": 0}, {"idle": -1}, {"gate": float("nan")}, {"idle": float("nan")}):
        with pytest.raises(ValueError):
            IOThreadPool(**times)


def test_defaults() -> None:
    with IOThreadPool() as pool:
        assert 8 <= pool.min_threads <= pool.max_threads == 64
        assert (pool.idle, pool.gate) == (20, 0.5)
    with IOThreadPool(max_threads=3) as pool:
        assert (pool.min_threads, pool.max_threads) == (3, 3)
    with IOThreadPool(min_threads=100, idle=float("inf")) as pool:
        assert (pool.min_threads, pool.max_threads) == (100, 100)


def test_the_log_keeps_the_last_200() -> None:
    with IOThreadPool(1, 1, idle=1000) as pool:
        pool.queue(int)
        for _ in range(120):
            pool._note(1, "one")
            pool._note(-1, "two")
        log = pool.stats().log
        assert len(log) == 200
        assert log[-1].reason == "two"


def test_a_system_that_refuses_threads(monkeypatch: pytest.MonkeyPatch, block: Blocker) -> None:
    """With others at work the packet waits for them; without, it fails and says why."""
    real = threading.Thread.start
    told: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with IOThreadPool(2, 2) as pool:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        pool.queue(int)
        assert [str(exc) for exc in told] == ["can't start new thread"]
        assert changes(pool) == [(0, "can't start new thread")]
        monkeypatch.setattr(threading.Thread, "start", real)
        pool.queue(block)
        block.wait_for()
        monkeypatch.setattr(threading.Thread, "start", refuse)
        done = threading.Event()
        pool.queue(done.set)
        assert pool.stats()[:4] == (1, 1, 0, 1)
        block.release()
        assert done.wait(LIMIT)
    assert len(told) == 1
