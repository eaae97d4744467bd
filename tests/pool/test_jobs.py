"""The record of what a pool's threads run: whole, bounded, and never in the way of the call."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from proactorx.pool.jobs import Jobs

KEPT = 4096
BOUND = 30


def nothing() -> None:
    pass


def test_the_last_ones_and_all_that_run() -> None:
    """A call that has begun before thousands of others ended is still said to run."""
    jobs = Jobs()
    inside, go_on = threading.Event(), threading.Event()

    def long() -> None:
        inside.set()
        assert go_on.wait(BOUND)

    jobs.enters("me")
    thread = threading.Thread(target=jobs.work(long))
    thread.start()
    assert inside.wait(BOUND)
    for _ in range(KEPT + 100):
        jobs.work(nothing)()
    found = jobs.last()
    assert len(found) == KEPT + 1
    assert {job.what for job in found[:-1]} == {nothing.__code__}
    assert (found[-1].what, found[-1].ended) == (long.__code__, 0)
    assert {job.thread for job in found[:-1]} == {"me"}
    go_on.set()
    thread.join()
    assert jobs.last()[-1].what is long.__code__
    for before, after in itertools.pairwise(found[:-1]):
        assert before.since <= before.began <= before.ended <= after.ended


def test_what_waits_longest() -> None:
    """Calls that are cancelled before they begin are out of it, whatever their order."""
    jobs = Jobs()
    assert jobs.oldest_wait() is None
    calls = {}
    for name in "abcd":
        calls[name] = jobs.work(nothing)
        time.sleep(0.01)
    waits = [jobs.oldest_wait()]
    for name in "cab":
        del calls[name]
        waits.append(jobs.oldest_wait())
    calls.pop("d")()
    assert jobs.oldest_wait() is None
    assert [
        wait is not None and wait >= least
        for wait, least in zip(waits, (0.04, 0.04, 0.03, 0.01), strict=True)
    ]
    whole = [wait or 0 for wait in waits]
    assert whole[1] - whole[2] > 0.005 < whole[2] - whole[3]


@pytest.mark.parametrize("error", [None, ZeroDivisionError, SystemExit])
def test_one_call_made_twice(error: type[BaseException] | None) -> None:
    """By an executor that tries again; its second run has no record of its own."""
    jobs = Jobs()
    runs: list[int] = []

    def run(value: int) -> int:
        runs.append(value)
        if error is not None:
            raise error
        return value

    work = jobs.work(run)
    for i in range(2):
        if error is None:
            assert work(i) == i
        else:
            with pytest.raises(error):
                work(i)
    assert runs == [0, 1]
    assert [job.what for job in jobs.last()] == [run.__code__]


def test_one_call_made_in_two_threads_at_once() -> None:
    jobs = Jobs()
    both = threading.Barrier(2)
    work = jobs.work(lambda: both.wait(BOUND))
    with ThreadPoolExecutor(2) as executor:
        assert sorted(future.result() for future in [executor.submit(work) for _ in range(2)]) == [0, 1]
    assert len(jobs.last()) == 1
    assert all(job.ended for job in jobs.last())


def test_what_cannot_be_named() -> None:
    class Strange:
        def __call__(self) -> int:
            return 5

        def __getattr__(self, name: str) -> object:
            raise RuntimeError(name)

    jobs = Jobs()
    assert jobs.work(Strange())() == 5
    assert jobs.work(len)("abc") == 3
    assert [job.what for job in jobs.last()] == [Strange.__qualname__, "len"]


def test_readers_beside_the_threads() -> None:
    """What is freed when its place is taken is not what a reader has."""
    jobs = Jobs()
    ends = time.monotonic() + 0.5

    def calls() -> int:
        jobs.enters(threading.current_thread().name)
        count = 0
        while time.monotonic() < ends:
            scope: dict[str, object] = {}
            exec(compile(f"def made(): return {count}", f"file{count}", "exec"), scope)
            assert jobs.work(scope["made"])() == count  # type: ignore[arg-type]
            count += 1
        return count

    with ThreadPoolExecutor(3) as executor:
        futures = [executor.submit(calls) for _ in range(3)]
        while not all(future.done() for future in futures):
            for job in jobs.last():
                assert job.what.co_name == "made"  # type: ignore[union-attr]
        total = sum(future.result() for future in futures)
    assert len(jobs.last()) == min(total, KEPT)


def test_a_cycle_of_calls_that_wait() -> None:
    """The collector takes the call and what it is in; the list of those that wait has it no more."""
    jobs = Jobs()

    class Holder:
        call: object

    for _ in range(10):
        holder = Holder()
        holder.call = jobs.work(partial(id, holder))
    del holder
    gc.collect()
    assert jobs.oldest_wait() is None
    before = sys.getrefcount(nothing.__code__)
    jobs.work(nothing)()
    del jobs
    after = sys.getrefcount(nothing.__code__)
    assert after == before
