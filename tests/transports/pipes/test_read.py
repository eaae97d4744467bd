"""The reading side: data, the end, pausing, closing, and what goes wrong."""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import sys
import tempfile
from typing import Any

import pytest

from transports.support import MIB, Recorder, collect_errors, turns

from .support import READABLE, connected, ends, forget

each_kind = pytest.mark.parametrize("kind", READABLE)


@each_kind
async def test_what_the_peer_writes_arrives_and_then_its_end(kind: str) -> None:
    async with connected(kind, reading=True) as pipe:
        pipe.ends.give(b"hello ")
        await pipe.protocol.until_received(6)
        pipe.ends.give(b"world")
        await pipe.protocol.until_received(11)
        pipe.ends.close_peer()
        assert await pipe.protocol.until_lost() is None
        assert bytes(pipe.protocol.data) == b"hello world"
        assert pipe.protocol.order == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert pipe.transport.is_closing()
        assert not pipe.transport.is_reading()


@each_kind
async def test_data_and_end_at_once(kind: str) -> None:
    with ends(kind, reading=True) as pair:
        notes = Recorder()
        pair.give(b"before")
        if kind != "tty":  # whose end takes what was not read with it
            pair.close_peer()
        await asyncio.get_running_loop().connect_read_pipe(lambda: notes, pair.ours)
        await notes.until_received(6)
        pair.close_peer()
        assert await notes.until_lost() is None
        assert bytes(notes.data) == b"before"


@each_kind
async def test_much(kind: str) -> None:
    data = random.Random(1).randbytes(2 * MIB if kind != "tty" else MIB // 8)
    async with connected(kind, reading=True) as pipe:
        giving = asyncio.create_task(pipe.ends.given(data))
        assert await pipe.protocol.until_received(len(data)) == data
        await giving


async def test_packets_come_one_by_one() -> None:
    """A read of a pipe in packet mode stops at the end of a packet: the next ones must be asked for."""
    async with connected("packets", reading=True) as pipe:
        for size in (1, 100, 4000, 1, 7):
            pipe.ends.give(b"x" * size)
        await pipe.protocol.until_received(4109)
        assert pipe.protocol.events.count("data_received") == 5


@each_kind
async def test_paused_it_hears_nothing(kind: str) -> None:
    async with connected(kind, reading=True) as pipe:
        assert pipe.transport.is_reading()
        pipe.transport.pause_reading()
        pipe.transport.pause_reading()
        assert not pipe.transport.is_reading()
        pipe.ends.give(b"one")
        await turns(5)
        await asyncio.sleep(0.01)
        pipe.ends.give(b"two")
        await turns(5)
        assert pipe.protocol.events == ["connection_made"]
        pipe.transport.resume_reading()
        pipe.transport.resume_reading()
        assert pipe.transport.is_reading()
        assert await pipe.protocol.until_received(6) == b"onetwo"
        for word in (b"three", b"four"):  # and it goes on
            seen = len(pipe.protocol.data)
            pipe.ends.give(word)
            await pipe.protocol.until_received(seen + len(word))


@each_kind
async def test_paused_by_each_piece_of_data(kind: str) -> None:
    def pause(notes: Recorder, data: bytes) -> None:
        notes.transport.pause_reading()
        asyncio.get_running_loop().call_soon(notes.transport.resume_reading)

    data = random.Random(2).randbytes(MIB // 4 if kind != "tty" else MIB // 16)
    async with connected(kind, Recorder(data_received=pause), reading=True) as pipe:
        giving = asyncio.create_task(pipe.ends.given(data))
        assert await pipe.protocol.until_received(len(data)) == data
        await giving


async def test_paused_from_the_start() -> None:
    notes = Recorder(connection_made=lambda notes: notes.transport.pause_reading())
    async with connected("pipe", notes, reading=True) as pipe:
        pipe.ends.give(b"data")
        await turns(5)
        assert notes.events == ["connection_made"]
        pipe.transport.resume_reading()
        await notes.until_received(4)


async def test_the_end_waits_while_paused() -> None:
    async with connected("pipe", reading=True) as pipe:
        pipe.transport.pause_reading()
        pipe.ends.close_peer()
        await asyncio.sleep(0.01)
        assert pipe.protocol.events == ["connection_made"]
        pipe.transport.resume_reading()
        assert await pipe.protocol.until_lost() is None
        assert pipe.protocol.order == ["connection_made", "eof_received", "connection_lost"]


@each_kind
async def test_close(kind: str) -> None:
    async with connected(kind, reading=True) as pipe:
        pipe.ends.give(b"unread")
        pipe.transport.close()
        assert pipe.transport.is_closing()
        pipe.transport.close()
        pipe.transport.pause_reading()
        pipe.transport.resume_reading()
        assert await pipe.protocol.until_lost() is None
        await turns(5)
        assert pipe.protocol.events == ["connection_made", "connection_lost"]
        pipe.transport.close()


async def test_closed_in_each_callback() -> None:
    for callback in ("connection_made", "data_received", "eof_received"):
        notes = Recorder(**{callback: lambda notes, *args: notes.transport.close()})
        async with connected("pipe", notes, reading=True) as pipe:
            if callback == "data_received":
                pipe.ends.give(b"x")
            elif callback == "eof_received":
                pipe.ends.close_peer()
            assert await notes.until_lost() is None


async def test_what_eof_received_answers_means_nothing() -> None:
    """A pipe has one direction: nothing could be kept open."""
    async with connected("pipe", Recorder(eof_received=lambda notes: True), reading=True) as pipe:
        pipe.ends.close_peer()
        assert await pipe.protocol.until_lost() is None


async def test_a_callback_that_raises_is_reported_and_reading_goes_on() -> None:
    errors = collect_errors()
    failure = RuntimeError("on purpose")

    def fail(notes: Recorder, data: bytes) -> None:
        if data == b"first":
            raise failure

    async with connected("pipe", Recorder(data_received=fail), reading=True) as pipe:
        pipe.ends.give(b"first")
        await pipe.protocol.until_received(5)
        await turns()
        assert [context["exception"] for context in errors] == [failure]
        pipe.ends.give(b"second")
        await pipe.protocol.until_received(11)


async def test_connection_made_that_raises_is_reported() -> None:
    errors = collect_errors()

    def fail(notes: Recorder) -> None:
        raise RuntimeError("on purpose")

    async with connected("pipe", Recorder(connection_made=fail), reading=True) as pipe:
        assert len(errors) == 1
        pipe.ends.give(b"data")
        await pipe.protocol.until_received(4)


async def test_another_protocol_takes_over() -> None:
    async with connected("pipe", reading=True) as pipe:
        first, second = pipe.protocol, Recorder()
        assert pipe.transport.get_protocol() is first
        pipe.ends.give(b"one")
        await first.until_received(3)
        pipe.transport.set_protocol(second)
        assert pipe.transport.get_protocol() is second
        pipe.ends.give(b"two")
        assert await second.until_received(3) == b"two"
        pipe.transport.set_protocol(first)
        assert bytes(first.data) == b"one"


async def test_callbacks_run_in_the_context_of_the_connection() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("here")
    seen: list[str] = []

    def look(notes: Recorder, *args: Any) -> None:
        seen.append(variable.get())

    notes = Recorder(connection_made=look, data_received=look, eof_received=look)
    async with connected("pipe", notes, reading=True) as pipe:
        variable.set("elsewhere")
        pipe.ends.give(b"data")
        await notes.until_received(4)
        pipe.ends.close_peer()
        await notes.until_lost()
    assert seen == ["here"] * 3


async def test_what_it_is() -> None:
    async with connected("pipe", reading=True) as pipe:
        assert isinstance(pipe.transport, asyncio.ReadTransport)
        assert not isinstance(pipe.transport, asyncio.WriteTransport)
        assert pipe.transport.get_extra_info("pipe") is pipe.ends.ours
        assert pipe.transport.get_extra_info("socket") is None
        assert pipe.transport.get_extra_info("socket", 5) == 5
        assert "fd=" in repr(pipe.transport)
        pipe.transport.close()
        assert "clos" in repr(pipe.transport)
        assert not os.get_blocking(pipe.ends.ours.fileno())


async def test_a_stream_reader() -> None:
    """Its limit pauses and resumes the pipe."""
    data = b"".join(b"line %d\n" % n for n in range(50_000))
    with ends("pipe", reading=True) as pair:
        reader = asyncio.StreamReader(limit=1000)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pair.ours
        )
        giving = asyncio.create_task(pair.given(data))
        assert b"".join([await reader.readline() for _ in range(50_000)]) == data
        await giving
        pair.close_peer()
        assert await reader.read() == b""
        transport.close()
        await turns(5)


async def test_a_file_is_refused() -> None:
    loop = asyncio.get_running_loop()
    message = r"^Pipe transport is for pipes/sockets only\.$"
    if sys.platform == "win32":
        message = "needs the overlapped handle of a pipe"
    with tempfile.TemporaryFile() as file:
        with pytest.raises(ValueError, match=message):
            await loop.connect_read_pipe(Recorder, file)
        assert not file.closed
        file.write(b"still of use")


@pytest.mark.ours  # stock asyncio refuses too, and then stumbles over its half-made transport
async def test_a_closed_pipe_is_refused() -> None:
    with ends("pipe", reading=True) as pair:
        pair.ours.close()
        with pytest.raises(ValueError):
            await asyncio.get_running_loop().connect_read_pipe(Recorder, pair.ours)


async def test_connecting_is_cancelled() -> None:
    loop = asyncio.get_running_loop()
    notes = Recorder()
    with ends("pipe", reading=True) as pair:
        task = loop.create_task(loop.connect_read_pipe(lambda: notes, pair.ours))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await notes.until_lost() is None
        await turns(5)
        assert pair.ours.closed


async def test_closed_by_its_owner_it_touches_no_other_file() -> None:
    """The number of a closed descriptor belongs to whoever opens the next file."""
    async with connected("pipe", reading=True) as pipe:
        fd = pipe.ends.ours.fileno()
        pipe.ends.ours.close()
        other = os.open(os.devnull, os.O_RDONLY)
        try:
            assert other == fd
            pipe.transport.close()
            await pipe.protocol.until_lost()
            await turns(5)
            os.fstat(other)
        finally:
            os.close(other)


def test_not_closed_is_said(loop: asyncio.AbstractEventLoop) -> None:
    with ends("pipe", reading=True) as pair:
        made = [loop.run_until_complete(loop.connect_read_pipe(Recorder, pair.ours))]
        loop.close()
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            forget(made)
        assert pair.ours.closed


@pytest.mark.ours
def test_closed_after_its_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Nobody can be called any more, but the descriptor goes at once and without a complaint."""
    with ends("pipe", reading=True) as pair:
        transport, notes = loop.run_until_complete(loop.connect_read_pipe(Recorder, pair.ours))
        loop.close()
        assert "open" in repr(transport)
        transport.close()
        assert pair.ours.closed
        assert notes.events == ["connection_made"]


def test_an_interrupt_from_a_callback_stops_the_loop_and_loses_nothing(
    loop: asyncio.AbstractEventLoop,
) -> None:
    def interrupt(notes: Recorder, data: bytes) -> None:
        if len(notes.data) == len(data):
            raise KeyboardInterrupt

    notes = Recorder(data_received=interrupt)
    # more than a read of a socket or a small pipe brings, and it fits
    data = random.Random(3).randbytes(60_000)
    with ends("packets", reading=True) as pair:
        transport, _ = loop.run_until_complete(loop.connect_read_pipe(lambda: notes, pair.ours))
        for start in range(0, len(data), 4000):
            pair.give(data[start : start + 4000])
        with pytest.raises(KeyboardInterrupt):
            loop.run_forever()
        assert loop.run_until_complete(notes.until_received(len(data))) == data
        transport.close()
        loop.run_until_complete(notes.until_lost())
