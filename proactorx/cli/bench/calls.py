"""Calls on a loop alone: each function makes one batch and returns how many calls that were."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from typing import Any

BATCH = 1000
READS = 50
BLOCK = 4096

Batch = Callable[[], Awaitable[int]]


def _nothing() -> None:
    pass


async def _end() -> None:
    pass


async def _schedule(call: Callable[..., object]) -> int:
    done = asyncio.get_running_loop().create_future()
    for _ in range(BATCH):
        call(_nothing)
    call(done.set_result, None)
    await done
    return BATCH


async def call_soon() -> int:
    """Callbacks that do nothing."""
    return await _schedule(asyncio.get_running_loop().call_soon)


async def call_soon_threadsafe() -> int:
    """The same through the call for other threads, without their waits for the GIL."""
    return await _schedule(asyncio.get_running_loop().call_soon_threadsafe)


async def task_create() -> int:
    """Tasks that end at their first step."""
    create = asyncio.get_running_loop().create_task
    tasks = [create(_end()) for _ in range(BATCH)]
    for task in tasks:
        await task
    return BATCH


async def timers() -> int:
    """Timers that are due within a millisecond, and fire."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    call, now = loop.call_at, loop.time()
    for number in range(BATCH):
        call(now + number * 1e-6, _nothing)
    call(now + BATCH * 1e-6, done.set_result, None)
    await done
    return BATCH


async def reads(path: str, ours: bool) -> Batch:
    """Return the batch that reads blocks of a file at random positions, one at a time."""
    blocks = os.stat(path).st_size // BLOCK
    choose = random.Random(1).randrange
    loop = asyncio.get_running_loop()
    if ours:
        from proactorx import files

        file: Any = await files.open(path, "rb")

        async def read() -> int:
            for _ in range(READS):
                await file.pread(BLOCK, choose(blocks) * BLOCK)
            return READS

        return read
    plain = open(path, "rb", buffering=0)  # noqa: ASYNC230, SIM115, once, before the measurement

    def read_at(offset: int) -> bytes | None:
        plain.seek(offset)
        return plain.read(BLOCK)

    async def read_elsewhere() -> int:
        for _ in range(READS):
            at = choose(blocks) * BLOCK
            if hasattr(os, "pread"):
                await loop.run_in_executor(None, os.pread, plain.fileno(), BLOCK, at)
            else:
                await loop.run_in_executor(None, read_at, at)
        return READS

    return read_elsewhere


CALLS: dict[str, Batch] = {
    "call_soon": call_soon,
    "call_soon_threadsafe": call_soon_threadsafe,
    "task_create": task_create,
    "timers": timers,
}
