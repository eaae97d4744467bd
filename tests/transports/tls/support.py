"""A TLS peer that is driven step by step, and pairs of transports."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

from transports.certs import Certificates
from transports.support import LIMIT, serving


class Peer:
    """The other side: ``SSLObject`` over a raw socket, so that a test says when what is sent."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.sock = sock
        sock.setblocking(False)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        name = None if server_side else "localhost"
        self.ssl = context.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side, server_hostname=name, session=session
        )

    async def _exchange(self, *, read: bool) -> None:
        loop = asyncio.get_running_loop()
        if self.outgoing.pending:
            await loop.sock_sendall(self.sock, self.outgoing.read())
        if read:
            data = await asyncio.wait_for(loop.sock_recv(self.sock, 65536), LIMIT)
            if not data:
                raise EOFError
            self.incoming.write(data)

    async def call(self, function: Any, *args: Any) -> Any:
        """An operation of the SSLObject, with what it needs from the wire."""
        while True:
            try:
                result = function(*args)
            except ssl.SSLWantReadError:
                await self._exchange(read=True)
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    await self._exchange(read=False)  # the alert
                raise
            else:
                await self._exchange(read=False)
                return result

    async def handshake(self) -> None:
        await self.call(self.ssl.do_handshake)

    async def send(self, data: bytes) -> None:
        await self.call(self.ssl.write, data)

    async def receive(self, count: int) -> bytes:
        out = bytearray()
        while len(out) < count:
            chunk = await self.call(self.ssl.read, 65536)
            if not chunk:
                raise EOFError(f"after {len(out)} of {count} bytes")
            out += chunk
        return bytes(out)

    async def receive_all(self) -> bytes:
        """Up to close_notify; EOFError where the connection ends without it."""
        out = bytearray()
        with contextlib.suppress(ssl.SSLZeroReturnError):  # what it is where we have ended too
            while chunk := await self.call(self.ssl.read, 65536):
                out += chunk
        return bytes(out)

    async def say_end(self) -> None:
        """close_notify, without waiting for that of the other side."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.ssl.unwrap()
        await self._exchange(read=False)

    async def rest_of_wire(self) -> bytes:
        """What comes until the connection is closed underneath, still encrypted."""
        loop, out = asyncio.get_running_loop(), bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await asyncio.wait_for(loop.sock_recv(self.sock, 65536), LIMIT):
                out += data
        return bytes(out)


async def dialled(address: Any) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, address)
    return sock


@contextlib.asynccontextmanager
async def accepted(certificates: Certificates, protocol: Any, **options: Any) -> AsyncIterator[Peer]:
    """A connection to a server of the loop; `protocol` serves it, the peer has made its handshake."""
    context = options.pop("context", None) or certificates.server()
    peer_context = options.pop("peer", None) or certificates.client()
    async with serving(lambda: protocol, ssl=context, **options) as (_, address):
        sock = await dialled(address)
        with sock:
            peer = Peer(sock, peer_context)
            await peer.handshake()
            await protocol.until_event("connection_made")
            try:
                yield peer
            finally:
                if "connection_lost" not in protocol.events:
                    protocol.transport.abort()
                await protocol.until_lost()


@contextlib.asynccontextmanager
async def joined(certificates: Certificates, client: Any, server: Any, **options: Any) -> AsyncIterator[Any]:
    """Both ends in the loop: the client's transport; the server's is ``server.transport``."""
    loop = asyncio.get_running_loop()
    async with serving(lambda: server, ssl=options.pop("context", None) or certificates.server()) as (
        _,
        address,
    ):
        transport, _ = await asyncio.wait_for(
            loop.create_connection(
                lambda: client, *address, ssl=certificates.client(), server_hostname="localhost", **options
            ),
            LIMIT,
        )
        await server.until_event("connection_made")
        try:
            yield transport
        finally:
            for protocol in (client, server):
                if "connection_lost" not in protocol.events:
                    protocol.transport.abort()
                await protocol.until_lost()
