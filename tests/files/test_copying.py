"""``files.copy`` and ``files.copy_tree``: what they copy, how, and what they say of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proactorx import files

from .conftest import open_files

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's")


async def test_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    data = os.urandom((20 << 20) + 5)
    source.write_bytes(data)
    target.write_bytes(b"x" * 100)
    told: list[tuple[int, int]] = []
    assert await files.copy(source, target, progress=lambda *args: told.append(args)) == len(data)
    await asyncio.sleep(0)
    assert target.read_bytes() == data
    assert told[-1] == (len(data), len(data))
    assert told == sorted(told)
    if sys.platform == "linux":
        assert await files.copy("/proc/self/status", target) > 100
        assert b"Name:" in target.read_bytes()
    with pytest.raises(shutil.SameFileError):
        await files.copy(source, source)
    assert source.read_bytes() == data

    def refuse(_done: int, _size: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        await files.copy(source, target, progress=refuse)
    source.write_bytes(b"of one piece")
    with pytest.raises(KeyError, match="enough"):
        await files.copy(source, target, progress=refuse)


async def test_a_copy_that_is_cancelled_before_it_begins_leaves_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = os.fsencode(tmp_path / "a"), os.fsencode(tmp_path / "b")
    for name in (source, target):
        Path(os.fsdecode(name)).write_bytes(name)
    loop, opening, cancelled = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    unpatched = os.open

    def slow(path: Any, *args: Any) -> int:
        fd = unpatched(path, *args)
        if path == source:
            loop.call_soon_threadsafe(opening.set)
            cancelled.wait(10)
        return fd

    monkeypatch.setattr("os.open", slow)
    before = open_files()
    task = asyncio.ensure_future(files.copy(source, target))
    await opening.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled.set()
    await _closed(before)
    assert (tmp_path / "b").read_bytes() == target


async def _closed(before: set[str]) -> None:
    """Wait until no other files than those are open."""
    for _ in range(500):
        if not open_files() - before:
            return
        await asyncio.sleep(0.01)


async def test_a_cancelled_copy_ends(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(30 << 20))
    before = open_files()
    task = asyncio.ensure_future(files.copy(tmp_path / "a", tmp_path / "b"))
    while not (task.done() or open_files() - before):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):  # a copy that shares blocks may have ended
        await task
    await _closed(before)
    assert (tmp_path / "a").stat().st_size == 30 << 20


def _shares_blocks(folder: Path) -> bool:
    """Whether files in the folder can share blocks, by the name of its file system."""
    if sys.platform != "linux" or shutil.which("stat") is None:
        return False
    return subprocess.check_output(["stat", "-f", "-c", "%T", folder], text=True).strip() in ("btrfs", "xfs")


async def test_it_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"some bytes")
    copied = await files.copy(source, target)
    assert copied == 10
    assert copied.by in ("reflink", "copy_file_range", "read_write")
    assert repr(copied) == f"Copied(10, by='{copied.by}')"
    if _shares_blocks(tmp_path):
        assert copied.by == "reflink"
    if not hasattr(os, "copy_file_range"):
        assert copied.by == "read_write"
        return
    monkeypatch.setattr("proactorx.files.copying._FICLONE", 0)
    assert (await files.copy(source, target)).by == "copy_file_range"
    assert (await files.copy("/proc/cpuinfo", target)).by == "read_write"
    assert target.read_bytes() == Path("/proc/cpuinfo").read_bytes()

    def refuse(*_args: Any) -> int:
        raise OSError(errno.EXDEV, "other file systems")

    monkeypatch.setattr("os.copy_file_range", refuse)
    assert (await files.copy(source, target)).by == "read_write"
    assert target.read_bytes() == b"some bytes"


@pytest.fixture
def sharing(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system whose files can share blocks."""
    if _shares_blocks(tmp_path):
        yield tmp_path
        return
    maker = shutil.which("mkfs.btrfs") or shutil.which("mkfs.xfs")
    if maker is None or os.geteuid():
        pytest.skip("takes root, and mkfs.btrfs or mkfs.xfs")
    image, folder = tmp_path / "image", tmp_path / "sharing"
    with image.open("wb") as file:
        file.truncate(512 << 20)
    folder.mkdir()
    for command in ([maker, "-q", image], ["mount", "-o", "loop", image, folder]):
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"{command[0]}: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@linux
async def test_blocks_are_shared_where_they_can_be(sharing: Path) -> None:
    source, target = sharing / "a", sharing / "b"
    data = os.urandom((9 << 20) + 7)
    source.write_bytes(data)
    target.write_bytes(b"x" * 100)
    told: list[tuple[int, int]] = []
    copied = await files.copy(source, target, progress=lambda *args: told.append(args))
    assert (copied, copied.by) == (len(data), "reflink")
    assert told == [(len(data), len(data))]
    assert target.read_bytes() == data
    target.write_bytes(b"changed")
    assert source.read_bytes() == data
    (sharing / "empty").touch()
    assert await files.copy(sharing / "empty", target) == 0
    assert target.read_bytes() == b""


def _make_tree(top: Path) -> int:
    """A tree; how many bytes its files have."""
    (top / "folder" / "inner").mkdir(parents=True)
    (top / "empty").mkdir()
    size = 0
    for number, place in enumerate((top, top / "folder", top / "folder" / "inner")):
        for name in ("one", "zwölf", "skipped"):
            data = os.urandom(1000 * number + len(name))
            (place / name).write_bytes(data)
            size += len(data)
    os.utime(top / "one", (1_000_000, 1_000_000))
    (top / "one").chmod(0o600)
    return size


def _facts(top: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in top.rglob("*"):
        facts = path.lstat()
        data = path.read_bytes() if path.is_file() else sorted(os.listdir(path)) if path.is_dir() else None
        found[str(path.relative_to(top))] = (facts.st_mode, facts.st_mtime if path.is_file() else 0, data)
    return found


def _copy(source: str, target: str) -> None:
    """shutil.copy2 without CopyFile2, by which Windows' does it and which Wine 8 does not have."""
    shutil.copyfile(source, target)
    shutil.copystat(source, target)


async def test_a_tree(tmp_path: Path) -> None:
    size = _make_tree(tmp_path / "a")
    told: list[tuple[int, int]] = []
    copied = await files.copy_tree(tmp_path / "a", tmp_path / "b", progress=lambda *args: told.append(args))
    shutil.copytree(tmp_path / "a", tmp_path / "c", copy_function=_copy)
    assert _facts(tmp_path / "b") == _facts(tmp_path / "c") == _facts(tmp_path / "a")
    assert (copied, copied.files, sum(copied.by.values())) == (size, 9, 9)
    await asyncio.sleep(0)
    assert told[-1] == (size, size)
    assert told == sorted(told)
    with pytest.raises(FileExistsError):
        await files.copy_tree(tmp_path / "a", tmp_path / "b")
    ignore = shutil.ignore_patterns("skip*")
    copied = await files.copy_tree(tmp_path / "a", tmp_path / "b", dirs_exist_ok=True, ignore=ignore)
    assert copied.files == 6
    with pytest.raises(FileNotFoundError):
        await files.copy_tree(tmp_path / "nothing", tmp_path / "d")


@pytest.mark.skipif(sys.platform == "win32", reason="links and named pipes are Unix's")
async def test_a_tree_of_more_than_files(tmp_path: Path) -> None:
    _make_tree(tmp_path / "a")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a" / "one")
    (tmp_path / "a" / "loose").symlink_to("nothing")
    copied = await files.copy_tree(tmp_path / "a", tmp_path / "b", symlinks=True)
    assert os.readlink(tmp_path / "b" / "link") == str(tmp_path / "a" / "one")
    assert copied.files == 9
    with pytest.raises(shutil.Error, match="loose"):
        await files.copy_tree(tmp_path / "a", tmp_path / "c")
    copied = await files.copy_tree(tmp_path / "a", tmp_path / "d", ignore_dangling_symlinks=True)
    assert (tmp_path / "d" / "link").is_file()
    assert not (tmp_path / "d" / "link").is_symlink()
    assert copied.files == 10
    os.mkfifo(tmp_path / "a" / "fifo")
    with pytest.raises(shutil.Error, match="named pipe"):
        await files.copy_tree(tmp_path / "a", tmp_path / "e", symlinks=True)
    assert (tmp_path / "e" / "folder" / "inner" / "one").exists()


async def test_a_progress_that_raises_ends_a_tree(tmp_path: Path) -> None:
    _make_tree(tmp_path / "a")

    def refuse(_done: int, _size: int) -> None:
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        await files.copy_tree(tmp_path / "a", tmp_path / "b", progress=refuse)


async def test_a_cancelled_tree_ends(tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / "a" / str(number)
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(10 << 20))
    begun = asyncio.Event()
    task = asyncio.ensure_future(
        files.copy_tree(tmp_path / "a", tmp_path / "b", progress=lambda _done, _size: begun.set())
    )
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(500):
        if not any(str(tmp_path) in name for name in open_files()):
            break
        await asyncio.sleep(0.01)
    assert len(list((tmp_path / "b").rglob("file"))) < 20
