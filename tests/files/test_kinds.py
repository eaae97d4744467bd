"""Files that are no plain files, and what a read of each kind promises: as the built-in ``open`` has it."""

from __future__ import annotations

import asyncio
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proactorx import files

from .conftest import outcome

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="these kinds of files are not there")

LIMIT = 10
made_up = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's /proc")
numbered = pytest.mark.skipif(sys.platform == "win32", reason="pipes that do not wait are Unix's")


def soon(awaitable: Any) -> Any:
    return asyncio.wait_for(awaitable, LIMIT)


# ----------------------------------------------------------------------------------- what the kernel makes up

MAPS = "import mmap; kept = [mmap.mmap(-1, 4096) for _ in range(200)]; print(flush=True); input()"


@pytest.fixture(scope="module")
def maps() -> Iterator[str]:
    """A file of /proc of some 20 KiB, which does not change,
    and which the kernel gives in pieces of 4 KiB at most.
    """
    program = [sys.executable, "-c", MAPS]
    child = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGSTOP)
    yield f"/proc/{child.pid}/maps"
    child.kill()
    child.communicate()


@made_up
async def test_a_short_read_is_not_the_end(aio: Any, maps: str) -> None:
    expected = Path(maps).read_bytes()
    assert len(expected) > 4 * 4096
    for buffering in (-1, 0, 100):
        async with aio.open(maps, "rb", buffering) as handle:
            assert await handle.read() == expected
            assert await handle.read() == b""
            await handle.seek(0)
            assert [line async for line in handle] == expected.splitlines(True)
            await handle.seek(5000)
            assert await handle.readline() == expected[5000:].splitlines(True)[0]
            assert await handle.readlines() == expected[5000:].splitlines(True)[1:]
    async with aio.open(maps, "rb") as handle:
        buffer = bytearray(1 << 20)
        assert await handle.readinto(buffer) == len(expected)
        assert buffer[: len(expected)] == expected
        await handle.seek(0)
        assert await handle.read(1 << 20) == expected
    async with aio.open(maps, "rb", 0) as handle:
        with open(maps, "rb", 0) as file:  # one read, of as much as it brings
            for size in (1 << 20, 100, 5000):
                assert await handle.read(size) == file.read(size)
                assert await handle.tell() == file.tell()
                assert await handle.readinto(buffer) == file.readinto(bytearray(1 << 20))


@made_up
async def test_text_that_comes_in_short_reads(aio: Any, maps: str) -> None:
    expected = Path(maps).read_text()
    async with aio.open(maps) as handle:
        assert await handle.read() == expected
        await handle.seek(0)
        assert [line async for line in handle] == expected.splitlines(True)
        await handle.seek(0)
        assert await handle.readlines() == expected.splitlines(True)
        await handle.seek(0)
        assert await handle.read(10_000) == expected[:10_000]
        place = await handle.tell()
        assert await handle.readline() == expected[10_000:].splitlines(True)[0]
        await handle.seek(place)
        assert await handle.read() == expected[10_000:]


@pytest.mark.ours
@made_up
async def test_positional_reads_go_on_after_a_short_one(maps: str) -> None:
    expected = Path(maps).read_bytes()
    buffer = bytearray(8192)
    async with files.open(maps, "rb") as handle:
        assert await handle.pread(1 << 20, 0) == expected
        assert await handle.pread(1 << 20, 5000) == expected[5000:]
        assert await handle.pread(1 << 20, 1 << 20) == b""
        assert await handle.pread_into(buffer, 100) == 8192
        assert buffer == expected[100:8292]
    assert await files.read_bytes(maps) == expected
    assert await files.read_text(maps) == expected.decode()


@made_up
@pytest.mark.parametrize(
    "path", ["/proc/kallsyms", "/proc/slabinfo", "/sys/kernel/btf/vmlinux", "/proc/net/protocols"]
)
async def test_all_of_it(aio: Any, path: str) -> None:
    try:
        expected = await asyncio.to_thread(Path(path).read_bytes)
    except OSError as exc:
        pytest.skip(str(exc))
    async with aio.open(path, "rb") as handle:
        assert len(await handle.read()) == len(expected)


@made_up
@pytest.mark.parametrize(("mode", "buffering"), [("wb", 0), ("wb", -1), ("w", -1), ("r+", -1), ("r+b", 0)])
async def test_writing_where_only_the_own_position_will_do(aio: Any, mode: str, buffering: int) -> None:
    """The kernel refuses pwrite(2): ESPIPE."""
    path = Path("/proc/self/comm")
    before = path.read_text()
    try:
        for name in ("one", "another"):
            async with aio.open(path, mode, buffering) as handle:
                await handle.write(name.encode() if "b" in mode else name)
            assert path.read_text() == name + "\n"
    finally:
        path.write_text(before)


@pytest.fixture
def namespace() -> Iterator[Path]:
    """The folder in /proc of a process in a namespace of users of its own, which has none yet."""
    if os.geteuid() or shutil.which("unshare") is None:
        pytest.skip("takes root, and unshare(1)")
    child = subprocess.Popen(
        ["unshare", "-U", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(b"begun\n")
        if child.stdout.readline() != b"begun\n":
            pytest.skip("no namespaces of users here")
        yield Path(f"/proc/{child.pid}")
    finally:
        child.kill()
        child.communicate()


@made_up
async def test_users_of_a_namespace(aio: Any, namespace: Path) -> None:
    """The kernel takes the whole of it by one write."""
    async with aio.open(namespace / "uid_map", "w") as handle:
        await handle.write("0 0 10\n")
        await handle.write("10 10 5\n")
    assert (namespace / "uid_map").read_text().split() == ["0", "0", "10", "10", "10", "5"]


# --------------------------------------------------------------------------------- those whose reads may wait


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    """A tracing instance of our own: what is written to its ``trace_marker`` comes out of its
    ``trace_pipe``.
    """
    root = tmp_path / "tracing"
    root.mkdir()
    mounted = subprocess.run(["mount", "-t", "tracefs", "nodev", root], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mounting tracefs: {mounted.stderr.decode().strip()}")
    instance = root / "instances" / f"proactorx-{os.getpid()}"
    try:
        instance.mkdir()
        yield instance
    finally:
        for _ in range(1000):
            try:
                instance.rmdir()
                break
            except OSError:
                time.sleep(0.01)  # a read of its pipe may not have ended yet
        subprocess.run(["umount", "-l", root], check=True)


def mark(trace: Path, *words: str) -> None:
    for word in words:
        (trace / "trace_marker").write_text(word + "\n")


@made_up
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="takes root")
@pytest.mark.parametrize(("mode", "buffering"), [("rb", 0), ("rb", -1), ("r", -1)])
async def test_a_file_of_news(aio: Any, trace: Path, mode: str, buffering: int) -> None:
    """It looks like a regular one, has no position, and a read of it waits for news."""
    mark(trace, "one", "two", "three")
    async with aio.open(trace / "trace_pipe", mode, buffering) as handle:
        for word in ("one", "two", "three"):
            assert str(await soon(handle.readline())).strip("'").removesuffix("\\n").strip().endswith(word)
        reading = asyncio.ensure_future(handle.readline())
        await asyncio.sleep(0.01)
        mark(trace, "four", "five")
        assert "four" in str(await soon(reading))
        assert "five" in str(await soon(handle.readline()))
        if not buffering:
            mark(trace, "six")
            assert b"six" in await soon(handle.read(10_000))
            mark(trace, "seven")
            assert 0 < await soon(handle.readinto(bytearray(10_000))) < 200


@made_up
@pytest.mark.skipif(
    sys.platform == "win32" or not os.access("/proc/kmsg", os.R_OK) or os.geteuid() != 0,
    reason="takes root, and /proc/kmsg",
)
@pytest.mark.parametrize(("mode", "buffering"), [("rb", 0), ("rb", -1), ("r", -1)])
async def test_the_messages_of_the_kernel(aio: Any, mode: str, buffering: int) -> None:
    """Others may read them too, each of them is read once, and at any time there may be none."""

    async def speak() -> None:
        for n in itertools.count():
            Path("/dev/kmsg").write_text(f"proactorx test {n}")
            await asyncio.sleep(0.05)

    speaking = asyncio.ensure_future(speak())
    try:
        async with aio.open("/proc/kmsg", mode, buffering) as handle:
            for _ in range(3):
                line = await soon(handle.readline())
                assert line.endswith("\n" if mode == "r" else b"\n")
            if not buffering:
                assert 0 < len(await soon(handle.read(1 << 20))) < 1 << 20
    finally:
        speaking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await speaking


# ------------------------------------------------------------------------------------------ lines from a pipe


async def _pipe(aio: Any, data: bytes, mode: str = "r", **options: Any) -> tuple[Any, int]:
    reader, writer = os.pipe()
    os.write(writer, data)
    return await aio.open(reader, mode, **options), writer


@pytest.mark.parametrize(
    ("newline", "data", "expected"),
    [
        (None, b"one\ntwo\n", ["one\n", "two\n"]),
        (None, b"one\r\ntwo\r\nx", ["one\n", "two\n"]),
        (None, b"one\rtwo\r\rx", ["one\n", "two\n", "\n"]),
        ("", b"one\r\ntwo\n\nx", ["one\r\n", "two\n", "\n"]),
        ("", b"one\rtwo\r\r\nx", ["one\r", "two\r", "\r\n"]),
        ("\n", b"one\r\ntwo\n", ["one\r\n", "two\n"]),
        ("\r", b"one\rtwo\n\r", ["one\r", "two\n\r"]),
        ("\r\n", b"one\n\r\ntwo\r\n", ["one\n\r\n", "two\r\n"]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
async def test_lines_that_have_arrived_are_given_out(
    aio: Any, newline: str | None, data: bytes, expected: list[str], encoding: str
) -> None:
    last = "x" if data.endswith(b"x") else ""
    data = data.decode().encode(encoding)
    for call in ("readline", "__anext__"):
        handle, writer = await _pipe(aio, data, newline=newline, encoding=encoding)
        for line in expected:
            assert await soon(getattr(handle, call)()) == line
        os.close(writer)
        assert await soon(handle.readline()) == last
        assert await soon(handle.readline()) == ""
        await handle.close()


async def test_characters_that_have_arrived_are_given_out(aio: Any) -> None:
    handle, writer = await _pipe(aio, "zwölf€\nlines\nof four".encode(), encoding="utf-8")
    assert await soon(handle.readline(5)) == "zwölf"
    assert await soon(handle.readline(100)) == "€\n"
    assert await soon(handle.read(2)) == "li"
    assert await soon(handle.readline()) == "nes\n"
    assert await soon(handle.readline(0)) == ""
    assert await soon(handle.readline(3)) == "of "
    assert await soon(handle.read(4)) == "four"
    reading = asyncio.ensure_future(handle.read(3))
    for piece in (b"\xc3", b"\xa9", b"ab"):
        await asyncio.sleep(0.01)
        os.write(writer, piece)
    assert await soon(reading) == "éab"
    os.write(writer, b"one\ntwo\nthree")
    os.close(writer)
    assert await soon(handle.readlines(4)) == ["one\n", "two\n"]
    assert (await soon(handle.read())).endswith("three")
    await handle.close()


async def test_all_of_a_pipe(aio: Any) -> None:
    """More than is read at a time, in pieces that end anywhere."""
    text = "".join(f"{n} é€\r\n" for n in range(20_000))
    for mode, call, expected in (
        ("r", "read", text.replace("\r\n", "\n")),
        ("r", "readlines", text.replace("\r\n", "\n").splitlines(True)),
        ("rb", "read", text.encode()),
        ("rb", "readlines", text.encode().splitlines(True)),
    ):
        handle, writer = await _pipe(aio, b"", mode, **({"encoding": "utf-8"} if mode == "r" else {}))
        writing = asyncio.ensure_future(asyncio.to_thread(_write, writer, text.encode()))
        assert await soon(getattr(handle, call)()) == expected
        await writing
        await handle.close()


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data[:12_345]) :]
    os.close(fd)


@pytest.mark.ours
async def test_a_cancelled_read_of_text_loses_nothing() -> None:
    handle, writer = await _pipe(files, b"begun\nab", encoding="utf-8")
    assert await soon(handle.readline()) == "begun\n"
    for call in (handle.readline(), handle.read(10), handle.read(), handle.readlines()):
        reading = asyncio.ensure_future(call)
        await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        os.write(writer, b"cd")
    os.write(writer, b"\nlast")
    os.close(writer)
    assert await soon(handle.readline()) == "abcdcdcdcd\n"
    assert await soon(handle.read()) == "last"
    await handle.close()


async def test_a_raw_read_of_a_pipe_takes_no_more_than_was_asked_for(aio: Any) -> None:
    """What is behind it belongs to whoever reads the pipe next, a child say."""
    reader, writer = os.pipe()
    async with aio.open(reader, "rb", 0, closefd=False) as handle:
        os.write(writer, b"0123456789")
        assert await soon(handle.read(3)) == b"012"
        buffer = bytearray(2)
        assert await soon(handle.readinto(buffer)) == 2
        assert os.read(reader, 100) == b"56789"
        os.write(writer, b"line\nand more")
        assert await soon(handle.readline()) == b"line\n"
        os.write(writer, b"!")
        assert await soon(handle.read(100)) == b"and more!"
    os.close(reader)
    os.close(writer)


FILTER = """
import asyncio
async def main():
    async with lib.open({source}) as handle:
        async for line in handle:
            print(line.strip()[::-1], flush=True)
"""
LINES = """
import asyncio
async def main():
    while line := await lib.{source}.readline():
        print(line.strip()[::-1], flush=True)
"""
OURS = "import proactorx; from proactorx import files as lib\n{}\nproactorx.run(main())"
THEIRS = "import aiofiles as lib\n{}\nasyncio.run(main())"


@pytest.mark.skipif(sys.platform == "win32", reason="select(2) of pipes")
@pytest.mark.parametrize(
    ("program", "source"), [(FILTER, "'/dev/stdin'"), (FILTER, "0, newline='\\n'"), (LINES, "stdin")], ids=str
)
def test_a_filter_answers_each_line(aio: Any, driver_name: str, program: str, source: str) -> None:
    if aio is not files and driver_name != "select":
        pytest.skip("once will do")
    program = (OURS if aio is files else THEIRS).format(program.format(source=source))
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env={**os.environ, "PROACTORX_BACKEND": driver_name},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        for lines in (b"one\n", b"two\nthree\n", b"four\n", b"five\nsix\nseven\n"):
            child.stdin.write(lines)
            for line in lines.splitlines():
                assert select.select([child.stdout], [], [], 4 * LIMIT)[0], line
                assert child.stdout.readline() == line[::-1] + b"\n"
            time.sleep(0.05)
        child.stdin.close()
        assert child.wait(LIMIT) == 0
    finally:
        child.kill()
        child.stdin.close()
        child.stdout.close()
        child.wait()


@numbered
async def test_lines_of_a_terminal(aio: Any) -> None:
    master, slave = os.openpty()
    handle = await aio.open(slave)
    os.write(master, b"one\ntwo\n")
    assert await soon(handle.readline()) == "one\n"
    assert await soon(handle.readline()) == "two\n"
    os.write(master, b"three\n\x04")
    assert await soon(handle.read()) == "three\n"
    await handle.close()
    os.close(master)


# ------------------------------------------------------------------------------------- those that do not wait


@numbered
@pytest.mark.parametrize("pre", [b"", b"abc", b"abc\nde"])
@pytest.mark.parametrize(
    ("mode", "buffering", "call", "args"),
    [
        *(
            (mode, n, "read", args)
            for mode, n in (("rb", 0), ("rb", -1), ("r", -1))
            for args in ((10,), (2,), ())
        ),
        *((mode, -1, call, ()) for mode in ("rb", "r") for call in ("readline", "readlines")),
        ("rb", 0, "readinto", ()),
        ("rb", -1, "readinto", ()),
        ("rb", -1, "read1", (5,)),
        ("rb", -1, "peek", ()),
    ],
)
async def test_a_pipe_that_does_not_wait_gives_what_it_has(
    aio: Any, pre: bytes, mode: str, buffering: int, call: str, args: tuple[Any, ...]
) -> None:
    found = []
    for opened in (open, aio.open):
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.write(writer, pre)
        file = opened(reader, mode, buffering)
        file = await file if opened is not open else file
        buffer = bytearray(10)
        for _ in range(2):
            step = partial(getattr(file, call), *((buffer,) if call == "readinto" else args))
            found.append((await _outcome(step), bytes(buffer)))
            os.write(writer, b"XYZ\n")
        found.append((await _outcome(file.readline), b""))
        closed = file.close()
        if closed is not None:
            await closed
        os.close(writer)
    assert found[:3] == found[3:]


async def _outcome(call: Callable[[], Any]) -> Any:
    """Of a function of a file, or of a coroutine function of an asynchronous one."""
    try:
        result = call()
        return await result if asyncio.iscoroutine(result) else result
    except Exception as exc:
        return type(exc), str(exc), getattr(exc, "characters_written", None)


@pytest.mark.ours
@numbered
async def test_lines_of_a_raw_pipe_that_does_not_wait() -> None:
    """The built-in raises here, and drops what it has read (CPython 3.13)."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    async with files.open(reader, "rb", 0) as handle:
        assert await handle.readline() == b""
        os.write(writer, b"abc\nde")
        assert await handle.readline() == b"abc\n"
        assert await handle.readline() == b"de"
        assert await handle.readlines() == []
    os.close(writer)


@numbered
@pytest.mark.parametrize(("mode", "buffering"), [("wb", 0), ("wb", -1), ("w", -1)])
async def test_a_pipe_that_does_not_wait_takes_what_it_has_room_for(
    aio: Any, mode: str, buffering: int
) -> None:
    found = []
    data: Any = b"x" * 100_000 if "b" in mode else "x" * 100_000
    for opened in (open, aio.open):
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        file = opened(writer, mode, buffering)
        file = await file if opened is not open else file
        for step in (partial(file.write, data), partial(file.write, data), file.flush):
            found.append(await _outcome(step))
        found.append(len(os.read(reader, 1 << 20)))
        for step in (file.flush, partial(file.write, data[:10]), file.flush):
            found.append(await _outcome(step))
        # Newer Pythons drop nothing: what does not fit into the pipe now is refused once more by close().
        found.append(await _outcome(file.close))
        found.append(len(os.read(reader, 1 << 20)))
        os.close(reader)
    assert found[:9] == found[9:]


async def test_devices(aio: Any) -> None:
    if sys.platform == "win32":
        pytest.skip("Unix's")
    for mode, buffering in (("rb", -1), ("rb", 0)):
        async with aio.open("/dev/zero", mode, buffering) as handle:
            assert await soon(handle.read(100_000)) == bytes(100_000)
            assert await soon(handle.readinto(bytearray(10))) == 10
            assert await outcome(handle.seek(0)) == 0
        async with aio.open("/dev/null", mode, buffering) as handle:
            assert await soon(handle.read()) == b""
            assert await soon(handle.readline()) == b""
