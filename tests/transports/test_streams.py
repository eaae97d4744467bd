"""asyncio.open_connection and start_server on these transports: reading."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from .support import BIG, LIMIT, MIB, SMALL_BUFFER, dial, linux_only, listening, reset, serving, turns


@contextlib.asynccontextmanager
async def opened(
    **options: Any,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, socket.socket]]:
    """A stream and a raw blocking peer."""
    with listening(receive_buffer=SMALL_BUFFER) as listener:
        reader, writer = await asyncio.open_connection(*listener.getsockname(), **options)
        peer, _ = listener.accept()
    with peer:
        peer.settimeout(LIMIT)
        try:
            yield reader, writer, peer
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(writer.wait_closed(), LIMIT)


async def test_read_of_some_and_of_all() -> None:
    async with opened() as (reader, _, peer):
        peer.sendall(b"hello world")
        assert await reader.readexactly(5) == b"hello"
        assert await reader.read(100) == b" world"
        peer.sendall(b"the rest")
        peer.close()
        assert await reader.read() == b"the rest"
        assert await reader.read() == b""
        assert reader.at_eof()


async def test_readline() -> None:
    async with opened() as (reader, _, peer):
        peer.sendall(b"one\ntw")
        assert await reader.readline() == b"one\n"
        task = asyncio.create_task(reader.readline())
        await turns()
        assert not task.done()
        peer.sendall(b"o\nlast")
        assert await asyncio.wait_for(task, LIMIT) == b"two\n"
        peer.shutdown(socket.SHUT_WR)
        assert await reader.readline() == b"last"
        assert await reader.readline() == b""


async def test_iterating_over_lines() -> None:
    async with opened() as (reader, _, peer):
        lines = [b"%d\n" % i for i in range(500)]
        peer.sendall(b"".join(lines))
        peer.shutdown(socket.SHUT_WR)
        assert [line async for line in reader] == lines


async def test_readuntil() -> None:
    async with opened() as (reader, _, peer):
        peer.sendall(b"key: value\r\n\r\nbody")
        assert await reader.readuntil(b"\r\n\r\n") == b"key: value\r\n\r\n"
        peer.shutdown(socket.SHUT_WR)
        with pytest.raises(asyncio.IncompleteReadError) as info:
            await reader.readuntil(b"\n")
        assert info.value.partial == b"body"


async def test_readexactly_of_too_little() -> None:
    async with opened() as (reader, _, peer):
        peer.sendall(b"short")
        peer.close()
        with pytest.raises(asyncio.IncompleteReadError) as info:
            await reader.readexactly(10)
        assert info.value.partial == b"short"
        assert info.value.expected == 10


async def test_a_line_that_is_too_long() -> None:
    async with opened(limit=64) as (reader, _, peer):
        peer.sendall(b"x" * 1000)
        with pytest.raises(asyncio.LimitOverrunError):
            await reader.readuntil(b"\n")
        with pytest.raises(ValueError):
            await reader.readline()


async def test_a_reader_that_does_not_read_holds_the_peer_back() -> None:
    """And all comes, once it does."""
    data = random.Random(1).randbytes(BIG)
    async with opened(limit=4096) as (reader, _, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        sending = asyncio.create_task(asyncio.to_thread(peer.sendall, data * 3))
        done, _ = await asyncio.wait([sending], timeout=0.1)
        assert not done
        assert await reader.readexactly(3 * BIG) == data * 3
        await sending


async def test_a_cancelled_read_loses_nothing() -> None:
    """Cancelled at every await, with data before and after; later reads see every byte."""
    reads: list[Callable[[asyncio.StreamReader], Any]] = [
        lambda reader: reader.read(100),
        lambda reader: reader.readexactly(2000),
        lambda reader: reader.readline(),
        lambda reader: reader.readuntil(b"\n"),
    ]
    expected, got = bytearray(), bytearray()
    async with opened() as (reader, _, peer):
        for i in range(80):
            task = asyncio.create_task(reads[i % 4](reader))
            await turns(i % 5)
            if i % 3:
                piece = b"%04d" % i + (b"\n" if i % 7 == 0 else b"")
                peer.sendall(piece)
                expected += piece
            await turns(i % 4)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                got += await task
        peer.shutdown(socket.SHUT_WR)
        got += await reader.read()
        assert got == expected


async def test_two_reads_at_once_are_refused() -> None:
    async with opened() as (reader, _, peer):
        task = asyncio.create_task(reader.read(10))
        await turns()
        with pytest.raises(RuntimeError, match="already waiting"):
            await reader.read(10)
        peer.sendall(b"x")
        assert await task == b"x"


async def test_a_reset_reaches_the_reader_and_the_writer() -> None:
    async with opened() as (reader, writer, peer):
        task = asyncio.create_task(reader.read(10))
        await turns()
        reset(peer)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(task, LIMIT)
        with pytest.raises(ConnectionResetError):
            await writer.drain()
        assert writer.is_closing()


async def test_drain_waits_for_a_slow_peer() -> None:
    async with opened() as (_, writer, peer):
        writer.write(b"d" * BIG)
        task = asyncio.create_task(writer.drain())
        await asyncio.sleep(0.01)
        assert not task.done()
        got = await asyncio.to_thread(_read, peer, BIG)
        assert got == b"d" * BIG
        await asyncio.wait_for(task, LIMIT)
        await writer.drain()


def _read(peer: socket.socket, count: int) -> bytes:
    out = bytearray()
    while len(out) < count:
        out += peer.recv(MIB)
    return bytes(out)


async def test_several_drains_at_once() -> None:
    async with opened() as (_, writer, peer):
        writer.write(b"d" * BIG)
        tasks = [asyncio.create_task(writer.drain()) for _ in range(5)]
        await turns()
        await asyncio.to_thread(_read, peer, BIG)
        await asyncio.wait_for(asyncio.gather(*tasks), LIMIT)


async def test_a_cancelled_drain_can_be_repeated() -> None:
    async with opened() as (_, writer, peer):
        writer.write(b"d" * BIG)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.01)
        reading = asyncio.create_task(asyncio.to_thread(_read, peer, BIG))
        await asyncio.wait_for(writer.drain(), LIMIT)
        assert len(await reading) == BIG


async def test_drain_when_the_peer_goes_away() -> None:
    async with opened() as (_, writer, peer):
        writer.write(b"d" * BIG)
        task = asyncio.create_task(writer.drain())
        await turns()
        reset(peer)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(task, LIMIT)


async def test_write_writelines_and_write_eof() -> None:
    async with opened() as (reader, writer, peer):
        assert writer.can_write_eof()
        writer.write(b"one ")
        writer.writelines([b"two ", bytearray(b"three")])
        writer.write_eof()
        await writer.drain()
        assert await asyncio.to_thread(_to_end, peer) == b"one two three"
        peer.sendall(b"answer")
        assert await reader.read(10) == b"answer"


def _to_end(peer: socket.socket) -> bytes:
    out = bytearray()
    while chunk := peer.recv(MIB):
        out += chunk
    return bytes(out)


async def test_close_flushes_and_wait_closed_waits() -> None:
    async with opened() as (_, writer, peer):
        writer.write(b"f" * BIG)
        writer.close()
        assert writer.is_closing()
        task = asyncio.create_task(writer.wait_closed())
        await asyncio.sleep(0.01)
        assert not task.done()
        assert len(await asyncio.to_thread(_to_end, peer)) == BIG
        await asyncio.wait_for(task, LIMIT)


async def test_extra_info_and_transport() -> None:
    async with opened() as (_, writer, peer):
        assert writer.get_extra_info("peername") == peer.getsockname()
        assert writer.get_extra_info("nothing", "default") == "default"
        assert isinstance(writer.transport, asyncio.Transport)
        assert not writer.is_closing()


async def echo_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def _converse(address: Any, number: int) -> None:
    reader, writer = await asyncio.open_connection(*address)
    for i in range(20):
        writer.write(b"%d of %d\n" % (i, number))
        assert await reader.readline() == b"%d of %d\n" % (i, number)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_server_of_streams() -> None:
    server = await asyncio.start_server(echo_lines, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    async with asyncio.timeout(LIMIT):
        await asyncio.gather(*(_converse(address, i) for i in range(40)))
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


async def test_a_server_of_streams_and_raw_clients() -> None:
    server = await asyncio.start_server(echo_lines, "127.0.0.1", 0)
    with dial(server.sockets[0].getsockname()) as client:
        client.sendall(b"a line\n")
        assert await asyncio.to_thread(client.recv, 100) == b"a line\n"
        client.shutdown(socket.SHUT_WR)
        assert await asyncio.to_thread(client.recv, 100) == b""
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


async def test_5_mib_through_streams() -> None:
    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
        writer.close()

    data = random.Random(3).randbytes(5 * MIB)
    server = await asyncio.start_server(count, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

    async def send() -> None:
        for start in range(0, len(data), 100_000):
            writer.write(data[start : start + 100_000])
            await writer.drain()
        writer.write_eof()

    sending = asyncio.create_task(send())
    assert await asyncio.wait_for(reader.read(), LIMIT) == data
    await sending
    writer.close()
    await writer.wait_closed()
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


@pytest.mark.skipif(not linux_only, reason="abstract names are Linux's")
async def test_streams_over_unix() -> None:
    name = f"\0proactorx-streams-{id(object())}"
    server = await asyncio.start_unix_server(echo_lines, name)
    reader, writer = await asyncio.open_unix_connection(name)
    writer.write(b"unix\n")
    assert await reader.readline() == b"unix\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


async def test_open_connection_refused() -> None:
    with listening() as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)


async def test_a_stream_on_a_protocol_server() -> None:
    async with serving(asyncio.Protocol) as (server, address):
        reader, writer = await asyncio.open_connection(*address)
        task = asyncio.create_task(reader.read(1))
        await turns()
        writer.close()
        assert await asyncio.wait_for(task, LIMIT) == b""
        await writer.wait_closed()
        assert server.is_serving()
