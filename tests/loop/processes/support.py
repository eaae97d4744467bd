"""Children for the tests, and a protocol that takes notes of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from transports.support import Notes

needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux's")
needs_waitid = pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs waitid(2)")


def without_wait_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a kernel whose io_uring has no WAITID: before Linux 6.7."""
    from proactorx.loop.processes import Processes

    monkeypatch.setattr(Processes, "_has_wait_child", False)


def children() -> set[int]:
    """The pids of this process's children, dead ones that nobody has reaped among them (Linux)."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(map(int, path.read_text().split()))
    return found


async def start(*argv: str, **options: Any) -> Process:
    return await asyncio.create_subprocess_exec(*argv, **options)


async def sh(script: str, **options: Any) -> Process:
    return await asyncio.create_subprocess_exec("/bin/sh", "-c", script, **options)


@contextlib.asynccontextmanager
async def waiting(**options: Any) -> AsyncIterator[Process]:
    """A child that ends when its input does; killed at the end."""
    process = await start("cat", stdin=PIPE, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        assert process.stdin is not None
        process.stdin.close()
        await gone(process)


def _closed(pipe: Any) -> bool:
    if sys.platform == "win32":
        return pipe.handle is None  # a PipeHandle of asyncio.windows_utils
    return bool(pipe.closed)


async def gone(process: Process) -> None:
    """Let the transport of a child that has ended come to its own end, and its pipes be closed."""
    transport: Any = process._transport  # type: ignore[attr-defined]
    files = [pipe.pipe.get_extra_info("pipe") for pipe in transport._pipes.values()]
    async with asyncio.timeout(10):
        while transport._proc is not None or not all(map(_closed, files)):
            await asyncio.sleep(0)


class Log(Notes, asyncio.SubprocessProtocol):
    """A subprocess protocol that keeps what it is given, by descriptor."""

    def __init__(self, **hooks: Any) -> None:
        super().__init__(**hooks)
        self.pipes: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.pipes[fd] += data
        self.note("data", fd, data)

    def pipe_connection_lost(self, fd: int, exc: BaseException | None) -> None:
        self.note(f"lost {fd}", exc)

    def process_exited(self) -> None:
        self.note("process_exited")


PYTHON = (sys.executable, "-S", "-c")
