"""What programs reach into: methods replaced on one object, protocols of other shapes,
asyncio's own private names.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from typing import Any

import pytest

from .certs import Certificates
from .support import LIMIT, MIB, Recorder, linked, serving

pairs = pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])


async def streams(
    address: Any, certificates: Certificates, *, secure: bool
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    options: dict[str, Any] = {"ssl": certificates.client(), "server_hostname": "localhost"} if secure else {}
    return await asyncio.wait_for(asyncio.open_connection(*address, **options), LIMIT)


async def ended(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


@pairs
@pytest.mark.parametrize("what", ["feed_data", "data_received"])
async def test_a_method_that_is_replaced_on_one_object(
    certificates: Certificates, secure: bool, what: str
) -> None:
    """After the connection was made, and undone again."""
    served = Recorder()
    options: dict[str, Any] = {"ssl": certificates.server()} if secure else {}
    async with serving(lambda: served, **options) as (_, address):
        reader, writer = await streams(address, certificates, secure=secure)
        await served.until_event("connection_made")
        served.transport.write(b"first")
        assert await asyncio.wait_for(reader.readexactly(5), LIMIT) == b"first"
        target: Any = reader if what == "feed_data" else writer.transport.get_protocol()
        own = getattr(target, what)
        seen: list[bytes] = []

        def hook(data: bytes) -> None:
            seen.append(bytes(data))
            own(data.upper())

        setattr(target, what, hook)
        served.transport.write(b"second")
        assert await asyncio.wait_for(reader.readexactly(6), LIMIT) == b"SECOND"
        assert b"".join(seen) == b"second"
        delattr(target, what)
        served.transport.write(b"third")
        assert await asyncio.wait_for(reader.readexactly(5), LIMIT) == b"third"
        await ended(writer)


async def test_a_class_that_is_patched_while_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Recorder()
    async with serving(lambda: served) as (_, address):
        reader, writer = await asyncio.open_connection(*address)
        await served.until_event("connection_made")
        served.transport.write(b"first")
        assert await asyncio.wait_for(reader.readexactly(5), LIMIT) == b"first"
        own = asyncio.StreamReader.feed_data
        monkeypatch.setattr(asyncio.StreamReader, "feed_data", lambda self, data: own(self, data.upper()))
        served.transport.write(b"second")
        assert await asyncio.wait_for(reader.readexactly(6), LIMIT) == b"SECOND"
        await ended(writer)


class Shaped:
    """A protocol of no base class: what it has is what it is."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.buffer = bytearray(1000)
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def eof_received(self) -> None:
        pass

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(None)


class Buffers(Shaped):
    def get_buffer(self, _hint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data += self.buffer[:count]


class Both(Buffers):
    def data_received(self, data: bytes) -> None:
        self.data += data.upper()


async def upload(shape: type[Buffers], certificates: Certificates, *, secure: bool) -> tuple[bytes, bytes]:
    """What a client sends to a server with such protocols, and what one of them has then."""
    made: list[Buffers] = []

    def factory() -> Any:
        made.append(shape())
        return made[-1]

    data = os.urandom(MIB).hex().encode()
    options: dict[str, Any] = {"ssl": certificates.server()} if secure else {}
    async with serving(factory, **options) as (_, address):
        _, writer = await streams(address, certificates, secure=secure)
        writer.write(data)
        await writer.drain()
        await ended(writer)
        await asyncio.wait_for(made[0].lost, LIMIT)
    return data, bytes(made[0].data)


@pytest.mark.ours  # stock asyncio calls data_received, which it has not
@pairs
async def test_a_protocol_that_only_has_buffers(certificates: Certificates, secure: bool) -> None:
    sent, received = await upload(Buffers, certificates, secure=secure)
    assert received == sent


@pairs
async def test_a_protocol_that_can_receive_in_both_ways(certificates: Certificates, secure: bool) -> None:
    """Without the base class that says otherwise, data_received is called."""
    sent, received = await upload(Both, certificates, secure=secure)
    assert received == sent.upper()


# Classes of the user's in the place of ssl.SSLObject


class Counting(ssl.SSLObject):
    reads = 0
    written = b""

    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        type(self).reads += 1
        if buffer is None:
            return super().read(len).upper()
        return super().read(len, buffer)

    def write(self, data: Any) -> int:
        type(self).written += bytes(data)
        return super().write(data)


async def test_an_ssl_object_class_of_ones_own(certificates: Certificates) -> None:
    context = certificates.client()
    context.sslobject_class = Counting
    Counting.reads, Counting.written = 0, b""
    served = Recorder()
    async with serving(lambda: served, ssl=certificates.server()) as (_, address):
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(*address, ssl=context, server_hostname="localhost"), LIMIT
        )
        writer.write(b"question")
        await served.until_received(8)
        answer = b"answer" * 20_000
        served.transport.write(answer)
        assert await asyncio.wait_for(reader.readexactly(len(answer)), LIMIT) == answer.upper()
        await ended(writer)
    assert Counting.written == b"question"
    assert Counting.reads > 0


# asyncio's own private names


async def test_private_names_of_a_stream_transport() -> None:
    async with linked("tcp") as link:
        transport = link.transport
        assert transport._closing is False
        assert transport._paused is False
        assert transport._sock.fileno() == transport.get_extra_info("socket").fileno()
        assert transport._sock.getpeername() == link.peer.getsockname()
        transport.pause_reading()
        assert transport._paused is True
        transport.resume_reading()
        assert transport._paused is False
        transport.close()
        assert transport._closing is True
        await link.protocol.until_lost()
        assert transport._sock is None


@pytest.mark.ours
async def test_the_socket_of_a_transport_is_only_read() -> None:
    async with linked("tcp") as link:
        for name in ("_sock", "_closing", "_paused"):
            with pytest.raises(AttributeError):
                setattr(link.transport, name, None)


async def test_private_names_of_a_datagram_transport() -> None:
    loop = asyncio.get_running_loop()
    transport: Any
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    assert transport._closing is False
    assert transport._sock.getsockname() == transport.get_extra_info("sockname")
    transport.close()
    assert transport._closing is True
    await asyncio.sleep(0.01)
    assert transport._sock is None


async def test_private_names_of_a_tls_transport(certificates: Certificates) -> None:
    served = Recorder()
    context = certificates.client()
    async with serving(lambda: served, ssl=certificates.server()) as (_, address):
        _, writer = await asyncio.wait_for(
            asyncio.open_connection(*address, ssl=context, server_hostname="localhost"), LIMIT
        )
        transport: Any = writer.transport
        assert transport._ssl_protocol._sslcontext is context
        assert transport._ssl_protocol._extra["sslcontext"] is context
        assert transport._ssl_protocol._extra["ssl_object"] is transport.get_extra_info("ssl_object")
        assert transport._ssl_protocol._extra["cipher"]
        await ended(writer)
