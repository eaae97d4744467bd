"""Signals: handlers of the loop, handlers of the program, and Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from .helpers import Factory, Thread, in_thread, step

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

USR1, USR2 = getattr(signal, "SIGUSR1", 0), getattr(signal, "SIGUSR2", 0)


def kill(signum: int) -> None:
    os.kill(os.getpid(), signum)


@pytest.fixture(autouse=True)
def _signals_are_as_before() -> Iterator[None]:
    """What a test sets is undone; and a loop that was closed must have left nothing set itself."""
    old = {signum: signal.getsignal(signum) for signum in (USR1, USR2, signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for signum, handler in old.items():
        signal.signal(signum, handler)
    assert signal.set_wakeup_fd(-1) == -1


# add_signal_handler


def test_a_handler_runs_in_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[Any] = []

    def handler(*args: Any) -> None:
        seen.append(args)
        seen.append(asyncio.get_running_loop() is loop)
        loop.stop()

    loop.add_signal_handler(USR1, handler, 1, "two")
    loop.call_soon(kill, USR1)
    loop.run_forever()
    assert seen == [(1, "two"), True]


def test_a_handler_runs_again_and_again(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []
    loop.add_signal_handler(USR1, seen.append, 1)

    async def main() -> None:
        for i in range(20):
            kill(USR1)
            async with asyncio.timeout(10):
                while len(seen) <= i:
                    await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert len(seen) == 20


def test_a_signal_wakes_an_idle_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.add_signal_handler(USR1, loop.stop)
    thread = Thread(lambda: (time.sleep(0.05), kill(USR1)))
    thread.start()
    loop.run_forever()
    thread.finish()


def test_a_signal_that_another_thread_received_wakes_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    def body() -> None:
        time.sleep(0.05)
        signal.pthread_kill(threading.get_ident(), USR1)

    loop.add_signal_handler(USR1, loop.stop)
    thread = Thread(body)
    thread.start()
    loop.run_forever()
    thread.finish()


def test_several_signals(loop: asyncio.AbstractEventLoop) -> None:
    seen: set[str] = set()
    words = {USR1: "usr1", USR2: "usr2", signal.SIGTERM: "term", signal.SIGINT: "int"}
    for signum, word in words.items():
        loop.add_signal_handler(signum, seen.add, word)

    async def main() -> None:
        for signum in words:
            kill(signum)
        async with asyncio.timeout(10):
            while len(seen) < 4:
                await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert seen == set(words.values())


def test_a_handler_replaces_the_one_before(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    loop.add_signal_handler(USR1, seen.append, "first")
    loop.add_signal_handler(USR1, seen.append, "second")
    loop.call_soon(kill, USR1)
    step(loop, 4)
    assert seen == ["second"]


def test_removing(loop: asyncio.AbstractEventLoop) -> None:
    assert loop.remove_signal_handler(USR1) is False
    loop.add_signal_handler(USR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    assert signal.getsignal(USR1) != signal.SIG_DFL
    assert loop.remove_signal_handler(USR1) is True
    assert loop.remove_signal_handler(USR1) is False
    assert loop.remove_signal_handler(signal.SIGINT) is True
    assert signal.getsignal(USR1) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_may_remove_itself(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[bool] = []

    def handler() -> None:
        seen.append(loop.remove_signal_handler(USR1))

    loop.add_signal_handler(USR1, handler)
    loop.call_soon(kill, USR1)
    step(loop, 4)
    assert seen == [True]
    assert signal.getsignal(USR1) == signal.SIG_DFL


def test_closing_the_loop_removes_all(loop: asyncio.AbstractEventLoop) -> None:
    loop.add_signal_handler(USR1, print)
    loop.add_signal_handler(USR2, print)
    loop.close()
    assert signal.getsignal(USR1) == signal.SIG_DFL
    assert signal.getsignal(USR2) == signal.SIG_DFL


def test_a_signal_while_the_loop_is_stopped_is_not_lost(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    loop.add_signal_handler(USR1, seen.append, "signal")
    step(loop)
    kill(USR1)
    assert seen == []
    step(loop, 4)
    assert seen == ["signal"]


def test_an_error_in_a_handler_is_reported(
    loop: asyncio.AbstractEventLoop, errors: list[dict[str, Any]]
) -> None:
    loop.add_signal_handler(USR1, divmod, 1, 0)
    loop.call_soon(kill, USR1)
    step(loop, 4)
    assert [type(error["exception"]) for error in errors] == [ZeroDivisionError]


def test_many_signals_at_once(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []
    loop.add_signal_handler(USR1, seen.append, 1)

    def burst() -> None:
        for _ in range(100):
            kill(USR1)

    loop.call_soon(burst)
    step(loop, 4)
    assert 1 <= len(seen) <= 100
    seen.clear()
    loop.call_soon(kill, USR1)
    step(loop, 4)
    assert seen == [1]


def test_what_is_refused(loop: asyncio.AbstractEventLoop) -> None:
    async def coroutine() -> None:
        pass

    for wrong in ("SIGINT", None, 1.5):
        with pytest.raises(TypeError, match="sig must be an int"):
            loop.add_signal_handler(wrong, print)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="sig must be an int"):
            loop.remove_signal_handler(wrong)  # type: ignore[arg-type]
    for wrong in (-1, 0, 1000):
        with pytest.raises(ValueError, match="invalid signal number"):
            loop.add_signal_handler(wrong, print)
        with pytest.raises(ValueError, match="invalid signal number"):
            loop.remove_signal_handler(wrong)
    for wrong in (signal.SIGKILL, signal.SIGSTOP):
        with pytest.raises(RuntimeError, match="cannot be caught"):
            loop.add_signal_handler(wrong, print)
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(USR1, coroutine)
    coro = coroutine()
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(USR1, coro)  # type: ignore[arg-type]
    coro.close()
    assert signal.getsignal(USR1) == signal.SIG_DFL


def test_other_threads_than_the_main_one_cannot_have_handlers(loop_factory: Factory) -> None:
    def body() -> None:
        loop = loop_factory()
        try:
            with pytest.raises(RuntimeError, match="main thread"):
                loop.add_signal_handler(USR1, print)
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            loop.close()

    in_thread(body)
    assert signal.getsignal(USR1) == signal.SIG_DFL


class Wakeup(NamedTuple):
    fd: int
    reader: socket.socket


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    """The wakeup descriptor of a program that looks after its signals itself."""
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        signal.set_wakeup_fd(right.fileno(), warn_on_full_buffer=False)
        yield Wakeup(right.fileno(), left)
        signal.set_wakeup_fd(-1)


def test_a_loop_without_handlers_leaves_the_wakeup_descriptor(
    loop: asyncio.AbstractEventLoop, wakeup: Wakeup
) -> None:
    loop.run_until_complete(asyncio.sleep(0.001))
    assert signal.set_wakeup_fd(wakeup.fd) == wakeup.fd
    loop.close()
    assert signal.set_wakeup_fd(wakeup.fd) == wakeup.fd


def test_nor_does_it_keep_signals_from_it(loop: asyncio.AbstractEventLoop, wakeup: Wakeup) -> None:
    """The program's handler is called, and its descriptor is written to,
    while the loop runs as before and after.
    """
    signal.signal(USR1, lambda _signum, _frame: None)
    for run in (loop.call_soon, loop.call_later):
        args = (0.01,) if run == loop.call_later else ()
        run(*args, kill, USR1)  # type: ignore[operator]
        loop.run_until_complete(asyncio.sleep(0.03))
        assert wakeup.reader.recv(100) == bytes([USR1])


@pytest.mark.ours
@pytest.mark.parametrize("by", ["close", "remove"])
def test_the_wakeup_descriptor_is_restored(loop: asyncio.AbstractEventLoop, wakeup: Wakeup, by: str) -> None:
    """Stock asyncio sets it to none at the end, whatever it was."""
    seen: list[str] = []
    loop.add_signal_handler(USR1, seen.append, "signal")
    loop.call_soon(kill, USR1)
    step(loop, 4)
    assert seen == ["signal"]
    if by == "remove":
        loop.remove_signal_handler(USR1)
        step(loop)
    else:
        loop.close()
    assert signal.set_wakeup_fd(wakeup.fd) == wakeup.fd


# handlers of the program itself


def test_a_handler_of_the_program_may_wake_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []

    def handler(_signum: int, _frame: Any) -> None:
        loop.call_soon_threadsafe(seen.append, "called")
        loop.call_soon_threadsafe(loop.stop)

    signal.signal(USR1, handler)
    thread = Thread(lambda: (time.sleep(0.05), kill(USR1)))
    thread.start()
    loop.run_forever()
    thread.finish()
    assert seen == ["called"]


class Alarm(Exception):
    """Raised by a signal handler."""


def _raise_alarm(_signum: int, _frame: Any) -> None:
    raise Alarm


def test_an_exception_from_a_handler_leaves_the_idle_loop(loop: asyncio.AbstractEventLoop) -> None:
    signal.signal(USR1, _raise_alarm)
    task = loop.create_task(asyncio.sleep(0.2, "slept"))
    main = threading.main_thread().ident
    assert main is not None
    thread = Thread(lambda: (time.sleep(0.05), signal.pthread_kill(main, USR1)))
    thread.start()
    with pytest.raises(Alarm):
        loop.run_forever()
    thread.finish()
    assert loop.run_until_complete(task) == "slept"


def test_signals_that_do_nothing_disturb_nothing(loop: asyncio.AbstractEventLoop) -> None:
    """Each interrupts the wait; the wait goes on for as long as it should."""
    caught: list[int] = []
    signal.signal(USR1, lambda signum, _frame: caught.append(signum))
    main = threading.main_thread().ident
    assert main is not None
    ended = threading.Event()

    def disturb() -> None:
        while not ended.wait(0.01):
            signal.pthread_kill(main, USR1)

    thread = Thread(disturb)
    thread.start()
    before = time.monotonic()
    try:
        loop.run_until_complete(asyncio.sleep(0.2))
    finally:
        ended.set()
        thread.finish()
    assert 0.199 <= time.monotonic() - before < 2
    assert caught


def test_a_first_sleep_without_descriptors(loop: asyncio.AbstractEventLoop) -> None:
    """The loop goes on, and hears of signals; when there are descriptors again, all is as ever."""
    resource = pytest.importorskip("resource")
    seen: list[int] = []
    signal.signal(USR1, lambda *_: seen.append(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    async def signalled(count: int) -> None:
        timer = threading.Timer(0.02, kill, (USR1,))
        timer.start()
        async with asyncio.timeout(10):
            while len(seen) < count:
                await asyncio.sleep(0.01)
        timer.join()

    async def main() -> None:
        readable = asyncio.Event()
        here, there = socket.socketpair()
        with here, there:  # so that the driver is there, and has not slept
            loop.add_reader(here, readable.set)
            there.send(b"x")
            while not readable.is_set():
                await asyncio.sleep(0)
            loop.remove_reader(here)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, hard))
        try:
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                while True:
                    taken.append(os.dup(0))
            await signalled(1)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for fd in taken:
                os.close(fd)
        await signalled(2)

    loop.run_until_complete(main())
