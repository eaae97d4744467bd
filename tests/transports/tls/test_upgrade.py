"""start_tls: connections that were in the clear, or secured once already."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from transports.certs import Certificates
from transports.support import LIMIT, MIB, BufferedRecorder, Echo, Recorder, collect_errors, reset, turns

from .support import Peer, joined


@contextlib.asynccontextmanager
async def plain(protocol: Any) -> AsyncIterator[socket.socket]:
    """A connection in the clear: the protocol's, and the peer's socket."""
    ours, peer = socket.socketpair()
    peer.setblocking(False)
    with peer:
        await asyncio.get_running_loop().create_connection(lambda: protocol, sock=ours)
        try:
            yield peer
        finally:
            protocol.transport.abort()
            await turns(3)


@pytest.mark.parametrize("server_side", [False, True])
@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
async def test_both_sides_and_kinds(certificates: Certificates, server_side: bool, make: Any) -> None:
    first, second = Recorder(), make()
    if make is BufferedRecorder:
        second.hooks["get_buffer"] = lambda protocol, _hint: memoryview(protocol.buffer)
    loop = asyncio.get_running_loop()
    async with plain(first) as sock:
        peer = Peer(
            sock, certificates.client() if server_side else certificates.server(), server_side=not server_side
        )
        shaking = asyncio.create_task(peer.handshake())
        transport = await asyncio.wait_for(
            loop.start_tls(
                first.transport,
                second,
                certificates.server() if server_side else certificates.client(),
                server_side=server_side,
                server_hostname=None if server_side else "localhost",
            ),
            LIMIT,
        )
        await shaking
        transport.write(b"up")
        assert await peer.receive(2) == b"up"
        data = random.Random(1).randbytes(60_000)
        await peer.send(data)
        assert await second.until_received(len(data)) == data
        assert "connection_made" not in second.events
        assert first.events == ["connection_made"]
        transport.close()
        assert await peer.receive_all() == b""
        await peer.say_end()
        assert await second.until_lost() is None


async def test_wrong_arguments(certificates: Certificates) -> None:
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    async with plain(protocol):
        with pytest.raises(TypeError, match="sslcontext is expected to be an instance"):
            await loop.start_tls(protocol.transport, protocol, None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="is not supported by start_tls"):
            await loop.start_tls(asyncio.Transport(), protocol, certificates.client())
        with pytest.raises(ValueError, match="positive"):
            await loop.start_tls(protocol.transport, protocol, certificates.client(), ssl_handshake_timeout=0)


async def test_a_handshake_that_fails(certificates: Certificates) -> None:
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    async with plain(protocol) as sock:
        peer = Peer(sock, certificates.server(), server_side=True)

        async def shake() -> None:
            with contextlib.suppress(OSError, EOFError):
                await peer.handshake()
                await peer.receive(1)

        shaking = asyncio.create_task(shake())
        with pytest.raises(ssl.SSLCertVerificationError):
            await loop.start_tls(
                protocol.transport, protocol, certificates.stranger(), server_hostname="localhost"
            )
        assert isinstance(await protocol.until_lost(), ssl.SSLCertVerificationError)
        await shaking


@pytest.mark.ours
async def test_a_handshake_that_does_not_come(certificates: Certificates) -> None:
    """The protocol hears of the end, so that who waits for it does not wait for ever, as on stock asyncio."""
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    async with plain(protocol):
        with pytest.raises(ConnectionAbortedError):
            await loop.start_tls(
                protocol.transport,
                protocol,
                certificates.client(),
                server_hostname="localhost",
                ssl_handshake_timeout=0.05,
            )
        assert isinstance(await protocol.until_lost(), ConnectionAbortedError)


@pytest.mark.ours
async def test_wait_closed_after_an_upgrade_that_failed(certificates: Certificates) -> None:
    ours, peer = socket.socketpair()
    with peer:
        _, writer = await asyncio.open_connection(sock=ours)
        with pytest.raises(ConnectionAbortedError):
            await writer.start_tls(
                certificates.client(), server_hostname="localhost", ssl_handshake_timeout=0.05
            )
        writer.close()
        with contextlib.suppress(ConnectionAbortedError):
            await asyncio.wait_for(writer.wait_closed(), LIMIT)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_peer_that_leaves_in_the_handshake(certificates: Certificates, how: str) -> None:
    loop = asyncio.get_running_loop()
    collect_errors()
    protocol = Recorder()
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        await loop.create_connection(lambda: protocol, *listener.getsockname())
        peer, _ = listener.accept()
        peer.setblocking(False)
        task = asyncio.create_task(
            loop.start_tls(protocol.transport, protocol, certificates.client(), server_hostname="localhost")
        )
        assert await loop.sock_recv(peer, 65536)
        reset(peer) if how == "reset" else peer.close()
        with pytest.raises(ConnectionResetError):
            await task
        await turns(3)


@pytest.mark.parametrize("server_side", [False, True], ids=["client", "server"])
async def test_a_peer_that_left_before(certificates: Certificates, server_side: bool) -> None:
    """Its end was read already, and nothing else will ever come."""
    left, right = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=left)
    right.shutdown(socket.SHUT_WR)
    with right:
        assert await reader.read() == b""
        context, name = (certificates.server(), None) if server_side else (certificates.client(), "localhost")
        collect_errors()
        async with asyncio.timeout(LIMIT):
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().start_tls(
                    writer.transport,
                    writer.transport.get_protocol(),
                    context,
                    server_side=server_side,
                    server_hostname=name,
                )
        await turns(3)


async def test_cancelling_it(certificates: Certificates) -> None:
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    async with plain(protocol) as sock:
        task = asyncio.create_task(
            loop.start_tls(protocol.transport, protocol, certificates.client(), server_hostname="localhost")
        )
        assert await loop.sock_recv(sock, 65536)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while await asyncio.wait_for(loop.sock_recv(sock, 65536), LIMIT):
            pass


@pytest.mark.ours
async def test_of_a_connection_that_is_gone(certificates: Certificates) -> None:
    """Stock asyncio hands out a transport of nothing."""
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    async with plain(protocol):
        protocol.transport.abort()
        with pytest.raises(ConnectionAbortedError):
            await loop.start_tls(
                protocol.transport, protocol, certificates.client(), server_hostname="localhost"
            )


async def test_tls_in_tls(certificates: Certificates) -> None:
    loop = asyncio.get_running_loop()
    outer_client, outer_server = Recorder(), Recorder()
    inner_client, inner_server = Recorder(), Echo()
    async with joined(certificates, outer_client, outer_server) as outer:
        serving = asyncio.create_task(
            loop.start_tls(outer_server.transport, inner_server, certificates.server(), server_side=True)
        )
        inner = await asyncio.wait_for(
            loop.start_tls(outer, inner_client, certificates.client(), server_hostname="localhost"), LIMIT
        )
        inner_server.transport = await serving
        data = random.Random(2).randbytes(2 * MIB)
        for start in range(0, len(data), 30_000):
            inner.write(data[start : start + 30_000])
        assert await inner_client.until_received(len(data)) == data
        assert inner.get_extra_info("peername") == outer.get_extra_info("peername")
        assert inner.get_extra_info("ssl_object") is not outer.get_extra_info("ssl_object")
        inner.close()
        assert await inner_client.until_lost() is None
        assert await inner_server.until_lost() is None
        for protocol in (outer_client, outer_server):
            protocol.events.append("connection_lost")  # those inside have heard it


async def test_pausing_tls_in_tls(certificates: Certificates) -> None:
    loop = asyncio.get_running_loop()
    outer_client, outer_server, inner_client, inner_server = Recorder(), Recorder(), Recorder(), Recorder()
    async with joined(certificates, outer_client, outer_server) as outer:
        serving = asyncio.create_task(
            loop.start_tls(outer_server.transport, inner_server, certificates.server(), server_side=True)
        )
        inner = await asyncio.wait_for(
            loop.start_tls(outer, inner_client, certificates.client(), server_hostname="localhost"), LIMIT
        )
        receiving = await serving
        receiving.pause_reading()
        data = random.Random(3).randbytes(3 * MIB)
        inner.write(data)
        await asyncio.sleep(0.02)
        assert inner_server.data == b""
        receiving.resume_reading()
        assert await inner_server.until_received(len(data)) == data
        inner.abort()
        assert await inner_client.until_lost() is None
        await inner_server.until_lost()
        for protocol in (outer_client, outer_server):
            protocol.events.append("connection_lost")


async def test_streams_tls_in_tls(certificates: Certificates) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"more\n"
        await writer.start_tls(certificates.server())
        writer.write(await reader.readexactly(100_000))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=certificates.server())
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=certificates.client(), server_hostname="localhost"
    )
    writer.write(b"more\n")
    await writer.drain()
    await asyncio.wait_for(writer.start_tls(certificates.client(), server_hostname="localhost"), LIMIT)
    writer.write(b"z" * 100_000)
    assert await asyncio.wait_for(reader.read(), LIMIT) == b"z" * 100_000
    writer.close()
    await asyncio.wait_for(writer.wait_closed(), LIMIT)
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


@pytest.mark.ours
async def test_a_client_that_does_not_wait_for_the_answer(certificates: Certificates) -> None:
    """Its first handshake message is in the StreamReader already; newer Pythons move it too."""
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b"STARTTLS\n"
        await asyncio.wait_for(writer.start_tls(certificates.server()), LIMIT)
        got.set_result(await reader.readline())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    sock = socket.create_connection(server.sockets[0].getsockname())
    with sock:
        peer = Peer(sock, certificates.client())
        peer.outgoing.write(b"STARTTLS\n")
        await peer.handshake()
        await peer.send(b"secret\n")
        assert await asyncio.wait_for(got, LIMIT) == b"secret\n"
        assert await peer.receive_all() == b""
        await peer.say_end()
        await peer.rest_of_wire()
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


@pytest.mark.ours  # stock asyncio delivers it at once: the protocol sees the plain transport
async def test_what_comes_with_the_end_of_the_handshake(certificates: Certificates) -> None:
    """It is delivered once ``start_tls`` has returned."""
    loop = asyncio.get_running_loop()
    first = Recorder()
    secured: list[Any] = []
    seen: list[bool] = []
    protocol = Recorder(data_received=lambda *_: seen.append(bool(secured)))

    async def upgrade() -> None:
        context = certificates.server()
        secured.append(await loop.start_tls(first.transport, protocol, context, server_side=True))

    async with plain(first) as sock:
        task = asyncio.create_task(upgrade())
        await turns()  # the plain protocol would get the peer's first bytes
        peer = Peer(sock, certificates.client())
        while True:
            try:
                peer.ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                await peer._exchange(read=True)
        peer.ssl.write(b"in one piece")
        await peer._exchange(read=False)
        await asyncio.wait_for(task, LIMIT)
        assert await protocol.until_received(12) == b"in one piece"
        assert seen == [True]
        secured[0].abort()
        await protocol.until_lost()
