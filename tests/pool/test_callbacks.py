"""``pool.queue``: callbacks on IO threads, from any thread, none lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from proactorx import IOThreadPool

from .support import LIMIT, Blocker, until

pytestmark = pytest.mark.ours


@pytest.fixture
def pool() -> Iterator[IOThreadPool]:
    with IOThreadPool() as pool:
        yield pool


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[threading.ExceptHookArgs]:
    seen: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    return seen


def test_in_order_on_one_thread() -> None:
    seen: list[int] = []
    with IOThreadPool(1, 1) as pool:
        for number in range(1000):
            pool.queue(seen.append, number)
    assert seen == list(range(1000))


def test_runs_on_an_io_thread(pool: IOThreadPool) -> None:
    names: list[str] = []
    pool.queue(lambda *args: names.append(threading.current_thread().name + repr(args)), 1, "two")
    until(lambda: names)
    assert names[0].startswith("proactorx-io-")
    assert names[0].endswith("(1, 'two')")


def test_what_raises_is_reported_and_loses_nothing(
    pool: IOThreadPool, told: list[threading.ExceptHookArgs]
) -> None:
    seen: list[int] = []

    def body(number: int) -> None:
        if number % 3 == 0:
            raise ValueError(number)
        if number % 50 == 1:
            raise KeyboardInterrupt
        seen.append(number)

    for number in range(300):
        pool.queue(body, number)
    until(lambda: pool.stats().completed == 300)
    assert sorted(seen) == [number for number in range(300) if number % 3 and number % 50 != 1]
    assert len(told) == 300 - len(seen)
    values = {args.exc_value.args[0] for args in told if isinstance(args.exc_value, ValueError)}
    assert values == set(range(0, 300, 3))
    assert all(args.thread is not None and args.thread.name.startswith("proactorx-io-") for args in told)


def test_an_exit_ends_nothing(pool: IOThreadPool, told: list[threading.ExceptHookArgs]) -> None:
    def leave() -> None:
        raise SystemExit(1)

    done = threading.Event()
    pool.queue(leave)
    pool.queue(done.set)
    assert done.wait(LIMIT)
    until(lambda: pool.stats().completed == 2)
    assert told == []


def test_a_hook_that_fails_itself(
    pool: IOThreadPool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def hook(args: Any) -> None:
        raise LookupError("in the hook")

    monkeypatch.setattr(threading, "excepthook", hook)
    pool.queue(divmod, 1, 0)
    until(lambda: pool.stats().completed == 1)
    assert "in the hook" in capsys.readouterr().err
    done = threading.Event()
    pool.queue(done.set)
    assert done.wait(LIMIT)


def test_no_callable(pool: IOThreadPool) -> None:
    with pytest.raises(TypeError, match="callable"):
        pool.queue(None)  # type: ignore[arg-type]
    assert pool.stats().queued == 0


def test_callbacks_queue_callbacks(pool: IOThreadPool) -> None:
    done = threading.Event()

    def step(left: int) -> None:
        if left:
            pool.queue(step, left - 1)
        else:
            done.set()

    pool.queue(step, 500)
    assert done.wait(LIMIT)


def test_from_many_threads(pool: IOThreadPool) -> None:
    lock, seen = threading.Lock(), []

    def body(number: int) -> None:
        with lock:
            seen.append(number)

    def post(first: int) -> None:
        for number in range(first, first + 500):
            pool.queue(body, number)

    threads = [threading.Thread(target=post, args=(first,)) for first in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    until(lambda: len(seen) == 4000)
    assert sorted(seen) == list(range(4000))


async def test_a_callback_hands_on_to_a_worker(pool: IOThreadPool) -> None:
    loop = asyncio.get_running_loop()
    names: list[str] = []
    ended = asyncio.Event()

    def on_worker() -> None:
        names.append(threading.current_thread().name)
        loop.call_soon_threadsafe(ended.set)

    pool.queue(lambda: loop.call_soon_threadsafe(loop.run_in_executor, None, on_worker))
    await asyncio.wait_for(ended.wait(), LIMIT)
    assert names[0].startswith("proactorx-worker-")


def test_close_runs_what_was_queued() -> None:
    seen: list[int] = []
    pool = IOThreadPool(2, 2)
    with Blocker() as block:
        pool.queue(block)
        pool.queue(block)
        for number in range(100):
            pool.queue(seen.append, number)
        block.wait_for(2)
        threading.Timer(0.05, block.release).start()
        pool.close()
    assert sorted(seen) == list(range(100))
    assert pool.stats()[:4] == (0, 0, 2, 0)
