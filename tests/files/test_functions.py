"""``os``, ``ospath``, ``tempfile``, ``wrap`` and the standard streams."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from proactorx import files


async def test_os(aio: Any, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"12345")
    assert (await aio.os.stat(a)).st_size == 5
    await aio.os.rename(a, b)
    assert await aio.os.listdir(tmp_path) == ["b"]
    await aio.os.mkdir(tmp_path / "d", 0o700)
    await aio.os.makedirs(tmp_path / "d/e/f", exist_ok=True)
    await aio.os.link(b, tmp_path / "c")
    assert sorted(entry.name for entry in await aio.os.scandir(tmp_path)) == ["b", "c", "d"]
    await aio.os.replace(tmp_path / "c", tmp_path / "g")
    await aio.os.renames(tmp_path / "g", tmp_path / "h")
    await aio.os.remove(b)
    await aio.os.removedirs(tmp_path / "d/e/f")
    assert await aio.os.listdir(tmp_path) == ["h"]
    await aio.os.unlink(tmp_path / "h")
    assert await aio.os.access(tmp_path, os.R_OK)
    assert await aio.os.getcwd() == os.getcwd()
    await aio.os.mkdir(tmp_path / "i")
    await aio.os.rmdir(tmp_path / "i")
    with pytest.raises(FileNotFoundError):
        await aio.os.stat(tmp_path / "nothing")


async def test_os_as_posix_has_it(aio: Any, path: Path, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    assert (await aio.os.stat(path.name, dir_fd=fd)).st_size == 256
    os.close(fd)
    assert (await aio.os.statvfs(tmp_path)).f_bsize
    link = tmp_path / "link"
    await aio.os.symlink(path, link)
    assert await aio.os.readlink(link) == str(path)
    await aio.os.unlink(link)


async def test_names_that_are_changed_many_times(aio: Any, tmp_path: Path) -> None:
    """As bytes, as paths and as text, relative ones too; what is wrong is said as ``os`` says it."""
    for _ in range(3):
        for i in range(40):
            (tmp_path / f"{i}").write_bytes(b"%d" % i)
        await asyncio.gather(
            *(aio.os.rename(tmp_path / f"{i}", os.fsencode(tmp_path / f"n{i}")) for i in range(40))
        )
        assert sorted(os.listdir(tmp_path)) == sorted(f"n{i}" for i in range(40))
        await asyncio.gather(
            *(aio.os.replace(str(tmp_path / f"n{i}"), str(tmp_path / "one")) for i in range(40))
        )
        assert os.listdir(tmp_path) == ["one"]
        (tmp_path / "link").symlink_to("one")
        await aio.os.unlink(os.path.relpath(tmp_path / "link"))
        await aio.os.remove(tmp_path / "one")
        (tmp_path / "folder").mkdir()
        for call in (
            (aio.os.remove, tmp_path / "nothing"),
            (aio.os.unlink, b"nothing/at all"),
            (aio.os.rmdir, tmp_path / "nothing"),
            (aio.os.rename, tmp_path / "nothing", "other"),
            (aio.os.remove, tmp_path / "folder"),
            (aio.os.rename, tmp_path / "folder", tmp_path / "folder/inside"),
            (aio.os.remove, "a\0b"),
            (aio.os.remove, ""),
            (aio.os.remove, 1.5),
            (aio.os.rename, "a"),
        ):
            function, *args = call
            with pytest.raises(Exception) as expected:
                getattr(os, function.__name__)(*args)
            with pytest.raises(expected.type) as caught:
                await function(*args)
            assert str(caught.value) == str(expected.value)
        await aio.os.rmdir(tmp_path / "folder")
    assert os.listdir(tmp_path) == []


async def test_a_cancelled_change_of_a_name_happens_or_not(tmp_path: Path) -> None:
    await files.os.rmdir(await _made(tmp_path / "first"))
    for turns in range(4):
        path = tmp_path / f"a{turns}"
        path.write_bytes(b"x")
        task = asyncio.ensure_future(files.os.rename(path, tmp_path / f"b{turns}"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    assert sorted(name[1:] for name in os.listdir(tmp_path)) == ["0", "1", "2", "3"]


async def _made(path: Path) -> Path:
    await files.os.mkdir(path)
    return path


async def test_ospath(aio: Any, path: Path) -> None:
    assert await aio.os.path.exists(path)
    assert await aio.os.path.isfile(path)
    assert not await aio.os.path.isdir(path)
    assert not await aio.os.path.islink(path)
    assert not await aio.os.path.ismount(path)
    assert await aio.os.path.getsize(path) == 256
    assert await aio.os.path.getmtime(path) == path.stat().st_mtime
    assert await aio.os.path.samefile(path, path)
    assert await aio.os.path.abspath("x") == os.path.abspath("x")


def test_on_uvloop(tmp_path: Path) -> None:
    """On a loop that is not ours, and not the standard library's either."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        path = tmp_path / "f"
        async with files.open(path, "w+b") as handle, files.watch(tmp_path) as changes:
            await handle.write(b"one\ntwo\n")
            await handle.fsync()
            assert await handle.pread(3, 4) == b"two"
            await handle.seek(0)
            assert [line async for line in handle] == [b"one\n", b"two\n"]
            assert (await anext(changes)).kind == "modified"
        async with files.open(path) as text:
            assert await asyncio.gather(*(text.readline() for _ in range(3))) == ["one\n", "two\n", ""]
        assert await files.read_bytes(path) == b"one\ntwo\n"
        await files.write_bytes(path, b"new", atomic=True, durable=True)
        assert await files.copy(path, tmp_path / "g") == 3
        await files.os.rename(tmp_path / "g", tmp_path / "h")
        assert sorted([entry.name async for entry in files.scandir(tmp_path)]) == ["f", "h"]
        os.mkfifo(tmp_path / "pipe")
        opening = asyncio.ensure_future(files.read_bytes(tmp_path / "pipe"))
        await asyncio.sleep(0.01)  # it goes on meanwhile
        await files.write_bytes(tmp_path / "pipe", b"through")
        assert await opening == b"through"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def test_an_executor_of_the_users(aio: Any, path: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(1, "mine") as executor:
        assert await aio.os.stat(path, executor=executor)
        loop = asyncio.get_running_loop()
        async with aio.open(path, "rb", executor=executor, loop=loop) as handle:
            assert len(await handle.read()) == 256
        where = aio.os.wrap(threading.current_thread)
        assert (await where(executor=executor, loop=loop)).name.startswith("mine")


@pytest.mark.parametrize("mode", ["w+b", "w+"])
async def test_temporary_files(aio: Any, mode: str) -> None:
    data: Any = "é\nx" if mode == "w+" else b"\xff\nx"
    encoding = "utf-8" if mode == "w+" else None
    async with aio.tempfile.TemporaryFile(mode, encoding=encoding) as handle:
        await handle.write(data)
        await handle.seek(0)
        assert await handle.read() == data
        await handle.seek(0)
        assert len([line async for line in handle]) == 2
    async with aio.tempfile.NamedTemporaryFile(mode, encoding=encoding, suffix=".x", prefix="p") as handle:
        name = handle.name
        assert os.path.basename(name).startswith("p")
        assert name.endswith(".x")
        await handle.write(data)
        await handle.flush()
        if sys.platform != "win32":  # there nobody can open it as long as it is to be removed by its close
            with open(name, mode.replace("w+", "r"), encoding=encoding) as again:
                assert again.read() == data
    assert not os.path.exists(name)
    handle = await aio.tempfile.NamedTemporaryFile(mode, delete=False)
    await handle.close()
    assert os.path.exists(handle.name)
    os.unlink(handle.name)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="delete_on_close came with Python 3.12")
async def test_a_named_file_that_outlives_its_close(aio: Any) -> None:
    async with aio.tempfile.NamedTemporaryFile("wb", delete_on_close=False) as handle:
        await handle.write(b"x")
        await handle.close()
        assert os.path.getsize(handle.name) == 1
    assert not os.path.exists(handle.name)


async def test_a_spooled_file(aio: Any) -> None:
    async with aio.tempfile.SpooledTemporaryFile(max_size=10, mode="w+b") as handle:
        await handle.write(b"12345")
        await handle.writelines([b"1", b"2\n"])
        assert not handle._file._rolled
        assert await handle.tell() == 8
        await handle.write(b"more than ten")
        assert handle._file._rolled
        await handle.seek(0)
        assert await handle.readline() == b"1234512\n"
        assert await handle.read(4) == b"more"
        assert isinstance(await handle.fileno(), int)
        await handle.seek(0)
        assert await handle.readlines() == [b"1234512\n", b"more than ten"]
        await handle.truncate(3)
        assert not handle.closed
    assert handle.closed


async def test_a_temporary_directory(aio: Any) -> None:
    async with aio.tempfile.TemporaryDirectory(prefix="p") as name:
        Path(name, "f").write_bytes(b"x")
        assert os.path.isdir(name)
    assert not os.path.exists(name)
    made = await aio.tempfile.TemporaryDirectory()
    assert os.path.isdir(made.name)
    await made.cleanup()
    assert not os.path.exists(made.name)


async def test_wrap(path: Path) -> None:
    """aiofiles has it as ``threadpool.wrap``."""
    async with files.wrap(open(path, "rb")) as handle:
        assert await handle.read(3) == b"\x00\x01\x02"
        assert await handle.peek(1)
        assert await handle.pread(2, 100) == b"de"
        assert await handle.tell() == 3
    async with files.wrap(open(path, "r+", encoding="latin-1")) as text:
        assert await text.readline() == bytes(range(11)).decode()
        await text.seek(0)
        await text.write("abc")
        await text.fsync()
    assert path.read_bytes()[:4] == b"abc\x03"
    async with files.wrap(io.BytesIO(b"a\nb")) as handle:
        assert [line async for line in handle] == [b"a\n", b"b"]
    with pytest.raises(TypeError, match="Unsupported io type"):
        files.wrap(object())


STREAMS = """
import asyncio, sys
{imports}
async def main():
    first = await aio.stdin.readline()
    await aio.stdout.write("out " + first)
    await aio.stdout.flush()
    await aio.stderr.write("err\\n")
    await aio.stdout_bytes.write(b"bytes " + await aio.stdin_bytes.readline())
    await aio.stdout_bytes.flush()
    await aio.stderr_bytes.write(b"raw\\n")
    await aio.stderr_bytes.flush()
    print(repr(aio.stdin).rpartition("wrapping")[1])
{run}
"""
RUNS = {
    "ours": ("import proactorx; from proactorx import files as aio", "proactorx.run(main())"),
    "stock": ("from proactorx import files as aio", "asyncio.run(main())"),
    "aiofiles": ("import aiofiles as aio", "asyncio.run(main())"),
}


@pytest.mark.parametrize("which", RUNS)
def test_the_standard_streams(which: str) -> None:
    imports, run = RUNS[which]
    done = subprocess.run(
        [sys.executable, "-u", "-X", "utf8", "-c", STREAMS.format(imports=imports, run=run)],
        input=b"one\n",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.replace(b"\r\n", b"\n") == b"out one\nbytes wrapping\n"
    assert done.stderr.replace(b"\r\n", b"\n") == b"err\nraw\n"
