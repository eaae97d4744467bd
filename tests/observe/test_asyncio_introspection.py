"""asyncio's own introspection, of Python 3.14 and later, works on this loop."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

import proactorx

pytestmark = pytest.mark.skipif(sys.version_info < (3, 14), reason="Python has it since 3.14")


async def test_the_call_graph_of_another_task() -> None:
    capture: Any = getattr(asyncio, "capture_call_graph", None)

    async def inner() -> None:
        await asyncio.sleep(100)

    async def outer() -> None:
        await inner()

    async def waits() -> None:
        await task

    task = asyncio.create_task(outer(), name="outer")
    waiter = asyncio.create_task(waits(), name="waits")
    await asyncio.sleep(0.001)
    graph = capture(task)
    names = [entry.frame.f_code.co_name for entry in graph.call_stack]
    assert names[:3] == ["sleep", "inner", "outer"]
    assert [each.future.get_name() for each in graph.awaited_by] == ["waits"]
    waiter.cancel()
    task.cancel()
    await asyncio.gather(task, waiter, return_exceptions=True)


async def test_the_call_graph_of_the_task_itself() -> None:
    capture: Any = getattr(asyncio, "capture_call_graph", None)
    graph = capture()
    assert graph.future is asyncio.current_task()
    assert "test_the_call_graph_of_the_task_itself" in {
        entry.frame.f_code.co_name for entry in graph.call_stack
    }


@pytest.mark.ours
def test_tasks_of_a_loop_of_another_thread(loop: proactorx.EventLoop) -> None:
    import concurrent.futures

    async def main() -> tuple[set[str], str | None]:
        await asyncio.sleep(0.001)
        with concurrent.futures.ThreadPoolExecutor() as threads:
            return await loop.run_in_executor(threads, look)

    def look() -> tuple[set[str], str | None]:
        return {task.get_name() for task in asyncio.all_tasks(loop)}, None

    names, _ = loop.run_until_complete(main())
    assert len(names) == 1
