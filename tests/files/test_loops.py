"""Files find the running loop, whichever ran before: in one thread, in several, and after loops are gone."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from loop.helpers import run_script

from proactorx import files

Factory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    return path


async def _read_all_ways(path: Path) -> None:
    assert await files.read_bytes(path) == b"0123456789"
    assert await files.read_bytes(str(path)) == b"0123456789"
    async with files.open(path, "rb") as file:
        assert await file.pread(3, 4) == b"456"
        assert await file.read(4) == b"0123"
        buffer = bytearray(6)
        assert await file.readinto(buffer) == 6
        assert buffer == b"456789"


def test_loops_in_turn(loop_factory: Factory, path: Path) -> None:
    first, second = loop_factory(), loop_factory()
    try:
        for loop in (first, second, first, first, second):
            loop.run_until_complete(_read_all_ways(path))
    finally:
        first.close()
        second.close()


@pytest.mark.ours
@pytest.mark.skipif(os.name == "nt", reason="a thread reads whole files")
def test_the_first_file_needs_no_more_than_the_second(loop_factory: Factory, path: Path) -> None:
    """The file system of the root is known from the start: no thread where the kernel can do without."""
    if os.stat(path).st_dev != os.stat("/").st_dev:
        pytest.skip("temporary files have a file system of their own")
    source = f"""
    from proactorx import files
    for _ in range(2):
        loop = new_loop()
        assert loop.run_until_complete(files.read_bytes({str(path)!r})) == b"0123456789"
        print(loop._io_pool is None)
        loop.close()
    """
    first, second = run_script(loop_factory, source).split()
    assert first == second


def test_one_file_on_two_loops(loop_factory: Factory, path: Path) -> None:
    first, second = loop_factory(), loop_factory()
    try:
        file = first.run_until_complete(files.open(path, "rb").__aenter__())
        assert second.run_until_complete(file.read(3)) == b"012"
        assert first.run_until_complete(file.pread(2, 8)) == b"89"
        assert second.run_until_complete(file.read(3)) == b"345"
        first.run_until_complete(file.close())
    finally:
        first.close()
        second.close()


def test_loops_in_threads(loop_factory: Factory, path: Path) -> None:
    failures: list[BaseException] = []

    async def work() -> None:
        for _ in range(50):
            await _read_all_ways(path)

    def run() -> None:
        loop = loop_factory()
        try:
            loop.run_until_complete(work())
        except BaseException as exc:
            failures.append(exc)
        finally:
            loop.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_loop_that_has_read_files_is_forgotten_with_its_last_reference(
    loop_factory: Factory, path: Path
) -> None:
    gone = []
    for _ in range(3):
        loop = loop_factory()
        loop.run_until_complete(_read_all_ways(path))
        loop.close()
        gone.append(weakref.ref(loop))
        del loop
    # A thread that has just brought a result to a loop has it until it comes to its next line.
    deadline = time.monotonic() + 5
    while any(ref() is not None for ref in gone) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert [ref() for ref in gone] == [None] * 3


@pytest.mark.parametrize("name", ["plain", "ümläut", "日本", "with space", "\udcff"])
async def test_paths_of_any_characters(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    try:
        Path(path).write_bytes(b"abc")
    except OSError:
        pytest.skip("not a name on this file system")
    for _ in range(2):
        assert await files.read_bytes(path) == b"abc"
        assert await files.read_bytes(Path(path)) == b"abc"


@pytest.mark.parametrize("name", ["a\0b", "ü\0b", b"a\0b"])
async def test_paths_with_a_zero_are_refused(name: str | bytes) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="null"):
            await files.read_bytes(name)


async def test_operations_take_their_turns_whoever_is_cancelled(tmp_path: Path) -> None:
    async with files.open(tmp_path / "file", "wb") as file:
        tasks = [asyncio.ensure_future(file.write(b"%d" % i)) for i in range(10)]
        await asyncio.sleep(0)
        for task in tasks[2::3]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert await file.tell() == sum(found for found in done if isinstance(found, int))
    written = "".join(str(i) for i, found in enumerate(done) if isinstance(found, int))
    assert (tmp_path / "file").read_text() == written
