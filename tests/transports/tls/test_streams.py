"""TLS through ssl=, by the stock asyncio.sslproto, between the loop and itself."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from transports.certs import Certificates
from transports.support import (
    BIG,
    LIMIT,
    MIB,
    Echo,
    Recorder,
    collect_errors,
    serving,
    shrink,
    socket_directory,
    turns,
)


@contextlib.asynccontextmanager
async def secured(
    certificates: Certificates, server_protocol: Any, client_protocol: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """Both transports of a TLS connection, client first; each protocol knows its own."""
    loop = asyncio.get_running_loop()
    async with serving(lambda: server_protocol, ssl=certificates.server()) as (_, address):
        transport, _ = await asyncio.wait_for(
            loop.create_connection(
                lambda: client_protocol, *address, ssl=certificates.client(), server_hostname="localhost"
            ),
            LIMIT,
        )
        await server_protocol.until_event("connection_made")
        try:
            yield transport, server_protocol.transport
        finally:
            for protocol in (client_protocol, server_protocol):
                if "connection_lost" not in protocol.events:
                    protocol.transport.abort()
                await protocol.until_lost()


async def test_echo(certificates: Certificates) -> None:
    client, server = Recorder(), Echo()
    async with secured(certificates, server, client) as (transport, _):
        transport.write(b"secret")
        assert await client.until_received(6) == b"secret"
        assert client.events[0] == server.events[0] == "connection_made"


async def test_what_is_known_of_the_connection(certificates: Certificates) -> None:
    async with secured(certificates, Echo(), Recorder()) as (transport, accepted):
        certificate = transport.get_extra_info("peercert")
        assert ("DNS", "localhost") in certificate["subjectAltName"]
        assert transport.get_extra_info("cipher")
        assert isinstance(transport.get_extra_info("ssl_object"), ssl.SSLObject)
        assert isinstance(transport.get_extra_info("sslcontext"), ssl.SSLContext)
        assert transport.get_extra_info("sockname") == accepted.get_extra_info("peername")
        assert transport.get_extra_info("socket").fileno() >= 0
        assert isinstance(transport, asyncio.Transport)


async def test_close_is_a_proper_end(certificates: Certificates) -> None:
    client, server = Recorder(), Recorder()
    async with secured(certificates, server, client) as (transport, _):
        transport.write(b"last")
        transport.close()
        assert await server.until_lost() is None
        assert server.data == b"last"
        assert server.order == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert await client.until_lost() is None


async def test_abort(certificates: Certificates) -> None:
    client, server = Recorder(), Recorder()
    async with secured(certificates, server, client) as (transport, _):
        transport.write(b"x" * BIG)
        transport.abort()
        assert await client.until_lost() is None
        await server.until_lost()
        assert len(server.data) < BIG
        assert server.events.count("connection_lost") == 1


async def test_5_mib_both_ways_with_back_pressure(certificates: Certificates) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(70_000):
            writer.write(chunk)
            await writer.drain()
        writer.close()

    data = random.Random(1).randbytes(5 * MIB)
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=certificates.server())
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=certificates.client(), server_hostname="localhost"
    )

    async def send() -> None:
        for start in range(0, len(data), 150_000):
            writer.write(data[start : start + 150_000])
            await writer.drain()

    sending = asyncio.create_task(send())
    got = await asyncio.wait_for(reader.readexactly(len(data)), LIMIT)
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    await sending
    writer.close()
    await asyncio.wait_for(writer.wait_closed(), LIMIT)
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


async def test_pausing_holds_back_and_loses_nothing(certificates: Certificates) -> None:
    data = random.Random(2).randbytes(8 * MIB)
    client, server = Recorder(), Recorder()
    async with secured(certificates, server, client) as (transport, accepted):
        shrink(transport)
        accepted.pause_reading()
        for start in range(0, len(data), MIB):
            transport.write(data[start : start + MIB])
        await client.until_event("pause_writing")
        await asyncio.sleep(0.02)
        seen = len(server.data)
        assert seen < len(data)
        accepted.resume_reading()
        assert await server.until_received(len(data)) == data
        await client.until_event("resume_writing")


async def test_a_certificate_that_is_not_trusted(certificates: Certificates) -> None:
    collect_errors()
    async with serving(Echo, ssl=certificates.server()) as (_, address):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.get_running_loop().create_connection(
                Recorder, *address, ssl=certificates.stranger(), server_hostname="localhost"
            )
        await turns(10)


async def test_a_certificate_for_another_name(certificates: Certificates) -> None:
    collect_errors()
    async with serving(Echo, ssl=certificates.server()) as (_, address):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.get_running_loop().create_connection(
                Recorder, *address, ssl=certificates.client(), server_hostname="other.example"
            )
        await turns(10)


async def test_a_server_that_speaks_no_tls(certificates: Certificates) -> None:
    def answer(protocol: Recorder) -> None:
        protocol.transport.write(b"220 this is not TLS\r\n")

    async with serving(lambda: Recorder(connection_made=answer)) as (_, address):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.get_running_loop().create_connection(
                Recorder, *address, ssl=certificates.client(), server_hostname="localhost"
            )
        await turns(10)


async def test_a_handshake_that_does_not_come(certificates: Certificates) -> None:
    async with serving(Recorder) as (_, address):
        with pytest.raises(ConnectionAbortedError, match="handshake"):
            await asyncio.get_running_loop().create_connection(
                Recorder,
                *address,
                ssl=certificates.client(),
                server_hostname="localhost",
                ssl_handshake_timeout=0.05,
            )
        await turns(10)


async def test_start_tls_on_both_ends(certificates: Certificates) -> None:
    """In the clear first, then upgraded by both."""
    loop = asyncio.get_running_loop()
    upgraded: list[asyncio.Task[Any]] = []
    secure_server, plain_client, secure_client = Echo(), Recorder(), Recorder()

    def upgrade(protocol: Recorder, _data: bytes) -> None:
        protocol.transport.write(b"go ahead")
        protocol.events.append("connection_lost")  # the other one will hear of it
        upgraded.append(
            loop.create_task(
                loop.start_tls(protocol.transport, secure_server, certificates.server(), server_side=True)
            )
        )

    async with serving(lambda: Recorder(data_received=upgrade)) as (_, address):
        plain, _ = await loop.create_connection(lambda: plain_client, *address)
        plain.write(b"STARTTLS")
        await plain_client.until_received(8)
        async with asyncio.timeout(LIMIT):
            secure = await loop.start_tls(
                plain, secure_client, certificates.client(), server_hostname="localhost"
            )
            secure_server.transport = await upgraded[0]
        secure.write(b"secret" * 10_000)
        assert await secure_client.until_received(60_000) == b"secret" * 10_000
        assert plain_client.data == b"go ahead"
        secure.close()
        assert await secure_client.until_lost() is None
        assert await secure_server.until_lost() is None


async def test_start_tls_of_streams(certificates: Certificates) -> None:
    done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        writer.write(b"go ahead\n")
        await writer.drain()
        await writer.start_tls(certificates.server())
        done.set_result(await reader.readline())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"STARTTLS\n")
    assert await reader.readline() == b"go ahead\n"
    await asyncio.wait_for(writer.start_tls(certificates.client(), server_hostname="localhost"), LIMIT)
    writer.write(b"secret\n")
    assert await asyncio.wait_for(done, LIMIT) == b"secret\n"
    assert await reader.read() == b""
    writer.close()
    await asyncio.wait_for(writer.wait_closed(), LIMIT)
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


async def test_over_unix(certificates: Certificates) -> None:
    loop = asyncio.get_running_loop()
    client = Recorder()
    with socket_directory() as directory:
        server = await loop.create_unix_server(Echo, f"{directory}/s", ssl=certificates.server())
        transport, _ = await loop.create_unix_connection(
            lambda: client, f"{directory}/s", ssl=certificates.client(), server_hostname="localhost"
        )
        transport.write(b"u" * MIB)
        assert await client.until_received(MIB) == b"u" * MIB
        transport.close()
        assert await client.until_lost() is None
        server.close()
        await asyncio.wait_for(server.wait_closed(), LIMIT)
