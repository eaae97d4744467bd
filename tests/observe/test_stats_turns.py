"""``loop.stats()`` of brief turns, which are timed together, and of long ones among them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

import proactorx
from proactorx.observe.stats import BOUNDS, Histogram

pytestmark = pytest.mark.ours

Loop = proactorx.EventLoop


def chain(loop: Loop, steps: list[Callable[[], object]]) -> float:
    """Call one in each turn, and stop in the last turn; the seconds that this took."""

    def step() -> None:
        if left:
            loop.call_soon(step)
            left.pop()()
        else:
            loop.stop()

    left = steps[::-1]
    loop.call_soon(step)
    before = time.monotonic()
    loop.run_forever()
    return time.monotonic() - before


def between(histogram: Histogram, least: float, most: float) -> int:
    """How many times are in the buckets from one bound to another."""
    return sum(histogram.counts[BOUNDS.index(least) + 1 : BOUNDS.index(most) + 1])


BRIEF: list[Callable[[], object]] = [int] * 500


def sleeps() -> None:
    time.sleep(0.05)


@pytest.mark.parametrize("place", [0, 1, 7, 100, 250, 499])
def test_a_long_turn_among_brief_ones(loop: Loop, place: int) -> None:
    """Brief ones are timed together where nothing waits for the loop: all are counted, and it is found."""
    took = chain(loop, [*BRIEF[:place], sleeps, *BRIEF[place:]])
    stats = loop.stats()
    assert stats.lag.count == stats.turns == stats.callbacks == 502
    assert stats.turn_length.count == 503  # the run begins with a part of one
    for times in (stats.turn_length, stats.lag):
        assert 0.05 <= times.longest <= times.total <= took
    assert between(stats.turn_length, 0.032768, 33.554432) == 1
    assert stats.in_callbacks > stats.in_flush + stats.in_dispatch


@pytest.mark.parametrize("why", ["a timer", "an operation", "a watchdog", "details"])
def test_turns_that_are_timed_one_by_one(loop: Loop, why: str) -> None:
    """... two that are long are two, where somebody may have to wait, or has asked for it."""
    here, there = socket.socketpair()
    here.setblocking(False)
    with here, there:
        if why == "a timer":
            loop.call_later(1000, int)
        elif why == "an operation":
            loop.add_reader(here, int)
        elif why == "a watchdog":
            loop.watch(10)
        else:
            loop.record(detail=True)
        chain(loop, [*BRIEF, sleeps, sleeps, *BRIEF])
        stats = loop.stats()
        loop.remove_reader(here)
        loop.watch(None)
    assert between(stats.turn_length, 0.032768, 33.554432) == 2
    assert stats.turn_length.total >= 0.1


def test_turns_that_are_timed_together(loop: Loop) -> None:
    """Where two are long, one can be counted that is as long as both."""
    took = chain(loop, [*BRIEF, sleeps, sleeps, *BRIEF])
    stats = loop.stats()
    assert stats.turn_length.count == stats.turns + 1
    assert 0.05 <= stats.turn_length.longest <= took
    assert 0.1 <= stats.turn_length.total <= took
    assert 1 <= between(stats.turn_length, 0.032768, 33.554432) <= 2
