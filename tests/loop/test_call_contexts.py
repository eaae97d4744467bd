"""The contexts of calls, which a loop uses again where no program can tell, and what refers to calls."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from typing import Any

from .helpers import step

var: contextvars.ContextVar[object] = contextvars.ContextVar("var", default="unset")


def test_each_of_many_calls_sets_what_no_other_sees(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[object] = []

    def note(number: int) -> None:
        seen.append(var.get())
        if number % 3 == 0:
            var.set(number)
        if number % 5 == 0:
            loop.call_soon(lambda: seen.append(("later", var.get())))

    for number in range(30):
        loop.call_soon(note, number)
    step(loop)
    assert seen == ["unset"] * 30
    step(loop)
    assert seen[30:] == [("later", n if n % 3 == 0 else "unset") for n in range(0, 30, 5)]
    assert var.get() == "unset"


def test_a_call_has_the_context_as_it_was_when_it_was_scheduled(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[object] = []

    def schedule() -> None:
        for number in range(10):
            var.set(number // 2)
            loop.call_soon(lambda: seen.append(var.get()))
        var.set("after")

    contextvars.copy_context().run(schedule)
    step(loop)
    assert seen == [number // 2 for number in range(10)]


def test_a_call_from_another_thread_has_that_threads_context(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[object] = []

    def schedule() -> None:
        var.set("thread")
        for _ in range(5):
            loop.call_soon_threadsafe(lambda: seen.append(var.get()))

    thread = threading.Thread(target=schedule)
    thread.start()
    thread.join()
    loop.call_soon(lambda: seen.append(var.get()))
    step(loop)
    assert seen == ["thread"] * 5 + ["unset"]


def test_the_context_of_a_handle_is_its_own(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[object] = []
    inside: list[contextvars.Context] = []
    handles: list[asyncio.Handle] = []

    def call(number: int) -> None:
        seen.append(var.get())
        var.set(number)
        inside.append(handles[number]._context)

    handles += [loop.call_soon(call, number) for number in range(4)]
    handles[1]._context.run(var.set, "given")
    assert handles[1]._context is handles[1]._context
    assert handles[1]._context is not handles[2]._context
    step(loop)
    assert seen == ["unset", "given", "unset", "unset"]
    for number, handle in enumerate(handles):
        assert handle._context is inside[number]
        assert handle._context[var] == number


def test_a_value_can_be_reset_in_its_call_only(loop: asyncio.AbstractEventLoop) -> None:
    tokens: list[contextvars.Token[object]] = []
    failed: list[str] = []

    def change() -> None:
        tokens.append(var.set("changed"))
        var.reset(tokens[-1])
        tokens.append(var.set("changed again"))

    def reset() -> None:
        try:
            var.reset(tokens[-1])
        except ValueError:
            failed.append(str(var.get()))

    for _ in range(3):
        loop.call_soon(change)
        loop.call_soon(reset)
    step(loop)
    assert failed == ["unset"] * 3


def test_what_a_context_refers_to_is_freed_when_the_loop_sleeps(loop: asyncio.AbstractEventLoop) -> None:
    class Value:
        pass

    async def main() -> None:
        def schedule() -> weakref.ref[Value]:
            value = Value()
            var.set(value)
            for _ in range(3):
                loop.call_soon(id, 1)
            return weakref.ref(value)

        reference = contextvars.Context().run(schedule)
        await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        gc.collect()
        assert reference() is None

    loop.run_until_complete(main())


def test_a_handle_in_a_cycle_is_collected(loop: asyncio.AbstractEventLoop) -> None:
    class Owner:
        handle: asyncio.Handle

        def call(self, *args: Any) -> None:
            pass

    def schedule(threadsafe: bool, *args: Any) -> weakref.ref[Owner]:
        owner = Owner()
        owner.handle = (loop.call_soon_threadsafe if threadsafe else loop.call_soon)(owner.call, *args)
        return weakref.ref(owner)

    async def main() -> list[weakref.ref[Owner]]:
        found = [schedule(threadsafe, *range(n)) for threadsafe in (False, True) for n in range(3)]
        gc.collect()
        assert all(reference() is not None for reference in found)
        for _ in range(3):
            await asyncio.sleep(0)
        return found

    found = loop.run_until_complete(main())
    gc.collect()
    assert [reference() for reference in found] == [None] * 6


def test_calls_that_a_run_has_left_go_with_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    class Owner:
        handle: asyncio.Handle

        def call(self) -> None:
            pass

    async def main() -> weakref.ref[Owner]:
        owner = Owner()
        owner.handle = loop.call_soon(owner.call)
        loop.call_soon(loop.stop)
        return weakref.ref(owner)

    task = loop.create_task(main())
    loop.call_soon(loop.stop)
    loop.run_forever()
    gc.collect()
    assert task.result()() is not None
    loop.close()
    gc.collect()
    assert task.result()() is None


def test_a_patched_call_soon_is_what_tasks_and_futures_call(loop: asyncio.AbstractEventLoop) -> None:
    called: list[object] = []
    plain = loop.call_soon

    def call_soon(callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        called.append(callback)
        return plain(callback, *args, context=context)

    async def main() -> None:
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future
        await asyncio.sleep(0)

    loop.call_soon = call_soon  # type: ignore[assignment, method-assign]
    loop.run_until_complete(main())
    assert len(called) >= 4


def test_call_soon_takes_its_callback_by_name(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []
    call: Any = loop.call_soon
    call(callback=lambda: seen.append(1))
    call(callback=lambda: seen.append(2), context=None)
    call(lambda *args: seen.append(len(args)), 0, 0, 0, **{"con" + "text": contextvars.copy_context()})
    step(loop)
    assert seen == [1, 2, 3]
