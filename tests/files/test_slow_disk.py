"""A file system that another process answers for, as a server of files would:
the loop's thread never waits for it.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from loop.helpers import script_environment

import proactorx.drivers
from proactorx import files

from . import slow_disk

LIMIT = 10


class SlowDisk:
    """The server, and what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "f")
        self.requests: asyncio.Queue[str] = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        command = [sys.executable, slow_disk.__file__, str(folder)]
        self.server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.server.stdout is not None
        for line in self.server.stdout:
            self.loop.call_soon_threadsafe(self.requests.put_nowait, line.decode())
        self.loop.call_soon_threadsafe(self.requests.put_nowait, "")

    async def serve(self, awaitable: Awaitable[Any]) -> Any:
        """The outcome of an operation, each of whose requests is answered when the loop has been seen to go
        on.
        """
        assert self.server.stdin is not None
        task = asyncio.ensure_future(awaitable)
        self.asked = 0
        while not task.done():
            request = asyncio.ensure_future(self.requests.get())
            await asyncio.wait({task, request}, return_when=asyncio.FIRST_COMPLETED, timeout=2 * LIMIT)
            if not request.done():
                request.cancel()
                break
            for _ in range(3):
                await asyncio.sleep(0.001)
            assert not task.done()  # or else the loop had stood still until the server had lost its patience
            self.asked += 1
            self.server.stdin.write(b"x")
            self.server.stdin.flush()
        assert self.asked
        return await task

    async def close(self) -> None:
        self.server.kill()
        await asyncio.to_thread(self.reader.join)
        self.server.communicate()


@pytest_asyncio.fixture
async def disk(tmp_path: Path) -> AsyncIterator[SlowDisk]:
    if not os.access("/dev/fuse", os.W_OK) or os.geteuid():
        pytest.skip("mounting takes root, and /dev/fuse")
    folder = tmp_path / "slow"
    folder.mkdir()
    disk = SlowDisk(folder)
    try:
        if await asyncio.wait_for(disk.requests.get(), LIMIT) != "ready\n":
            await asyncio.to_thread(disk.server.wait)
            assert disk.server.stderr is not None
            pytest.skip(f"mounting FUSE: {disk.server.stderr.read().decode().strip()}")
        yield disk
    finally:
        await disk.close()
        await asyncio.to_thread(
            subprocess.run, ["umount", "-l", str(folder)], capture_output=True, check=False
        )


async def test_the_loop_goes_on(disk: SlowDisk) -> None:
    for buffering in (0, -1):
        handle = await disk.serve(files.open(disk.path, "rb", buffering))
        assert await disk.serve(handle.read(10)) == slow_disk.DATA[:10]
        assert await disk.serve(handle.pread(10, 300)) == slow_disk.DATA[300:310]
        buffer = bytearray(20)
        assert await disk.serve(handle.pread_into(buffer, 5)) == 20
        assert buffer == slow_disk.DATA[5:25]
        await handle.close()
    handle = await disk.serve(files.open(disk.path, "rb", 0))
    large = bytearray(10_000)
    reading = asyncio.ensure_future(handle.readinto(large))
    disk.requests.put_nowait(await disk.requests.get())
    with pytest.raises(BufferError):  # it is read straight into the buffer
        large.append(0)
    assert await disk.serve(reading) == 10_000
    assert large == slow_disk.DATA[:10_000]
    await handle.close()
    for _ in range(2):
        assert await disk.serve(files.read_bytes(disk.path)) == slow_disk.DATA
        text = await disk.serve(files.open(disk.path, encoding="latin-1"))
        assert await disk.serve(text.readline()) == bytes(range(11)).decode("latin-1")
        await text.close()


async def test_the_loop_goes_on_while_all_is_read(disk: SlowDisk) -> None:
    handle = await disk.serve(files.open(disk.path, "rb"))
    assert await disk.serve(handle.read()) == slow_disk.DATA
    assert await disk.serve(handle.seek(-10, 2)) == len(slow_disk.DATA) - 10
    assert await disk.serve(handle.readlines()) == [slow_disk.DATA[-10:]]
    await handle.close()
    handle = await disk.serve(files.open(disk.path, "rb"))
    assert await disk.serve(_lines(handle)) == slow_disk.DATA.split(b"\n")
    assert disk.asked <= 4  # for 41 lines: once for each buffer
    await handle.close()


async def _lines(handle: Any) -> list[bytes]:
    return [line.removesuffix(b"\n") async for line in handle]


@pytest.mark.parametrize("buffering", [0, -1])
async def test_the_loop_goes_on_while_it_is_written(disk: SlowDisk, buffering: int) -> None:
    """At the end, about which the server is asked; and the rest by the ``close`` of the file."""
    handle = await disk.serve(files.open(disk.path, "ab", buffering))
    await disk.serve(_write(handle, b"12345"))
    assert await handle.tell() == len(slow_disk.DATA) + 5
    await disk.serve(handle.pwrite(b"67", len(slow_disk.DATA) + 5))
    if buffering:
        await handle.write(b"89")
        await disk.serve(handle.close())
    else:
        await handle.close()
    expected = slow_disk.DATA + (b"123456789" if buffering else b"1234567")
    assert await disk.serve(files.read_bytes(disk.path)) == expected


async def _write(handle: Any, data: bytes) -> None:
    await handle.write(data)
    await handle.flush()


async def test_names_are_asked_for_by_io_threads(disk: SlowDisk) -> None:
    assert (await disk.serve(files.os.stat(disk.path))).st_size == len(slow_disk.DATA)
    (found,) = await disk.serve(files.stat_many([disk.path]))
    assert found.st_size == len(slow_disk.DATA)
    with pytest.raises(FileNotFoundError):
        await disk.serve(files.open(disk.path + "g", "rb"))
    for call in (files.os.remove(disk.path), files.os.rename(disk.path, disk.path + "g")):
        with pytest.raises(OSError, match="not implemented"):
            await disk.serve(call)
    with pytest.raises(OSError, match="not implemented"):
        await disk.serve(files.open(disk.path + "g", "xb"))


async def test_a_read_that_is_cancelled(disk: SlowDisk) -> None:
    handle = await disk.serve(files.open(disk.path, "rb"))
    task = asyncio.ensure_future(handle.read(10))
    await asyncio.wait_for(disk.requests.get(), LIMIT)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert disk.server.stdin is not None
    disk.server.stdin.write(b"x")
    disk.server.stdin.flush()
    assert await disk.serve(handle.read(10)) == slow_disk.DATA[:10]
    await handle.close()


UNANSWERED = """
import gc, logging, os, sys, time
import proactorx
from proactorx.ops.constants import WRITE
from proactorx.ops.op import Overlapped

logging.disable()
loop = proactorx.new_event_loop(backend="io_uring")
fd = os.open(sys.argv[1], os.O_RDWR)
buffer = bytearray(4 * 4096)
op = loop._port.start(Overlapped(WRITE, fd, data=buffer, position=0))
op.on_done = [loop, op].count  # in a cycle, as ordinary ops are
for _ in range(4):
    started = time.monotonic()
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    print(time.monotonic() - started)
started = time.monotonic()
loop.close()
print(time.monotonic() - started)
print(op.done)
del loop, op
gc.collect()
try:
    buffer.append(0)  # which may move it
    print("free")
except BufferError:
    print("kept")
"""


@pytest.mark.ours
@pytest.mark.exhaustive
async def test_what_never_ends_is_waited_for_once_and_keeps_its_memory(disk: SlowDisk) -> None:
    """The kernel looks into it when the server answers after all."""
    if not proactorx.drivers.probe("io_uring").available:
        pytest.skip("files are never with the kernel")
    script = [sys.executable, "-c", UNANSWERED, disk.path]
    child = await asyncio.create_subprocess_exec(*script, stdout=subprocess.PIPE, env=script_environment())
    output = asyncio.create_task(child.communicate())
    assert disk.server.stdin is not None
    for _ in range(3):  # its name, its opening, and what the kernel does while the write is submitted
        await asyncio.wait_for(disk.requests.get(), LIMIT)
        disk.server.stdin.write(b"x")
        disk.server.stdin.flush()
    first, *others, done, kept = (await output)[0].decode().split()
    assert (done, kept) == ("False", "kept")
    assert sum(map(float, others)) < 4, (first, others)
