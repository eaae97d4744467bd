"""What happens to exceptions: the exception handler, and the ones that leave the loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest

from .helpers import socket_pair, step

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


class NotAnException(BaseException):
    """Such exceptions are reported, as any other is; only two kinds leave the loop."""


def fail(exc: BaseException) -> None:
    raise exc


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [
        record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR
    ]


# the default handler


def test_an_exception_in_a_callback_is_logged(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    error = LookupError("mine")
    loop.call_soon(fail, error)
    step(loop)
    (record,) = logged(caplog)
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "Exception in callback" in record.getMessage()
    assert "fail" in record.getMessage()
    assert "handle: <Handle" in record.getMessage()
    assert any(frame.f_code.co_name == "fail" for frame in _frames(error))


def _frames(error: BaseException) -> list[Any]:
    frames, tb = [], error.__traceback__
    while tb is not None:
        frames.append(tb.tb_frame)
        tb = tb.tb_next
    return frames


def test_every_way_to_schedule_is_logged(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    with socket_pair() as (left, right):

        def readable() -> None:
            loop.remove_reader(left)
            raise LookupError("reader")

        right.send(b"x")
        loop.add_reader(left, readable)
        loop.call_soon(fail, LookupError("soon"))
        loop.call_soon_threadsafe(fail, LookupError("threadsafe"))
        loop.call_later(0, fail, LookupError("later"))
        loop.call_at(0, fail, LookupError("at"))
        future = loop.create_future()
        future.add_done_callback(lambda _: fail(LookupError("done callback")))
        future.set_result(None)
        step(loop, 3)
    words = {
        str(record.exc_info[1].args[0]) for record in logged(caplog) if record.exc_info and record.exc_info[1]
    }
    assert words == {"soon", "threadsafe", "later", "at", "done callback", "reader"}


def test_a_call_that_cannot_be_made_is_reported(
    loop: asyncio.AbstractEventLoop, errors: list[dict[str, Any]]
) -> None:
    loop.call_soon(fail)  # an argument is missing
    loop.call_soon("not callable")  # type: ignore[arg-type]
    loop.call_soon(fail, LookupError(), "too many")
    step(loop)
    assert [type(error["exception"]) for error in errors] == [TypeError] * 3


def test_the_task_whose_exception_nobody_looked_at_is_logged(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        raise LookupError("never retrieved")

    loop.create_task(broken(), name="the broken one")
    step(loop, 2)
    gc.collect()
    (record,) = logged(caplog)
    assert "Task exception was never retrieved" in record.getMessage()
    assert "the broken one" in record.getMessage()


def test_default_exception_handler_logs_any_context(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    loop.call_exception_handler({})
    loop.call_exception_handler({"message": "a message", "colour": "green"})
    loop.default_exception_handler({"message": "direct", "exception": LookupError("mine")})
    first, second, third = logged(caplog)
    assert "Unhandled exception in event loop" in first.getMessage()
    assert "a message" in second.getMessage()
    assert "colour: 'green'" in second.getMessage()
    assert third.exc_info is not None
    assert third.exc_info[0] is LookupError


# a handler of one's own


def test_a_handler_is_given_the_loop_and_the_context(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[tuple[Any, dict[str, Any]]] = []

    def handler(on: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        seen.append((on, context))

    assert loop.get_exception_handler() is None
    loop.set_exception_handler(handler)
    assert loop.get_exception_handler() is handler
    error = LookupError()
    handle = loop.call_soon(fail, error)
    timer = loop.call_later(0, fail, error)
    step(loop)
    assert [on for on, _ in seen] == [loop, loop]
    assert [context["exception"] for _, context in seen] == [error, error]
    assert [context["handle"] for _, context in seen] == [handle, timer]
    assert all("fail" in context["message"] for _, context in seen)
    assert all("source_traceback" not in context for _, context in seen)


def test_the_default_handler_can_be_restored(
    loop: asyncio.AbstractEventLoop, errors: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    loop.call_soon(fail, LookupError())
    step(loop)
    assert len(errors) == 1
    loop.set_exception_handler(None)
    loop.call_soon(fail, LookupError())
    step(loop)
    assert len(errors) == 1
    assert len(logged(caplog)) == 1


def test_a_handler_must_be_callable(loop: asyncio.AbstractEventLoop, errors: list[dict[str, Any]]) -> None:
    with pytest.raises(TypeError, match="callable"):
        loop.set_exception_handler("handler")  # type: ignore[arg-type]
    loop.call_soon(fail, LookupError())
    step(loop)
    assert len(errors) == 1, "the old one is still there"


def test_a_handler_that_fails_is_logged_and_the_loop_goes_on(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        raise ValueError("the handler is broken")

    seen: list[str] = []
    loop.set_exception_handler(handler)
    loop.call_soon(fail, LookupError("first"))
    loop.call_soon(seen.append, "after")
    step(loop)
    assert seen == ["after"]
    (record,) = logged(caplog)
    assert "Unhandled error in exception handler" in record.getMessage()
    assert "first" in record.getMessage()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in 3.12")
def test_a_handler_runs_in_the_context_of_what_failed(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    context = contextvars.copy_context()
    context.run(var.set, "of the callback")
    loop.set_exception_handler(lambda _loop, _context: seen.append(var.get()))
    loop.call_soon(fail, LookupError(), context=context)
    step(loop)
    assert seen == ["of the callback"]


def test_the_exception_is_freed_once_it_was_handled(loop: asyncio.AbstractEventLoop) -> None:
    freed: list[str] = []

    class Watched(Exception):
        def __del__(self) -> None:
            freed.append("freed")

    def body() -> None:
        raise Watched

    loop.set_exception_handler(lambda _loop, _context: None)
    loop.call_soon(body)
    step(loop)
    gc.collect()
    assert freed == ["freed"]


def test_base_exceptions_of_other_kinds_are_reported(
    loop: asyncio.AbstractEventLoop, errors: list[dict[str, Any]]
) -> None:
    seen: list[str] = []
    loop.call_soon(fail, NotAnException())
    loop.call_soon(fail, GeneratorExit())
    loop.call_soon(fail, asyncio.CancelledError())
    loop.call_soon(seen.append, "after")
    step(loop)
    assert [type(error["exception"]) for error in errors] == [
        NotAnException,
        GeneratorExit,
        asyncio.CancelledError,
    ]
    assert seen == ["after"]


# the two that leave the loop

LEAVING = [KeyboardInterrupt, SystemExit]


@pytest.mark.parametrize("kind", LEAVING)
def test_they_leave_run_forever_and_nothing_is_lost(
    loop: asyncio.AbstractEventLoop, kind: type[BaseException], errors: list[dict[str, Any]]
) -> None:
    seen: list[str] = []
    loop.call_soon(seen.append, "before")
    loop.call_soon(fail, kind("first"))
    loop.call_soon(seen.append, "between")
    loop.call_soon(fail, kind("second"))
    loop.call_soon(seen.append, "after")
    loop.call_later(0, seen.append, "timer")
    with pytest.raises(kind, match="first"):
        loop.run_forever()
    assert seen == ["before"]
    with pytest.raises(kind, match="second"):
        loop.run_forever()
    assert seen == ["before", "between"]
    step(loop)
    assert sorted(seen[2:]) == ["after", "timer"]
    assert errors == []


@pytest.mark.parametrize("kind", LEAVING)
def test_what_was_scheduled_before_they_left_still_runs_first(
    loop: asyncio.AbstractEventLoop, kind: type[BaseException]
) -> None:
    seen: list[str] = []

    def leave() -> None:
        loop.call_soon(seen.append, "scheduled by the one that left")
        raise kind

    loop.call_soon(leave)
    for i in range(100):
        loop.call_soon(seen.append, str(i))
    with pytest.raises(kind):
        loop.run_forever()
    loop.call_soon(seen.append, "scheduled after")
    step(loop, 2)
    assert seen == [*map(str, range(100)), "scheduled by the one that left", "scheduled after"]


def _scheduled(loop: asyncio.AbstractEventLoop, kind: type[BaseException]) -> dict[str, Callable[[], Any]]:
    return {
        "timer": lambda: loop.call_later(0, fail, kind("timer")),
        "threadsafe": lambda: loop.call_soon_threadsafe(fail, kind("threadsafe")),
        "done callback": lambda: _finished(loop).add_done_callback(lambda _: fail(kind("done callback"))),
    }


def _finished(loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    future = loop.create_future()
    future.set_result(None)
    return future


@pytest.mark.parametrize("kind", LEAVING)
@pytest.mark.parametrize("way", ["timer", "threadsafe", "done callback"])
def test_they_leave_from_wherever_they_are_raised(
    loop: asyncio.AbstractEventLoop, kind: type[BaseException], way: str
) -> None:
    seen: list[str] = []
    _scheduled(loop, kind)[way]()
    with pytest.raises(kind, match=way):
        loop.run_forever()
    loop.call_soon(seen.append, "goes on")
    step(loop)
    assert seen == ["goes on"]


@pytest.mark.parametrize("kind", LEAVING)
def test_they_leave_from_a_readers_callback(
    loop: asyncio.AbstractEventLoop, kind: type[BaseException]
) -> None:
    with socket_pair() as (left, right):
        loop.add_reader(left, fail, kind("reader"))
        right.send(b"x")
        with pytest.raises(kind, match="reader"):
            loop.run_forever()
        loop.remove_reader(left)
        task = loop.create_task(loop.sock_recv(left, 10))
        assert loop.run_until_complete(task) == b"x"


@pytest.mark.parametrize("kind", LEAVING)
def test_they_leave_from_a_task(loop: asyncio.AbstractEventLoop, kind: type[BaseException]) -> None:
    seen: list[str] = []

    async def body() -> None:
        await asyncio.sleep(0)
        raise kind("task")

    task = loop.create_task(body())
    waiting = loop.create_task(asyncio.sleep(0.001))
    waiting.add_done_callback(lambda _: seen.append("the other task went on"))
    with pytest.raises(kind, match="task"):
        loop.run_forever()
    assert isinstance(task.exception(), kind)
    loop.run_until_complete(waiting)
    step(loop)
    assert seen == ["the other task went on"]


@pytest.mark.parametrize("kind", LEAVING)
def test_they_leave_run_until_complete(loop: asyncio.AbstractEventLoop, kind: type[BaseException]) -> None:
    async def body() -> None:
        raise kind("main task")

    with pytest.raises(kind, match="main task"):
        loop.run_until_complete(body())
    assert loop.run_until_complete(asyncio.sleep(0, "goes on")) == "goes on"


@pytest.mark.parametrize("kind", LEAVING)
def test_they_leave_from_the_exception_handler(
    loop: asyncio.AbstractEventLoop, kind: type[BaseException]
) -> None:
    seen: list[str] = []
    loop.set_exception_handler(lambda _loop, _context: fail(kind("handler")))
    loop.call_soon(fail, LookupError())
    loop.call_soon(seen.append, "after")
    with pytest.raises(kind, match="handler"):
        loop.run_forever()
    step(loop)
    assert seen == ["after"]


@pytest.mark.parametrize("kind", LEAVING)
def test_stop_and_leaving_in_one_turn(loop: asyncio.AbstractEventLoop, kind: type[BaseException]) -> None:
    """The request to stop is forgotten with the run that it was made in."""
    seen: list[str] = []
    loop.call_soon(loop.stop)
    loop.call_soon(fail, kind())
    with pytest.raises(kind):
        loop.run_forever()
    loop.call_later(0.01, seen.append, "timer")
    loop.call_later(0.02, loop.stop)
    loop.run_forever()
    assert seen == ["timer"]
