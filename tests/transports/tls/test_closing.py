"""The end of a TLS connection, from either side and in every state."""

from __future__ import annotations

import asyncio
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
    reset,
    shrink,
    turns,
)

from .support import accepted, joined


def pausing(protocol: Any, *_: Any) -> None:
    protocol.transport.pause_reading()


def closing(protocol: Any, *_: Any) -> None:
    protocol.transport.close()


def failing(_protocol: Any, *_: Any) -> None:
    raise ZeroDivisionError


async def test_close_waits_for_the_peer(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        protocol.transport.write(b"bye")
        protocol.transport.close()
        protocol.transport.close()
        assert protocol.transport.is_closing()
        assert await peer.receive_all() == b"bye"
        assert "connection_lost" not in protocol.events
        await peer.say_end()
        assert await protocol.until_lost() is None
        assert await peer.rest_of_wire() == b""
        assert protocol.events.count("connection_lost") == 1


async def test_a_peer_that_does_not_answer_the_end(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol, ssl_shutdown_timeout=0.05) as peer:
        protocol.transport.close()
        assert await peer.receive_all() == b""
        error = await protocol.until_lost()
        assert isinstance(error, TimeoutError)
        assert str(error) == "SSL shutdown timed out"


async def test_the_peer_ends(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        await peer.send(b"last")
        await peer.say_end()
        assert await peer.receive_all() == b""
        assert await protocol.until_lost() is None
        assert protocol.data == b"last"
        assert protocol.order == ["connection_made", "data_received", "eof_received", "connection_lost"]


async def test_what_eof_received_writes_is_sent(certificates: Certificates) -> None:
    protocol = Recorder(eof_received=lambda protocol: protocol.transport.write(b"farewell"))
    async with accepted(certificates, protocol) as peer:
        await peer.say_end()
        assert await peer.receive_all() == b"farewell"
        assert await protocol.until_lost() is None


async def test_an_end_without_close_notify(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        await peer.send(b"cut")
        peer.sock.shutdown(socket.SHUT_WR)
        assert await protocol.until_lost() is None
        assert protocol.data == b"cut"
        assert protocol.order == ["connection_made", "data_received", "eof_received", "connection_lost"]


async def test_a_reset(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        reset(peer.sock)
        assert isinstance(await protocol.until_lost(), ConnectionResetError)


async def test_a_record_that_was_tampered_with(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        peer.ssl.write(b"good")
        await peer._exchange(read=False)
        await protocol.until_received(4)
        peer.ssl.write(b"bad")
        record = bytearray(peer.outgoing.read())
        record[-1] ^= 1
        await asyncio.get_running_loop().sock_sendall(peer.sock, bytes(record))
        assert isinstance(await protocol.until_lost(), ssl.SSLError)
        assert protocol.data == b"good"


async def test_good_records_before_a_bad_one(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        good = b"".join(b"%05d" % i for i in range(8_000))  # several records, in one piece with the bad one
        peer.ssl.write(good)
        wire = bytearray(peer.outgoing.read())
        peer.ssl.write(b"bad")
        wire += peer.outgoing.read()
        wire[-1] ^= 1
        await asyncio.get_running_loop().sock_sendall(peer.sock, bytes(wire))
        assert isinstance(await protocol.until_lost(), ssl.SSLError)
        assert good.startswith(protocol.data)


async def test_abort_drops_the_connection(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        protocol.transport.abort()
        protocol.transport.abort()
        assert protocol.transport.is_closing()
        assert await protocol.until_lost() is None
        assert await peer.rest_of_wire() is not None
        protocol.transport.close()
        assert protocol.events.count("connection_lost") == 1


@pytest.mark.parametrize("where", ["data_received", "eof_received"])
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_ending_inside_a_callback(certificates: Certificates, where: str, how: str) -> None:
    protocol = Recorder(**{where: lambda protocol, *_: getattr(protocol.transport, how)()})
    async with accepted(certificates, protocol) as peer:
        await peer.send(b"x" * 40_000)
        await peer.say_end()
        assert await protocol.until_lost() is None
        assert protocol.events.count("connection_lost") == 1
        assert await peer.rest_of_wire() is not None


async def test_close_in_connection_made(certificates: Certificates) -> None:
    protocol = Recorder(connection_made=closing)
    async with accepted(certificates, protocol) as peer:
        assert await peer.receive_all() == b""
        await peer.say_end()
        assert await protocol.until_lost() is None


@pytest.mark.parametrize("where", ["data_received", "eof_received"])
async def test_a_callback_that_raises(certificates: Certificates, where: str) -> None:
    seen = collect_errors()
    protocol = Recorder(**{where: failing})
    async with accepted(certificates, protocol) as peer:
        await peer.send(b"x")
        await peer.say_end()
        assert isinstance(await protocol.until_lost(), ZeroDivisionError)
        assert [type(context["exception"]) for context in seen] == [ZeroDivisionError]


async def test_a_buffer_updated_that_raises(certificates: Certificates) -> None:
    seen = collect_errors()
    protocol = BufferedRecorder(buffer_updated=failing)
    async with accepted(certificates, protocol) as peer:
        await peer.send(b"x")
        assert isinstance(await protocol.until_lost(), ZeroDivisionError)
        assert [type(context["exception"]) for context in seen] == [ZeroDivisionError]


async def test_all_that_was_written_arrives_before_the_end(certificates: Certificates) -> None:
    data = random.Random(1).randbytes(3 * MIB)
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        shrink(protocol.transport)
        protocol.transport.write(data)
        protocol.transport.close()
        await turns(3)
        assert await peer.receive_all() == data
        await peer.say_end()
        assert await protocol.until_lost() is None


async def test_writes_after_the_end_are_dropped(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        protocol.transport.close()
        for _ in range(8):
            protocol.transport.write(b"too late")
        assert await peer.receive_all() == b""
        await peer.say_end()
        await protocol.until_lost()
        protocol.transport.write(b"much too late")
    assert "SSL connection is closed" in caplog.text


async def test_the_peer_ends_while_reading_is_paused(certificates: Certificates) -> None:
    protocol = Recorder(connection_made=pausing)
    async with accepted(certificates, protocol) as peer:
        await peer.send(b"for later")
        peer.sock.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.02)
        assert protocol.events == ["connection_made"]
        protocol.transport.resume_reading()
        assert await protocol.until_lost() is None
        assert protocol.data == b"for later"
        assert protocol.order == ["connection_made", "data_received", "eof_received", "connection_lost"]


@pytest.mark.ours
async def test_close_notify_while_reading_is_paused(certificates: Certificates) -> None:
    """Stock asyncio calls eof_received() of a paused protocol when the end comes right behind data."""
    protocol = Recorder(data_received=pausing)
    async with accepted(certificates, protocol) as peer:
        peer.ssl.write(b"data")
        await peer.say_end()
        await protocol.until_received(4)
        await turns(5)
        assert protocol.events == ["connection_made", "data_received"]
        protocol.transport.resume_reading()
        assert await protocol.until_lost() is None
        assert protocol.order == ["connection_made", "data_received", "eof_received", "connection_lost"]


@pytest.mark.ours
async def test_close_after_the_peer_ended_while_paused(certificates: Certificates) -> None:
    """Stock asyncio waits for resume_reading(), which nobody calls after close()."""
    protocol = Recorder(connection_made=pausing)
    async with accepted(certificates, protocol) as peer:
        await peer.send(b"never read")
        peer.sock.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.02)
        protocol.transport.close()
        assert await protocol.until_lost() is None
        assert protocol.data == b""


@pytest.mark.ours
async def test_close_while_the_peer_sends(certificates: Certificates) -> None:
    """Stock asyncio: SSLError, and what is still queued is dropped."""
    data = random.Random(2).randbytes(2 * MIB)
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        shrink(protocol.transport)
        protocol.transport.pause_reading()
        await peer.send(b"nobody will read this")
        await asyncio.sleep(0.01)
        protocol.transport.write(data)
        protocol.transport.close()
        assert await peer.receive_all() == data
        await peer.say_end()
        assert await protocol.until_lost() is None
        assert protocol.data == b""


@pytest.mark.ours
async def test_close_while_paused_with_much_unread(certificates: Certificates) -> None:
    """The transport underneath is paused too by then: it has to read again for the end to be seen."""
    protocol = Recorder()
    async with accepted(certificates, protocol, ssl_shutdown_timeout=LIMIT) as peer:
        protocol.transport.set_read_buffer_limits(high=1)
        protocol.transport.pause_reading()
        peer.ssl.write(b"x" * 16_000)
        wire = peer.outgoing.read()
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer.sock, wire[:5000])
        await asyncio.sleep(0.02)
        protocol.transport.close()
        await loop.sock_sendall(peer.sock, wire[5000:])
        assert await peer.receive_all() == b""
        await peer.say_end()
        assert await protocol.until_lost() is None


async def test_both_ends_close_at_once(certificates: Certificates) -> None:
    client, server = Recorder(), Echo()
    async with joined(certificates, client, server) as transport:
        transport.close()
        server.transport.close()
        assert await client.until_lost() is None
        assert await server.until_lost() is None


async def test_close_with_a_stalled_peer_gives_up(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol, ssl_shutdown_timeout=0.1):
        shrink(protocol.transport)
        protocol.transport.write(b"x" * (64 * SMALL_BUFFER))
        protocol.transport.close()
        assert isinstance(await protocol.until_lost(), TimeoutError)


@pytest.mark.ours  # stock asyncio drops what is queued when data arrives after close()
async def test_both_ends_close_with_much_to_send(certificates: Certificates) -> None:
    """Each has stopped reading: what comes is nobody's,
    but were it not read they would wait for each other.
    """
    client, server = Recorder(), Recorder()
    async with joined(certificates, client, server, ssl_shutdown_timeout=LIMIT):
        for protocol in (client, server):
            shrink(protocol.transport)
            protocol.transport.pause_reading()
            protocol.transport.write(b"x" * (64 * SMALL_BUFFER))
            protocol.transport.close()
        assert [await protocol.until_lost() for protocol in (client, server)] == [None, None]


@pytest.mark.ours  # stock asyncio waits for ever
async def test_a_peer_that_has_ended_and_reads_nothing(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol, ssl_shutdown_timeout=0.1) as peer:
        shrink(protocol.transport)
        protocol.transport.write(b"x" * (64 * SMALL_BUFFER))
        await peer.say_end()
        assert isinstance(await protocol.until_lost(), TimeoutError)
