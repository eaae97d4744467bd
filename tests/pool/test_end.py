"""Closing a pool, the interpreter's exit, fork: nothing hangs, nothing is silent that should not be."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable

import pytest
from loop.helpers import run_script

from proactorx import IOThreadPool

from .support import LIMIT, Blocker, until

Factory = Callable[[], asyncio.AbstractEventLoop]


def test_closed_is_closed() -> None:
    pool = IOThreadPool()
    pool.queue(int)
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.queue(int)
    assert pool.stats().active == 0


async def test_a_call_to_a_closed_pool() -> None:
    pool = IOThreadPool()
    pool.close()
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.call(asyncio.get_running_loop(), int)


def test_close_ends_idle_threads_at_once() -> None:
    before = set(threading.enumerate())
    pool = IOThreadPool(4, 4, idle=1000, gate=1000)
    with Blocker() as block:
        for _ in range(5):
            pool.queue(block)
        block.wait_for(4)
        block.release()
    until(lambda: pool.stats().working == 0)
    pool.close()
    until(lambda: set(threading.enumerate()) <= before)


def test_close_waits_for_a_thread_that_is_yet_to_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    seen: list[int] = []
    pool = IOThreadPool(1, 1)
    closer = threading.Thread(target=pool.close)
    with Blocker() as block:

        def start_late(thread: threading.Thread) -> None:
            if thread.name.startswith("proactorx-io-"):
                block()
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_late)
        caller = threading.Thread(target=pool.queue, args=(seen.append, 1))
        caller.start()
        block.wait_for()
        closer.start()
        closer.join(0.1)
        assert closer.is_alive(), "the thread that is to run it does not run yet"
    caller.join(LIMIT)
    closer.join(LIMIT)
    assert not closer.is_alive()
    assert seen == [1]


def test_close_leaves_no_thread() -> None:
    """Nor the gate's, whose period is long."""
    before = threading.active_count()
    for _ in range(20):
        pool = IOThreadPool(2, 3, gate=1000)
        with Blocker() as block:
            for _ in range(4):
                pool.queue(block)
            block.wait_for(2)
            pool.close(wait=False)
        pool.close()
        assert threading.active_count() == before


def test_close_without_waiting() -> None:
    seen: list[int] = []
    pool = IOThreadPool(1, 1)
    with Blocker() as block:
        pool.queue(block)
        pool.queue(seen.append, 1)
        block.wait_for()
        pool.close(wait=False)
        assert seen == []
    until(lambda: seen == [1])
    until(lambda: pool.stats().active == 0)


async def test_close_and_cancel_what_is_queued() -> None:
    loop = asyncio.get_running_loop()
    ran: list[int] = []
    pool = IOThreadPool(1, 1)
    with Blocker() as block:
        first = pool.call(loop, block)
        queued = [pool.call(loop, ran.append, i) for i in range(10)]
        await block.begun(loop)
        pool.close(wait=False, cancel_queued=True)
        await asyncio.wait(queued, timeout=LIMIT)
        assert all(future.cancelled() for future in queued)
    assert await first is None
    assert ran == []


def test_no_thread_waits_for_itself() -> None:
    caught: list[str] = []
    with IOThreadPool() as pool:

        def body() -> None:
            try:
                pool.close()
            except RuntimeError as exc:
                caught.append(str(exc))

        pool.queue(body)
        until(lambda: caught)
        pool.queue(int)  # it is not closed
    assert caught == ["a thread of the pool cannot wait for its own end"]


def test_closing_from_a_callback() -> None:
    pool = IOThreadPool()
    pool.queue(pool.close, False)
    until(lambda: pool.stats()[0] == 0 and pool.stats().completed == 1)


@pytest.mark.ours
def test_the_loops_pool_ends_with_the_loop(loop_factory: Factory) -> None:
    loop = loop_factory()
    pool: IOThreadPool = loop.io_pool  # type: ignore[attr-defined]
    assert loop.io_pool is pool  # type: ignore[attr-defined]
    assert loop.run_until_complete(pool.call(loop, abs, -1)) == 1
    before = time.monotonic()
    with Blocker() as block:
        pool.call(loop, block)
        block.wait_for()
        loop.close()
        assert time.monotonic() - before < LIMIT / 2, "it waits for no running body"
        with pytest.raises(RuntimeError, match="the pool is closed"):
            pool.queue(int)
    until(lambda: pool.stats().active == 0)
    assert loop.io_pool is pool  # type: ignore[attr-defined]


@pytest.mark.ours
def test_no_pool_for_a_closed_loop(loop_factory: Factory) -> None:
    loop = loop_factory()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.io_pool  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.ours
def test_results_that_closing_the_loop_overtakes_are_orphans(loop_factory: Factory) -> None:
    loop = loop_factory()
    orphans: list[int] = []
    pool: IOThreadPool = loop.io_pool  # type: ignore[attr-defined]
    pool.call(loop, abs, -1, on_orphan=orphans.append)
    until(lambda: pool.stats().completed == 1)
    loop.close()
    until(lambda: orphans == [1])


# exit


def test_exit_with_threads_alive_is_quiet(loop_factory: Factory) -> None:
    """Idle threads, the gate's, a pool nobody closed."""
    source = """
    import threading
    from proactorx.pool import IOThreadPool, default_pool
    pool = IOThreadPool(1, 2, gate=0.01)
    started = threading.Semaphore(0)
    go = threading.Event()
    def body():
        started.release()
        go.wait()
    for _ in range(3):
        pool.queue(body)
    started.acquire(), started.acquire()
    go.set()
    default_pool().queue(int)
    loop = new_loop()
    print(len(loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 1))) > 0)
    loop.close()
    """
    assert run_script(loop_factory, source, "-X", "dev", "-W", "error") == "True\n"


def test_exit_runs_what_is_queued(loop_factory: Factory) -> None:
    source = """
    import time
    from proactorx.pool import IOThreadPool
    pool = IOThreadPool(1, 1)
    pool.queue(time.sleep, 0.1)
    pool.queue(print, "the last")
    """
    assert run_script(None, source) == "the last\n"


def test_exit_does_not_wait_for_ever(loop_factory: Factory) -> None:
    source = """
    import os, threading
    import proactorx.pool.threads as threads
    threads.EXIT_DEADLINE = 0.2
    r, w = os.pipe()
    pool = threads.IOThreadPool()
    pool.queue(os.read, r, 1)
    while not pool.stats().working:
        pass
    print("end")
    """
    assert run_script(None, source) == "end\n"


# fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.ours
def test_fork(loop_factory: Factory) -> None:
    """The parent's pools are dead in the child, with words for it; new ones work; the parent's go on."""
    source = """
    import os, sys, threading, warnings
    from proactorx.pool import IOThreadPool, default_pool
    warnings.simplefilter("ignore", DeprecationWarning)
    pool = IOThreadPool()
    loop = new_loop()
    loop.run_until_complete(pool.call(loop, int))
    loop.run_until_complete(loop.io_pool.call(loop, int))
    first = default_pool()
    loop.run_until_complete(first.call(loop, int))
    child = os.fork()
    if not child:
        uses = (lambda: pool.queue(int), lambda: pool.call(loop, int), lambda: loop.io_pool.queue(int))
        for use in (*uses, pool.stats):
            try:
                use()
            except RuntimeError as exc:
                assert "parent process" in str(exc), exc
            else:
                sys.exit("no error")
        pool.close()
        mine = new_loop()
        name = mine.run_until_complete(mine.io_pool.call(mine, lambda: threading.current_thread().name))
        assert default_pool() is not first
        assert mine.run_until_complete(default_pool().call(mine, abs, -2)) == 2
        mine.close()
        print("child", name, flush=True)
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert default_pool() is first
    print("parent", loop.run_until_complete(pool.call(loop, abs, -1)))
    loop.close()
    """
    assert run_script(loop_factory, source) == "child proactorx-io-1\nparent 1\n"
