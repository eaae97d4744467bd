"""What a read and a position of a plain file promise: as the built-in ``open`` has it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="tested with the kinds of files of Unix")


def _half_cold(path: Path) -> None:
    """Have the page cache hold the first 256 KiB, and some in the middle."""
    if sys.platform == "win32" or not hasattr(os, "posix_fadvise"):
        return
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 1 << 18, 0)
        os.pread(file.fileno(), 1 << 16, 2 << 20)


@pytest.mark.parametrize("cold", [False, True])
async def test_a_raw_read_is_short_only_at_the_end(aio: Any, tmp_path: Path, cold: bool) -> None:
    path = tmp_path / "big"
    data = os.urandom(9 << 20)
    path.write_bytes(data)
    async with aio.open(path, "rb", 0) as handle:
        if cold:
            _half_cold(path)
        buffer = bytearray(4 << 20)
        assert await handle.readinto(buffer) == 4 << 20
        assert buffer == data[: 4 << 20]
        assert await handle.tell() == 4 << 20
        await handle.seek(0)
        if cold:
            _half_cold(path)
        for size in (1000, 1 << 20, 3 << 20):
            place = await handle.tell()
            assert await handle.read(size) == data[place : place + size]
        assert await handle.seek(8 << 20) == 8 << 20
        assert await handle.readinto(buffer) == 1 << 20
        assert await handle.readinto(buffer) == 0
        assert await handle.read(4 << 20) == b""
        await handle.seek(-10, 2)
        assert await handle.read(4 << 20) == data[-10:]
        await handle.seek(-10, 2)
        assert await handle.read() == data[-10:]


async def test_a_raw_read_behind_a_line(aio: Any, lines: Path) -> None:
    expected = lines.read_bytes()
    async with aio.open(lines, "r+b", 0) as handle:
        place = len(await handle.readline())
        for size in (5, 70_000, 100_000):
            assert await handle.read(size) == expected[place : place + size]
            place += size
            assert await handle.tell() == place
            place += len(await handle.readline())
        buffer = bytearray(1000)
        assert await handle.readinto(buffer) == 1000
        assert buffer == expected[place : place + 1000]
        assert await handle.write(b"!") == 1
    assert lines.read_bytes() == expected[: place + 1000] + b"!" + expected[place + 1001 :]


@pytest.mark.parametrize(
    ("mode", "buffering"), [("a", -1), ("a+", -1), ("a", 1), ("ab", -1), ("ab", 0), ("a+b", -1)]
)
async def test_where_appending_is(aio: Any, tmp_path: Path, mode: str, buffering: int) -> None:
    """Another handle has made the file longer since it was opened."""
    found = []
    one: Any = "hello" if "b" not in mode else b"hello"
    with open(tmp_path / "a", mode, buffering) as first, open(tmp_path / "a", mode, buffering) as second:
        first.write(one)
        first.flush()
        second.write(one[:2])
        found += [second.tell(), second.flush(), second.tell(), first.tell()]
    async with (
        aio.open(tmp_path / "b", mode, buffering) as first,
        aio.open(tmp_path / "b", mode, buffering) as second,
    ):
        await first.write(one)
        await first.flush()
        await second.write(one[:2])
        found += [await second.tell(), await second.flush(), await second.tell(), await first.tell()]
    assert found[:4] == found[4:]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
