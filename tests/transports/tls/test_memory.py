"""Whose memory holds ciphertext: nothing is lost or overtaken where OpenSSL or the socket takes a part."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from transports.certs import Certificates
from transports.support import LIMIT, BufferedRecorder, Echo, Recorder, serving, shrink, turns

from .support import accepted, joined

RECORD = 16384


async def test_a_slow_reader_misses_nothing(certificates: Certificates) -> None:
    """Each record goes to the socket by itself, until one fits only in part."""
    dice = random.Random(7)
    pieces = [
        dice.randbytes(dice.choice([1, 100, 1000, 4095, 4096, 10_000, RECORD - 1, RECORD]))
        for _ in range(900)
    ]
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        shrink(protocol.transport)
        for piece in pieces:
            protocol.transport.write(piece)
            if dice.random() < 0.7:
                await asyncio.sleep(0)
        expected = b"".join(pieces)
        assert await peer.receive(len(expected)) == expected
        assert protocol.transport.get_write_buffer_size() == 0


async def test_slow_readers_of_answers(certificates: Certificates) -> None:
    """The same from inside a callback: the peer sends more than it reads."""
    protocol = Echo()
    async with accepted(certificates, protocol) as peer:
        shrink(protocol.transport)
        data = random.Random(8).randbytes(3_000_000)
        for start in range(0, len(data), 5000):
            await peer.send(data[start : start + 5000])
        assert await peer.receive(len(data)) == data


@pytest.mark.parametrize("ciphers", ["ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA"])
async def test_records_of_every_cipher_have_room(certificates: Certificates, ciphers: str) -> None:
    """Those with padding and a long MAC are longer than those of an AEAD."""
    server, client = certificates.server(), certificates.client()
    for context in (server, client):
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
    protocol = Recorder()
    async with accepted(certificates, protocol, context=server, peer=client) as peer:
        data = random.Random(9).randbytes(400_000)
        for size in (1, 15, 16, RECORD, RECORD + 1, len(data)):
            protocol.transport.write(data[:size])
            assert await peer.receive(size) == data[:size]


@pytest.mark.parametrize("cut", [0, 3, 20])
async def test_what_came_is_kept_while_reading_is_paused(certificates: Certificates, cut: int) -> None:
    """Some records came together, the last one perhaps not whole, and the protocol wants only the first."""
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(100))
    protocol = BufferedRecorder()

    def once(protocol: BufferedRecorder, count: int) -> None:
        protocol.data[-count:] = buffer[:count]
        protocol.transport.pause_reading()

    protocol.hooks.update(get_buffer=lambda *_: buffer, buffer_updated=once)
    async with accepted(certificates, protocol) as peer:
        pieces = [bytes([n]) * 100 for n in range(5)]
        for piece in pieces:
            peer.ssl.write(piece)
        wire = peer.outgoing.read()
        await loop.sock_sendall(peer.sock, wire[: len(wire) - cut])
        await protocol.until_received(100)
        await turns(5)
        assert protocol.data == pieces[0]
        await loop.sock_sendall(peer.sock, wire[len(wire) - cut :])
        for count in range(2, 6):
            await turns(3)
            protocol.transport.resume_reading()
            await protocol.until_received(100 * count)
            assert protocol.data == b"".join(pieces[:count])


async def test_the_ssl_object_is_used_between(certificates: Certificates) -> None:
    """What its methods write and read is in its place among the transport's own bytes."""
    buffer = memoryview(bytearray(4))
    taken: list[bytes] = []
    protocol = BufferedRecorder()

    def take(protocol: BufferedRecorder, count: int) -> None:
        protocol.data[-count:] = buffer[:count]
        connection = protocol.transport.get_extra_info("ssl_object")
        with contextlib.suppress(ssl.SSLWantReadError):
            taken.append(connection.read(100))
            taken.append(connection.read(100))

    protocol.hooks.update(get_buffer=lambda *_: buffer, buffer_updated=take)
    loop = asyncio.get_running_loop()
    async with accepted(certificates, protocol) as peer:
        connection = protocol.transport.get_extra_info("ssl_object")
        for piece in (b"mine", b"his", b"also his"):
            peer.ssl.write(piece)
        await loop.sock_sendall(peer.sock, peer.outgoing.read())
        assert await protocol.until_received(4) == b"mine"
        assert taken == [b"his", b"also his"]
        with pytest.raises(ssl.SSLWantReadError):
            connection.read(1)
        assert connection.pending() == 0
        assert connection.get_channel_binding("tls-unique") == peer.ssl.get_channel_binding("tls-unique")
        for size in (4, 5000, 40_000):
            connection.write(b"first")
            protocol.transport.write(b"x" * size)
            assert await peer.receive(5 + size) == b"first" + b"x" * size


async def test_the_ssl_object_says_the_end(certificates: Certificates) -> None:
    protocol = Recorder()
    async with accepted(certificates, protocol) as peer:
        protocol.transport.write(b"the last")
        assert await peer.receive(8) == b"the last"
        with pytest.raises(ssl.SSLWantReadError):
            protocol.transport.get_extra_info("ssl_object").unwrap()
        protocol.transport.close()
        assert await peer.receive_all() == b""
        await peer.say_end()
        await protocol.until_lost()


async def test_the_ssl_object_outlives_the_connection(certificates: Certificates) -> None:
    protocol = Echo()
    async with accepted(certificates, protocol) as peer:
        await peer.send(b"hello")
        assert await peer.receive(5) == b"hello"
        connection = protocol.transport.get_extra_info("ssl_object")
    protocol.transport = None
    await turns(3)
    gc.collect()
    assert connection.version() == peer.ssl.version()
    with contextlib.suppress(ssl.SSLError):
        connection.read(10)
    with contextlib.suppress(ssl.SSLError):
        connection.write(b"to nobody")
    del connection
    gc.collect()


@pytest.mark.parametrize("copies", [5, 15, 60])
async def test_a_handshake_of_any_length(certificates: Certificates, tmp_path: Path, copies: int) -> None:
    """A chain of certificates may be longer than the memory that is lent for a handshake."""
    chain = tmp_path / "chain.pem"
    chain.write_text(certificates.certificate.read_text() * copies)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, certificates.key)
    protocol = Echo()
    async with accepted(certificates, protocol, context=context) as peer:
        await peer.send(b"hello")
        assert await peer.receive(5) == b"hello"


async def test_a_context_that_wants_the_kernel_to_encrypt(certificates: Certificates) -> None:
    contexts = certificates.server(), certificates.client()
    for context in contexts:
        context.options |= getattr(ssl, "OP_ENABLE_KTLS", 0)
    protocol = Echo()
    async with accepted(certificates, protocol, context=contexts[0], peer=contexts[1]) as peer:
        for size in (1, RECORD, 100_000):
            await peer.send(b"x" * size)
            assert await peer.receive(size) == b"x" * size


async def test_tls_in_tls(certificates: Certificates) -> None:
    """The inner connection is given its ciphertext as bytes objects, and its own goes into the outer one."""
    loop = asyncio.get_running_loop()
    client, server = Recorder(), Recorder()
    data = random.Random(10).randbytes(700_000)
    async with joined(certificates, client, server) as transport:
        inner_server, inner_client = Echo(), Recorder()
        accepting = asyncio.create_task(
            loop.start_tls(server.transport, inner_server, certificates.server(), server_side=True)
        )
        upper = await asyncio.wait_for(
            loop.start_tls(transport, inner_client, certificates.client(), server_hostname="localhost"), LIMIT
        )
        inner_server.transport = await asyncio.wait_for(accepting, LIMIT)
        for size in (1, 1000, RECORD, len(data)):
            inner_client.data.clear()
            upper.write(data[:size])
            assert await inner_client.until_received(size) == data[:size]
        upper.abort()
        await inner_client.until_lost()
        await inner_server.until_lost()
        client.events.append("connection_lost")  # the inner ones had it
        server.events.append("connection_lost")


def test_loops_in_threads(certificates: Certificates, loop_factory: Any) -> None:
    """Large records are encrypted without the interpreter's lock: each loop has its own memory."""
    wrong: list[BaseException] = []

    async def exchange(seed: int) -> None:
        data = random.Random(seed).randbytes(600_000)
        async with serving(Echo, ssl=certificates.server()) as (_, address):
            reader, writer = await asyncio.open_connection(
                *address, ssl=certificates.client(), server_hostname="localhost"
            )
            for size in (100, len(data), 3000, len(data)):
                writer.write(data[:size])
                assert await asyncio.wait_for(reader.readexactly(size), LIMIT) == data[:size]
            writer.close()
            await writer.wait_closed()

    def run(seed: int) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(exchange(seed))
        except BaseException as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
