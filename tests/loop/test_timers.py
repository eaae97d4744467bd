"""call_later, call_at, and the loop's clock."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
import unittest.mock
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from .helpers import Factory, run_until, step, subclass

if sys.platform != "win32":
    import resource

FAR = [3600.0, 86_400.0 * 400, 1e9, 1e12, 1e18, sys.float_info.max, float("inf")]


def test_timers_run_in_the_order_of_their_deadlines(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[float] = []
    now = loop.time()
    deadlines = [now + random.random() * 0.05 for _ in range(5000)]
    for when in deadlines:
        loop.call_at(when, seen.append, when)
    run_until(loop, lambda: len(seen) == len(deadlines))
    assert seen == sorted(deadlines)


@pytest.mark.ours
def test_timers_of_one_deadline_run_in_the_order_of_their_registration(
    loop: asyncio.AbstractEventLoop,
) -> None:
    """Stock asyncio leaves this undefined: its heap is not stable."""
    seen: list[int] = []
    when = loop.time() + 0.01
    for i in range(1000):
        loop.call_at(when, seen.append, i)
    run_until(loop, lambda: len(seen) == 1000)
    assert seen == list(range(1000))


def test_a_timer_never_runs_early(loop: asyncio.AbstractEventLoop) -> None:
    late: list[float] = []
    resolution = time.get_clock_info("monotonic").resolution

    def note(when: float) -> None:
        late.append(loop.time() - when)

    now = loop.time()
    for i in range(60):
        when = now + i * 0.00077
        loop.call_at(when, note, when)
    run_until(loop, lambda: len(late) == 60)
    assert min(late) >= -resolution
    assert max(late) < 1


def test_a_timer_wakes_an_idle_loop(loop: asyncio.AbstractEventLoop) -> None:
    before = time.monotonic()
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    assert 0.049 <= time.monotonic() - before < 2


def test_waiting_for_a_timer_costs_no_cpu(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_later(0.3, loop.stop)
    before = time.thread_time()
    loop.run_forever()
    assert time.thread_time() - before < 0.1


def test_delays_of_zero_and_less_run_in_the_next_turn(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    loop.call_soon(seen.append, "soon")
    loop.call_later(0, seen.append, "zero")
    loop.call_later(-1, seen.append, "a second ago")
    loop.call_later(-1e9, seen.append, "long ago")
    loop.call_at(loop.time() - 10, seen.append, "ten seconds ago")
    loop.call_at(0, seen.append, "at the epoch")
    step(loop)
    assert seen[0] == "soon"
    assert sorted(seen[1:3]) == ["at the epoch", "long ago"]
    assert seen[3:] == ["ten seconds ago", "a second ago", "zero"]


def test_a_timer_set_by_a_timer_that_is_already_due_waits_for_the_next_turn(
    loop: asyncio.AbstractEventLoop,
) -> None:
    seen: list[str] = []

    def first() -> None:
        seen.append("first")
        loop.call_later(-5, seen.append, "set by first")

    loop.call_later(0, first)
    step(loop)
    assert seen == ["first"]
    step(loop)
    assert seen == ["first", "set by first"]


def test_an_earlier_timer_set_while_the_loop_waits_for_a_later_one(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    loop.call_later(3600, seen.append, "hour")
    loop.call_soon(loop.call_later, 0.01, seen.append, "soon")
    run_until(loop, lambda: bool(seen))
    assert seen == ["soon"]


def test_numbers_of_every_kind_are_delays(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[Any] = []
    delays: list[Any] = [0, 0.0, False, True / 100, Fraction(1, 100), 0.001]
    for delay in delays:
        loop.call_later(delay, seen.append, delay)
    now = loop.time()
    loop.call_at(int(now), seen.append, "int deadline")
    loop.call_at(Fraction(now), seen.append, "fraction deadline")  # type: ignore[arg-type]
    run_until(loop, lambda: len(seen) == len(delays) + 2)


def test_what_is_no_number_is_refused(loop: asyncio.AbstractEventLoop) -> None:
    with pytest.raises(TypeError):
        loop.call_later(None, print)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        loop.call_at(None, print)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        loop.call_later("1", print)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        loop.call_later(1)  # type: ignore[call-arg]


@pytest.mark.parametrize("delay", FAR)
def test_a_far_future_disturbs_nobody(loop: asyncio.AbstractEventLoop, delay: float) -> None:
    seen: list[str] = []
    far = loop.call_later(delay, seen.append, "far")
    assert far.when() >= loop.time() + 3000
    loop.call_later(0.01, seen.append, "near")
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert seen == ["near"]
    far.cancel()
    step(loop)
    assert seen == ["near"]


def test_a_loop_that_waits_for_nothing_but_the_far_future_can_be_woken(
    loop: asyncio.AbstractEventLoop,
) -> None:
    handles = [loop.call_later(delay, print) for delay in FAR]
    loop.run_in_executor(None, loop.call_soon_threadsafe, loop.stop)
    loop.run_forever()
    for handle in handles:
        handle.cancel()
    loop.run_until_complete(loop.shutdown_default_executor())


# cancellation


def test_cancelled_timers_among_live_ones(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []
    now = loop.time()
    handles = [loop.call_at(now + i * 1e-6, seen.append, i) for i in range(10_000)]
    order = list(range(0, 10_000, 3))
    random.shuffle(order)
    for i in order:
        handles[i].cancel()
    run_until(loop, lambda: len(seen) >= 6666)
    step(loop)
    assert seen == [i for i in range(10_000) if i % 3]


def test_a_timer_may_cancel_one_that_is_due_in_the_same_turn(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    handles: list[asyncio.TimerHandle] = []
    now = loop.time()
    loop.call_at(now - 2, lambda: handles[0].cancel())
    handles.append(loop.call_at(now - 1, seen.append, "cancelled"))
    loop.call_at(now, seen.append, "kept")
    step(loop, 2)
    assert seen == ["kept"]


def test_a_timer_may_be_cancelled_twice_and_after_it_ran(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    ran = loop.call_later(0, seen.append, "ran")
    twice = loop.call_later(0, seen.append, "twice")
    twice.cancel()
    twice.cancel()
    step(loop)
    ran.cancel()
    ran.cancel()
    assert seen == ["ran"]
    loop.call_later(0, seen.append, "the loop goes on")
    step(loop)
    assert seen == ["ran", "the loop goes on"]
    assert ran.cancelled()
    assert twice.cancelled()


def test_cancelling_every_timer_in_any_order_leaves_none(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []
    handles = [loop.call_later(random.random() * 0.01, seen.append, i) for i in range(3000)]
    random.shuffle(handles)
    for handle in handles:
        handle.cancel()
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert seen == []


@pytest.mark.ours
def test_cancelling_timers_where_there_is_no_memory(loop: asyncio.AbstractEventLoop) -> None:
    """What is swept was freed twice."""
    testcapi = pytest.importorskip("_testcapi", reason="CPython's own tests are not installed")
    seen: list[int] = []
    handles = [loop.call_later(0.2, seen.append, i) for i in range(400)]
    doomed = iter(handles[:300])
    testcapi.set_nomemory(0)  # every allocation fails
    try:
        for handle in doomed:
            handle.cancel()
    finally:
        testcapi.remove_mem_hooks()
    del handles, handle
    more = [loop.call_later(0.05, seen.append, i) for i in range(400, 500)]
    loop.call_later(0.3, loop.stop)
    loop.run_forever()
    assert seen == [*range(400, 500), *range(300, 400)]
    assert not any(handle.cancelled() for handle in more)


def _growth(work: Callable[[], None]) -> tuple[int, int]:
    """Blocks that Python allocated and did not free, and bytes by which the process's highest size grew."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    blocks = sys.getallocatedblocks()
    work()
    blocks = sys.getallocatedblocks() - blocks
    unit = 1 if sys.platform == "darwin" else 1024
    return blocks, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * unit


@pytest.mark.ours
def test_cancelling_100_000_timers_in_one_callback_takes_no_memory(loop: asyncio.AbstractEventLoop) -> None:
    """Stock asyncio frees cancelled timers only between turns."""
    seen: list[str] = []
    found: list[tuple[int, int]] = []

    def churn() -> None:
        for _ in range(100_000):
            loop.call_later(60, seen.append, "cancelled").cancel()

    def measure() -> None:
        churn()  # the pools of small objects are filled now
        found.append(_growth(churn))

    loop.call_later(0.001, seen.append, "later")
    loop.call_soon(measure)
    run_until(loop, lambda: bool(found and seen))
    ((blocks, size),) = found
    assert blocks < 10_000
    assert size < 8 << 20
    assert seen == ["later"]


@pytest.mark.ours
def test_cancelling_100_000_timers_that_were_all_alive_frees_them(loop: asyncio.AbstractEventLoop) -> None:
    """All of them are set, then all cancelled, in one callback, with others that stay among them."""
    seen: list[int] = []
    found: list[int] = []

    def churn() -> None:
        handles = [loop.call_later(60 + i % 7, seen.append, i) for i in range(100_000)]
        for handle in handles:
            handle.cancel()

    def measure() -> None:
        found.append(_growth(churn)[0])

    for i in range(100):
        loop.call_later(0.0001 * i, seen.append, i)
    loop.call_soon(measure)
    run_until(loop, lambda: bool(found) and len(seen) == 100)
    assert found[0] < 10_000
    assert seen == list(range(100))


def test_cancelling_100_000_timers_over_turns_takes_no_memory(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []

    def churn() -> None:
        for _ in range(100):
            for _ in range(1000):
                loop.call_later(60, seen.append, "cancelled").cancel()
            step(loop)

    loop.call_later(30, seen.append, "kept")
    churn()
    blocks, size = _growth(churn)
    assert blocks < 10_000
    assert size < 8 << 20
    loop.call_later(0.001, seen.append, "later")
    run_until(loop, lambda: bool(seen))
    assert seen == ["later"]


def test_timeouts_that_never_expire_take_no_memory(loop: asyncio.AbstractEventLoop) -> None:
    """The way users meet cancelled timers: one timeout per request."""

    async def request() -> None:
        async with asyncio.timeout(60):
            await asyncio.sleep(0)

    async def serve(count: int) -> None:
        for _ in range(count):
            await request()

    loop.run_until_complete(serve(2000))
    blocks, _ = _growth(lambda: loop.run_until_complete(serve(20_000)))
    assert blocks < 10_000


# the clock


def test_time_is_the_monotonic_clock(loop: asyncio.AbstractEventLoop) -> None:
    for _ in range(100):
        before, now, after = time.monotonic(), loop.time(), time.monotonic()
        assert before <= now <= after
    assert isinstance(loop.time(), float)


def test_time_goes_on_within_a_callback(loop: asyncio.AbstractEventLoop) -> None:
    """A deadline is counted from the call, not from the beginning of the turn."""
    found: list[float] = []

    def callback() -> None:
        before = loop.time()
        time.sleep(0.02)
        found.append(loop.time() - before)
        found.append(loop.call_later(10, print).when() - before - 10)

    loop.call_soon(callback)
    step(loop)
    assert min(found) >= 0.0199


def test_when_is_the_deadline_on_the_loops_clock(loop: asyncio.AbstractEventLoop) -> None:
    before = loop.time()
    later = loop.call_later(100, print)
    after = loop.time()
    assert before + 100 <= later.when() <= after + 100
    assert loop.call_at(before + 123.5, print).when() == before + 123.5


def test_a_subclass_may_bring_its_own_clock(loop_factory: Factory) -> None:
    """As tests do that must not wait: the clock is moved by hand."""
    shift = [0.0]
    loop = subclass(loop_factory, time=lambda self: 5000.0 + shift[0])()
    try:
        _drive_by_hand(loop, shift, 5000.0)
    finally:
        loop.close()


def test_the_clock_of_one_loop_may_be_replaced(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shift = [0.0]
    monkeypatch.setattr(loop, "time", lambda: 7000.0 + shift[0])
    _drive_by_hand(loop, shift, 7000.0)


def _drive_by_hand(loop: asyncio.AbstractEventLoop, shift: list[float], start: float) -> None:
    seen: list[str] = []
    assert loop.time() == start
    hour = loop.call_later(3600, seen.append, "hour")
    minute = loop.call_later(60, seen.append, "minute")
    loop.call_at(start + 61, seen.append, "minute and a second")
    assert (hour.when(), minute.when()) == (start + 3600, start + 60)
    step(loop, 3)
    assert seen == []
    shift[0] = 60.5
    step(loop)
    assert seen == ["minute"]
    shift[0] = 3600.0
    step(loop)
    assert seen == ["minute", "minute and a second", "hour"]


def test_steps_of_a_clock_that_do_not_add_up(loop_factory: Factory) -> None:
    class Clock:
        now = 0.0

    seen: list[int] = []
    loop = subclass(loop_factory, time=lambda self: Clock.now)()
    loop.call_at(1.0, seen.append, 1)
    for _ in range(9):
        Clock.now += 0.1
        step(loop)
    assert not seen
    Clock.now += 0.1
    assert Clock.now < 1.0
    step(loop)
    assert seen == [1]
    loop.close()


def test_sleep_obeys_the_replaced_clock(loop_factory: Factory) -> None:
    shift = [0.0]
    loop = subclass(loop_factory, time=lambda self: time.monotonic() + shift[0])()

    async def main() -> float:
        loop.call_soon(shift.__setitem__, 0, 86_400.0)
        before = loop.time()
        await asyncio.sleep(86_400)
        return loop.time() - before

    try:
        assert 86_400 <= loop.run_until_complete(main()) < 86_430
    finally:
        loop.close()


# A clock of somebody else's


async def test_a_clock_that_is_replaced_while_the_loop_runs() -> None:
    """As test suites do, to let an hour pass: what is due is called, and times are those of the new clock."""
    loop: Any = asyncio.get_running_loop()
    called = loop.create_future()
    loop.call_later(3600, called.set_result, "an hour later")
    own, ahead = loop.time, 3601.0
    loop.time = lambda: own() + ahead
    try:
        assert await asyncio.wait_for(called, 3000) == "an hour later"
        assert loop.call_later(10, print).when() > own() + 3600
        assert loop.time() > own() + 3600
    finally:
        del loop.time
    assert loop.call_later(10, print).when() < own() + 3600


def test_a_clock_that_is_replaced_by_a_mock(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        with unittest.mock.patch.object(loop, "time", return_value=5.0):
            assert loop.call_later(10, print).when() == 15.0
        assert loop.call_later(10, print).when() > 15.0

    loop.run_until_complete(main())
    with unittest.mock.patch.object(loop, "time", return_value=7.0):
        assert loop.call_later(10, print).when() == 17.0
    loop.run_until_complete(main())


# What is no time, and no thread of the loop


@pytest.mark.ours
@pytest.mark.parametrize("method", ["call_later", "call_at"])
@pytest.mark.parametrize("debug", [False, True])
def test_a_time_that_is_not_a_number_is_refused(
    loop: asyncio.AbstractEventLoop, method: str, debug: bool
) -> None:
    """Stock asyncio takes it, and other timers may then never fire."""
    loop.set_debug(debug)
    seen: list[int] = []
    loop.call_later(0.001, seen.append, 1)
    with pytest.raises(ValueError, match=f"^{method}.*not a number"):
        getattr(loop, method)(float("nan"), seen.append, 2)
    loop.call_later(0.002, seen.append, 3)
    run_until(loop, lambda: len(seen) == 2)
    assert seen == [1, 3]


@pytest.mark.ours
async def test_a_timeout_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError):
        async with asyncio.timeout(float("nan")):
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await asyncio.sleep(0.001)


@pytest.mark.ours
def test_timers_set_and_cancelled_by_another_thread(loop: asyncio.AbstractEventLoop) -> None:
    """An error of the program's, which debug mode reports; but nothing is corrupted, and the timers fire."""
    seen: list[int] = []
    cancelled: list[int] = []
    count = 3000

    def call() -> None:
        for n in range(count):
            loop.call_later(0.001, seen.append, n)
            loop.call_later(0.5 + n * 1e-6, cancelled.append, n).cancel()
            loop.call_at(loop.time() + 1000, cancelled.append, n).cancel()

    threads = [threading.Thread(target=call) for _ in range(3)]

    async def main() -> None:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            own = [loop.call_later(0.0005 * n, int) for n in range(50)]
            await asyncio.sleep(0)
            for timer in own[::2]:
                timer.cancel()
        loop.call_soon_threadsafe(loop.call_later, 0.6, done.set_result, None)
        await done

    done = loop.create_future()
    loop.run_until_complete(main())
    assert sorted(seen) == sorted([*range(count)] * 3)
    assert cancelled == []
