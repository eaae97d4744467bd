"""Calls from other threads, and loops in several threads at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from .helpers import Factory, Thread, in_thread, run_until, socket_pair, step


def started(*bodies: Callable[[], Any]) -> list[Thread]:
    threads = [Thread(body) for body in bodies]
    for thread in threads:
        thread.start()
    return threads


def test_calls_of_many_threads_keep_their_order_and_none_is_lost(loop: asyncio.AbstractEventLoop) -> None:
    senders, count = 8, 2000
    seen: dict[int, list[int]] = {sender: [] for sender in range(senders)}
    barrier = threading.Barrier(senders)

    def send(sender: int) -> None:
        barrier.wait(10)
        for i in range(count):
            loop.call_soon_threadsafe(seen[sender].append, i)

    threads = started(*(lambda n=n: send(n) for n in range(senders)))
    run_until(loop, lambda: all(len(got) == count for got in seen.values()))
    for thread in threads:
        thread.finish()
    step(loop)
    assert all(got == list(range(count)) for got in seen.values())


def test_an_idle_loop_is_woken_each_time(loop: asyncio.AbstractEventLoop) -> None:
    """Nothing but the calls themselves wakes this loop, so a lost wake-up hangs the test."""
    rounds = 300
    answered = threading.Event()
    slowest = [0.0]

    def ask() -> None:
        for _ in range(rounds):
            answered.clear()
            before = time.monotonic()
            loop.call_soon_threadsafe(answered.set)
            assert answered.wait(10), "the loop was not woken"
            slowest[0] = max(slowest[0], time.monotonic() - before)
        loop.call_soon_threadsafe(loop.stop)

    (thread,) = started(ask)
    loop.run_forever()
    thread.finish()
    assert slowest[0] < 2


def test_an_idle_loop_is_woken_though_a_timer_is_far(loop: asyncio.AbstractEventLoop) -> None:
    far = loop.call_later(3600, print)
    (thread,) = started(lambda: (time.sleep(0.05), loop.call_soon_threadsafe(loop.stop)))
    before = time.monotonic()
    loop.run_forever()
    assert time.monotonic() - before < 5
    thread.finish()
    far.cancel()


def test_calls_made_before_the_loop_runs(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    in_thread(lambda: loop.call_soon_threadsafe(seen.append, "threadsafe"))
    loop.call_soon(seen.append, "soon")
    in_thread(lambda: loop.call_soon_threadsafe(seen.append, "threadsafe again"))
    assert seen == []
    step(loop)
    assert sorted(seen) == ["soon", "threadsafe", "threadsafe again"]
    assert seen.index("threadsafe") < seen.index("threadsafe again")


def test_from_the_loops_own_thread_it_is_call_soon(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []

    def schedule() -> None:
        for i in range(0, 10, 2):
            loop.call_soon(seen.append, i)
            loop.call_soon_threadsafe(seen.append, i + 1)

    loop.call_soon(schedule)
    step(loop, 3)
    assert seen == list(range(10))


def test_a_burst_while_the_loop_is_busy_blocks_nobody(loop: asyncio.AbstractEventLoop) -> None:
    """More calls than any pipe holds bytes, while nobody reads it."""
    seen: list[int] = []
    count = 100_000

    def burst() -> None:
        for i in range(count):
            loop.call_soon_threadsafe(seen.append, i)

    loop.call_soon(in_thread, burst)
    step(loop, 2)
    run_until(loop, lambda: len(seen) == count)
    assert seen == list(range(count))


def test_a_call_can_be_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    handle = in_thread(lambda: loop.call_soon_threadsafe(seen.append, "cancelled"))
    in_thread(lambda: loop.call_soon_threadsafe(seen.append, "kept"))
    handle.cancel()
    step(loop)
    assert seen == ["kept"]


def test_threads_that_call_while_the_loop_is_closed_get_an_error(loop_factory: Factory) -> None:
    """Each call is either taken or refused; the refusal is the closed loop's RuntimeError and nothing
    else.
    """
    for _ in range(5):
        loop = loop_factory()
        begun = threading.Barrier(4)

        def call(loop: asyncio.AbstractEventLoop = loop, begun: threading.Barrier = begun) -> None:
            begun.wait(10)
            deadline = time.monotonic() + 10
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                while time.monotonic() < deadline:
                    loop.call_soon_threadsafe(int)

        threads = started(call, call, call)
        begun.wait(10)
        step(loop, 20)
        loop.close()
        for thread in threads:
            thread.finish()


def test_two_loops_that_call_each_other(loop_factory: Factory) -> None:
    loops = [loop_factory(), loop_factory()]
    seen: list[int] = []

    def pass_on(count: int) -> None:
        seen.append(count)
        if count == 600:
            for loop in loops:
                loop.call_soon_threadsafe(loop.stop)
        else:
            loops[count % 2].call_soon_threadsafe(pass_on, count + 1)

    loops[0].call_soon(pass_on, 1)
    threads = started(*(loop.run_forever for loop in loops))
    for thread in threads:
        thread.finish()
    for loop in loops:
        loop.close()
    assert seen == list(range(1, 601))


def test_loops_in_several_threads_at_once(loop_factory: Factory) -> None:
    count = 6
    met = threading.Barrier(count)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()
        await writer.wait_closed()

    async def main(number: int) -> int:
        loop = asyncio.get_running_loop()
        met.wait(10)
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            with socket_pair() as (left, right):
                for i in range(50):
                    word = b"%d:%d" % (number, i)
                    writer.write(word)
                    assert await reader.readexactly(len(word)) == word
                    await loop.sock_sendall(left, word)
                    assert await loop.sock_recv(right, 100) == word
                    await asyncio.sleep(0.0001)
            writer.close()
            await writer.wait_closed()
        assert asyncio.get_running_loop() is loop
        assert await asyncio.to_thread(abs, -number) == number
        return number

    def body(number: int) -> int:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(main(number))

    threads = started(*(lambda n=n: body(n) for n in range(count)))
    assert [thread.finish() for thread in threads] == list(range(count))


def test_each_thread_knows_its_own_loop(loop_factory: Factory, loop: asyncio.AbstractEventLoop) -> None:
    async def inner() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def other() -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            assert runner.run(inner()) is runner.get_loop()
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()

    async def main() -> None:
        await asyncio.to_thread(in_thread, other)
        assert asyncio.get_running_loop() is loop

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())


def test_loops_made_and_closed_in_many_threads_at_once(loop_factory: Factory) -> None:
    def body() -> int:
        for _ in range(10):
            loop = loop_factory()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
        return 10

    threads = started(*[body] * 5)
    assert [thread.finish() for thread in threads] == [10] * 5
