"""What aiofiles has not: positions, the disk, direct access, whole files, directories."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from proactorx import files

from .conftest import outcome

LIMIT = 10
#: Making one takes a privilege on Windows.
LINKS = sys.platform != "win32"
#: Of a directory that is used as a file.
FOLDER_ERROR = IsADirectoryError if sys.platform != "win32" else PermissionError


@pytest.mark.parametrize("buffering", [0, -1])
async def test_reading_and_writing_at_positions(tmp_path: Path, buffering: int) -> None:
    path = tmp_path / "f"
    async with files.open(path, "w+b", buffering) as handle:
        assert await handle.pwrite(b"hello", 3) == 5
        assert await handle.pwritev([b"ab", bytearray(b"cd"), memoryview(b"ef")], 100) == 6
        assert await handle.pread(100, 0) == b"\0\0\0hello" + bytes(92)
        buffer = bytearray(4)
        assert await handle.pread_into(buffer, 102) == 4
        assert buffer == b"cdef"
        one, two = bytearray(3), bytearray(10)
        assert await handle.preadv([one, two], 99) == 7
        assert (one, two[:4]) == (b"\0ab", b"cdef")
        assert await handle.pread(5, 106) == b""
        assert await handle.pread(0, 0) == b""
        big = os.urandom(3 << 20)
        assert await handle.pwrite(big, 1000) == len(big)
        assert await handle.pread(len(big) + 5, 1000) == big
        assert await handle.tell() == 0
        for bad in (handle.pread(-1, 0), handle.pread(1, -1), handle.pwrite(b"", -1), handle.preadv([], -1)):
            with pytest.raises(ValueError, match="negative"):
                await bad
    with pytest.raises(ValueError, match="closed file"):
        await handle.pread(1, 0)
    with pytest.raises(ValueError, match="closed file"):
        await handle.pwrite(b"x", 0)


async def test_positions_see_what_was_written_and_respect_the_mode(path: Path) -> None:
    async with files.open(path, "r+b") as handle:
        await handle.write(b"new")
        assert await handle.pread(4, 0) == b"new\x03"
    async with files.open(path, "rb") as handle:
        with pytest.raises(io.UnsupportedOperation):
            await handle.pwrite(b"x", 0)
    async with files.open(path, "wb") as handle:
        with pytest.raises(io.UnsupportedOperation):
            await handle.pread(1, 0)


async def test_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "f"
    async with files.open(path, "wb") as handle:
        await handle.write(b"x")
        await handle.fdatasync()
        assert path.read_bytes() == b"x"
        await handle.write(b"y")
        await handle.fsync()
        assert path.read_bytes() == b"xy"
    async with files.open(path, "r+") as text:
        await text.write("z")
        await text.fsync()
        assert path.read_bytes() == b"zy"
    with pytest.raises(ValueError, match="closed file"):
        await text.fsync()


async def test_room_on_the_disk(path: Path) -> None:
    async with files.open(path, "r+b") as handle:
        await handle.allocate(0, 10_000)
        assert path.stat().st_size == 10_000
        await handle.allocate(100, 200)
        assert path.read_bytes() == bytes(range(256)) + bytes(10_000 - 256)
        for wrong in ((-1, 5), (0, 0)):
            with pytest.raises((OSError, ValueError)):
                await handle.allocate(*wrong)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's")
async def test_a_hole(path: Path) -> None:
    block = os.statvfs(path).f_bsize
    data = os.urandom(8 * block)
    async with files.open(path, "w+b") as handle:
        await handle.write(data)  # still in its buffer
        try:
            await handle.punch(2 * block, 4 * block)
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip("this file system makes no holes")
        assert path.read_bytes() == data[: 2 * block] + bytes(4 * block) + data[6 * block :]
        assert await handle.tell() == 8 * block
        await handle.fsync()
        assert path.stat().st_blocks * 512 <= 5 * block
        await handle.punch(7 * block, 1 << 40)  # behind the end: the file does not grow
        assert path.stat().st_size == 8 * block
        for wrong in ((-1, 5), (0, 0), (0, -1)):
            with pytest.raises(OSError, match="Invalid argument"):
                await handle.punch(*wrong)
    async with files.open(path, "rb") as handle:
        with pytest.raises(OSError, match="Bad file descriptor"):
            await handle.punch(0, block)
    with pytest.raises(ValueError, match="closed file"):
        await handle.punch(0, block)


async def test_advice(path: Path) -> None:
    async with files.open(path, "rb") as handle:
        if sys.platform == "win32":
            with pytest.raises(io.UnsupportedOperation, match="advise: this system"):
                await handle.advise("sequential")
            return
        for advice in ("sequential", "random", "normal", "noreuse", "willneed", "dontneed"):
            await handle.advise(advice)
        with pytest.raises(ValueError, match="unknown advice"):
            await handle.advise("often")


async def _opened_direct(path: Path) -> Any:
    try:
        return await files.open(path, "w+b", direct=True)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        return pytest.skip(str(exc))


async def test_direct_access(tmp_path: Path) -> None:
    path = tmp_path / "f"
    data = os.urandom(10 * 4096)
    handle = await _opened_direct(path)
    async with handle:
        assert await handle.write(data) == len(data)
        assert await handle.pread(4096, 4096) == data[4096:8192]
        assert await handle.pread(100, 8192) == data[8192:8292]
        buffer = files.aligned(8192)
        assert await handle.pread_into(buffer, 4096) == 8192
        assert buffer == data[4096 : 3 * 4096]
        assert await handle.pwrite(data[:4096], 4096) == 4096
        assert await handle.seek(0) == 0
        assert await handle.read(4096) == data[:4096]
        assert await handle.read(100) == data[:100]
        assert await handle.tell() == 4196
        await handle.seek(0)
        assert await handle.read() == data[:4096] * 2 + data[8192:]
        await handle.fsync()
    for mode, buffering in (("w", -1), ("rb", 100)):
        with pytest.raises(ValueError, match="direct=True"):
            await files.open(path, mode, buffering, direct=True)
    with pytest.raises(ValueError, match="multiple of 4096"):
        files.aligned(100)


async def test_direct_access_to_parts_of_blocks(tmp_path: Path) -> None:
    async with await _opened_direct(tmp_path / "f") as handle:
        data = os.urandom(8192)
        await handle.write(data)
        parts = (handle.pread(4096, 5), handle.pread_into(bytearray(100), 0), handle.pwrite(b"x", 0))
        found = [await outcome(part) for part in parts]
        if found != [data[5:4101], 100, 1]:  # as on Btrfs, which takes the page cache for them
            assert all(said[0] is OSError for said in found)
            assert all("multiples of the disk's block size" in said[1] for said in found)


async def test_a_file_system_without_direct_access(path: Path) -> None:
    with pytest.raises(OSError, match="has no direct access") as caught:
        await files.open("/proc/self/status", "rb", direct=True)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "size", [0, 1, 2000, 4096, 12_288, 16_383, 16_384, 16_385, 100_000, 300_000, 3 << 20]
)
async def test_whole_files(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    data = os.urandom(size)
    for options in ({}, {"atomic": True}, {"durable": True}, {"atomic": True, "durable": True}):
        assert await files.write_bytes(path, data, **options) == size
        for _ in range(2):  # the second time the file system is known
            assert await files.read_bytes(path) == data
        assert os.listdir(tmp_path) == ["f"]
    await files.write_bytes(os.fsencode(path), memoryview(data))
    assert path.read_bytes() == data


async def test_a_whole_file_that_is_partly_in_the_page_cache(tmp_path: Path) -> None:
    path = tmp_path / "f"
    data = os.urandom(40_000)
    path.write_bytes(data)
    await files.read_bytes(path)  # its file system is known now
    if not hasattr(os, "posix_fadvise"):
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        for offset, length in ((0, 4096), (4096, 4096), (8192, 8192), (16_384, 8192), (32_768, 0), (0, 0)):
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)
            assert await files.read_bytes(path) == data
    finally:
        os.close(fd)


async def test_text_files(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for text in ("", "é\r\nx\n", "x" * 400_000):
        path.write_bytes(text.encode())
        assert await files.read_text(path, "utf-8") == text.replace("\r\n", "\n")
        assert await files.read_text(path, "utf-8", newline="") == text
    path.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        await files.read_text(path, "utf-8")
    assert await files.read_text(path, "utf-8", "replace") == "�"


async def test_files_that_are_not_regular(tmp_path: Path) -> None:
    assert b"Name:" in await files.read_bytes("/proc/self/status")
    assert await files.read_bytes("/dev/null") == b""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = asyncio.ensure_future(files.read_bytes(fifo))
    await asyncio.to_thread(fifo.write_bytes, b"through the pipe")
    assert await asyncio.wait_for(reading, LIMIT) == b"through the pipe"
    writing = asyncio.ensure_future(asyncio.to_thread(fifo.write_bytes, b"whose writer came first"))
    await asyncio.sleep(0.01)
    assert await asyncio.wait_for(files.read_bytes(fifo), LIMIT) == b"whose writer came first"
    await writing


async def test_what_cannot_be_read_whole(tmp_path: Path) -> None:
    with pytest.raises(FOLDER_ERROR):
        await files.read_bytes(tmp_path)
    with pytest.raises(FileNotFoundError):
        await files.read_bytes(tmp_path / "nothing")
    with pytest.raises(ValueError, match="null"):
        await files.read_bytes("a\0b")


async def test_an_atomic_write_keeps_permissions_and_links(tmp_path: Path) -> None:
    path, link = tmp_path / "f", tmp_path / "link"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to(path)
    await files.write_bytes(link, b"new", atomic=True)
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["f", "link"]


async def test_an_atomic_write_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for durable in (False, True):
        with pytest.raises(FOLDER_ERROR) as caught:
            await files.write_bytes(tmp_path / "d", b"x", atomic=True, durable=durable)
        assert os.path.basename(os.fsdecode(caught.value.filename2)) == "d"
    assert os.listdir(tmp_path) == ["d"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / "top" / name).mkdir(parents=True)
        (tmp_path / "top" / name / "file").write_bytes(name.encode())
    if LINKS:
        (tmp_path / "top/link").symlink_to("a")
        (tmp_path / "top/dangling").symlink_to("nowhere")
    return tmp_path / "top"


async def test_scandir(tree: Path) -> None:
    assert sorted([entry.name async for entry in files.scandir(tree)]) == sorted(os.listdir(tree))
    many = tree / "many"
    many.mkdir()
    for i in range(600):
        (many / f"{i}").touch()
    assert {entry.name async for entry in files.scandir(many)} == {f"{i}" for i in range(600)}
    async with files.scandir(many) as entries:
        async for entry in entries:
            assert entry.is_file()
            break
    with pytest.raises(NotADirectoryError if sys.platform != "win32" else OSError):
        await anext(files.scandir(tree / "e/file"))


@pytest.mark.parametrize("topdown", [True, False])
@pytest.mark.parametrize("followlinks", [True, False])
async def test_walk(tree: Path, topdown: bool, followlinks: bool) -> None:
    def plain(found: Any) -> list[Any]:
        return [(path, sorted(folders), sorted(names)) for path, folders, names in found]

    found = [step async for step in files.walk(tree, topdown, None, followlinks)]
    expected = list(os.walk(tree, topdown, None, followlinks))
    assert sorted(plain(found)) == sorted(plain(expected))
    order = [path for path, _, _ in found]
    for path in order:
        parent = os.path.dirname(path)
        if parent in order:
            assert (order.index(parent) < order.index(path)) == topdown


async def test_walk_leaves_out_what_it_is_told(tree: Path) -> None:
    seen = []
    async for path, folders, _ in files.walk(tree):
        seen.append(os.path.basename(path))
        folders[:] = [name for name in folders if name != "a"]
    assert sorted(seen) == ["e", "top"]
    errors: list[OSError] = []
    assert [step async for step in files.walk(tree / "nothing", onerror=errors.append)] == []
    assert [exc.errno for exc in errors] == [errno.ENOENT]


async def test_stat_many(tree: Path) -> None:
    paths = [tree / "a", tree / "nothing", tree / "e/file"] * 200
    found = await files.stat_many(paths)
    assert len(found) == 600
    for first, second, third in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert stat.S_ISDIR(first.st_mode)
        assert isinstance(second, FileNotFoundError)
        assert third.st_size == 1
    if LINKS:
        (link,) = await files.stat_many([tree / "dangling"], follow_symlinks=False)
        assert stat.S_ISLNK(link.st_mode)


async def test_watch(tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    async with files.watch(folder) as changes:
        (folder / "a").write_bytes(b"x")
        os.rename(folder / "a", folder / "b")
        (folder / "sub").mkdir()
        seen = []
        async for change in changes:
            seen.append((change.kind, os.path.basename(change.path), change.is_dir))
            if change.kind == "moved_from":
                cookie = change.cookie
            if change.kind == "moved_to":
                assert change.cookie == cookie != 0
            if change.is_dir:
                break
        assert seen[0] == ("created", "a", False)
        assert ("written" if sys.platform != "win32" else "modified", "a", False) in seen
        assert ("moved_to", "b", False) in seen
        assert seen[-1] == ("created", "sub", True)
        (folder / "sub").rmdir()
        (folder / "b").unlink()
        kinds: list[str] = []
        async for change in changes:
            kinds.append(change.kind)
            if kinds.count("deleted") == 2:
                break
        assert change.path == str(folder / "b")
    with pytest.raises(NotADirectoryError):
        async with files.watch(__file__):
            pass


async def test_a_watched_directory_that_goes(tmp_path: Path) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    async with files.watch(folder) as changes:
        folder.rmdir()
        assert [change.kind async for change in changes][-1] == "gone"


@pytest.mark.skipif(
    sys.platform != "win32", reason="elsewhere its loop holds it, as a reader, until it is closed"
)
async def test_a_forgotten_watch_warns(tmp_path: Path) -> None:
    held = [files.watch(tmp_path)]
    await held[0].start()
    with pytest.warns(ResourceWarning, match="unclosed watch"):
        held.clear()  # the last reference


async def test_a_watch_that_is_closed_or_cancelled(tmp_path: Path) -> None:
    changes = files.watch(tmp_path)
    await changes.start()  # on a busy machine it begins later than the cancellation comes
    waiting = asyncio.ensure_future(anext(changes))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    (tmp_path / "a").touch()
    assert (await asyncio.wait_for(anext(changes), LIMIT)).kind == "created"
    while len(changes._changes):
        await anext(changes)
    waiting = asyncio.ensure_future(_rest(changes))
    await asyncio.sleep(0.01)
    changes.close()
    changes.close()
    await asyncio.wait_for(waiting, LIMIT)


async def test_a_watch_that_is_not_read_in_time(tmp_path: Path) -> None:
    """There is a limit to what the kernel keeps: inotify(7)."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    names = [tmp_path / "a", tmp_path / "b"]
    names[0].touch()
    async with files.watch(tmp_path) as changes:
        for i in range(limit // 2 + 1):
            os.rename(names[i % 2], names[(i + 1) % 2])
        kinds = []
        async for change in changes:
            kinds.append(change.kind)
            if change.kind == "overflow":
                assert change.path == str(tmp_path)
                break
        # Fewer where the kernel lacked memory for one: it says "overflow" then too.
        assert 2 < len(kinds) <= limit + 1
        assert set(kinds[:-1]) == {"moved_from", "moved_to"}
        (tmp_path / "c").touch()
        while (await asyncio.wait_for(anext(changes), LIMIT)).kind != "created":
            continue


async def test_a_forgotten_watch_warns_and_is_closed(tmp_path: Path) -> None:
    changes = files.watch(tmp_path)
    await changes.start()
    before = len(os.listdir("/proc/self/fd"))
    loop = asyncio.get_running_loop()
    loop.remove_reader(changes._fd)  # it has a reference
    with pytest.warns(ResourceWarning, match="unclosed watch"):
        del changes
    assert len(os.listdir("/proc/self/fd")) == before - 1


async def _rest(changes: Any) -> list[Any]:
    return [change async for change in changes]
