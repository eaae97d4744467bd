"""Tasks and futures on the loop: factories, contexts, and asyncio's own tools built on them."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from .helpers import Factory, in_thread, step

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")

needs_312 = pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
needs_314 = pytest.mark.skipif(
    sys.version_info < (3, 14), reason="eager_start= for create_task is new in 3.14"
)


async def answer() -> int:
    return 42


async def slow_answer() -> int:
    await asyncio.sleep(0)
    return 42


# create_task and its factory


def test_a_task_starts_in_the_next_turn(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []

    async def body() -> None:
        seen.append("task")

    task = loop.create_task(body())
    assert type(task) is asyncio.Task
    assert seen == []
    loop.call_soon(seen.append, "callback")
    step(loop)
    assert seen == ["task", "callback"]
    assert task.done()


def test_names_of_tasks(loop: asyncio.AbstractEventLoop) -> None:
    named = loop.create_task(answer(), name="a name")
    first, second = loop.create_task(answer()), loop.create_task(answer())
    loop.run_until_complete(asyncio.wait([named, first, second]))
    assert named.get_name() == "a name"
    assert first.get_name() != second.get_name()


def test_a_task_runs_in_a_copy_of_its_creators_context(loop: asyncio.AbstractEventLoop) -> None:
    async def body() -> str:
        before = var.get()
        var.set("set by the task")
        await asyncio.sleep(0)
        return f"{before}, {var.get()}"

    async def main() -> list[str]:
        var.set("at creation")
        task = asyncio.create_task(body())
        var.set("after creation")
        return [await task, var.get()]

    assert loop.run_until_complete(main()) == ["at creation, set by the task", "after creation"]
    assert var.get() == "unset"


def test_a_task_runs_in_the_context_it_is_given(loop: asyncio.AbstractEventLoop) -> None:
    context = contextvars.copy_context()

    async def body(word: str) -> None:
        var.set(word)
        await asyncio.sleep(0)
        assert var.get() == word

    loop.run_until_complete(loop.create_task(body("one"), context=context))
    assert context[var] == "one"
    assert var.get() == "unset"


def test_what_a_factory_is_given_is_what_stock_asyncio_gives_it(loop_factory: Factory) -> None:
    """Which keyword arguments reach a factory depends on the version of Python;
    it must not depend on the loop.
    """
    assert _factory_calls(loop_factory) == _factory_calls(asyncio.SelectorEventLoop)


def _factory_calls(make: Factory) -> list[Any]:
    loop = make()
    calls: list[Any] = []

    def factory(on: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        calls.append([on is loop, sorted(kwargs)])
        kwargs.pop("eager_start", None)
        return asyncio.Task(coro, loop=on, **kwargs)

    context = contextvars.copy_context()
    try:
        loop.set_task_factory(factory)
        variants: list[dict[str, Any]] = [
            {},
            {"name": "n"},
            {"context": context},
            {"name": "n", "context": context},
        ]
        if sys.version_info >= (3, 14):
            variants += [{"eager_start": False}, {"eager_start": None}, {"name": "n", "eager_start": False}]
        for kwargs in variants:
            task = loop.create_task(answer(), **kwargs)
            calls[-1].append(task.get_name() == "n")
            assert loop.run_until_complete(task) == 42
        loop.run_until_complete(answer())
    finally:
        loop.close()
    return calls


def test_a_factory_that_knows_no_keyword_arguments(loop_factory: Factory) -> None:
    """Does it work, as on stock asyncio of this Python?"""
    assert _plain_factory(loop_factory) == _plain_factory(asyncio.SelectorEventLoop)


def _plain_factory(make: Factory) -> list[str]:
    loop = make()
    out: list[str] = []
    loop.set_task_factory(lambda on, coro: asyncio.Task(coro, loop=on))
    try:
        for kwargs in ({}, {"name": "n"}, {"context": contextvars.copy_context()}):
            coro = answer()
            try:
                task = loop.create_task(coro, **kwargs)  # type: ignore[arg-type]
            except TypeError:
                coro.close()
                out.append("TypeError")
            else:
                out.append("named" if task.get_name() == "n" else "task")
                loop.run_until_complete(task)
    finally:
        loop.close()
    return out


def test_setting_and_unsetting_a_factory(loop: asyncio.AbstractEventLoop) -> None:
    class OwnTask(asyncio.Task[Any]):
        pass

    def factory(on: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> OwnTask:
        return OwnTask(coro, loop=on, **kwargs)

    async def main() -> list[type]:
        task = asyncio.create_task(answer())
        await task
        return [type(asyncio.current_task()), type(task)]

    assert loop.get_task_factory() is None
    loop.set_task_factory(factory)
    assert loop.get_task_factory() is factory
    assert loop.run_until_complete(main()) == [OwnTask, OwnTask]
    loop.set_task_factory(None)
    assert loop.get_task_factory() is None
    assert loop.run_until_complete(main()) == [asyncio.Task, asyncio.Task]
    with pytest.raises(TypeError):
        loop.set_task_factory("no factory")  # type: ignore[arg-type]
    assert loop.run_until_complete(answer()) == 42


def test_unknown_arguments_of_create_task_are_refused(loop: asyncio.AbstractEventLoop) -> None:
    coro = answer()
    with pytest.raises(TypeError):
        loop.create_task(coro, surprise=True)  # type: ignore[call-arg]
    coro.close()


def test_create_task_takes_coroutines_only(loop: asyncio.AbstractEventLoop) -> None:
    with pytest.raises(TypeError):
        loop.create_task(loop.create_future())  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        loop.create_task(answer)  # type: ignore[arg-type]


@needs_312
def test_eager_tasks_run_at_once(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        task = asyncio.create_task(answer(), name="eager")
        assert task.done()
        assert task.get_name() == "eager"
        slow = asyncio.create_task(slow_answer())
        assert not slow.done()
        assert [await task, await slow] == [42, 42]
        async with asyncio.TaskGroup() as group:
            grouped = [group.create_task(answer()), group.create_task(slow_answer())]
        assert [one.result() for one in grouped] == [42, 42]
        assert await asyncio.gather(answer(), slow_answer()) == [42, 42]
        async with asyncio.timeout(10):
            await asyncio.create_task(asyncio.sleep(0.001))

    loop.set_task_factory(asyncio.eager_task_factory)
    loop.run_until_complete(main())


@needs_312
def test_an_eager_task_that_fails_or_is_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    async def fail() -> None:
        raise LookupError

    async def main() -> None:
        failed = asyncio.create_task(fail())
        assert isinstance(failed.exception(), LookupError)
        sleeping = asyncio.create_task(asyncio.sleep(100))
        sleeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sleeping
        context = contextvars.copy_context()
        await asyncio.create_task(asyncio.sleep(0), context=context)

    loop.set_task_factory(asyncio.eager_task_factory)
    loop.run_until_complete(main())


@needs_314
def test_eager_start(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> list[bool]:
        create: Any = loop.create_task
        tasks = [create(answer(), eager_start=eager) for eager in (True, False)]
        out = [task.done() for task in tasks]
        await asyncio.wait(tasks)
        named = loop.create_task(answer(), name="n", eager_start=True)  # type: ignore[call-arg]
        return [*out, named.done() and named.get_name() == "n"]

    assert loop.run_until_complete(main()) == [True, False, True]


# futures


def test_create_future(loop: asyncio.AbstractEventLoop) -> None:
    future: asyncio.Future[int] = loop.create_future()
    assert type(future) is asyncio.Future
    assert future.get_loop() is loop
    loop.call_soon(future.set_result, 5)
    assert loop.run_until_complete(future) == 5


def test_done_callbacks_run_in_order_and_in_a_later_turn(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []
    future = loop.create_future()
    for i in range(5):
        future.add_done_callback(lambda _, i=i: seen.append(i))
    future.set_result(None)
    assert seen == []
    step(loop)
    assert seen == [0, 1, 2, 3, 4]


async def test_where_am_i() -> None:
    loop = asyncio.get_running_loop()
    assert asyncio.get_event_loop() is loop
    task = asyncio.current_task()
    assert task in asyncio.all_tasks()
    assert task is not None
    assert task.get_loop() is loop
    other = asyncio.create_task(asyncio.sleep(0))
    assert asyncio.all_tasks() == {task, other}
    await other
    assert asyncio.all_tasks() == {task}


# asyncio's tools


async def test_sleep_of_nothing_gives_every_task_its_turn() -> None:
    seen: list[str] = []

    async def speak(word: str) -> None:
        for i in range(3):
            seen.append(f"{word}{i}")
            await asyncio.sleep(0)

    await asyncio.gather(speak("a"), speak("b"))
    assert seen == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_gather() -> None:
    async def fail() -> None:
        raise LookupError

    assert await asyncio.gather(*(slow_answer() for _ in range(100))) == [42] * 100
    assert [type(x) for x in await asyncio.gather(answer(), fail(), return_exceptions=True)] == [
        int,
        LookupError,
    ]
    with pytest.raises(LookupError):
        await asyncio.gather(fail(), slow_answer())
    everything = asyncio.gather(asyncio.sleep(100), asyncio.sleep(100))
    asyncio.get_running_loop().call_soon(everything.cancel)
    with pytest.raises(asyncio.CancelledError):
        await everything


async def test_timeouts_expire_and_do_not() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(100)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.sleep(100)
    async with asyncio.timeout(100) as scope:
        await asyncio.sleep(0)
    assert not scope.expired()
    async with asyncio.timeout(None) as scope:
        scope.reschedule(asyncio.get_running_loop().time() + 100)
        scope.reschedule(asyncio.get_running_loop().time() + 200)
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(100), 0.01)
    assert await asyncio.wait_for(slow_answer(), 100) == 42


async def test_nested_timeouts_expire_in_their_order() -> None:
    seen: list[str] = []
    try:
        async with asyncio.timeout(100) as outer:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(100)
            except TimeoutError:
                seen.append("inner")
            # Only now: where both are late, in one turn, the outer one may win.
            outer.reschedule(asyncio.get_running_loop().time() + 0.01)
            await asyncio.sleep(100)
    except TimeoutError:
        seen.append("outer")
    assert seen == ["inner", "outer"]


async def test_task_groups() -> None:
    stopped: list[str] = []

    async def wait_for_ever() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            stopped.append("cancelled")
            raise

    async def fail() -> None:
        await asyncio.sleep(0.001)
        raise LookupError("group")

    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait_for_ever())
            group.create_task(fail())
    assert [type(exc) for exc in caught.value.exceptions] == [LookupError]
    assert stopped == ["cancelled"]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(slow_answer(), name=f"t{i}") for i in range(10)]
    assert [task.result() for task in tasks] == [42] * 10


async def test_shield_and_wait_and_as_completed() -> None:
    inner = asyncio.create_task(slow_answer())
    outer = asyncio.ensure_future(asyncio.shield(inner))
    await asyncio.sleep(0)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert await inner == 42

    sleeping = asyncio.create_task(asyncio.sleep(1000))
    done, pending = await asyncio.wait(
        [sleeping, asyncio.create_task(slow_answer())], return_when=asyncio.FIRST_COMPLETED
    )
    assert (len(done), pending) == (1, {sleeping})
    sleeping.cancel()
    done, pending = await asyncio.wait([sleeping], timeout=10)
    assert done == {sleeping}

    later = [asyncio.sleep(delay, delay) for delay in (0.03, 0.001)]
    assert [await one for one in asyncio.as_completed(later)] == [0.001, 0.03]


async def test_locks_events_conditions_and_queues() -> None:
    queue: asyncio.Queue[int | None] = asyncio.Queue(3)
    lock, event, gate = asyncio.Lock(), asyncio.Event(), asyncio.Semaphore(2)
    received: list[int] = []

    async def consume() -> None:
        await event.wait()
        while (item := await queue.get()) is not None:
            async with gate, lock:
                received.append(item)

    consumers = [asyncio.create_task(consume()) for _ in range(3)]
    event.set()
    for i in range(300):
        await queue.put(i)
    for _ in consumers:
        await queue.put(None)
    await asyncio.gather(*consumers)
    assert sorted(received) == list(range(300))


async def test_cancelling_a_task_wherever_it_waits() -> None:
    loop = asyncio.get_running_loop()

    async def nested() -> None:
        await asyncio.wait_for(asyncio.sleep(1000), 1000)

    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(1000))

    waits: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: asyncio.sleep(1000),
        lambda: asyncio.Event().wait(),
        lambda: asyncio.wait_for(loop.create_future(), None),
        nested,
        grouped,
    ]
    for wait in waits:
        started = asyncio.create_task(wait())
        not_started = asyncio.create_task(wait())
        await asyncio.sleep(0)
        later = asyncio.create_task(wait())
        for task in (started, not_started, later):
            task.cancel("why")
        for task in (started, not_started, later):
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()


def test_run_coroutine_threadsafe(loop: asyncio.AbstractEventLoop) -> None:
    async def fail() -> None:
        raise LookupError("from the loop's thread")

    def ask() -> int:
        assert asyncio.run_coroutine_threadsafe(slow_answer(), loop).result(10) == 42
        with pytest.raises(LookupError):
            asyncio.run_coroutine_threadsafe(fail(), loop).result(10)
        forever = asyncio.run_coroutine_threadsafe(asyncio.sleep(1000), loop)
        forever.cancel()
        loop.call_soon_threadsafe(loop.stop)
        return 1

    async def main() -> int:
        return await asyncio.to_thread(in_thread, ask)

    task = loop.create_task(main())
    loop.run_forever()
    assert loop.run_until_complete(task) == 1
    loop.run_until_complete(loop.shutdown_default_executor())


def test_a_task_destroyed_while_pending_is_reported(
    loop: asyncio.AbstractEventLoop, errors: list[dict[str, Any]]
) -> None:
    async def wait() -> None:
        await asyncio.Future(loop=loop)

    task = loop.create_task(wait())
    step(loop)
    coro = task.get_coro()
    del task
    assert coro is not None
    del coro
    gc.collect()
    assert ["destroyed" in error["message"] for error in errors] == [True]
