"""Debug mode."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from .helpers import Factory, in_thread, run_script, script_environment, socket_pair, step

WRONG_THREAD = r"^Non-thread-safe operation invoked on an event loop other than the current one$"


@pytest.fixture
def debugged(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    loop.set_debug(True)
    return loop


def slow_warnings(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """Those that name this callback: on a busy machine any other may be slow too."""
    texts = [r.getMessage() for r in caplog.records if r.name == "asyncio" and r.levelno == logging.WARNING]
    return [text for text in texts if name in text]


def last_error(caplog: pytest.LogCaptureFixture) -> str:
    return next(r.getMessage() for r in reversed(caplog.records) if r.levelno == logging.ERROR)


def be_slow(duration: float = 0.02) -> None:
    time.sleep(duration)


# switching


def test_off_by_default_and_switched(loop: asyncio.AbstractEventLoop) -> None:
    assert loop.get_debug() is (sys.flags.dev_mode or bool(os.environ.get("PYTHONASYNCIODEBUG")))
    loop.set_debug(True)
    assert loop.get_debug() is True
    loop.set_debug(False)
    assert loop.get_debug() is False


@pytest.mark.parametrize(
    ("flags", "variable", "expected"), [((), "1", "True"), (("-X", "dev"), "", "True"), ((), "", "False")]
)
def test_switched_from_outside(
    loop_factory: Factory, flags: tuple[str, ...], variable: str, expected: str
) -> None:
    source = "loop = new_loop(); print(loop.get_debug()); loop.close()"
    environment = script_environment(PYTHONASYNCIODEBUG=variable)
    assert run_script(loop_factory, source, *flags, env=environment) == f"{expected}\n"


def test_coroutine_origins_are_tracked_while_it_runs(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> list[int]:
        depths = [sys.get_coroutine_origin_tracking_depth()]
        for enabled in (True, True, False):
            loop.set_debug(enabled)
            await asyncio.sleep(0.001)
            depths.append(sys.get_coroutine_origin_tracking_depth())
        return depths

    outside = sys.get_coroutine_origin_tracking_depth()
    first, *others = loop.run_until_complete(main())
    assert first == outside
    assert [depth > outside for depth in others] == [True, True, False]
    loop.set_debug(True)
    assert sys.get_coroutine_origin_tracking_depth() == outside, "not running: nothing is tracked"
    step(loop)
    assert sys.get_coroutine_origin_tracking_depth() == outside


def test_a_coroutine_that_was_never_awaited_says_where_it_was_made(
    debugged: asyncio.AbstractEventLoop,
) -> None:
    async def forgotten() -> None:
        pass

    async def main() -> None:
        forgotten()  # type: ignore[unused-coroutine]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        debugged.run_until_complete(main())
        gc.collect()
    (text,) = (str(w.message) for w in caught if "never awaited" in str(w.message))
    assert "Coroutine created at" in text
    assert "in main" in text


# slow callbacks


def test_the_default_is_a_tenth_of_a_second(loop: asyncio.AbstractEventLoop) -> None:
    assert loop.slow_callback_duration == 0.1


def test_a_slow_callback_is_named(
    debugged: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    debugged.slow_callback_duration = 0.01
    debugged.call_soon(be_slow)
    debugged.call_soon(int)
    step(debugged)
    (text,) = slow_warnings(caplog, "be_slow")
    assert text.startswith("Executing <Handle be_slow()")
    took = re.search(r" took (\d+\.\d{3}) seconds$", text)
    assert took is not None
    assert float(took[1]) >= 0.02


def test_a_slow_task_is_named(debugged: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await asyncio.sleep(0)
        be_slow()
        await asyncio.sleep(0)

    debugged.slow_callback_duration = 0.01
    debugged.run_until_complete(debugged.create_task(main(), name="the slow task"))
    texts = slow_warnings(caplog, "the slow task")
    assert texts  # its other steps may be slow as well
    for text in texts:
        assert text.startswith("Executing <Task")
        assert "main" in text


def test_slow_timers_and_readers_are_named(
    debugged: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    def read_slowly() -> None:
        be_slow()
        debugged.remove_reader(left)

    def tick_slowly() -> None:
        be_slow()

    debugged.slow_callback_duration = 0.01
    with socket_pair() as (left, right):
        debugged.add_reader(left, read_slowly)
        right.send(b"x")
        debugged.call_later(0, tick_slowly)
        step(debugged, 2)
    assert len(slow_warnings(caplog, "read_slowly")) == 1
    assert len(slow_warnings(caplog, "tick_slowly")) == 1


def test_slow_callbacks_are_named_from_the_moment_debug_is_on(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    def before() -> None:
        be_slow()

    def during() -> None:
        be_slow()

    def after() -> None:
        be_slow()

    async def main() -> None:
        for enabled, callback in ((False, before), (True, during), (False, after)):
            loop.set_debug(enabled)
            await asyncio.sleep(0.001)
            loop.call_soon(callback)
            await asyncio.sleep(0.001)

    loop.slow_callback_duration = 0.01
    loop.run_until_complete(main())
    named = [len(slow_warnings(caplog, f"<locals>.{name}()")) for name in ("before", "during", "after")]
    assert named == [0, 1, 0]


def test_a_slow_callback_that_fails_is_reported(
    debugged: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture, errors: list[dict[str, Any]]
) -> None:
    def body() -> None:
        be_slow()
        raise LookupError

    debugged.slow_callback_duration = 0.01
    debugged.call_soon(body)
    step(debugged)
    assert len(errors) == 1
    assert len(slow_warnings(caplog, "body")) == 1


# threads

UNSAFE: dict[str, Callable[[asyncio.AbstractEventLoop], Any]] = {
    "call_soon": lambda loop: loop.call_soon(int),
    "call_later": lambda loop: loop.call_later(0, int),
    "call_at": lambda loop: loop.call_at(0, int),
    "future": lambda loop: _resolve(loop),
}


def _resolve(loop: asyncio.AbstractEventLoop) -> None:
    future = loop.create_future()
    future.add_done_callback(id)
    future.set_result(None)


@pytest.mark.parametrize("call", list(UNSAFE))
def test_calls_from_another_thread_are_caught(debugged: asyncio.AbstractEventLoop, call: str) -> None:
    def intrude() -> None:
        with pytest.raises(RuntimeError, match=WRONG_THREAD):
            UNSAFE[call](debugged)

    debugged.run_until_complete(asyncio.to_thread(intrude))
    debugged.run_until_complete(debugged.shutdown_default_executor())


def test_create_task_from_another_thread_is_caught(debugged: asyncio.AbstractEventLoop) -> None:
    async def nothing() -> None:
        pass

    def intrude() -> None:
        coro = nothing()
        with pytest.raises(RuntimeError, match=WRONG_THREAD):
            debugged.create_task(coro)
        coro.close()

    debugged.run_until_complete(asyncio.to_thread(intrude))
    debugged.run_until_complete(debugged.shutdown_default_executor())


def test_call_soon_threadsafe_is_allowed(debugged: asyncio.AbstractEventLoop) -> None:
    debugged.run_in_executor(None, debugged.call_soon_threadsafe, debugged.stop)
    debugged.run_forever()
    debugged.run_until_complete(debugged.shutdown_default_executor())


def test_a_loop_that_does_not_run_may_be_used_from_any_thread(debugged: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    in_thread(lambda: debugged.call_soon(seen.append, "soon"))
    in_thread(lambda: debugged.call_later(0, seen.append, "later"))
    step(debugged)
    assert seen == ["soon", "later"]


def test_without_debug_nothing_is_checked(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(loop.run_in_executor(None, loop.call_soon, int))
    loop.run_until_complete(loop.shutdown_default_executor())


# what may be called


@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
def test_coroutines_and_what_is_not_callable_are_refused(
    debugged: asyncio.AbstractEventLoop, method: str
) -> None:
    async def function() -> None:
        pass

    def schedule(callback: Any) -> None:
        args = (0,) if method in ("call_later", "call_at") else ()
        getattr(debugged, method)(*args, callback)

    coro = function()
    for wrong in (function, coro):
        with pytest.raises(TypeError, match="coroutines cannot be used with"):
            schedule(wrong)
    with pytest.raises(TypeError, match="a callable object was expected by"):
        schedule("text")
    coro.close()
    step(debugged)


# where things came from


def test_an_error_says_who_scheduled_the_callback(
    debugged: asyncio.AbstractEventLoop, errors: list[dict[str, Any]]
) -> None:
    def schedule_it(call: Callable[..., Any], *args: Any) -> None:
        call(*args, divmod, 1, 0)

    schedule_it(debugged.call_soon)
    schedule_it(debugged.call_soon_threadsafe)
    schedule_it(debugged.call_later, 0)
    schedule_it(debugged.call_at, 0)
    step(debugged)
    assert len(errors) == 4
    for error in errors:
        assert error["source_traceback"][-1].name == "schedule_it"
        assert error["source_traceback"][-1].filename == __file__
        assert "created at" in repr(error["handle"])
        assert "test_debug.py" in repr(error["handle"])


def test_the_log_says_who_scheduled_the_callback(
    debugged: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    def schedule_it() -> None:
        debugged.call_soon(divmod, 1, 0)

    schedule_it()
    step(debugged)
    text = last_error(caplog)
    assert "Object created at (most recent call last)" in text
    assert "schedule_it" in text


def test_errors_reported_from_within_a_callback_name_the_callbacks_origin(
    debugged: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    def schedule_it() -> None:
        debugged.call_soon(debugged.call_exception_handler, {"message": "reported"})

    schedule_it()
    step(debugged)
    text = last_error(caplog)
    assert "Handle created at (most recent call last)" in text
    assert "schedule_it" in text


def test_tasks_and_futures_know_their_origin(debugged: asyncio.AbstractEventLoop) -> None:
    task = debugged.create_task(asyncio.sleep(0))
    assert "test_debug.py" in repr(task)
    assert "created at" in repr(debugged.create_future())
    debugged.run_until_complete(task)


# the unclosed loop


def test_an_unclosed_loop_is_warned_about(loop_factory: Factory) -> None:
    loop = loop_factory()
    loop.set_debug(True)
    kept = [loop]
    del loop

    def forget() -> None:
        kept.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed event loop .*debug=True"):
        forget()


def test_everything_works_with_debug_on(debugged: asyncio.AbstractEventLoop) -> None:
    async def main() -> bytes:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read(100))
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"echo")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(10):
            await asyncio.to_thread(int)
        return answer

    assert debugged.run_until_complete(main()) == b"echo"
    debugged.run_until_complete(debugged.shutdown_default_executor())


# The callbacks of protocols, which no handle calls


SLOW_CALLBACKS = [
    "data_received",
    "eof_received",
    "buffer_updated",
    "datagram_received",
    "connection_made",
    "pipe",
]


@pytest.mark.parametrize("name", SLOW_CALLBACKS)
def test_a_slow_callback_of_a_protocol_is_named(
    debugged: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Of a server's connection, an endpoint, a pipe."""
    done = debugged.create_future()

    def slow(*_: Any) -> None:
        be_slow(0.1)
        if not done.done():
            done.set_result(None)

    kinds = {"buffer_updated": asyncio.BufferedProtocol, "datagram_received": asyncio.DatagramProtocol}
    wanted = "data_received" if name == "pipe" else name
    members: dict[str, Any] = {wanted: slow}
    if name == "buffer_updated":
        members["get_buffer"] = lambda _self, _hint: bytearray(100)
    protocol_class = type("Slow", (kinds.get(name, asyncio.Protocol),), members)

    async def main() -> None:
        debugged.slow_callback_duration = 0.05
        if name == "datagram_received":
            transport, _ = await debugged.create_datagram_endpoint(
                protocol_class, local_addr=("127.0.0.1", 0)
            )
            transport.sendto(b"x", transport.get_extra_info("sockname"))
            await done
            transport.close()
        elif name == "pipe":
            with socket_pair() as (ours, other):
                pipe, _ = await debugged.connect_read_pipe(protocol_class, ours)
                other.send(b"x")
                await done
                pipe.close()
                await asyncio.sleep(0)
        else:
            server = await debugged.create_server(protocol_class, "127.0.0.1", 0)
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            if name != "connection_made":
                writer.write(b"x")
                writer.write_eof()
            await done
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()
        await asyncio.sleep(0.01)

    debugged.run_until_complete(asyncio.wait_for(main(), 20))
    assert [
        text
        for text in slow_warnings(caplog, "Executing ")
        if re.search(r" took (\d+\.\d{3}) seconds$", text)
    ]
