"""Several tasks on one file, cancellation at each await, closing while operations run,
and who takes what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proactorx import files

LIMIT = 10
MANY = 1000 if sys.platform != "win32" else 100  # under Wine each asks its server


class Fifo:
    """A named pipe, read through ``files`` and written by the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)

    async def open(self, mode: str, **options: Any) -> tuple[Any, int]:
        opening = asyncio.ensure_future(_opened(self.path, mode, **options))
        writer = await asyncio.to_thread(os.open, self.path, os.O_WRONLY)
        return await asyncio.wait_for(opening, LIMIT), writer


class WindowsPipe:
    """The same as Windows has it, where both ends are open from the beginning."""

    def __init__(self, path: Path) -> None:
        self.path = rf"\\.\pipe\proactorx-{os.getpid()}-{path.parent.name}"

    async def open(self, mode: str, **options: Any) -> tuple[Any, int]:
        import _winapi
        import msvcrt

        outbound, wait, room = 2, 0, 1 << 16
        create: Any = _winapi.CreateNamedPipe  # type: ignore[attr-defined]
        made = create(self.path, outbound, wait, 1, room, room, 0, 0)
        writer = msvcrt.open_osfhandle(made, os.O_WRONLY)  # type: ignore[attr-defined, unused-ignore]
        return await asyncio.wait_for(files.open(self.path, mode, **options), LIMIT), writer


async def _opened(path: Path, mode: str, **options: Any) -> Any:
    return await files.open(path, mode, **options)


@pytest.fixture
def fifo(tmp_path: Path) -> Any:
    return (Fifo if sys.platform != "win32" else WindowsPipe)(tmp_path / "fifo")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Blocking bodies of whole calls (``allocate``) wait for the event."""
    event = threading.Event()
    call = "os.posix_fallocate" if sys.platform != "win32" else "proactorx.files.windows.allocate"
    monkeypatch.setattr(call, lambda *_args: event.wait(LIMIT))
    yield event
    event.set()


async def test_lines_read_by_several_tasks_are_each_read_once(lines: Path) -> None:
    seen: list[str] = []
    async with files.open(lines, encoding="utf-8") as handle:

        async def read() -> None:
            while line := await handle.readline():
                seen.append(line)
                await asyncio.sleep(0)

        await asyncio.gather(*(read() for _ in range(8)))
    assert sorted(seen, key=len) == lines.read_text(encoding="utf-8").splitlines(keepends=True)


@pytest.mark.ours
async def test_tasks_that_read_from_the_cache_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 16))
    reads = [0] * 20
    at_the_first_end: list[int] = []

    async def read(i: int) -> None:
        async with files.open(path, "rb", 0) as handle:
            for _ in range(3 * MANY):
                await handle.pread(4096, 0)
                reads[i] += 1
        if not at_the_first_end:
            at_the_first_end.extend(reads)

    await asyncio.gather(*(read(i) for i in range(20)))
    assert min(at_the_first_end) > MANY


@pytest.mark.parametrize("buffering", [0, 64, -1])
async def test_writes_of_several_tasks_do_not_mix(tmp_path: Path, buffering: int) -> None:
    path = tmp_path / "out"
    async with files.open(path, "wb", buffering) as handle:
        pieces = [bytes((65 + i,)) * (i * 3000 + 1) + b"\n" for i in range(20)]
        await asyncio.gather(*(handle.write(piece) for piece in pieces))
    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(pieces)


async def test_operations_of_one_file_are_done_in_order(tmp_path: Path) -> None:
    async with files.open(tmp_path / "f", "w+b") as handle:
        results = await asyncio.gather(
            handle.write(b"x" * 100_000),
            handle.seek(0),
            handle.read(3),
            handle.tell(),
            handle.truncate(50),
            handle.read(),
        )
    assert results == [100_000, 0, b"xxx", 3, 50, b"x" * 47]


async def test_positional_operations_leave_the_position_alone(path: Path) -> None:
    async with files.open(path, "r+b") as handle:
        assert await handle.read(10) == bytes(range(10))
        got = await asyncio.gather(*(handle.pread(2, i) for i in range(100)))
        assert got == [bytes((i, i + 1)) for i in range(100)]
        assert await handle.pwrite(b"ABC", 250) == 3
        assert await handle.tell() == 10
        assert await handle.read(2) == b"\x0a\x0b"


async def test_a_cancelled_read_of_a_pipe_loses_nothing(fifo: Fifo) -> None:
    handle, writer = await fifo.open("rb")
    async with handle:
        task = asyncio.ensure_future(handle.readline())
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        os.write(writer, b"first\nsecond\nthi")
        assert await asyncio.wait_for(handle.readline(), LIMIT) == b"first\n"
        assert await asyncio.wait_for(handle.read1(3), LIMIT) == b"sec"
        task = asyncio.ensure_future(handle.read(100))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        os.write(writer, b"rd\n")
        os.close(writer)
        assert await asyncio.wait_for(handle.read(), LIMIT) == b"ond\nthird\n"


async def test_a_pipe_that_is_opened_for_writing_waits_for_its_reader(fifo: Fifo) -> None:
    opening = asyncio.ensure_future(_opened(fifo.path, "wb", buffering=0))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not opening.done()
    reader = await asyncio.to_thread(os.open, fifo.path, os.O_RDONLY)
    async with await asyncio.wait_for(opening, LIMIT) as handle:
        assert os.get_blocking(handle.fileno())
        assert await handle.write(b"x") == 1
    assert os.read(reader, 2) == b"x"
    os.close(reader)


@pytest.mark.parametrize("buffering", [0, -1])
async def test_short_writes_to_a_pipe_are_continued(fifo: Fifo, buffering: int) -> None:
    opening = asyncio.ensure_future(_opened(fifo.path, "wb", buffering=buffering))
    reader = await asyncio.to_thread(os.open, fifo.path, os.O_RDONLY)
    data = os.urandom(300_000)
    reading = asyncio.ensure_future(asyncio.to_thread(_read_all, reader))
    async with await asyncio.wait_for(opening, LIMIT) as handle:
        assert await handle.write(data) == len(data)
    assert await reading == data


def _read_all(fd: int) -> bytes:
    got = b""
    while piece := os.read(fd, 50_000):
        got += piece
    os.close(fd)
    return got


async def test_text_from_a_pipe_comes_line_by_line(fifo: Fifo) -> None:
    handle, writer = await fifo.open("r", encoding="utf-8")
    async with handle:
        for line in ("one\n", "zwölf\n"):
            os.write(writer, line.encode())
            assert await asyncio.wait_for(handle.readline(), LIMIT) == line
        os.write(writer, b"end")
        os.close(writer)
        assert [line async for line in handle] == ["end"]


async def test_cancelling_a_waiting_operation_does_not_hold_up_the_others(fifo: Fifo) -> None:
    handle, writer = await fifo.open("rb")
    async with handle:
        first, second, third = (asyncio.ensure_future(handle.read(2)) for _ in range(3))
        await asyncio.sleep(0.01)
        second.cancel()
        os.write(writer, b"abcd")
        assert await asyncio.wait_for(asyncio.gather(first, third), LIMIT) == [b"ab", b"cd"]
        assert second.cancelled()
        os.close(writer)


@pytest.mark.parametrize("method", ["read", "readline", "readlines", "readinto"])
@pytest.mark.parametrize("buffering", [0, -1])
async def test_a_cancelled_read_leaves_the_position(tmp_path: Path, method: str, buffering: int) -> None:
    path = tmp_path / "big"
    data = os.urandom(3 << 20)
    path.write_bytes(data)
    async with files.open(path, "rb", buffering) as handle:
        assert await handle.read(5) == data[:5]
        for delay in range(6):
            _drop_from_cache(path)
            args = (bytearray(2 << 20),) if method == "readinto" else ()
            task = asyncio.ensure_future(getattr(handle, method)(*args))
            for _ in range(delay):
                await asyncio.sleep(0)
            if not task.cancel():
                await task
                await handle.seek(5)
                continue
            with contextlib.suppress(asyncio.CancelledError):
                await task
                await handle.seek(5)
            assert await handle.tell() == 5
        assert await handle.read(10) == data[5:15]


def _drop_from_cache(path: Path) -> None:
    if not hasattr(os, "posix_fadvise"):
        return
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


async def test_a_raw_read_into_a_buffer_needs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "big"
    data = os.urandom(2 << 20)
    path.write_bytes(data)
    buffer, place = bytearray(1 << 19), 0
    await asyncio.sleep(0.001)  # the driver has its own buffers now
    async with files.open(path, "rb", 0) as handle:
        _drop_from_cache(path)
        tracemalloc.start()
        try:
            while count := await handle.readinto(buffer):
                place += count
            assert tracemalloc.get_traced_memory()[1] < 64 << 10
        finally:
            tracemalloc.stop()
        assert place == await handle.tell() == len(data)
        _drop_from_cache(path)
        place = await handle.seek(0)
        while count := await handle.readinto(buffer):
            assert buffer[:count] == data[place : place + count]
            place += count
        assert place == len(data)


async def test_a_cancelled_write_says_how_much_it_has_written(tmp_path: Path) -> None:
    path = tmp_path / "out"
    data = os.urandom(8 << 20)
    for delay in range(6):
        async with files.open(path, "wb", 0) as handle:
            task = asyncio.ensure_future(handle.write(data))
            for _ in range(delay):
                await asyncio.sleep(0)
            task.cancel()
            try:
                written = await task
            except asyncio.CancelledError as exc:
                written = getattr(exc, "characters_written", 0)
            assert await handle.tell() == written
        assert path.read_bytes() == data[:written]


async def test_a_buffer_that_is_being_filled_is_locked(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * (1 << 20))
    buffer = bytearray(1 << 20)
    async with files.open(path, "rb", 0) as handle:
        for method in (handle.readinto, lambda into: handle.pread_into(into, 0)):
            _drop_from_cache(path)
            task = asyncio.ensure_future(method(buffer))
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(BufferError):
                buffer.append(1)
                del buffer[-1]
            with contextlib.suppress(asyncio.CancelledError):
                await task
    buffer.append(1)  # the file is closed: nobody fills it any more


async def test_appending(aio: Any, tmp_path: Path) -> None:
    """Each write goes to the end, whoever wrote there before, and the position is behind it."""
    path = tmp_path / "log"
    path.write_bytes(b"begun ")
    async with aio.open(path, "ab", 0) as one, aio.open(path, "a+b", 0) as two:
        assert await one.write(b"one ") == 4
        assert await two.write(b"two ") == 4
        assert await one.write(b"three ") == 6
        assert await one.tell() == 20
        await two.seek(0)
        assert await two.read(6) == b"begun "
        assert await two.write(b"four") == 4
        assert await two.tell() == 24
    assert path.read_bytes() == b"begun one two three four"


async def test_a_positional_write_in_append_mode_goes_to_the_end(tmp_path: Path) -> None:
    """As pwrite(2) has it on Linux."""
    path = tmp_path / "log"
    async with files.open(path, "ab", 0) as handle:
        await handle.write(b"12345")
        assert await handle.pwrite(b"67", 0) == 2
        await asyncio.gather(*(handle.pwrite(b"x" * 1000, 0) for _ in range(20)))
    assert path.read_bytes() == b"1234567" + b"x" * 20_000


async def test_a_cancelled_buffered_write_was_taken_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    data = os.urandom(4 << 20)
    async with files.open(path, "wb") as handle:
        task = asyncio.ensure_future(handle.write(data))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await handle.write(b"more")
    assert path.read_bytes() in (data + b"more", b"more")
    assert path.read_bytes() == data + b"more"


async def test_close_waits_for_the_operation_that_runs(path: Path, slow: threading.Event) -> None:
    handle = await files.open(path, "r+b")
    running = asyncio.ensure_future(handle.allocate(0, 1))
    await asyncio.sleep(0.01)
    closing = asyncio.ensure_future(handle.close())
    late = asyncio.ensure_future(handle.read())
    await asyncio.sleep(0.02)
    assert not closing.done()
    assert not handle.closed
    slow.set()
    await asyncio.wait_for(asyncio.gather(running, closing), LIMIT)
    assert handle.closed
    with pytest.raises(ValueError, match="closed file"):
        await late


async def test_close_waits_for_cancelled_and_positional_ones_too(path: Path) -> None:
    for _ in range(50):
        handle = await files.open(path, "r+b")
        tasks = [asyncio.ensure_future(handle.pwrite(b"x" * 5000, i * 5000)) for i in range(8)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await handle.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            assert result == 5000 or isinstance(result, (asyncio.CancelledError, ValueError))


async def test_a_cancelled_close_closes(tmp_path: Path) -> None:
    for delay in range(4):
        path = tmp_path / f"{delay}"
        handle = await files.open(path, "wb")
        await handle.write(b"kept")
        task = asyncio.ensure_future(handle.close())
        for _ in range(delay):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await handle.close()
        assert handle.closed
        assert path.read_bytes() == b"kept"


async def test_a_cancelled_open_leaves_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    for mode in ("rb", "r+b", "w"):
        for delay in range(4):
            task = asyncio.ensure_future(_opened(tmp_path / "f", mode))
            for _ in range(delay):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await task).close()
    await asyncio.sleep(0.05)


async def test_a_forgotten_file_warns_says_where_and_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "forgotten"
    handle = await files.open(path, "wb")
    await handle.write(b"in the buffer")
    fd = handle.fileno()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        del handle
        gc.collect()
    messages = [str(warning.message) for warning in seen if warning.category is ResourceWarning]
    assert len(messages) == 1
    assert "unclosed file" in messages[0]
    assert f"{__file__}:" in messages[0]
    with pytest.raises(OSError):
        os.fstat(fd)
    assert path.read_bytes() == b"in the buffer"


async def test_a_coroutine_that_nobody_awaits_warns(path: Path) -> None:
    async with files.open(path, "rb") as handle:
        with pytest.warns(RuntimeWarning, match="never awaited"):
            handle.read()
        assert await handle.tell() == 0


@pytest.mark.ours
async def test_what_is_in_the_page_cache_takes_no_turn(path: Path) -> None:
    if not _says_what_it_has(path):
        pytest.skip("this file system cannot say what the page cache has: RWF_NOWAIT, preadv2(2)")
    await files.read_bytes(path)  # the file system is known now
    assert len(await _at_once(files.read_bytes(path))) == 256
    for buffering in (0, -1):
        handle = await _at_once(files.open(path, "rb", buffering))
        assert await _at_once(handle.pread(10, 5)) == bytes(range(5, 15))
        assert await _at_once(handle.pread_into(bytearray(10), 5)) == 10
        assert await _at_once(handle.read(5)) == bytes(range(5))
        assert await _at_once(handle.readline()) == bytes(range(5, 11))
        assert await _at_once(handle.readinto(bytearray(5))) == 5
        assert await _at_once(anext(handle)) == bytes(range(16, 256))
        await _at_once(handle.close())
    text = await _at_once(files.open(path, encoding="latin-1"))
    assert await _at_once(text.readline()) == bytes(range(11)).decode()
    await _at_once(text.close())


async def _at_once(awaitable: Awaitable[Any]) -> Any:
    """Its result; nothing else has had a turn meanwhile."""
    turns: list[int] = []
    await asyncio.sleep(0)  # this turn's share of time has not been spent yet
    asyncio.get_running_loop().call_soon(turns.append, 1)
    result = await awaitable
    assert not turns
    return result


def _says_what_it_has(path: Path) -> bool:
    with open(path, "rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1
        except (AttributeError, OSError):
            return False


async def test_a_timer_is_not_kept_waiting_by_a_file_in_the_cache(path: Path) -> None:
    loop = asyncio.get_running_loop()
    late = []

    async def tick() -> None:
        while True:
            due = loop.time() + 0.001
            await asyncio.sleep(0.001)
            late.append(loop.time() - due)

    ticking = asyncio.ensure_future(tick())
    async with files.open(path, "rb") as handle:
        for _ in range(20 * MANY):
            await handle.pread(100, 0)
    ticking.cancel()
    assert len(late) >= 3


async def test_a_read_that_yields_to_others_and_is_cancelled_takes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_text("".join(f"{i}\n" for i in range(20_000)))
    seen: list[str] = []
    async with files.open(path) as handle:

        async def read() -> None:
            while line := await handle.readline():
                seen.append(line)

        for turns in itertools.cycle((1, 2, 3, 300)):
            task = asyncio.ensure_future(read())
            for _ in range(turns):
                await asyncio.sleep(0.0001 if turns == 300 and not task.done() else 0)
            if not task.cancel():
                break
            with contextlib.suppress(asyncio.CancelledError):
                await task
    assert seen == path.read_text().splitlines(keepends=True)


def test_a_file_is_used_on_one_loop_after_the_other(path: Path, loop_factory: Any) -> None:
    async def begin() -> Any:
        handle = await files.open(path, "rb")
        assert await handle.read(3) == b"\x00\x01\x02"
        return handle

    async def end(handle: Any) -> None:
        async with handle:
            assert await handle.read(3) == b"\x03\x04\x05"
            assert await handle.pread(1, 200) == b"\xc8"

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        handle = runner.run(begin())
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(end(handle))
