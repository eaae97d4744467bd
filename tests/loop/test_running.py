"""run_forever, run_until_complete and stop."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from typing import Any

import pytest

from .helpers import Factory, Thread, in_thread, step


async def answer() -> int:
    await asyncio.sleep(0)
    return 42


# run_until_complete


def test_result_and_exception(loop: asyncio.AbstractEventLoop) -> None:
    async def fail() -> None:
        raise LookupError("mine")

    assert loop.run_until_complete(answer()) == 42
    with pytest.raises(LookupError, match="mine"):
        loop.run_until_complete(fail())
    assert loop.run_until_complete(answer()) == 42


def test_what_can_be_awaited_can_be_run(loop: asyncio.AbstractEventLoop) -> None:
    class Awaitable:
        def __await__(self) -> Any:
            return answer().__await__()

    future = loop.create_future()
    loop.call_soon(future.set_result, "future")
    assert loop.run_until_complete(Awaitable()) == 42
    assert loop.run_until_complete(future) == "future"
    assert loop.run_until_complete(future) == "future", "a future that is done already"
    assert loop.run_until_complete(loop.create_task(answer())) == 42


@pytest.mark.parametrize("thing", [None, 5, "text", print, answer])
def test_what_cannot_be_awaited_is_refused(loop: asyncio.AbstractEventLoop, thing: Any) -> None:
    with pytest.raises(TypeError):
        loop.run_until_complete(thing)
    assert loop.run_until_complete(answer()) == 42


def test_a_cancelled_task(loop: asyncio.AbstractEventLoop) -> None:
    task = loop.create_task(asyncio.sleep(100))
    loop.call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_a_future_of_another_loop(loop: asyncio.AbstractEventLoop, loop_factory: Factory) -> None:
    other = loop_factory()
    try:
        with pytest.raises(ValueError, match="The future belongs to a different loop"):
            loop.run_until_complete(other.create_future())
    finally:
        other.close()


def test_awaiting_a_future_of_another_loop(loop: asyncio.AbstractEventLoop, loop_factory: Factory) -> None:
    other = loop_factory()

    async def main() -> None:
        await other.create_future()

    try:
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            loop.run_until_complete(main())
    finally:
        other.close()


def test_stopped_before_completion(loop: asyncio.AbstractEventLoop) -> None:
    future = loop.create_future()
    loop.call_soon(loop.stop)
    with pytest.raises(RuntimeError, match=r"^Event loop stopped before Future completed\.$"):
        loop.run_until_complete(future)
    future.set_result("late")
    assert loop.run_until_complete(future) == "late"


def test_a_task_stopped_before_completion_goes_on_later(loop: asyncio.AbstractEventLoop) -> None:
    async def body() -> str:
        loop.stop()
        await asyncio.sleep(0.001)
        return "done"

    task = loop.create_task(body())
    with pytest.raises(RuntimeError, match="stopped before"):
        loop.run_until_complete(task)
    assert loop.run_until_complete(task) == "done"


def test_a_loop_cannot_be_entered_twice(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        future = loop.create_future()
        with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
            loop.run_until_complete(future)

    loop.run_until_complete(main())
    assert loop.run_until_complete(answer()) == 42


def test_nor_another_loop_within_it(loop: asyncio.AbstractEventLoop, loop_factory: Factory) -> None:
    other = loop_factory()

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"^Cannot run the event loop while another loop is running$"):
            other.run_until_complete(other.create_future())
        assert not other.is_running()
        assert asyncio.get_running_loop() is loop

    try:
        loop.run_until_complete(main())
        assert other.run_until_complete(answer()) == 42
    finally:
        other.close()


@pytest.mark.ours
def test_nor_with_run_forever(loop: asyncio.AbstractEventLoop, loop_factory: Factory) -> None:
    """Stock asyncio of Python 3.13.0 refuses too, but forgets the running loop while it does."""
    other = loop_factory()

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=r"^This event loop is already running$"):
                loop.run_forever()
            with pytest.raises(
                RuntimeError, match=r"^Cannot run the event loop while another loop is running$"
            ):
                other.run_forever()
        assert asyncio.get_running_loop() is loop
        assert loop.is_running()
        assert not other.is_running()
        await asyncio.sleep(0)

    try:
        loop.run_until_complete(main())
    finally:
        other.close()


def test_nor_from_another_thread(loop: asyncio.AbstractEventLoop) -> None:
    future = loop.create_future()

    def intrude() -> None:
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_until_complete(future)

    async def main() -> None:
        await asyncio.to_thread(in_thread, intrude)
        await asyncio.sleep(0)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())


def test_asyncio_run_within_a_running_loop(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        coro = answer()
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            asyncio.run(coro)
        coro.close()

    loop.run_until_complete(main())


# run_forever and stop


def test_running_is_known_inside_and_not_outside(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[object] = []

    def look() -> None:
        seen.append(loop.is_running())
        seen.append(asyncio.get_running_loop())
        loop.stop()

    assert not loop.is_running()
    loop.call_soon(look)
    loop.run_forever()
    assert seen == [True, loop]
    assert not loop.is_running()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_stop_lets_the_turn_finish_and_keeps_the_rest(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []

    def stop() -> None:
        loop.stop()
        loop.call_soon(seen.append, "scheduled after stop")

    loop.call_soon(stop)
    loop.call_soon(seen.append, "same turn")
    loop.run_forever()
    assert seen == ["same turn"]
    step(loop)
    assert seen == ["same turn", "scheduled after stop"]


def test_stop_before_run_makes_one_turn(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    loop.call_soon(seen.append, "soon")
    loop.call_soon(loop.call_soon, seen.append, "next turn")
    loop.call_later(0, seen.append, "due")
    loop.call_later(100, seen.append, "later")
    loop.stop()
    loop.stop()
    loop.run_forever()
    assert seen == ["soon", "due"]
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert seen == ["soon", "due", "next turn"], "stop() is forgotten once the loop has stopped"


def test_stop_before_run_of_an_idle_loop_returns(loop: asyncio.AbstractEventLoop) -> None:
    for _ in range(3):
        loop.stop()
        loop.run_forever()


def test_stop_before_run_serves_ready_sockets(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[bytes] = []
    left, right = socket.socketpair()
    with left, right:
        loop.add_reader(left, lambda: seen.append(left.recv(10)))
        right.send(b"ready")
        loop.stop()
        loop.run_forever()
        loop.remove_reader(left)
    assert seen == [b"ready"]


def test_stop_from_another_thread(loop: asyncio.AbstractEventLoop) -> None:
    running = threading.Event()
    thread = Thread(lambda: running.wait(10) and loop.call_soon_threadsafe(loop.stop))
    thread.start()
    loop.call_soon(running.set)
    loop.run_forever()
    thread.finish()


def test_a_loop_runs_again_and_again(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[int] = []
    for i in range(200):
        loop.call_soon(seen.append, i)
        step(loop)
    for _ in range(200):
        assert loop.run_until_complete(answer()) == 42
    assert seen == list(range(200))


def test_the_thread_is_left_as_it_was(loop: asyncio.AbstractEventLoop) -> None:
    async def fail() -> None:
        raise LookupError

    hooks = sys.get_asyncgen_hooks()
    depth = sys.get_coroutine_origin_tracking_depth()
    loop.set_debug(True)
    with pytest.raises(LookupError):
        loop.run_until_complete(fail())
    step(loop)
    assert sys.get_asyncgen_hooks() == hooks
    assert sys.get_coroutine_origin_tracking_depth() == depth
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_leaving_by_an_exception_leaves_the_thread_as_it_was(loop: asyncio.AbstractEventLoop) -> None:
    def leave() -> None:
        raise SystemExit(3)

    hooks = sys.get_asyncgen_hooks()
    loop.call_soon(leave)
    with pytest.raises(SystemExit):
        loop.run_forever()
    assert sys.get_asyncgen_hooks() == hooks
    assert not loop.is_running()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
    assert loop.run_until_complete(answer()) == 42


def test_runner(loop_factory: Factory) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    async def main(word: str) -> str:
        loops.append(asyncio.get_running_loop())
        return word

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main("one")) == "one"
        assert runner.run(main("two")) == "two"
        assert runner.get_loop() is loops[0]
        assert type(loops[0]) is type(loop_factory_probe(loop_factory))
    assert loops[0] is loops[1]
    assert loops[0].is_closed()


def loop_factory_probe(factory: Factory) -> asyncio.AbstractEventLoop:
    loop = factory()
    loop.close()
    return loop


def test_runner_cancels_what_is_left(loop_factory: Factory) -> None:
    ended: list[str] = []

    async def linger() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("task")

    async def generate() -> Any:
        try:
            yield 1
            yield 2
        finally:
            ended.append("generator")

    async def main() -> None:
        kept.append(asyncio.create_task(linger()))
        generator = generate()
        kept.append(generator)
        await anext(generator)
        await asyncio.to_thread(ended.append, "thread")

    kept: list[Any] = []
    before = threading.active_count()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
    assert ended == ["thread", "task", "generator"]
    assert threading.active_count() == before
