"""run_in_executor and the default executor's life."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .helpers import Factory, run_script, step

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


@pytest.fixture
def loop(loop: asyncio.AbstractEventLoop) -> Iterator[asyncio.AbstractEventLoop]:
    """The loop; its default executor is shut down at the end, if it is still open."""
    yield loop
    if not loop.is_closed():
        loop.run_until_complete(loop.shutdown_default_executor())


def test_results_exceptions_and_arguments(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        assert await loop.run_in_executor(None, sum, [1, 2, 3]) == 6
        assert await loop.run_in_executor(None, threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 1, 0)

    loop.run_until_complete(main())


def test_the_loop_goes_on_while_a_call_blocks(loop: asyncio.AbstractEventLoop) -> None:
    released = threading.Event()

    async def main() -> bool:
        blocked = loop.run_in_executor(None, released.wait, 10)
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert not blocked.done()
        released.set()
        return await blocked

    assert loop.run_until_complete(main()) is True


def test_a_thousand_calls(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*(loop.run_in_executor(None, abs, -i) for i in range(1000)))

    assert loop.run_until_complete(main()) == list(range(1000))


def test_an_executor_of_ones_own(loop: asyncio.AbstractEventLoop) -> None:
    def name() -> str:
        return threading.current_thread().name

    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        assert loop.run_until_complete(loop.run_in_executor(executor, name)).startswith("mine")
    assert not loop.run_until_complete(loop.run_in_executor(None, name)).startswith("mine")


def test_any_executor_will_do(loop: asyncio.AbstractEventLoop) -> None:
    class Inline(concurrent.futures.Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
            future: concurrent.futures.Future[Any] = concurrent.futures.Future()
            future.set_result(fn(*args, **kwargs))
            return future

    assert loop.run_until_complete(loop.run_in_executor(Inline(), pow, 2, 10)) == 1024


def test_set_default_executor(loop: asyncio.AbstractEventLoop) -> None:
    executor = ThreadPoolExecutor(1, thread_name_prefix="chosen")
    loop.set_default_executor(executor)
    thread = loop.run_until_complete(loop.run_in_executor(None, threading.current_thread))
    assert thread.name.startswith("chosen")
    loop.run_until_complete(loop.shutdown_default_executor())
    assert not thread.is_alive()
    for wrong in (None, "executor", concurrent.futures.Executor()):
        with pytest.raises(TypeError, match="ThreadPoolExecutor"):
            loop.set_default_executor(wrong)  # type: ignore[arg-type]


def test_contexts_go_with_to_thread_only(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> list[str]:
        var.set("in the task")
        return [await asyncio.to_thread(var.get), await loop.run_in_executor(None, var.get)]

    assert loop.run_until_complete(main()) == ["in the task", "unset"]


def test_cancelling_what_has_not_begun(loop: asyncio.AbstractEventLoop) -> None:
    released = threading.Event()
    ran: list[str] = []

    async def main() -> None:
        first = loop.run_in_executor(None, released.wait, 10)
        second = loop.run_in_executor(None, ran.append, "second")
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await asyncio.sleep(0)
        released.set()
        assert await first is True

    loop.set_default_executor(ThreadPoolExecutor(1))
    loop.run_until_complete(main())
    assert ran == []


def test_cancelling_what_runs_leaves_it_running(loop: asyncio.AbstractEventLoop) -> None:
    started, released, ended = threading.Event(), threading.Event(), threading.Event()

    def body() -> None:
        started.set()
        released.wait(10)
        ended.set()

    async def main() -> None:
        task = asyncio.ensure_future(loop.run_in_executor(None, body))
        await asyncio.to_thread(started.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        released.set()

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())
    assert ended.is_set()


def test_debug_mode_refuses_coroutines(loop: asyncio.AbstractEventLoop) -> None:
    async def coroutine() -> None:
        pass

    loop.set_debug(True)
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.run_in_executor(None, coroutine)
    with pytest.raises(TypeError, match="callable"):
        loop.run_in_executor(None, "no function")  # type: ignore[arg-type]


# shutdown


def test_shutdown_waits_for_what_runs(loop: asyncio.AbstractEventLoop) -> None:
    ended: list[str] = []
    turns = 0

    def body() -> None:
        deadline = time.monotonic() + 10
        while turns < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        ended.append("body")

    async def main() -> None:
        loop.run_in_executor(None, body)

        async def tick() -> None:
            nonlocal turns
            while not ended:
                turns += 1
                await asyncio.sleep(0.005)

        ticking = asyncio.create_task(tick())
        await loop.shutdown_default_executor()
        assert ended == ["body"]
        await ticking
        assert turns >= 3, "the loop went on meanwhile"

    loop.run_until_complete(main())


def test_shutdown_of_what_was_never_used_and_twice(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.run_until_complete(loop.shutdown_default_executor())


def test_nothing_can_be_submitted_after_the_shutdown(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(loop.run_in_executor(None, int))
    loop.run_until_complete(loop.shutdown_default_executor())
    with pytest.raises(RuntimeError, match=r"^Executor shutdown has been called$"):
        loop.run_in_executor(None, int)
    with ThreadPoolExecutor(1) as executor:
        assert loop.run_until_complete(loop.run_in_executor(executor, int)) == 0


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="the timeout is new in 3.12, whose first releases wait anyway"
)
def test_shutdown_with_a_timeout(loop: asyncio.AbstractEventLoop) -> None:
    released = threading.Event()
    future = loop.run_in_executor(None, released.wait, 10)
    with pytest.warns(RuntimeWarning, match="executor did not finish"):
        loop.run_until_complete(loop.shutdown_default_executor(0.01))  # type: ignore[call-arg]
    released.set()
    assert loop.run_until_complete(future) is True


def test_close_does_not_wait_for_the_executor(loop: asyncio.AbstractEventLoop) -> None:
    released = threading.Event()
    threads: list[threading.Thread] = []

    def body() -> None:
        threads.append(threading.current_thread())
        released.wait(10)

    future = loop.run_in_executor(None, body)
    step(loop)
    before = time.monotonic()
    loop.close()
    assert time.monotonic() - before < 5
    assert not future.done()
    released.set()
    for thread in threads:
        thread.join(10)


def test_a_call_that_ends_after_the_loop_was_closed_is_quiet(loop_factory: Factory) -> None:
    """Its result has nowhere to go; nobody is told but those who look."""
    source = """
    import threading
    released = threading.Event()
    loop = new_loop()
    loop.run_in_executor(None, released.wait)
    loop.stop()
    loop.run_forever()
    loop.close()
    released.set()
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join()
    print("end")
    """
    assert run_script(loop_factory, source) == "end\n"
