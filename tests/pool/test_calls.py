"""``pool.call``: results come back to the loop that asked, whatever becomes of the caller meanwhile."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import types
from collections.abc import Callable, Iterator
from unittest import mock

import pytest

from proactorx import IOThreadPool
from proactorx.pool import default_pool

from .support import LIMIT, Blocker, until


@pytest.fixture
def pool() -> Iterator[IOThreadPool]:
    with IOThreadPool(idle=0.5, gate=0.05) as pool:
        yield pool


async def test_result(pool: IOThreadPool) -> None:
    loop = asyncio.get_running_loop()
    assert await pool.call(loop, divmod, 17, 5) == (3, 2)
    assert await pool.call(loop, threading.get_ident) != threading.get_ident()


async def test_exception(pool: IOThreadPool) -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(ZeroDivisionError):
        await pool.call(loop, divmod, 1, 0)
    with pytest.raises(FileNotFoundError) as caught:
        await pool.call(loop, os.stat, "/no/such/file")
    assert caught.value.filename == "/no/such/file"


@pytest.mark.parametrize("kind", [asyncio.CancelledError, GeneratorExit])
async def test_base_exception(pool: IOThreadPool, kind: type[BaseException]) -> None:
    def body() -> None:
        raise kind

    future = pool.call(asyncio.get_running_loop(), body)
    with pytest.raises(kind):
        await future
    assert await pool.call(asyncio.get_running_loop(), int) == 0, "the thread goes on"


def test_an_exit_in_a_body_is_the_callers(loop: asyncio.AbstractEventLoop, pool: IOThreadPool) -> None:
    """As with run_in_executor: the thread survives, the program that awaits ends."""

    def body() -> None:
        raise SystemExit(3)

    async def main() -> None:
        await pool.call(loop, body)

    with pytest.raises(SystemExit) as caught:
        loop.run_until_complete(main())
    assert caught.value.code == 3
    assert loop.run_until_complete(pool.call(loop, int)) == 0


async def test_stop_iteration(pool: IOThreadPool) -> None:
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        await pool.call(asyncio.get_running_loop(), next, iter(()))
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_a_thousand_at_once(pool: IOThreadPool) -> None:
    loop = asyncio.get_running_loop()
    assert await asyncio.gather(*(pool.call(loop, abs, -i) for i in range(1000))) == list(range(1000))
    assert pool.stats().completed >= 1000
    assert pool.stats().active <= pool.min_threads


async def test_one_caller_needs_one_thread(pool: IOThreadPool) -> None:
    """The thread that has brought a result takes the next call; no other is started or woken for it."""
    for _ in range(500):
        await pool.call(asyncio.get_running_loop(), int)
    assert pool.stats().active == 1


async def test_results_that_come_together_wake_the_loop_once() -> None:
    loop = asyncio.get_running_loop()
    pool = IOThreadPool()
    wakes = 0
    inner = loop.call_soon_threadsafe

    def counting(*args: object, **kwargs: object) -> asyncio.Handle:
        nonlocal wakes
        wakes += 1
        return inner(*args, **kwargs)  # type: ignore[arg-type]

    loop.call_soon_threadsafe = counting  # type: ignore[method-assign]
    try:
        ended = threading.Barrier(5)
        futures = [pool.call(loop, ended.wait) for _ in range(4)]
        ended.wait(LIMIT)
        pool.close()  # the loop is kept from running meanwhile
        assert sorted(await asyncio.gather(*futures)) != []
    finally:
        del loop.call_soon_threadsafe
    assert wakes == 1


async def test_cancelled_while_queued_is_never_run() -> None:
    loop = asyncio.get_running_loop()
    ran: list[int] = []
    with IOThreadPool(1, 1) as pool, Blocker() as block:
        first = pool.call(loop, block)
        queued = [pool.call(loop, ran.append, i) for i in range(5)]
        await block.begun(loop)
        for future in queued[1:4]:
            future.cancel()
        block.release()
        await first
        await asyncio.wait(queued)
        assert [future.cancelled() for future in queued] == [False, True, True, True, False]
        assert ran == [0, 4]


async def test_cancelled_while_running_drops_the_result(pool: IOThreadPool) -> None:
    loop = asyncio.get_running_loop()
    with Blocker() as block:
        task = asyncio.ensure_future(pool.call(loop, block))
        await block.begun(loop)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        block.release()
    assert await pool.call(loop, int) == 0


async def test_an_orphan_goes_to_on_orphan(pool: IOThreadPool) -> None:
    """A descriptor that a cancelled open has brought is closed."""
    loop = asyncio.get_running_loop()
    opened: list[int] = []
    closed: list[tuple[int, str]] = []
    with Blocker() as block:

        def body() -> int:
            block()
            opened.append(os.open(os.devnull, os.O_RDONLY))
            return opened[0]

        def close(fd: int) -> None:
            os.close(fd)
            closed.append((fd, threading.current_thread().name))

        future = pool.call(loop, body, on_orphan=close)
        await block.begun(loop)
        future.cancel()
        block.release()
        async with asyncio.timeout(LIMIT):
            while not closed:
                await asyncio.sleep(0.005)
    assert closed[0][0] == opened[0]
    assert closed[0][1].startswith("proactorx-io-")


async def test_no_orphan_where_somebody_takes_the_result(pool: IOThreadPool) -> None:
    orphans: list[int] = []
    assert await pool.call(asyncio.get_running_loop(), int, on_orphan=orphans.append) == 0
    failing = pool.call(asyncio.get_running_loop(), divmod, 1, 0, on_orphan=orphans.append)
    with pytest.raises(ZeroDivisionError):
        await failing
    assert orphans == []


def test_orphans_of_a_loop_that_is_closed(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Ended before the loop was closed, and after: neither result is lost."""
    orphans: list[str] = []
    loop = loop_factory()
    with IOThreadPool() as pool, Blocker() as block:
        pool.call(loop, lambda: block() or "after", on_orphan=orphans.append)
        pool.call(loop, lambda: "before", on_orphan=orphans.append)
        until(lambda: pool.stats().completed == 1)  # and the loop, which does not run, has not heard of it
        loop.close()
        del loop
        block.release()
        until(lambda: gc.collect() >= 0 and len(orphans) == 2)
    assert sorted(orphans) == ["after", "before"]


async def test_many_threads_share_a_pool(pool: IOThreadPool) -> None:
    """Each with a loop of its own; nobody gets a result of another's."""
    results: dict[int, list[int]] = {}

    def run(number: int) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            for start in range(0, 200, 50):
                calls = (pool.call(loop, lambda i=i: (number, i)) for i in range(start, start + 50))
                for owner, i in await asyncio.gather(*calls):
                    assert owner == number
                    results.setdefault(number, []).append(i)

        asyncio.run(main())

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join, LIMIT)
    assert results == {number: list(range(200)) for number in range(6)}


def test_the_default_pool() -> None:
    assert default_pool() is default_pool()

    async def main() -> int:
        return await default_pool().call(asyncio.get_running_loop(), abs, -1)

    assert [asyncio.run(main()) for _ in range(3)] == [1, 1, 1]


def test_an_interrupt_between_results_loses_none_of_them(
    loop: asyncio.AbstractEventLoop, pool: IOThreadPool
) -> None:
    """Here from the handler of a future that refuses its result; in life, Ctrl-C."""

    class Refusing(asyncio.Future[int]):
        def set_result(self, result: int) -> None:
            super().set_result(result)
            raise KeyboardInterrupt

    plain = loop.create_future
    loop.create_future = lambda: Refusing(loop=loop)  # type: ignore[method-assign]
    futures = [pool.call(loop, abs, -1)]
    loop.create_future = plain  # type: ignore[method-assign]
    futures += [pool.call(loop, abs, -number) for number in range(2, 10)]
    until(lambda: pool.stats().completed == 9)
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(asyncio.wait(futures))
    assert loop.run_until_complete(asyncio.gather(*futures)) == list(range(1, 10))


def test_uvloop(pool: IOThreadPool) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(pool.call(loop, abs, -number) for number in range(100)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == list(range(100))


def test_a_loop_that_is_none() -> None:
    """A mock has whatever it is asked for: what it has is looked at before it is used as ours."""
    with IOThreadPool() as pool:
        ran = threading.Event()
        loop = mock.MagicMock()
        loop.create_future.return_value.cancelled.return_value = False
        pool.call(loop, ran.set)
        assert ran.wait(10)
        wrong = types.SimpleNamespace(_proactorx_results=mock.MagicMock(), create_future=print)
        with pytest.raises(TypeError):
            pool.call(wrong, print)  # type: ignore[arg-type]
    assert loop.call_soon_threadsafe.called
