"""Full disks, failing devices, no descriptors left, files that shrink: nothing is lost, nothing leaks."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proactorx import files

from .conftest import open_files

ROOM = 256 << 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 256 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"mounting a tmpfs takes root: {done.stderr.decode().strip()}")
    try:
        yield place
    finally:
        gc.collect()
        subprocess.run(["umount", str(place)], check=True)


async def test_a_full_disk_and_a_buffered_file(aio: Any, small_disk: Path) -> None:
    handle = await aio.open(small_disk / "f", "wb")
    with pytest.raises(OSError) as caught:
        for _ in range(10):
            await handle.write(b"x" * 100_000)
        await handle.flush()
    assert caught.value.errno == errno.ENOSPC
    with contextlib.suppress(OSError):
        await handle.close()
    assert handle.closed
    assert os.path.getsize(small_disk / "f") == ROOM


async def test_what_a_full_disk_refused_is_written_when_there_is_room(small_disk: Path) -> None:
    other = small_disk / "other"
    other.write_bytes(bytes(ROOM // 2))
    data = os.urandom(ROOM // 2 + 50_000)
    handle = await files.open(small_disk / "f", "wb")
    with pytest.raises(OSError, match="No space left"):
        await handle.write(data)
        await handle.flush()
    other.unlink()
    await handle.flush()
    await handle.close()
    assert (small_disk / "f").read_bytes() == data


async def test_a_raw_write_to_a_full_disk_is_short_and_the_next_one_fails(aio: Any, small_disk: Path) -> None:
    async with aio.open(small_disk / "f", "wb", 0) as handle:
        assert await handle.write(b"x" * (ROOM + 1000)) == ROOM
        with pytest.raises(OSError, match="No space left"):
            await handle.write(b"y")
        assert await handle.tell() == ROOM


async def test_positional_writes_to_a_full_disk(small_disk: Path) -> None:
    async with files.open(small_disk / "f", "wb") as handle:
        assert await handle.pwrite(b"x" * (ROOM + 1000), 0) == ROOM
        with pytest.raises(OSError, match="No space left"):
            await handle.pwrite(b"y", ROOM)
        with pytest.raises(OSError, match="No space left"):
            await handle.allocate(0, 2 * ROOM)
        await handle.fsync()


async def test_an_atomic_write_to_a_full_disk_leaves_the_old_file(small_disk: Path) -> None:
    path = small_disk / "f"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        await files.write_bytes(path, bytes(2 * ROOM), atomic=True, durable=True)
    assert path.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["f"]


async def test_dev_full(aio: Any) -> None:
    handle = await aio.open("/dev/full", "w")
    await handle.write("x")
    with pytest.raises(OSError, match="No space left"):
        await handle.close()
    assert handle.closed


async def test_an_error_of_the_device_is_raised_and_the_file_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a directory is EISDIR, /proc/self/mem at 0 EIO: errors that come from the read itself."""
    handle = await files.open("/proc/self/mem", "rb", 0)
    async with handle:
        with pytest.raises(OSError) as caught:
            await handle.read(10)
        assert caught.value.errno == errno.EIO
        with pytest.raises(OSError) as caught:
            await handle.pread(10, 0)
        assert caught.value.errno == errno.EIO
        here = ctypes_address()
        assert await handle.pread(5, here[0]) == here[1]


@pytest.mark.parametrize("buffering", [0, -1])
async def test_a_write_that_the_device_refuses(aio: Any, buffering: int) -> None:
    address, _data = ctypes_address()
    handle = await aio.open("/proc/self/mem", "r+b", buffering)
    await handle.seek(16)  # nothing is there
    with pytest.raises(OSError) as caught:
        await handle.write(b"12345")
        await handle.flush()
    assert caught.value.errno == errno.EIO
    if buffering:
        with pytest.raises(OSError) as caught:  # it is still in the buffer
            await handle.close()
        assert caught.value.errno == errno.EIO
    else:
        assert await handle.seek(address) == address
        assert await handle.write(b"HELLO") == 5
        assert ctypes.string_at(address, 5) == b"HELLO"
        await handle.close()
    assert handle.closed


async def test_a_sync_that_fails() -> None:
    async with files.open("/dev/null", "wb") as handle:
        await handle.write(b"x")
        for sync in (handle.fsync, handle.fdatasync):
            with pytest.raises(OSError) as caught:
                await sync()
            assert caught.value.errno == errno.EINVAL


async def test_a_copy_to_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(2 * ROOM))
    with pytest.raises(OSError, match="No space left"):
        await files.copy(tmp_path / "source", small_disk / "target")
    assert (small_disk / "target").stat().st_size <= ROOM


def ctypes_address() -> tuple[int, bytes]:
    """Where some bytes of this process are."""
    buffer = ctypes.create_string_buffer(b"hello")
    ctypes_address.keep = buffer  # type: ignore[attr-defined]
    return ctypes.addressof(buffer), b"hello"


async def test_no_descriptors_are_left(aio: Any, path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with aio.open(path, "rb") as handle:  # its threads and rings are there now
        await handle.read()
    await asyncio.sleep(0.01)
    held = [os.open(path, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 10, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(held[0]))
        for mode in ("rb", "r", "wb"):
            with pytest.raises(OSError) as caught:
                await aio.open(path, mode)
            assert (caught.value.errno, caught.value.filename) == (errno.EMFILE, str(path))
        if aio is files:
            with pytest.raises(OSError) as caught:
                await files.read_bytes(str(path))
            assert (caught.value.errno, caught.value.filename) == (errno.EMFILE, str(path))
            for other in (
                files.write_bytes(path, b"x", atomic=True),
                files.copy(path, path.with_name("other")),
                files.watch(path.parent).start(),
                anext(files.scandir(path.parent)),
            ):
                with pytest.raises(OSError) as caught:
                    await other
                assert caught.value.errno == errno.EMFILE
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)
    async with aio.open(path, "rb") as handle:
        assert len(await handle.read()) == 256


@pytest.mark.parametrize("buffering", [0, -1])
async def test_a_file_that_is_cut_under_its_reader(aio: Any, tmp_path: Path, buffering: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes(1 << 20))
    async with aio.open(path, "rb", buffering) as handle:
        assert len(await handle.read(300_000)) == 300_000
        os.truncate(path, 100)
        rest = await handle.read()
        # What a buffer had, and no more.
        assert len(rest) <= max(200_000, getattr(os.stat(path), "st_blksize", 0))
        assert await handle.read(10) == b""
        assert await handle.seek(0) == 0
        assert len(await handle.read()) == 100


async def test_a_path_that_is_not_there(aio: Any, tmp_path: Path) -> None:
    for mode in ("r", "rb", "r+b"):
        with pytest.raises(FileNotFoundError) as caught:
            await aio.open(tmp_path / "nothing", mode)
        assert caught.value.filename in (tmp_path / "nothing", str(tmp_path / "nothing"))
    with pytest.raises(IsADirectoryError if sys.platform != "win32" else PermissionError):
        await aio.open(tmp_path, "rb")
    with pytest.raises(ValueError, match="null"):
        await aio.open("a\0b")


async def _rounds(path: Path, times: int) -> None:
    for i in range(times):
        async with files.open(path, "r+b") as handle:
            await handle.read(10)
            await handle.write(b"x")
            await handle.pread(10, 0)
            await handle.pwrite(b"y", 5)
        async with files.open(path) as text:
            await text.readline()
        async with files.open(path, "rb", 0) as raw:
            task = asyncio.ensure_future(raw.read())
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await files.read_bytes(path)
        await files.write_bytes(path, b"x" * (i % 7 + 1000), atomic=True)
        with contextlib.suppress(OSError):
            await files.open(path / "x", "rb")


async def test_three_hundred_times(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"line\n" * 1000)
    await _rounds(path, 20)
    gc.collect()
    descriptors, objects, threads = len(open_files()), len(gc.get_objects()), threading.active_count()
    await _rounds(path, 300)
    gc.collect()
    assert len(open_files()) <= descriptors
    assert len(gc.get_objects()) < objects + 200
    assert threading.active_count() <= max(threads, 20)
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_files_of_its_own(path: Path, loop_factory: Any) -> None:
    async def read() -> bytes:
        async with files.open(path, "rb") as handle:
            data: bytes = await handle.read()
            return data

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert len(runner.run(read())) == 256
        pid = _fork_quietly()
        if not pid:
            try:
                with asyncio.Runner(loop_factory=loop_factory) as other:
                    os._exit(0 if len(other.run(read())) == 256 else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert len(runner.run(read())) == 256


def _fork_quietly() -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # "this process is multi-threaded"
        return os.fork()
