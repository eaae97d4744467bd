"""Handshakes: time-outs, refusals, and what the two sides agree on."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import pytest

from transports.certs import Certificates
from transports.support import LIMIT, Echo, Recorder, collect_errors, listening, reset, serving, turns

from .support import Peer, accepted, dialled, joined


async def connect(address: Any, context: ssl.SSLContext, **options: Any) -> Any:
    options.setdefault("server_hostname", "localhost")
    loop = asyncio.get_running_loop()
    return await asyncio.wait_for(loop.create_connection(Recorder, *address, ssl=context, **options), LIMIT)


@pytest.mark.parametrize("name", ["ssl_handshake_timeout", "ssl_shutdown_timeout"])
@pytest.mark.parametrize("value", [0, -1])
async def test_a_time_out_that_is_not_positive(certificates: Certificates, name: str, value: int) -> None:
    ours, peer = socket.socketpair()
    with peer, ours, pytest.raises(ValueError, match=f"{name} should be a positive number, got {value}"):
        await asyncio.get_running_loop().create_connection(
            Recorder, sock=ours, ssl=certificates.client(), server_hostname="localhost", **{name: value}
        )


async def test_a_name_that_cannot_be(certificates: Certificates) -> None:
    with listening() as listener:
        ours = await dialled(listener.getsockname())
        with ours, pytest.raises(ValueError):
            await asyncio.get_running_loop().create_connection(
                Recorder, sock=ours, ssl=certificates.client(), server_hostname=".localhost"
            )


async def test_the_server_gives_up_a_client_that_says_nothing(certificates: Certificates) -> None:
    protocol = Recorder()
    async with serving(lambda: protocol, ssl=certificates.server(), ssl_handshake_timeout=0.05) as (
        _,
        address,
    ):
        with await dialled(address) as sock:
            loop = asyncio.get_running_loop()
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(loop.sock_recv(sock, 10), LIMIT) == b""
    assert protocol.events == []


async def test_the_message_of_a_late_handshake(certificates: Certificates) -> None:
    with listening() as listener:
        with pytest.raises(ConnectionAbortedError) as caught:
            await connect(listener.getsockname(), certificates.client(), ssl_handshake_timeout=0.05)
    assert str(caught.value) == "SSL handshake is taking longer than 0.05 seconds: aborting the connection"


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_peer_that_leaves_in_the_handshake(certificates: Certificates, how: str) -> None:
    loop = asyncio.get_running_loop()
    with listening() as listener:
        listener.setblocking(False)
        task = asyncio.create_task(connect(listener.getsockname(), certificates.client()))
        peer, _ = await loop.sock_accept(listener)
        assert await loop.sock_recv(peer, 65536)
        reset(peer) if how == "reset" else peer.close()
        with pytest.raises(ConnectionResetError):
            await task
    await turns(5)


async def test_a_cancelled_handshake_closes_the_connection(certificates: Certificates) -> None:
    loop = asyncio.get_running_loop()
    with listening() as listener:
        listener.setblocking(False)
        task = asyncio.create_task(connect(listener.getsockname(), certificates.client()))
        peer, _ = await loop.sock_accept(listener)
        with peer:
            assert await loop.sock_recv(peer, 65536)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with contextlib.suppress(ConnectionResetError):
                while await asyncio.wait_for(loop.sock_recv(peer, 65536), LIMIT):
                    pass  # the rest of the first message


async def test_byte_by_byte(certificates: Certificates) -> None:
    """Every record comes in pieces."""
    loop = asyncio.get_running_loop()
    protocol = Echo()
    async with serving(lambda: protocol, ssl=certificates.server()) as (_, address):
        with await dialled(address) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer = Peer(sock, certificates.client())
            while True:
                try:
                    peer.ssl.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    for byte in peer.outgoing.read():
                        await loop.sock_sendall(sock, bytes([byte]))
                        await asyncio.sleep(0)
                    peer.incoming.write(await loop.sock_recv(sock, 65536))
            peer.ssl.write(b"in pieces")
            for byte in peer.outgoing.read():
                await loop.sock_sendall(sock, bytes([byte]))
                await asyncio.sleep(0)
            assert await peer.receive(9) == b"in pieces"
            protocol.transport.abort()
            await protocol.until_lost()


async def test_data_behind_the_handshake_in_one_piece(certificates: Certificates) -> None:
    protocol = Recorder()
    async with serving(lambda: protocol, ssl=certificates.server()) as (_, address):
        with await dialled(address) as sock:
            peer = Peer(sock, certificates.client())
            with pytest.raises(ssl.SSLWantReadError):
                peer.ssl.do_handshake()
            await peer._exchange(read=True)
            peer.ssl.do_handshake()
            peer.ssl.write(b"early")
            await peer._exchange(read=False)
            assert await protocol.until_received(5) == b"early"
            assert protocol.order == ["connection_made", "data_received"]
            protocol.transport.abort()
            await protocol.until_lost()


async def test_no_common_version(certificates: Certificates) -> None:
    old, new = certificates.server(), certificates.client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    async with serving(Recorder, ssl=old) as (_, address):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(address, new)
        await turns(5)


@pytest.mark.ours
async def test_the_peer_is_told_why(certificates: Certificates) -> None:
    """An alert, where stock asyncio drops the connection."""
    with listening() as listener:
        listener.setblocking(False)
        task = asyncio.create_task(connect(listener.getsockname(), certificates.stranger()))
        sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        with sock:
            peer = Peer(sock, certificates.server(), server_side=True)
            with pytest.raises(ssl.SSLError, match=r"(?i)alert unknown ca"):
                await peer.handshake()
                await peer.receive(1)
        with pytest.raises(ssl.SSLCertVerificationError, match="self-signed certificate") as caught:
            await task
        assert caught.value.verify_code == 18


async def test_reports_of_refused_clients(certificates: Certificates) -> None:
    """A server does not call its exception handler for what clients get wrong."""
    seen = collect_errors()
    async with serving(Recorder, ssl=certificates.server()) as (_, address):
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(address, certificates.stranger())
        with await dialled(address) as sock:
            await asyncio.get_running_loop().sock_sendall(sock, b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                while await asyncio.get_running_loop().sock_recv(sock, 65536):
                    pass
        await turns(10)
    assert seen == []


async def test_alpn(certificates: Certificates) -> None:
    server_context, client_context = certificates.server(), certificates.client()
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    client_context.set_alpn_protocols(["http/1.1"])
    protocol = Recorder()
    async with accepted(certificates, protocol, context=server_context, peer=client_context) as peer:
        assert peer.ssl.selected_alpn_protocol() == "http/1.1"
        assert protocol.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


async def test_sni_chooses_the_context(certificates: Certificates) -> None:
    names: list[Any] = []
    first, second = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificates.server()

    def choose(sslobj: ssl.SSLObject, name: str, _context: ssl.SSLContext) -> None:
        names.append(name)
        sslobj.context = second

    first.sni_callback = choose  # type: ignore[assignment]
    async with accepted(certificates, Echo(), context=first) as peer:
        await peer.send(b"x")
        assert await peer.receive(1) == b"x"
        assert names == ["localhost"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_client_certificates(certificates: Certificates, version: ssl.TLSVersion) -> None:
    server_context = certificates.server()
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.load_verify_locations(certificates.certificate)
    server_context.maximum_version = version
    with_one = certificates.client()
    with_one.load_cert_chain(certificates.certificate, certificates.key)
    protocol = Echo()
    async with accepted(certificates, protocol, context=server_context, peer=with_one) as peer:
        await peer.send(b"known")
        assert await peer.receive(5) == b"known"
        subject = protocol.transport.get_extra_info("peercert")["subject"]
        assert subject == ((("commonName", "localhost"),),)
        assert protocol.transport.get_extra_info("cipher")[1] == version.name.replace("_", ".")
    stranger = Recorder()
    async with serving(lambda: stranger, ssl=server_context) as (_, address):
        with await dialled(address) as sock:
            peer = Peer(sock, certificates.client())
            with pytest.raises((ssl.SSLError, OSError, EOFError)):
                await peer.handshake()
                await peer.receive(1)
    assert stranger.events == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_is_resumed(certificates: Certificates, version: ssl.TLSVersion) -> None:
    context, server_context = certificates.client(), certificates.server()
    context.maximum_version = context.minimum_version = version
    session = None
    async with serving(Echo, ssl=server_context) as (_, address):
        for attempt in range(2):
            with await dialled(address) as sock:
                peer = Peer(sock, context)
                if session is not None:
                    peer.ssl.session = session
                await peer.handshake()
                await peer.send(b"x")
                assert await peer.receive(1) == b"x"  # the tickets came before it
                assert peer.ssl.session_reused == (attempt == 1)
                session = peer.ssl.session
                await peer.say_end()
                assert await peer.receive_all() == b""
    assert server_context.session_stats()["hits"] == 1


async def test_what_is_known_before_and_after(certificates: Certificates) -> None:
    client, server = Recorder(), Recorder()
    context = certificates.server()
    async with joined(certificates, client, server, context=context) as transport:
        accepted_transport = server.transport
        assert accepted_transport.get_extra_info("sslcontext") is context
        assert accepted_transport.get_extra_info("peercert") is None
        assert transport.get_extra_info("peername") == accepted_transport.get_extra_info("sockname")
        assert transport.get_extra_info("compression") is None
        assert transport.get_extra_info("no such thing", 7) == 7
        assert transport.get_protocol() is client
        assert isinstance(transport, asyncio.Transport)
        assert not transport.can_write_eof()
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        certificate = transport.get_extra_info("peercert")
    assert transport.get_extra_info("peercert") == certificate != {}
    assert transport.get_extra_info("cipher")
    assert transport.is_closing()


@pytest.mark.ours
async def test_pausing_at_once_does_not_hold_back_the_handshake(certificates: Certificates) -> None:
    """Stock asyncio keeps the server's last words to itself."""
    context = certificates.server()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def pause(protocol: Recorder) -> None:
        protocol.transport.pause_reading()

    protocol = Recorder(connection_made=pause)
    async with accepted(certificates, protocol, context=context) as peer:
        await peer.send(b"later")
        await turns(5)
        assert protocol.data == b""
        protocol.transport.resume_reading()
        assert await protocol.until_received(5) == b"later"


async def test_a_connection_made_that_raises(certificates: Certificates) -> None:
    seen = collect_errors()

    def fail(_protocol: Recorder) -> None:
        raise ZeroDivisionError

    protocol = Recorder(connection_made=fail)
    async with serving(lambda: protocol, ssl=certificates.server()) as (_, address):
        with await dialled(address) as sock:
            peer = Peer(sock, certificates.client())
            with contextlib.suppress(OSError, EOFError):
                await peer.handshake()
                await peer.receive(1)
            assert isinstance(await protocol.until_lost(), ZeroDivisionError)
    assert [type(context["exception"]) for context in seen] == [ZeroDivisionError]
