"""Workers and IO threads: neither keeps the other waiting, and each can be told by its name."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from loop.helpers import run_script

from proactorx import EventLoop, IOThreadPool

from .support import LIMIT, Blocker, until

pytestmark = pytest.mark.ours


def running() -> EventLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, EventLoop)
    return loop


@contextlib.asynccontextmanager
async def saturated_workers() -> AsyncIterator[None]:
    """Every worker blocks, and as many calls again wait for one."""
    with Blocker() as block:
        running().set_default_executor(ThreadPoolExecutor(3))
        blocked = [running().run_in_executor(None, block) for _ in range(6)]
        await block.begun(running(), 3)
        yield
        assert not any(future.done() for future in blocked), "they have blocked all the time"
    await asyncio.wait(blocked, timeout=LIMIT)


async def test_a_full_executor_delays_no_io(tmp_path: Path) -> None:
    loop = running()
    async with saturated_workers(), asyncio.timeout(LIMIT):
        assert await loop.getaddrinfo("localhost", 80)
        assert await loop.getnameinfo(("127.0.0.1", 80))
        fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
        try:
            assert await loop.io_pool.call(loop, os.pwrite, fd, b"abc", 0) == 3
            await loop.io_pool.call(loop, os.fsync, fd)
            assert await loop.io_pool.call(loop, os.pread, fd, 3, 0) == b"abc"
        finally:
            os.close(fd)


async def test_full_io_threads_delay_no_worker() -> None:
    loop = running()
    with Blocker() as block:
        loop.io_pool.min_threads = loop.io_pool.max_threads = 8
        blocked = [loop.io_pool.call(loop, block) for _ in range(16)]
        await block.begun(loop, 8)
        async with asyncio.timeout(LIMIT):
            assert await loop.run_in_executor(None, abs, -1) == 1
            assert await asyncio.to_thread(abs, -2) == 2
        assert not any(future.done() for future in blocked)
        assert loop.io_pool.stats().working == 8
    await asyncio.wait(blocked, timeout=LIMIT)


def name_of(kind: str) -> str:
    """The name of this thread, as Python has it and as the system has it."""
    name = threading.current_thread().name
    if sys.platform.startswith("linux"):
        comm = Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().rstrip("\n")
        assert comm == name[:15], kind
    assert threading.current_thread() in threading.enumerate()
    return name


async def test_names() -> None:
    loop = running()
    assert re.fullmatch(r"proactorx-io-\d+", await loop.io_pool.call(loop, name_of, "io"))
    assert re.fullmatch(r"proactorx-worker-[1-9]\d*", await loop.run_in_executor(None, name_of, "worker"))
    assert re.fullmatch(r"proactorx-worker-[1-9]\d*", await asyncio.to_thread(name_of, "worker"))


async def test_workers_are_numbered() -> None:
    with Blocker() as block:
        names: list[str] = []
        futures = [
            running().run_in_executor(None, lambda: (names.append(name_of("worker")), block()))
            for _ in range(3)
        ]
        await block.begun(running(), 3)
    await asyncio.gather(*futures)
    assert sorted(names) == ["proactorx-worker-1", "proactorx-worker-2", "proactorx-worker-3"]


def test_numbers_of_threads_that_have_ended_are_used_again() -> None:
    def round_of_names() -> set[str]:
        names: set[str] = set()
        with IOThreadPool(3, 3) as pool, Blocker() as block:
            for _ in range(3):
                pool.queue(lambda: (names.add(threading.current_thread().name), block()))
            block.wait_for(3)
        return names

    assert round_of_names() == round_of_names()


async def test_an_executor_of_the_users_own_keeps_its_names() -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
        running().set_default_executor(executor)
        assert (await running().run_in_executor(None, lambda: threading.current_thread().name)).startswith(
            "mine"
        )


async def test_shutting_down_the_executor_leaves_the_io_threads() -> None:
    loop = running()
    await loop.run_in_executor(None, int)
    await loop.shutdown_default_executor()
    with pytest.raises(RuntimeError, match="shutdown"):
        loop.run_in_executor(None, int)
    assert await loop.io_pool.call(loop, abs, -1) == 1


def test_a_closed_loop_makes_no_workers(loop: asyncio.AbstractEventLoop) -> None:
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.run_in_executor(None, int)
    assert loop._default_executor is None  # type: ignore[attr-defined]


def test_streams_need_no_thread(loop_factory: object) -> None:
    """What the driver does itself runs on no thread of either pool."""
    source = """
    import socket, threading
    async def main():
        async def serve(reader, writer):
            writer.write(await reader.readexactly(5))
            writer.close()
            await writer.wait_closed()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        print(await reader.read())
        writer.close()
        await writer.wait_closed()
        server.close()
        print([thread.name for thread in threading.enumerate()], loop._io_pool, loop._default_executor)
    loop = new_loop()
    loop.run_until_complete(main())
    loop.close()
    """
    said = run_script(loop_factory, source)  # type: ignore[arg-type]
    assert said == "b'hello'\n['MainThread'] None None\n"


async def test_lookups_run_on_io_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    for function in ("getaddrinfo", "getnameinfo"):
        real = getattr(socket, function)

        def noting(*args: Any, real: Any = real, **kwargs: Any) -> Any:
            names.append(threading.current_thread().name)
            return real(*args, **kwargs)

        monkeypatch.setattr(socket, function, noting)
    server = await running().create_server(asyncio.Protocol, "127.0.0.1", 0)
    names.clear()
    transport, _ = await running().create_connection(
        asyncio.Protocol, "localhost", server.sockets[0].getsockname()[1]
    )
    transport.close()
    server.close()
    await running().getnameinfo(("127.0.0.1", 80))
    assert len(names) >= 2
    assert all(name.startswith("proactorx-io-") for name in names)


async def test_the_fall_back_of_sendfile_reads_on_io_threads() -> None:
    names: list[str] = []

    class File(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            names.append(threading.current_thread().name)
            return super().readinto(buffer)

    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        async with saturated_workers(), asyncio.timeout(LIMIT):
            assert await running().sock_sendfile(left, File(b"in memory")) == 9
        transport, _ = await running().create_connection(asyncio.Protocol, sock=left)
        async with saturated_workers(), asyncio.timeout(LIMIT):
            assert await running().sendfile(transport, File(b" and more")) == 9
        assert right.recv(100) == b"in memory and more"
        transport.close()
    assert len(names) >= 4
    assert all(name.startswith("proactorx-io-") for name in names)


def test_the_other_two_threads() -> None:
    """The gate's lives while packets wait; the one that takes packets, while the pool has a port."""

    def others() -> set[str]:
        return {thread.name for thread in set(threading.enumerate()) - before if "-io-" not in thread.name}

    before = set(threading.enumerate())
    with IOThreadPool(1, 2, gate=0.02) as pool, Blocker() as block:
        pool.queue(block)
        block.wait_for()
        assert others() == set()
        pool.queue(block)
        block.wait_for()
        assert others() <= {"proactorx-gate"}
        assert pool.stats().log[-1].reason == "starvation"
        until(lambda: others() == set())
        if sys.platform != "win32":
            assert pool.port.queued == 0
            assert others() == {"proactorx-poll"}
    until(lambda: others() == set())


def test_the_example_of_the_docs(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "pages" / "two-pools.md"
    if not page.exists():
        pytest.skip("the documentation is not here")
    example = page.read_text().partition("```python\n")[2].partition("```")[0]
    call = "print(asyncio.run(size('.')) > 0)\n\npool.close()"
    assert run_script(None, example.replace("pool.close()", call)) == "True\n"
