"""call_soon: order, arguments, contexts, cancellation, and what one turn of the loop does."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import weakref
from typing import Any

import pytest

from .helpers import run_until, socket_pair, step

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


class Thing:
    """Something a weak reference can watch."""


def test_callbacks_run_in_the_order_of_their_registration(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []
    for i in range(10_000):
        loop.call_soon(seen.append, i)
    step(loop)
    assert seen == list(range(10_000))


def test_arguments_are_passed_by_position(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[tuple[Any, ...]] = []

    def callback(*args: Any) -> None:
        seen.append(args)

    loop.call_soon(callback)
    loop.call_soon(callback, 1)
    loop.call_soon(callback, 1, "two", None)
    loop.call_soon(callback, *range(50))
    step(loop)
    assert seen == [(), (1,), (1, "two", None), tuple(range(50))]


def test_keyword_arguments_for_the_callback_are_refused(loop: asyncio.AbstractEventLoop) -> None:
    with pytest.raises(TypeError):
        loop.call_soon(print, sep="")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        loop.call_soon()  # type: ignore[call-arg]


def test_anything_callable_is_called(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []

    class Callable_:
        def __call__(self, word: str) -> None:
            seen.append(word)

        def method(self) -> None:
            seen.append("method")

        @classmethod
        def classmethod(cls) -> None:
            seen.append("classmethod")

        @staticmethod
        def staticmethod() -> None:
            seen.append("staticmethod")

    class Constructed:
        def __init__(self) -> None:
            seen.append("class")

    things = Callable_()
    loop.call_soon(things, "instance")
    loop.call_soon(things.method)
    loop.call_soon(things.classmethod)
    loop.call_soon(things.staticmethod)
    loop.call_soon(Constructed)
    loop.call_soon(functools.partial(things, word="partial"))
    loop.call_soon(seen.append, "builtin")
    step(loop)
    assert seen == ["instance", "method", "classmethod", "staticmethod", "class", "partial", "builtin"]


def test_call_soon_from_a_callback_runs_in_a_later_turn(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []

    def first() -> None:
        seen.append("first")
        loop.call_soon(seen.append, "later")

    loop.call_soon(first)
    loop.call_soon(seen.append, "second")
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == ["first", "second"]
    step(loop)
    assert seen == ["first", "second", "later"]


def test_a_callback_that_always_reschedules_itself_starves_nobody(loop: asyncio.AbstractEventLoop) -> None:
    """Timers, sockets and other threads' calls are still served while the ready queue is never empty."""
    served: set[str] = set()

    def spin() -> None:
        if len(served) < 3:
            loop.call_soon(spin)

    with socket_pair() as (left, right):
        loop.call_soon(spin)
        loop.call_later(0.01, served.add, "timer")
        loop.add_reader(left, served.add, "socket")
        right.send(b"x")
        loop.run_in_executor(None, loop.call_soon_threadsafe, served.add, "thread")
        run_until(loop, lambda: len(served) == 3)
        loop.remove_reader(left)
    loop.run_until_complete(loop.shutdown_default_executor())


def test_a_callback_that_fails_does_not_keep_the_others_from_running(
    loop: asyncio.AbstractEventLoop, errors: list[dict[str, Any]]
) -> None:
    seen: list[str] = []
    loop.call_soon(seen.append, "before")
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(seen.append, "after")
    step(loop)
    assert seen == ["before", "after"]
    (error,) = errors
    assert isinstance(error["exception"], ZeroDivisionError)


# contexts


def test_a_callback_runs_in_a_copy_of_the_context_it_was_registered_in(
    loop: asyncio.AbstractEventLoop,
) -> None:
    seen: list[str] = []

    def register() -> None:
        var.set("at registration")
        loop.call_soon(lambda: seen.append(var.get()))
        loop.call_soon_threadsafe(lambda: seen.append(var.get()))
        loop.call_later(0, lambda: seen.append(var.get()))
        loop.call_at(loop.time(), lambda: seen.append(var.get()))
        var.set("after registration")

    contextvars.copy_context().run(register)
    step(loop)
    assert seen == ["at registration"] * 4
    assert var.get() == "unset"


def test_what_a_callback_sets_is_seen_by_no_other_callback(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    loop.call_soon(var.set, "mine")
    loop.call_soon(lambda: seen.append(var.get()))
    step(loop)
    assert seen == ["unset"]
    assert var.get() == "unset"


def test_callbacks_given_one_context_share_it(loop: asyncio.AbstractEventLoop) -> None:
    context = contextvars.copy_context()
    seen: list[str] = []
    loop.call_soon(var.set, "shared", context=context)
    loop.call_soon(lambda: seen.append(var.get()), context=context)
    loop.call_soon_threadsafe(lambda: seen.append(var.get()), context=context)
    loop.call_later(0, lambda: seen.append(var.get()), context=context)
    loop.call_at(loop.time(), lambda: seen.append(var.get()), context=context)
    step(loop)
    assert seen == ["shared"] * 4
    assert context[var] == "shared"
    assert var.get() == "unset"


def test_callbacks_of_futures_run_in_their_context(loop: asyncio.AbstractEventLoop) -> None:
    context = contextvars.copy_context()
    context.run(var.set, "given")
    seen: list[str] = []
    future = loop.create_future()
    future.add_done_callback(lambda _: seen.append(var.get()), context=context)
    future.add_done_callback(lambda _: seen.append(var.get()))
    future.set_result(None)
    step(loop)
    assert seen == ["given", "unset"]


# cancellation


def test_a_cancelled_callback_never_runs(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []
    handles = [loop.call_soon(seen.append, i) for i in range(6)]
    for handle in handles[::2]:
        handle.cancel()
        handle.cancel()
    step(loop)
    assert seen == [1, 3, 5]
    assert [handle.cancelled() for handle in handles] == [True, False] * 3


def test_a_callback_may_cancel_one_that_is_next_in_the_same_turn(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    handles: list[asyncio.Handle] = []
    loop.call_soon(lambda: handles[0].cancel())
    handles.append(loop.call_soon(seen.append, "cancelled"))
    loop.call_soon(seen.append, "kept")
    step(loop)
    assert seen == ["kept"]


def test_a_handle_may_be_cancelled_while_it_runs_and_after(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []
    handles: list[asyncio.Handle] = []

    def callback() -> None:
        handles[0].cancel()
        seen.append(1)

    handles.append(loop.call_soon(callback))
    after = loop.call_soon(seen.append, 2)
    step(loop)
    after.cancel()
    step(loop)
    assert seen == [1, 2]
    assert handles[0].cancelled()
    assert after.cancelled()


def test_a_handle_that_fails_after_cancelling_itself_is_still_reported(
    loop: asyncio.AbstractEventLoop, errors: list[dict[str, Any]]
) -> None:
    handles: list[asyncio.Handle] = []

    def callback() -> None:
        handles[0].cancel()
        raise LookupError("after cancel")

    handles.append(loop.call_soon(callback))
    step(loop)
    assert [type(error["exception"]) for error in errors] == [LookupError]


def test_cancelling_frees_the_callback_and_its_arguments_at_once(loop: asyncio.AbstractEventLoop) -> None:
    thing, other = Thing(), Thing()
    soon = loop.call_soon(print, thing)
    later = loop.call_later(3600, print, other)
    watched = [weakref.ref(thing), weakref.ref(other)]
    del thing, other
    assert all(ref() is not None for ref in watched)
    soon.cancel()
    later.cancel()
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


def test_arguments_are_freed_once_the_callback_has_run(loop: asyncio.AbstractEventLoop) -> None:
    thing = Thing()
    watched = weakref.ref(thing)
    loop.call_soon(id, thing)
    loop.call_soon_threadsafe(id, thing)
    loop.call_later(0, id, thing)
    del thing
    step(loop, 2)
    gc.collect()
    assert watched() is None


def test_arguments_are_freed_when_the_callback_failed(
    loop: asyncio.AbstractEventLoop, errors: list[dict[str, Any]]
) -> None:
    def fail(_thing: Thing) -> None:
        raise LookupError

    thing = Thing()
    watched = weakref.ref(thing)
    loop.call_soon(fail, thing)
    del thing
    step(loop)
    assert len(errors) == 1
    errors.clear()
    gc.collect()
    assert watched() is None


# one turn


def test_one_turn_serves_what_is_ready_and_no_more(loop: asyncio.AbstractEventLoop) -> None:
    """A program may turn the loop by single steps: sockets, timers due and callbacks are all served."""
    seen: list[str] = []
    with socket_pair() as (left, right):
        right.send(b"x" * 100)

        def readable() -> None:
            seen.append("socket")
            left.recv(1)

        loop.add_reader(left, readable)
        loop.call_later(0, seen.append, "timer")
        loop.call_later(3600, seen.append, "far timer")
        loop.call_soon(seen.append, "soon")
        step(loop)
        assert sorted(seen) == ["socket", "soon", "timer"]
        step(loop)
        assert seen.count("socket") == 2
        loop.remove_reader(left)


def test_a_whole_conversation_by_single_steps(loop: asyncio.AbstractEventLoop) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.close()
        await writer.wait_closed()

    async def converse() -> bytes:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello")
            answer = await reader.readexactly(5)
            await asyncio.sleep(0.01)
            writer.close()
            await writer.wait_closed()
        return answer

    task = loop.create_task(converse())
    deadline = loop.time() + 5
    while not task.done() and loop.time() < deadline:
        step(loop)
    assert task.result() == b"HELLO"
    while asyncio.all_tasks(loop) and loop.time() < deadline:
        step(loop)


def test_a_socket_operation_by_single_steps(loop: asyncio.AbstractEventLoop) -> None:
    with socket_pair() as (left, right):
        task = loop.create_task(loop.sock_recv(left, 10))
        step(loop, 2)
        assert not task.done()
        right.send(b"data")
        step(loop, 3)
        assert task.result() == b"data"
