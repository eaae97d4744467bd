"""Behaviours of the loop itself: callbacks, timers, tasks, threads, signals, closing."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings
import weakref
from typing import Any

from rows import Make, arow, raised, row, running, yes

LOOP, TIMERS, TASKS = "the loop", "timers", "tasks and futures"
THREADS, SIGNALS = "threads and lookups", "signals and fork"


@row(LOOP, "is an `asyncio.BaseEventLoop`")
def base(make: Make) -> str:
    with running(make) as loop:
        return yes(isinstance(loop, asyncio.BaseEventLoop))


@row(LOOP, "any attribute can be set on it")
def attribute(make: Make) -> str:
    with running(make) as loop:
        return raised(lambda: setattr(loop, "mine", 1), otherwise="yes")


@row(LOOP, "weak references to it")
def weak(make: Make) -> str:
    with running(make) as loop:
        return raised(lambda: weakref.ref(loop), otherwise="yes")


@row(LOOP, "a subclass's `call_soon` is used for callbacks of futures")
def subclass(make: Make) -> str:
    with running(make) as loop:
        kind = type(loop)
    called = []

    class Sub(kind):  # type: ignore[misc, valid-type]
        def call_soon(self, callback: Any, *args: Any, **kwargs: Any) -> Any:
            called.append(callback)
            return super().call_soon(callback, *args, **kwargs)

    with running(Sub) as sub:
        future = sub.create_future()
        future.add_done_callback(print)
        future.remove_done_callback(print)
        future.add_done_callback(called.append)
        future.set_result(None)
        sub.run_until_complete(asyncio.sleep(0))
    return yes(called.append in called)


@row(LOOP, "`stop()` before `run_forever()`: callbacks that are ready run once")
def stop_first(make: Make) -> str:
    with running(make) as loop:
        seen: list[int] = []
        loop.call_soon(seen.append, 1)
        loop.stop()
        loop.run_forever()
        return yes(seen)


@arow(LOOP, "`run_forever()` inside a callback")
async def nested(loop: asyncio.AbstractEventLoop) -> str:
    return raised(loop.run_forever)


@arow(LOOP, "`close()` while it runs")
async def close_running(loop: asyncio.AbstractEventLoop) -> str:
    return raised(loop.close)


@row(LOOP, "`call_soon()` after `close()`")
def after_close(make: Make) -> str:
    loop = make()
    loop.close()
    return raised(lambda: loop.call_soon(print))


@row(LOOP, "`close()` twice")
def close_twice(make: Make) -> str:
    loop = make()
    loop.close()
    return raised(loop.close)


@row(LOOP, "a loop that is forgotten without `close()` warns")
def unclosed(make: Make) -> str:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        loop = make()
        del loop
        gc.collect()
    return yes([warning for warning in seen if warning.category is ResourceWarning])


@row(LOOP, "SystemExit in a callback ends `run_forever()`")
def system_exit(make: Make) -> str:
    with running(make) as loop:
        loop.call_soon(sys.exit, 3)
        loop.call_later(0.2, loop.stop)
        try:
            loop.run_forever()
        except SystemExit:
            return "yes"
    return "no"


@row(LOOP, "after that it runs again")
def runs_again(make: Make) -> str:
    with running(make) as loop:
        loop.call_soon(sys.exit, 3)
        with contextlib.suppress(SystemExit):
            loop.run_forever()
        return yes(loop.run_until_complete(asyncio.sleep(0, True)))


@row(LOOP, "an exception in a callback goes to the exception handler")
def handler(make: Make) -> str:
    with running(make) as loop:
        seen: list[Any] = []
        loop.set_exception_handler(lambda _loop, context: seen.append(context))
        loop.call_soon(lambda: 1 // 0)
        loop.run_until_complete(asyncio.sleep(0))
        return ", ".join(sorted(seen[0]))


@row(LOOP, "`call_soon` of what cannot be called, without debug mode")
def not_callable(make: Make) -> str:
    with running(make) as loop:
        loop.set_exception_handler(lambda *_: None)
        return raised(lambda: loop.call_soon(1))  # type: ignore[arg-type, call-overload]


@row(LOOP, "the same of a coroutine, in debug mode")
def coroutine_debug(make: Make) -> str:
    async def nothing() -> None: ...

    with running(make) as loop:
        loop.set_debug(True)
        coroutine = nothing()
        try:
            return raised(lambda: loop.call_soon(coroutine))  # type: ignore[arg-type, call-overload]
        finally:
            coroutine.close()


@row(LOOP, "`call_soon` from another thread, in debug mode")
def wrong_thread(make: Make) -> str:
    with running(make) as loop:
        loop.set_debug(True)

        async def main() -> str:
            return await asyncio.to_thread(lambda: raised(lambda: loop.call_soon(print)))

        return str(loop.run_until_complete(main()))


@row(LOOP, "logs slow callbacks, in debug mode")
def slow(make: Make) -> str:
    with running(make) as loop:
        loop.set_debug(True)
        loop.slow_callback_duration = 0.01
        seen: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = seen.append  # type: ignore[method-assign]
        logging.disable(logging.NOTSET)
        logging.getLogger("asyncio").propagate = False
        logging.getLogger("asyncio").addHandler(handler)
        loop.call_soon(time.sleep, 0.03)
        loop.run_until_complete(asyncio.sleep(0.05))
        return yes(any("took" in record.getMessage() for record in seen))


@row(LOOP, "`call_soon(context=)` runs in that context")
def context(make: Make) -> str:
    variable = contextvars.ContextVar("variable", default=0)
    inside = contextvars.copy_context()
    inside.run(variable.set, 1)
    with running(make) as loop:
        seen: list[int] = []
        loop.call_soon(lambda: seen.append(variable.get()), context=inside)
        loop.run_until_complete(asyncio.sleep(0))
        return yes(seen == [1])


@row(LOOP, "`shutdown_asyncgens()` closes what was left")
def asyncgens(make: Make) -> str:
    seen = []

    async def numbers() -> Any:
        try:
            yield 1
        finally:
            seen.append(1)

    with running(make) as loop:
        agen = numbers()

        async def first() -> int:
            return int(await agen.__anext__())

        loop.run_until_complete(first())
        loop.run_until_complete(loop.shutdown_asyncgens())
    return yes(seen)


@row(LOOP, "`nest_asyncio.apply()`")
def nest(make: Make) -> str:
    import nest_asyncio

    with running(make) as loop:
        return raised(lambda: nest_asyncio.apply(loop))


@row(LOOP, "the private attributes `_ready` and `_selector`")
def private(make: Make) -> str:
    with running(make) as loop:
        found = [name for name in ("_ready", "_selector") if hasattr(loop, name)]
    return " and ".join(f"`{name}`" for name in found) or "neither"


@arow(TIMERS, "clock of `time()`")
async def clock(loop: asyncio.AbstractEventLoop) -> str:
    return "`time.monotonic()`" if abs(loop.time() - time.monotonic()) < 0.1 else "another"


@arow(TIMERS, "`time()` advances inside a callback")
async def advances(loop: asyncio.AbstractEventLoop) -> str:
    before = loop.time()
    time.sleep(0.02)  # noqa: ASYNC251
    return yes(loop.time() - before >= 0.01)


@arow(TIMERS, "a timer of 0.4 ms never fires before 0.4 ms")
async def early(loop: asyncio.AbstractEventLoop) -> str:
    for _ in range(50):
        before = time.monotonic()
        await asyncio.sleep(0.0004)
        if time.monotonic() - before < 0.0004:
            return "no"
    return "yes"


@arow(TIMERS, "`call_later(-1)`")
async def negative(loop: asyncio.AbstractEventLoop) -> str:
    return raised(lambda: loop.call_later(-1, print).cancel())


@arow(TIMERS, "`call_later(nan)`")
async def not_a_number(loop: asyncio.AbstractEventLoop) -> str:
    return raised(lambda: loop.call_later(float("nan"), print).cancel())


@arow(TIMERS, "`call_later(inf)`")
async def infinite(loop: asyncio.AbstractEventLoop) -> str:
    return raised(lambda: loop.call_later(float("inf"), print).cancel())


@arow(TIMERS, "`call_later(None)`")
async def none(loop: asyncio.AbstractEventLoop) -> str:
    return raised(lambda: loop.call_later(None, print))  # type: ignore[arg-type]


@arow(TIMERS, "timers of the same time fire in the order of their calls")
async def same_time(loop: asyncio.AbstractEventLoop) -> str:
    seen: list[int] = []
    when = loop.time() + 0.01
    for number in range(50):
        loop.call_at(when, seen.append, number)
    await asyncio.sleep(0.05)
    return yes(seen == list(range(50)))


@arow(TIMERS, "an earlier timer fires before a later one when both are late")
async def late_order(loop: asyncio.AbstractEventLoop) -> str:
    seen: list[int] = []
    loop.call_later(0.006, seen.append, 2)
    loop.call_later(0.003, seen.append, 1)
    time.sleep(0.03)  # noqa: ASYNC251
    await asyncio.sleep(0.02)
    return yes(seen == [1, 2])


@arow(TIMERS, "`TimerHandle.when()` is what was asked for")
async def when(loop: asyncio.AbstractEventLoop) -> str:
    at = loop.time() + 12.3456789
    handle = loop.call_at(at, print)
    handle.cancel()
    return "yes" if handle.when() == at else "rounded" if abs(handle.when() - at) < 0.01 else "no"


@arow(TASKS, "type of `create_future()`")
async def future_type(loop: asyncio.AbstractEventLoop) -> str:
    return "`asyncio.Future`" if type(loop.create_future()) is asyncio.Future else "a subclass"


@arow(TASKS, "type of `create_task()`")
async def task_type(loop: asyncio.AbstractEventLoop) -> str:
    task = loop.create_task(asyncio.sleep(0))
    await task
    return "`asyncio.Task`" if type(task) is asyncio.Task else "another"


@arow(TASKS, "`asyncio.eager_task_factory`: a task that need not wait is done at once")
async def eager(loop: asyncio.AbstractEventLoop) -> str:
    if sys.version_info < (3, 12):
        return "not in this Python"
    loop.set_task_factory(asyncio.eager_task_factory)

    async def nothing() -> None: ...

    task = loop.create_task(nothing())
    done = task.done()
    await task
    return yes(done)


@arow(TASKS, "`create_task(name=, context=)`")
async def named(loop: asyncio.AbstractEventLoop) -> str:
    task = loop.create_task(asyncio.sleep(0), name="a name", context=contextvars.copy_context())
    await task
    return yes(task.get_name() == "a name")


@row(TASKS, "a task that is forgotten while it waits is reported")
def forgotten(make: Make) -> str:
    with running(make) as loop:
        seen: list[Any] = []
        loop.set_exception_handler(lambda _loop, context: seen.append(context))

        async def waits() -> None:
            await loop.create_future()

        loop.create_task(waits())
        loop.run_until_complete(asyncio.sleep(0.01))
        gc.collect()
        return yes(seen)


@arow(THREADS, "a thread of the default executor is called")
async def names(loop: asyncio.AbstractEventLoop) -> str:
    found = await loop.run_in_executor(None, lambda: threading.current_thread().name)
    return f"`{found}`"


@arow(THREADS, "`set_default_executor` of what is no thread pool")
async def process_pool(loop: asyncio.AbstractEventLoop) -> str:
    return raised(lambda: loop.set_default_executor(object()))  # type: ignore[arg-type]


@arow(THREADS, "`shutdown_default_executor(timeout=)`")
async def shut_down(loop: asyncio.AbstractEventLoop) -> str:
    if sys.version_info < (3, 12):
        return "not in this Python"
    try:
        await loop.shutdown_default_executor(timeout=1)  # type: ignore[call-arg]
    except TypeError:
        return "TypeError"
    return "accepted"


@arow(THREADS, "a name is looked up while the default executor is full")
async def full(loop: asyncio.AbstractEventLoop) -> str:
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
    release = threading.Event()
    busy = loop.run_in_executor(None, release.wait)
    try:
        await asyncio.wait_for(loop.getaddrinfo("localhost", 80), 1)
        return "yes"
    except TimeoutError:
        return "no, it waits"
    finally:
        release.set()
        await busy


@arow(THREADS, "`getaddrinfo` returns what `socket.getaddrinfo` does")
async def lookup(loop: asyncio.AbstractEventLoop) -> str:
    return yes(await loop.getaddrinfo("127.0.0.1", 80) == socket.getaddrinfo("127.0.0.1", 80))


@arow(THREADS, "`getaddrinfo` of a name that does not exist")
async def no_such_name(loop: asyncio.AbstractEventLoop) -> str:
    try:
        await loop.getaddrinfo("no.such.name.invalid", 80, flags=socket.AI_NUMERICHOST)
    except OSError as error:
        return type(error).__name__
    return "found"


@row(THREADS, "it runs in one thread, then in another")
def moves(make: Make) -> str:
    with running(make) as loop:
        loop.run_until_complete(asyncio.sleep(0.001))
        seen: list[bool] = []
        thread = threading.Thread(
            target=lambda: seen.append(loop.run_until_complete(asyncio.sleep(0.001, True)))
        )
        thread.start()
        thread.join(3)
        return yes(seen)


@row(SIGNALS, "SIGINT while it waits raises KeyboardInterrupt out of `run_forever()`")
def interrupt(make: Make) -> str:
    with running(make) as loop:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        loop.call_later(2, loop.stop)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            return "yes"
    return "no"


@arow(SIGNALS, "`add_signal_handler` outside the main thread")
async def signal_thread(loop: asyncio.AbstractEventLoop) -> str:
    def call() -> str:
        return raised(lambda: loop.add_signal_handler(signal.SIGUSR1, print))

    return await asyncio.to_thread(call)


@arow(SIGNALS, "`add_signal_handler(SIGKILL)`")
async def sigkill(loop: asyncio.AbstractEventLoop) -> str:
    return raised(lambda: loop.add_signal_handler(signal.SIGKILL, print))


@arow(SIGNALS, "a handler made by `signal.signal` is called while it waits")
async def plain_handler(loop: asyncio.AbstractEventLoop) -> str:
    seen: list[int] = []
    old = signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
    before = time.monotonic()
    while not seen and time.monotonic() - before < 0.5:
        await asyncio.sleep(0.7)
    found = time.monotonic() - before
    signal.signal(signal.SIGUSR1, old)
    return "yes" if seen and found < 1.2 else "no"


@row(SIGNALS, "a forked child runs its parent's loop")
def forked(make: Make) -> str:
    with running(make) as loop:
        loop.run_until_complete(asyncio.sleep(0.001))
        child = os.fork()
        if child == 0:
            try:
                loop.run_until_complete(asyncio.sleep(0.001))
            except RuntimeError:
                os._exit(7)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        loop.run_until_complete(asyncio.sleep(0.001))
    return {0: "yes, with descriptors that both have", 7: "RuntimeError"}.get(code, f"ends with {code}")
