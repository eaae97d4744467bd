"""Writing and reading: limits on both sides, pausing, and protocols of each kind."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import ssl
from typing import Any

import pytest

from transports.certs import Certificates
from transports.support import (
    LIMIT,
    MIB,
    SMALL_BUFFER,
    BufferedRecorder,
    Echo,
    Recorder,
    collect_errors,
    shrink,
    turns,
)

from .support import accepted, joined


def pausing(protocol: Any, *_: Any) -> None:
    protocol.transport.pause_reading()


def records(wire: bytes) -> list[int]:
    """The types of the records in it."""
    kinds, place = [], 0
    while place < len(wire):
        kinds.append(wire[place])
        place += 5 + int.from_bytes(wire[place + 3 : place + 5], "big")
    return kinds


# ---------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_what_can_be_written(certificates: Certificates, kind: Any) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        data = bytearray(b"as it was")
        protocol.transport.write(kind(data))
        protocol.transport.write(kind(b""))
        protocol.transport.writelines([kind(b" and"), kind(b""), kind(b" is")])
        assert await peer.receive(16) == b"as it was and is"


async def test_a_buffer_may_be_changed_after_write(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        for size in (10, 100_000):
            data = bytearray(b"a" * size)
            protocol.transport.write(data)
            data[:] = b"b" * size
            assert await peer.receive(size) == b"a" * size


@pytest.mark.parametrize("value", ["text", None, 3, [b"x"]])
async def test_what_cannot_be_written(certificates: Certificates, value: Any) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        with pytest.raises(TypeError):
            protocol.transport.write(value)
        protocol.transport.write(b"fine")
        assert await peer.receive(4) == b"fine"


async def test_order_of_many_writes(certificates: Certificates) -> None:
    sizes = [1, 10_000, 3, 70_000, 16_384, 5, 16_385, 4096, 4095] * 5
    pieces = [random.Random(i).randbytes(size) for i, size in enumerate(sizes)]

    def write_all(protocol: Recorder, *_: Any) -> None:
        for piece in pieces:
            protocol.transport.write(piece)

    protocol = Recorder(connection_made=write_all, data_received=write_all)
    async with accepted(certificates, protocol) as peer:
        expected = b"".join(pieces)
        assert await peer.receive(len(expected)) == expected  # from a callback before the first read
        await peer.send(b"again")
        assert await peer.receive(len(expected)) == expected  # from a callback that reads
        write_all(protocol)
        assert await peer.receive(len(expected)) == expected  # from outside


@pytest.mark.ours
async def test_the_writes_of_one_callback_are_one_record(certificates: Certificates) -> None:
    def answer(protocol: Recorder, _data: bytes) -> None:
        for piece in (b"head", b"body", b"trailer"):
            protocol.transport.write(piece)

    protocol = Recorder(data_received=answer)
    loop = asyncio.get_running_loop()
    async with accepted(certificates, protocol) as peer:
        await peer.send(b"x")
        await peer.receive(15)
        await peer.send(b"x")
        callback = await loop.sock_recv(peer.sock, 65536)
        peer.incoming.write(callback)
        assert peer.ssl.read(100) == b"headbodytrailer"
        protocol.transport.writelines([b"head", b"body", bytearray(b"trailer")])
        lines = await loop.sock_recv(peer.sock, 65536)
        peer.incoming.write(lines)
        assert peer.ssl.read(100) == b"headbodytrailer"
        assert [records(callback), records(lines)] == [[23], [23]]


async def test_write_limits(certificates: Certificates) -> None:
    async with joined(certificates, Recorder(), Recorder()) as transport:
        low, high = transport.get_write_buffer_limits()
        assert (low, high) == (128 * 1024, 512 * 1024)
        transport.set_write_buffer_limits(high=1000)
        assert transport.get_write_buffer_limits() == (250, 1000)
        transport.set_write_buffer_limits(low=1000)
        assert transport.get_write_buffer_limits() == (1000, 4000)
        transport.set_read_buffer_limits(high=2000, low=5)
        assert transport.get_read_buffer_limits() == (5, 2000)
        for wrong in ({"high": 1, "low": 2}, {"high": -1}):
            with pytest.raises(ValueError):
                transport.set_write_buffer_limits(**wrong)
            with pytest.raises(ValueError):
                transport.set_read_buffer_limits(**wrong)
        assert transport.get_write_buffer_size() == 0
        assert transport.get_read_buffer_size() == 0


async def test_back_pressure_and_its_end(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        transport = protocol.transport
        shrink(transport)
        transport.set_write_buffer_limits(high=100_000)
        written = 0
        while "pause_writing" not in protocol.events:
            transport.write(b"x" * 20_000)
            written += 20_000
            await turns(1)
            assert written < 64 * MIB
        assert transport.get_write_buffer_size() >= 100_000
        assert "resume_writing" not in protocol.events
        assert await peer.receive(written) == b"x" * written
        await protocol.until_event("resume_writing")
        assert transport.get_write_buffer_size() <= 25_000
        assert protocol.events.count("pause_writing") == protocol.events.count("resume_writing") == 1


@pytest.mark.ours
async def test_a_limit_of_nothing(certificates: Certificates) -> None:
    """Stock asyncio asks for a pause when nothing is queued, and may never end it."""
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        protocol.transport.set_write_buffer_limits(high=0)
        protocol.transport.write(b"through")
        assert await peer.receive(7) == b"through"
        assert protocol.events == ["connection_made"]
        shrink(protocol.transport)
        for _ in range(8):
            protocol.transport.write(b"x" * MIB)
        await protocol.until_event("pause_writing")
        assert await peer.receive(8 * MIB) == b"x" * 8 * MIB
        await protocol.until_event("resume_writing")


async def test_a_pause_writing_that_raises(certificates: Certificates) -> None:
    seen = collect_errors()

    def fail(_protocol: Recorder) -> None:
        raise ZeroDivisionError

    protocol = Recorder(pause_writing=fail)
    async with accepted(certificates, protocol) as peer:
        shrink(protocol.transport)
        for _ in range(8):
            protocol.transport.write(b"x" * MIB)
        await protocol.until_event("pause_writing")
        assert await peer.receive(8 * MIB) == b"x" * 8 * MIB
        await protocol.until_event("resume_writing")
    assert [context["message"] for context in seen] == ["protocol.pause_writing() failed"]


# ---------------------------------------------------------------------------------------------------- reading


async def test_pausing_and_resuming_twice(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        transport = protocol.transport
        assert transport.is_reading()
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        await peer.send(b"held back")
        await asyncio.sleep(0.01)
        assert protocol.data == b""
        transport.resume_reading()
        transport.resume_reading()
        assert await protocol.until_received(9) == b"held back"
        transport.pause_reading()
        transport.resume_reading()
        transport.pause_reading()
        await peer.send(b", twice")
        await asyncio.sleep(0.01)
        assert protocol.data == b"held back"
        transport.resume_reading()
        assert await protocol.until_received(16) == b"held back, twice"


async def test_pausing_after_each_piece(certificates: Certificates) -> None:
    data = random.Random(3).randbytes(MIB)

    def breathe(protocol: Recorder, _data: bytes) -> None:
        protocol.transport.pause_reading()
        asyncio.get_running_loop().call_soon(protocol.transport.resume_reading)

    protocol = Recorder(data_received=breathe)
    async with accepted(certificates, protocol) as peer:
        await peer.send(data)
        got = await protocol.until_received(len(data))
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()


async def test_writing_while_reading_is_paused(certificates: Certificates) -> None:
    protocol = Recorder(connection_made=pausing)
    async with accepted(certificates, protocol) as peer:
        await peer.send(b"unread")
        for size in (5, 300_000):
            protocol.transport.write(b"x" * size)
            assert await peer.receive(size) == b"x" * size


async def test_a_paused_reader_stops_the_peer(certificates: Certificates) -> None:
    protocol = Recorder(connection_made=pausing)
    async with accepted(certificates, protocol) as peer:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        sending = asyncio.create_task(peer.send(b"x" * 16 * MIB))
        transport = protocol.transport
        await asyncio.sleep(0.05)
        assert not sending.done()
        # the limit, and what one read may add
        assert transport.get_read_buffer_size() <= 256 * 1024 + 256 * 1024
        transport.resume_reading()
        await asyncio.wait_for(sending, LIMIT)
        assert len(await protocol.until_received(16 * MIB)) == 16 * MIB


@pytest.mark.parametrize("size", [1, 100, 16_384, 20_000, 300_000])
async def test_buffered_protocols(certificates: Certificates, size: int) -> None:
    data = random.Random(4).randbytes(3_000 if size == 1 else 200_000)
    protocol = BufferedRecorder(size)
    protocol.hooks["get_buffer"] = lambda protocol, _hint: memoryview(protocol.buffer)
    async with accepted(certificates, protocol) as peer:
        await peer.send(data)
        assert await protocol.until_received(len(data)) == data
        assert max(protocol.counts) <= size


@pytest.mark.ours
async def test_a_bytearray_of_a_buffered_protocol(certificates: Certificates) -> None:
    """Stock asyncio writes the second record into a copy of it."""
    data = random.Random(5).randbytes(200_000)
    protocol = BufferedRecorder(100_000)
    async with accepted(certificates, protocol) as peer:
        await peer.send(data)
        assert await protocol.until_received(len(data)) == data


@pytest.mark.ours
async def test_an_empty_buffer_is_an_error(certificates: Certificates) -> None:
    """Stock asyncio takes it for the end of the connection."""
    seen = collect_errors()
    protocol = BufferedRecorder(0)
    async with accepted(certificates, protocol) as peer:
        await peer.send(b"x")
        assert isinstance(await protocol.until_lost(), RuntimeError)
    assert len(seen) == 1


async def test_changing_the_protocol(certificates: Certificates) -> None:
    first, second, third = Recorder(), BufferedRecorder(), Recorder()
    async with accepted(certificates, first) as peer:
        transport = first.transport
        await peer.send(b"one")
        assert await first.until_received(3) == b"one"
        for protocol in (second, third):
            transport.set_protocol(protocol)
            assert transport.get_protocol() is protocol
            await peer.send(b"more")
            assert await protocol.until_received(4) == b"more"
        await peer.say_end()
        assert await third.until_lost() is None
        assert first.data == b"one"
        assert "connection_lost" not in first.events
        first.events.append("connection_lost")  # the new one had it


async def test_records_in_pieces(certificates: Certificates) -> None:
    """A record that is cut at every place."""
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        peer.ssl.write(b"0123456789")
        peer.ssl.write(b"abcdefghij")
        wire = peer.outgoing.read()
        for start in range(0, len(wire), 7):
            await loop.sock_sendall(peer.sock, wire[start : start + 7])
            await turns(3)
        assert await protocol.until_received(20) == b"0123456789abcdefghij"


async def test_an_empty_record_is_not_the_end(certificates: Certificates) -> None:
    context = certificates.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    protocol = Echo()
    async with accepted(certificates, protocol, peer=context) as peer:
        peer.ssl.write(b"")
        await peer.send(b"still here")
        assert await peer.receive(10) == b"still here"


async def test_streams_with_small_limits(certificates: Certificates) -> None:
    """The StreamReader pauses and resumes the transport all the time."""
    data = random.Random(6).randbytes(2 * MIB)
    received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        out = bytearray()
        while chunk := await reader.read(10_000):
            out += chunk
            await asyncio.sleep(0)
        received.set_result(bytes(out))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificates.server(), limit=1000)
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=certificates.client(), server_hostname="localhost"
    )
    writer.write(data)
    await writer.drain()
    writer.close()
    assert await asyncio.wait_for(received, LIMIT) == data
    assert await reader.read() == b""
    await asyncio.wait_for(writer.wait_closed(), LIMIT)
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


async def test_readuntil_and_readexactly(certificates: Certificates) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"a line\n"
        assert await reader.readexactly(20_000) == b"y" * 20_000
        writer.write(b"done")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificates.server())
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=certificates.client(), server_hostname="localhost"
    )
    writer.writelines([b"a ", b"line", b"\n", b"y" * 20_000])
    assert await asyncio.wait_for(reader.read(), LIMIT) == b"done"
    writer.close()
    await asyncio.wait_for(writer.wait_closed(), LIMIT)
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)
