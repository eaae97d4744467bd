"""Asynchronous generators: the loop knows those that are suspended, and ends them."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from .helpers import run_until, step


async def count(ended: list[str], name: str = "ended") -> AsyncGenerator[int, None]:
    try:
        for i in range(1000):
            yield i
    finally:
        await asyncio.sleep(0)
        ended.append(name)


def test_shutdown_ends_suspended_generators(loop: asyncio.AbstractEventLoop) -> None:
    ended: list[str] = []
    kept = [count(ended, "one"), count(ended, "two"), count(ended, "never started")]

    async def main() -> None:
        await anext(kept[0])
        await anext(kept[1])

    loop.run_until_complete(main())
    assert ended == []
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert sorted(ended) == ["one", "two"]
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert sorted(ended) == ["one", "two"]


def test_shutdown_without_generators(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(loop.shutdown_asyncgens())


def test_a_generator_left_in_the_middle_is_ended_by_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    ended: list[str] = []

    async def main() -> None:
        async for i in count(ended):
            if i == 3:
                break
        gc.collect()
        async with asyncio.timeout(10):
            while not ended:
                await asyncio.sleep(0)

    loop.run_until_complete(main())
    assert ended == ["ended"]


def test_a_generator_collected_in_another_thread_is_ended_in_the_loops(
    loop: asyncio.AbstractEventLoop,
) -> None:
    ended: list[str] = []
    kept = [count(ended)]

    async def main() -> None:
        await anext(kept[0])
        await asyncio.to_thread(kept.clear)
        gc.collect()

    loop.run_until_complete(main())
    run_until(loop, lambda: bool(ended))
    loop.run_until_complete(loop.shutdown_default_executor())


def test_an_error_while_ending_one_is_reported_and_others_are_ended(
    loop: asyncio.AbstractEventLoop, errors: list[dict[str, Any]]
) -> None:
    ended: list[str] = []

    async def bad() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            raise LookupError("in finally")

    kept: list[Any] = [bad(), count(ended), bad()]

    async def main() -> None:
        for generator in kept:
            await anext(generator)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert ended == ["ended"]
    assert [type(error["exception"]) for error in errors] == [LookupError, LookupError]
    assert {error["asyncgen"] for error in errors} == {kept[0], kept[2]}
    assert all("asynchronous generator" in error["message"] for error in errors)


def test_a_generator_started_after_the_shutdown_is_warned_about(loop: asyncio.AbstractEventLoop) -> None:
    ended: list[str] = []

    async def main() -> None:
        generator = count(ended)
        with pytest.warns(ResourceWarning, match="was scheduled after"):
            await anext(generator)
        await generator.aclose()

    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(main())
    assert ended == ["ended"]


def test_the_hooks_of_the_thread_are_restored(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []

    def firstiter(_generator: Any) -> None:
        seen.append("firstiter")

    def finalizer(_generator: Any) -> None:
        seen.append("finalizer")

    async def main() -> None:
        hooks = sys.get_asyncgen_hooks()
        assert hooks.firstiter is not firstiter
        assert hooks.finalizer is not finalizer
        async for _ in count([]):
            break

    old = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(firstiter, finalizer)
    try:
        loop.run_until_complete(main())
        step(loop, 4)
        assert tuple(sys.get_asyncgen_hooks()) == (firstiter, finalizer)
    finally:
        sys.set_asyncgen_hooks(*old)
    assert seen == []


def test_closing_a_generator_that_a_task_is_reading(loop: asyncio.AbstractEventLoop) -> None:
    ended: list[str] = []

    async def wait() -> AsyncGenerator[int, None]:
        try:
            yield 1
            await asyncio.sleep(1000)
            yield 2
        finally:
            ended.append("ended")

    async def read() -> None:
        async for _ in wait():
            pass

    async def main() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_asyncgens())
    assert ended == ["ended"]
