"""Handshakes by the thousand, most of which fail in some way; prints what the process holds after each batch.

    python tests/programs/handshakes.py --certificate cert.pem --key key.pem --batches 5 --count 4000

Each line is a JSON object as in soak.py, and how many handshakes have ended in which way.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from soak import Echo, holdings

import proactorx


class World:
    """A server that asks for no certificate, one that demands one, and one that upgrades;
    contexts for clients.
    """

    def __init__(self, certificate: str, key: str) -> None:
        self.server, self.strict = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
        self.client, self.known = (ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) for _ in range(2))
        for context in (self.server, self.strict, self.known):
            context.load_cert_chain(certificate, key)
        for context in (self.strict, self.client, self.known):
            context.load_verify_locations(certificate)
        self.strict.verify_mode = ssl.CERT_REQUIRED
        self.stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.old.load_verify_locations(certificate)
        self.old.maximum_version = ssl.TLSVersion.TLSv1_2
        self.server.minimum_version = ssl.TLSVersion.TLSv1_3
        self.ended: collections.Counter[str] = collections.Counter()

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        for name, context in (("plain", self.server), ("demanding", self.strict)):
            server = await asyncio.get_running_loop().create_server(
                Echo, "127.0.0.1", 0, ssl=context, ssl_handshake_timeout=20
            )
            stack.callback(server.close)
            setattr(self, name, server.sockets[0].getsockname())
        upgrading = await asyncio.start_server(self.upgrade, "127.0.0.1", 0)
        stack.callback(upgrading.close)
        self.upgrading = upgrading.sockets[0].getsockname()

    plain: Any
    demanding: Any

    async def upgrade(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await reader.readline()
            writer.write(b"go\n")
            await writer.start_tls(self.server)
            writer.write(await reader.readexactly(4))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def connect(self, address: Any, context: ssl.SSLContext, **options: Any) -> None:
        reader, writer = await asyncio.open_connection(
            *address, ssl=context, server_hostname="localhost", **options
        )
        try:
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def good(world: World, number: int) -> None:
    await world.connect(world.plain, world.client)


async def with_a_certificate(world: World, number: int) -> None:
    await world.connect(world.demanding, world.known)


async def without_the_certificate(world: World, number: int) -> None:
    await world.connect(world.demanding, world.client)


async def not_trusted(world: World, number: int) -> None:
    await world.connect(world.plain, world.stranger)


async def wrong_version(world: World, number: int) -> None:
    await world.connect(world.plain, world.old)


async def cancelled(world: World, number: int) -> None:
    task = asyncio.create_task(world.connect(world.plain, world.client))
    for _ in range(number % 30):
        await asyncio.sleep(0)
    task.cancel()
    await task


async def upgraded(world: World, number: int) -> None:
    reader, writer = await asyncio.open_connection(*world.upgrading)
    try:
        writer.write(b"tls\n")
        await reader.readline()
        context = world.client if number % 2 else world.stranger
        await writer.start_tls(context, server_hostname="localhost")
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def rude(world: World, number: int) -> None:
    """A client that says something else than TLS, a part of a greeting or nothing, and leaves or resets."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, world.plain)
        how = number % 4
        await loop.sock_sendall(
            sock, (b"", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03")[how]
        )
        if how % 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


KINDS: tuple[Callable[[World, int], Awaitable[None]], ...] = (
    good,
    with_a_certificate,
    without_the_certificate,
    not_trusted,
    wrong_version,
    cancelled,
    upgraded,
    rude,
)


async def one(world: World, kind: Callable[[World, int], Awaitable[None]], number: int) -> None:
    try:
        await kind(world, number)
        result = "done"
    except asyncio.CancelledError:
        result = "cancelled"
    except (OSError, EOFError) as exc:
        result = type(exc).__name__
    world.ended[f"{kind.__name__}: {result}"] += 1


async def main(world: World, batches: int, count: int) -> None:
    """Eight at a time, one of each kind."""
    # What the server's side of a failed handshake reports is not asked for here.
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    async with contextlib.AsyncExitStack() as stack:
        await world.start(stack)
        for _ in range(batches):
            for number in range(count // len(KINDS)):
                await asyncio.gather(*(one(world, kind, number) for kind in KINDS))
            await asyncio.sleep(0.2)  # the other ends notice
            print(json.dumps({**holdings(), "ended": world.ended}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--count", type=int, default=4000)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=lambda: proactorx.new_event_loop(args.backend)) as runner:
        runner.run(main(World(args.certificate, args.key), args.batches, args.count))
