"""Who hears of the bytes of a stream: asyncio's own reader, one that somebody derived from it,
one that is held.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from .support import LIMIT, turns


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        right.settimeout(LIMIT)
        yield left, right


Ends = tuple[socket.socket, socket.socket]


async def connect(sock: socket.socket, protocol: asyncio.Protocol) -> asyncio.Transport:
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=sock)
    return transport


async def ended(transport: asyncio.Transport) -> None:
    transport.close()
    await turns(3)


async def test_a_derived_protocol_is_called(ends: Ends) -> None:
    seen: list[bytes] = []

    class Listening(asyncio.StreamReaderProtocol):
        def data_received(self, data: bytes) -> None:
            seen.append(data)
            super().data_received(data)

    reader = asyncio.StreamReader()
    transport = await connect(ends[0], Listening(reader))
    ends[1].sendall(b"hello")
    assert await asyncio.wait_for(reader.readexactly(5), LIMIT) == b"hello"
    assert b"".join(seen) == b"hello"
    await ended(transport)


async def test_a_derived_reader_is_fed(ends: Ends) -> None:
    class Upper(asyncio.StreamReader):
        def feed_data(self, data: bytes) -> None:
            super().feed_data(data.upper())

    reader = Upper()
    transport = await connect(ends[0], asyncio.StreamReaderProtocol(reader))
    ends[1].sendall(b"hello")
    assert await asyncio.wait_for(reader.readexactly(5), LIMIT) == b"HELLO"
    await ended(transport)


async def test_a_patched_class_is_called(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    original = asyncio.StreamReader.feed_data

    def feed_data(self: asyncio.StreamReader, data: bytes) -> None:
        original(self, data[::-1])

    monkeypatch.setattr(asyncio.StreamReader, "feed_data", feed_data)
    reader = asyncio.StreamReader()
    transport = await connect(ends[0], asyncio.StreamReaderProtocol(reader))
    ends[1].sendall(b"ab")
    assert await asyncio.wait_for(reader.readexactly(2), LIMIT) == b"ba"
    await ended(transport)


async def test_the_reader_pauses_at_twice_its_limit_and_goes_on(ends: Ends) -> None:
    reader = asyncio.StreamReader(limit=1000)
    transport = await connect(ends[0], asyncio.StreamReaderProtocol(reader))
    ends[1].sendall(b"x" * 2000)
    await turns(5)
    assert transport.is_reading()
    ends[1].sendall(b"y")
    async with asyncio.timeout(LIMIT):
        while transport.is_reading():
            await asyncio.sleep(0.001)
    assert await reader.readexactly(2001) == b"x" * 2000 + b"y"
    assert transport.is_reading()
    ends[1].sendall(b"more")
    assert await asyncio.wait_for(reader.readexactly(4), LIMIT) == b"more"
    await ended(transport)


async def test_a_buffer_that_cannot_grow_ends_the_connection(
    ends: Ends, loop_errors: list[dict[str, Any]]
) -> None:
    reader = asyncio.StreamReader()
    transport = await connect(ends[0], asyncio.StreamReaderProtocol(reader))
    ends[1].sendall(b"first")
    async with asyncio.timeout(LIMIT):
        while not reader._buffer:  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)
    with memoryview(reader._buffer):  # type: ignore[attr-defined]
        ends[1].sendall(b"second")
        async with asyncio.timeout(LIMIT):
            while not transport.is_closing():
                await asyncio.sleep(0.001)
    assert [type(context["exception"]) for context in loop_errors] == [BufferError]
    assert isinstance(reader.exception(), BufferError)
    await turns(3)


async def test_a_waiting_read_that_was_cancelled_does_not_hold_the_next(ends: Ends) -> None:
    reader = asyncio.StreamReader()
    transport = await connect(ends[0], asyncio.StreamReaderProtocol(reader))
    task = asyncio.create_task(reader.read(10))
    await turns(2)
    task.cancel()
    ends[1].sendall(b"data")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.wait_for(reader.read(10), LIMIT) == b"data"
    await ended(transport)


@pytest.fixture
async def loop_errors() -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context))
    return seen
