"""The writing side: order, flow control, the end, and a peer that goes away."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import random
import select
import sys
import tempfile
from typing import Any

import pytest

from transports.support import LIMIT, MIB, Recorder, collect_errors, turns

from .support import BREAKABLE, WRITABLE, Piped, capacity, connected, ends, forget

each_kind = pytest.mark.parametrize("kind", WRITABLE)
each_breakable = pytest.mark.parametrize("kind", BREAKABLE)


#: On Windows a write counts until it has ended, so one has to be more than the pipe holds.
PIECE = b"x" * (MIB if sys.platform == "win32" else 65536)


def fill(pipe: Piped, piece: bytes = PIECE) -> int:
    """Write until something has to wait; how much was written."""
    count = 0
    while not pipe.transport.get_write_buffer_size():
        pipe.transport.write(piece)
        count += len(piece)
    return count


@each_kind
async def test_what_is_written_arrives_in_order(kind: str) -> None:
    async with connected(kind, reading=False) as pipe:
        for word in (b"one ", bytearray(b"two "), memoryview(b"three "), b""):
            pipe.transport.write(word)
        pipe.transport.writelines([b"five ", bytearray(b"six "), b"", b"seven"])
        assert await pipe.ends.taken(28) == b"one two three five six seven"


@each_kind
async def test_a_write_is_made_at_once(kind: str) -> None:
    """A terminal's user, or whoever else writes to the same pipe, is not to see a later order."""
    async with connected(kind, reading=False) as pipe:
        pipe.transport.write(b"now")
        assert pipe.ends.take(3) == b"now"
        pipe.transport.writelines([b"and ", b"now"])
        assert pipe.ends.take(7) == b"and now"


@each_kind
async def test_much_with_flow_control(kind: str) -> None:
    data = random.Random(1).randbytes(2 * MIB if kind != "tty" else MIB // 8)
    async with connected(kind, reading=False) as pipe:
        pipe.transport.write(data)
        assert pipe.transport.get_write_buffer_size() > 0
        assert pipe.protocol.events == ["connection_made", "pause_writing"]
        assert await pipe.ends.taken(len(data)) == data
        await pipe.protocol.until_event("resume_writing")
        assert pipe.protocol.events == ["connection_made", "pause_writing", "resume_writing"]
        assert pipe.transport.get_write_buffer_size() == 0


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


@pytest.mark.ours  # stock asyncio calls pause_writing in the context of whoever writes
async def test_flow_control_runs_in_the_context_of_the_transport() -> None:
    seen: list[str] = []

    def note(_: Recorder) -> None:
        seen.append(variable.get())

    variable.set("connection")
    async with connected("pipe", Recorder(pause_writing=note, resume_writing=note), reading=False) as pipe:
        variable.set("writer")
        pipe.transport.write(bytes(2 * MIB))
        await pipe.ends.taken(2 * MIB)
        await pipe.protocol.until_event("resume_writing")
    assert seen == ["connection", "connection"]


async def test_many_pieces_behind_a_full_pipe() -> None:
    async with connected("pipe", reading=False) as pipe:
        count = fill(pipe)
        pieces = [b"%d," % n for n in range(20_000)]
        for piece in pieces:
            pipe.transport.write(piece)
        got = await pipe.ends.taken(count + len(b"".join(pieces)))
        assert got == b"x" * count + b"".join(pieces)


async def test_the_caller_may_change_what_it_has_written() -> None:
    async with connected("pipe", reading=False) as pipe:
        count = fill(pipe)
        for size in (10, 100_000):
            data = bytearray(b"a" * size)
            pipe.transport.write(data)
            data[:] = b"b" * size
        assert (await pipe.ends.taken(count + 100_010))[count:] == b"a" * 100_010


@pytest.mark.ours  # stock asyncio closes the pipe over it
async def test_memory_with_gaps() -> None:
    async with connected("pipe", reading=False) as pipe:
        pipe.transport.write(memoryview(b"a-b-c-")[::2])
        assert pipe.ends.take(3) == b"abc"


async def test_limits() -> None:
    async with connected("pipe", reading=False) as pipe:
        assert pipe.transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        pipe.transport.set_write_buffer_limits(high=100)
        assert pipe.transport.get_write_buffer_limits() == (25, 100)
        with pytest.raises(ValueError):
            pipe.transport.set_write_buffer_limits(high=1, low=2)
        size = capacity(pipe.ends.peer)
        pipe.transport.write(b"x" * size)
        pipe.transport.write(b"y" * 100)
        assert pipe.protocol.events == ["connection_made"]
        pipe.transport.write(b"z")
        assert pipe.transport.get_write_buffer_size() == 101
        assert pipe.protocol.events[-1] == "pause_writing"
        assert (await pipe.ends.taken(size + 101))[-101:] == b"y" * 100 + b"z"
        await pipe.protocol.until_event("resume_writing")


@each_kind
async def test_close_sends_what_is_queued(kind: str) -> None:
    data = random.Random(2).randbytes(MIB if kind != "tty" else MIB // 16)
    async with connected(kind, reading=False) as pipe:
        pipe.transport.write(data)
        pipe.transport.close()
        pipe.transport.close()
        assert pipe.transport.is_closing()
        pipe.transport.write(b"too late")
        assert await pipe.ends.taken(len(data)) == data
        assert await pipe.protocol.until_lost() is None
        if kind != "tty":
            assert await pipe.ends.rest() == b""
        pipe.transport.close()


@each_kind
async def test_write_eof_is_close(kind: str) -> None:
    async with connected(kind, reading=False) as pipe:
        assert pipe.transport.can_write_eof()
        pipe.transport.write(b"last words")
        pipe.transport.write_eof()
        pipe.transport.write_eof()
        pipe.transport.write(b"too late")
        assert pipe.transport.is_closing()
        assert await pipe.protocol.until_lost() is None
        assert pipe.ends.take(10) == b"last words"


async def test_abort_drops_what_is_queued() -> None:
    async with connected("pipe", reading=False) as pipe:
        size = capacity(pipe.ends.peer)
        pipe.transport.write(b"x" * 4 * size)
        pipe.transport.abort()
        assert pipe.transport.get_write_buffer_size() == 0
        assert await pipe.protocol.until_lost() is None
        assert await pipe.ends.rest() == b"x" * size


@pytest.mark.ours  # stock asyncio calls connection_lost() for each
async def test_abort_twice() -> None:
    async with connected("pipe", reading=False) as pipe:
        fill(pipe)
        pipe.transport.abort()
        pipe.transport.abort()
        assert await pipe.protocol.until_lost() is None
        await turns(5)
        pipe.transport.abort()


async def test_abort_while_closing() -> None:
    async with connected("pipe", reading=False) as pipe:
        fill(pipe)
        pipe.transport.close()
        await turns()
        assert "connection_lost" not in pipe.protocol.events
        pipe.transport.abort()
        assert await pipe.protocol.until_lost() is None


@each_breakable
async def test_an_idle_one_hears_that_the_reader_has_gone(kind: str) -> None:
    async with connected(kind, reading=False) as pipe:
        pipe.transport.write(b"read me")
        pipe.ends.take(7)
        await turns(5)
        pipe.ends.close_peer()
        assert await pipe.protocol.until_lost() is None
        assert pipe.transport.is_closing()


@each_breakable
async def test_the_reader_goes_while_data_waits(kind: str) -> None:
    async with connected(kind, reading=False) as pipe:
        fill(pipe)
        await turns(5)
        pipe.ends.close_peer()
        assert isinstance(await pipe.protocol.until_lost(), (BrokenPipeError, ConnectionResetError))
        assert pipe.transport.get_write_buffer_size() == 0


@each_breakable
async def test_the_reader_goes_while_it_closes(kind: str) -> None:
    async with connected(kind, reading=False) as pipe:
        fill(pipe)
        pipe.transport.close()
        await turns(5)
        pipe.ends.close_peer()
        assert isinstance(await pipe.protocol.until_lost(), (BrokenPipeError, ConnectionResetError))


@each_breakable
async def test_writing_to_nobody(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(kind, reading=False) as pipe:
        pipe.ends.close_peer()
        pipe.transport.write(b"hello?")
        assert pipe.transport.is_closing()
        for _ in range(10):
            pipe.transport.write(b"hello?")
        assert isinstance(await pipe.protocol.until_lost(), BrokenPipeError)
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING][:1] == [
        "pipe closed by peer or os.write(pipe, data) raised exception."
    ]


@pytest.mark.ours  # stock asyncio takes anything that can be read for the end
async def test_a_socket_whose_peer_says_something_is_not_lost() -> None:
    async with connected("socket", reading=False) as pipe:
        pipe.ends.give(b"an answer for somebody else")
        await turns(5)
        await asyncio.sleep(0.01)
        pipe.transport.write(b"still here")
        assert pipe.ends.take(10) == b"still here"
        assert not pipe.transport.is_closing()
        pipe.ends.close_peer()
        pipe.transport.write(b"gone")
        assert isinstance(await pipe.protocol.until_lost(), OSError)


async def test_what_cannot_be_written_is_refused() -> None:
    async with connected("pipe", reading=False) as pipe:
        for nonsense in ("text", 5, None):
            with pytest.raises((TypeError, AssertionError)):
                pipe.transport.write(nonsense)
        assert not pipe.transport.is_closing()


async def test_flow_control_that_raises_is_reported() -> None:
    errors = collect_errors()

    def fail(notes: Recorder) -> None:
        raise RuntimeError("on purpose")

    async with connected("pipe", Recorder(pause_writing=fail, resume_writing=fail), reading=False) as pipe:
        data = b"x" * MIB
        pipe.transport.write(data)
        assert await pipe.ends.taken(MIB) == data
        await pipe.protocol.until_event("resume_writing")
        assert [context["message"] for context in errors] == [
            "protocol.pause_writing() failed",
            "protocol.resume_writing() failed",
        ]


@pytest.mark.ours  # stock asyncio watches the descriptor on, after it was closed
async def test_closed_in_connection_made() -> None:
    notes = Recorder(connection_made=lambda notes: notes.transport.close())
    async with connected("pipe", notes, reading=False):
        assert await notes.until_lost() is None


@pytest.mark.ours  # stock asyncio calls connection_lost() twice where resume_writing() closes
async def test_closed_by_flow_control() -> None:
    def close(notes: Recorder, *args: Any) -> None:
        notes.transport.close()

    for callback in ("pause_writing", "resume_writing"):
        async with connected("pipe", Recorder(**{callback: close}), reading=False) as pipe:
            pipe.transport.write(b"x" * MIB)
            assert await pipe.ends.taken(MIB) == b"x" * MIB
            assert await pipe.protocol.until_lost() is None


async def test_what_it_is() -> None:
    async with connected("pipe", reading=False) as pipe:
        assert isinstance(pipe.transport, asyncio.WriteTransport)
        assert pipe.transport.get_extra_info("pipe") is pipe.ends.ours
        assert pipe.transport.get_extra_info("peername", 5) == 5
        assert pipe.transport.get_protocol() is pipe.protocol
        assert "fd=" in repr(pipe.transport)
        assert "bufsize=0" in repr(pipe.transport)
        assert not os.get_blocking(pipe.ends.ours.fileno())
        other = Recorder()
        pipe.transport.set_protocol(other)
        assert pipe.transport.get_protocol() is other
        pipe.transport.set_protocol(pipe.protocol)


async def test_a_stream_writer() -> None:
    loop = asyncio.get_running_loop()
    with ends("pipe", reading=False) as pair:
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pair.ours)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        taking = asyncio.create_task(pair.taken(2 * MIB))
        for _ in range(32):
            writer.write(b"x" * 65536)
            await asyncio.wait_for(writer.drain(), LIMIT)
        assert await taking == b"x" * 2 * MIB
        transport.close()
        await turns(5)


async def test_a_drain_ends_when_the_reader_goes() -> None:
    loop = asyncio.get_running_loop()
    with ends("pipe", reading=False) as pair:
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pair.ours)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        writer.write(b"x" * MIB)
        draining = asyncio.create_task(writer.drain())
        await turns(3)
        pair.close_peer()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await asyncio.wait_for(draining, LIMIT)
        await turns(5)


async def test_a_file_is_refused() -> None:
    loop = asyncio.get_running_loop()
    message = r"^Pipe transport is only for pipes, sockets and character devices$"
    if sys.platform == "win32":
        message = "needs the overlapped handle of a pipe"
    with tempfile.TemporaryFile() as file:
        with pytest.raises(ValueError, match=message):
            await loop.connect_write_pipe(Recorder, file)
        file.write(b"still of use")


async def test_connecting_is_cancelled() -> None:
    loop = asyncio.get_running_loop()
    notes = Recorder()
    with ends("pipe", reading=False) as pair:
        task = loop.create_task(loop.connect_write_pipe(lambda: notes, pair.ours))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await notes.until_lost() is None
        await turns(5)
        assert pair.ours.closed
        if sys.platform != "win32":
            assert select.select([pair.peer], [], [], LIMIT)[0]
        assert pair.take_all() == b""


@pytest.mark.ours  # stock asyncio goes on with the number, whosever it is
async def test_closed_by_its_owner_it_touches_no_other_file() -> None:
    with tempfile.TemporaryDirectory(prefix="px") as folder:
        async with connected("pipe", reading=False) as pipe:
            fd = pipe.ends.ours.fileno()
            pipe.ends.ours.close()
            other = os.open(os.path.join(folder, "other"), os.O_RDWR | os.O_CREAT)
            try:
                assert other == fd
                pipe.transport.write(b"for the pipe")
                assert isinstance(await pipe.protocol.until_lost(), OSError)
                await turns(5)
                assert os.fstat(other).st_size == 0
            finally:
                os.close(other)


def test_not_closed_is_said(loop: asyncio.AbstractEventLoop) -> None:
    with ends("pipe", reading=False) as pair:
        made = [loop.run_until_complete(loop.connect_write_pipe(Recorder, pair.ours))]
        loop.close()
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            forget(made)
        assert pair.ours.closed


@pytest.mark.ours
@pytest.mark.parametrize("way", ["close", "abort", "write_eof"])
def test_closed_after_its_loop(loop: asyncio.AbstractEventLoop, way: str) -> None:
    """Nobody can be called any more, but the descriptor goes at once and without a complaint."""
    with ends("pipe", reading=False) as pair:
        transport, notes = loop.run_until_complete(loop.connect_write_pipe(Recorder, pair.ours))
        transport.write(b"x" * MIB)
        loop.close()
        assert "open" in repr(transport)
        getattr(transport, way)()
        assert pair.ours.closed
        transport.write(b"nothing")
        assert notes.events == ["connection_made", "pause_writing"]


async def test_a_pipe_that_is_written_cannot_be_read() -> None:
    """It is an asyncio.Transport all the same, and has the methods of one."""
    async with connected("pipe", reading=False) as pipe:
        assert isinstance(pipe.transport, asyncio.Transport)
        assert isinstance(pipe.transport, asyncio.WriteTransport)
        for name in ("pause_reading", "resume_reading", "is_reading"):
            with pytest.raises(NotImplementedError):
                getattr(pipe.transport, name)()
        assert pipe.transport._closing is False
