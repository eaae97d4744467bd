"""Paused means paused: what arrives stays in the socket, where a duplicate of it finds every byte."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from .support import Peer, descriptors, dial, listening, pair, short_folder

LIMIT = 10.0


class Pauser(asyncio.Protocol):
    """Pauses when it is given its first data, if it is asked to."""

    def __init__(self, at_first: bool = False) -> None:
        self.at_first = at_first
        self.data = bytearray()
        self.ended = False
        self.came = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.at_first:
            self.transport.pause_reading()
        self.came.set()

    def eof_received(self) -> None:
        self.ended = True


class BufferedPauser(asyncio.BufferedProtocol):
    """The same with a buffer of its own, of which the kernel is given no more than it holds."""

    def __init__(self, at_first: bool = False) -> None:
        self.at_first = at_first
        self.data = bytearray()
        self.ended = False
        self.came = asyncio.Event()
        self.buffer = bytearray(1 << 16)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, hint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, count: int) -> None:
        self.data += self.buffer[:count]
        if self.at_first:
            self.transport.pause_reading()
        self.came.set()

    def eof_received(self) -> None:
        self.ended = True


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0.003)


def lying(sock: socket.socket, count: int) -> bytes:
    """So many bytes that must lie in the socket; they stay there."""
    sock.settimeout(5)
    try:
        return sock.recv(count, socket.MSG_PEEK | socket.MSG_WAITALL)
    except TimeoutError:
        return b"nothing"
    finally:
        sock.setblocking(False)


@contextlib.asynccontextmanager
async def connection(
    way: str, kind: str, protocol: Callable[[], Any]
) -> AsyncIterator[tuple[Any, Any, Peer, socket.socket]]:
    """(transport, protocol, peer, duplicate of the transport's socket),
    of a socket that was given or accepted.
    """
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        if way == "given":
            ours, other = pair(kind)
            peer = stack.enter_context(Peer(other, 5))
            transport, made = await loop.create_connection(protocol, sock=ours)
        elif way == "connected":
            folder = stack.enter_context(short_folder())
            with listening("127.0.0.1" if kind == "tcp" else str(folder / "s")) as listener:
                if kind == "tcp":
                    transport, made = await loop.create_connection(protocol, *listener.getsockname())
                else:
                    transport, made = await loop.create_unix_connection(protocol, listener.getsockname())
                listener.settimeout(5)
                peer = stack.enter_context(Peer(listener.accept()[0], 5))
        else:
            folder = stack.enter_context(short_folder())
            making: asyncio.Future[Any] = loop.create_future()

            def make() -> Any:
                making.set_result(made := protocol())
                return made

            if kind == "tcp":
                server = await loop.create_server(make, "127.0.0.1", 0)
            else:
                server = await loop.create_unix_server(make, str(folder / "s"))
            peer = stack.enter_context(dial(server.sockets[0].getsockname(), 5))
            made = await making
            await settle()
            transport = made.transport
            server.close()
        duplicate = stack.enter_context(transport.get_extra_info("socket").dup())
        duplicate.setblocking(False)
        try:
            yield transport, made, peer, duplicate
        finally:
            transport.abort()
            await settle()


ways = pytest.mark.parametrize(
    ("way", "kind"), [(way, kind) for way in ("given", "connected", "accepted") for kind in ("tcp", "unix")]
)
protocols = pytest.mark.parametrize("protocol", [Pauser, BufferedPauser])


@ways
@protocols
async def test_what_comes_later_stays_in_the_socket(way: str, kind: str, protocol: Any) -> None:
    async with connection(way, kind, protocol) as (transport, made, peer, duplicate):
        peer.send(b"first")
        async with asyncio.timeout(LIMIT):
            await made.came.wait()
        transport.pause_reading()
        peer.send(b"second")  # before the loop has had a turn
        await settle()
        peer.send(b"third")  # and when it sleeps
        await settle()
        assert made.data == b"first"
        assert lying(duplicate, 11) == b"secondthird"
        transport.resume_reading()
        async with asyncio.timeout(LIMIT):
            while len(made.data) < 16:
                await asyncio.sleep(0.001)
        assert made.data == b"firstsecondthird"


@ways
@protocols
async def test_what_comes_after_a_pause_from_the_callback_stays_in_the_socket(
    way: str, kind: str, protocol: Any
) -> None:
    async with connection(way, kind, lambda: protocol(True)) as (_, made, peer, duplicate):
        peer.send(b"first")
        async with asyncio.timeout(LIMIT):
            await made.came.wait()
        peer.send(b"second")
        peer.finish()
        await settle()
        assert made.data == b"first"
        assert not made.ended
        assert lying(duplicate, 6) == b"second"
        duplicate.settimeout(5)
        assert duplicate.recv(100) == b"second"  # it is handed over: all the rest, and the end
        assert duplicate.recv(100) == b""


@ways
async def test_a_transport_that_pauses_before_anything_came_takes_nothing(way: str, kind: str) -> None:
    async with connection(way, kind, Pauser) as (transport, made, peer, duplicate):
        transport.pause_reading()
        peer.send(b"x" * 100_000)
        await settle()
        assert made.data == b""
        assert lying(duplicate, 100_000) == b"x" * 100_000


async def test_a_large_piece_is_split_by_the_kernel_alone() -> None:
    """Of much data at once, what has not been delivered is in the socket: nothing is between."""
    data = os.urandom(1_500_000)
    async with connection("given", "tcp", lambda: Pauser(True)) as (_, made, peer, duplicate):
        sending = asyncio.ensure_future(asyncio.to_thread(peer.send, data))
        async with asyncio.timeout(LIMIT):
            await made.came.wait()
        await settle()
        got = bytes(made.data)
        duplicate.settimeout(5)
        rest = await asyncio.to_thread(_take, duplicate, len(data) - len(got))
        await sending
        assert got + rest == data
        assert bytes(made.data) == got


def _take(sock: socket.socket, count: int) -> bytes:
    out = bytearray()
    while len(out) < count and (chunk := sock.recv(count - len(out))):
        out += chunk
    return bytes(out)


async def test_a_transport_paused_and_resumed_many_times_loses_nothing() -> None:
    """Each time some of the stream goes to the transport and some to the duplicate."""
    data = os.urandom(300_000)
    out = bytearray()
    async with connection("given", "tcp", Pauser) as (transport, made, peer, duplicate):
        sending = asyncio.ensure_future(asyncio.to_thread(peer.send, data))
        async with asyncio.timeout(3 * LIMIT):
            while len(out) < len(data):
                transport.resume_reading()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                transport.pause_reading()
                out += made.data
                made.data.clear()
                await asyncio.sleep(0.001)
                assert made.data == b""
                with contextlib.suppress(BlockingIOError):
                    out += duplicate.recv(5000)
        await sending
    assert bytes(out) == data


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_stream_whose_buffer_is_full_takes_no_more(kind: str) -> None:
    """A reader with a limit pauses its transport: the rest lies in the socket."""
    ours, other = pair(kind)
    with Peer(other, 5) as peer, ours.dup() as duplicate:
        reader, writer = await asyncio.open_connection(sock=ours, limit=1000)
        peer.send(b"a" * 3000)
        await settle()
        peer.send(b"b" * 5000)
        await settle()
        duplicate.setblocking(False)
        assert lying(duplicate, 5000) == b"b" * 5000
        assert await reader.readexactly(8000) == b"a" * 3000 + b"b" * 5000
        writer.close()
        await writer.wait_closed()


async def test_a_socket_is_handed_to_a_blocking_thread() -> None:
    """The common pattern: read a request line, pause, and let a thread go on with the connection."""
    data = os.urandom(100_000)
    async with connection("accepted", "tcp", lambda: Pauser(True)) as (_, made, peer, duplicate):
        peer.send(b"GO\n")
        async with asyncio.timeout(LIMIT):
            await made.came.wait()

        def blocking() -> bytes:
            duplicate.setblocking(True)
            duplicate.settimeout(LIMIT)
            return _take(duplicate, len(data))

        taking = asyncio.ensure_future(asyncio.to_thread(blocking))
        await asyncio.to_thread(peer.send, data)
        assert await taking == data
        assert made.data == b"GO\n"
        duplicate.setblocking(False)


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
async def test_what_comes_into_a_paused_pipe_stays_there(kind: str) -> None:
    loop = asyncio.get_running_loop()
    if kind == "pipe":
        ours, other = os.pipe()
    elif kind == "socket":
        ours, other = (sock.detach() for sock in socket.socketpair())
    else:
        other, ours = os.openpty()
    duplicate = os.dup(ours)
    transport, made = await loop.connect_read_pipe(Pauser, os.fdopen(ours, "rb", buffering=0))
    try:
        os.write(other, b"first\n")
        async with asyncio.timeout(LIMIT):
            await made.came.wait()
        transport.pause_reading()
        os.write(other, b"second\n")
        await settle()
        assert made.data == b"first\n"
        os.set_blocking(duplicate, False)
        assert os.read(duplicate, 100) == b"second\n"
    finally:
        transport.close()
        os.close(duplicate)
        os.close(other)
        await settle()


# A paused transport that nobody keeps


class Forgotten(asyncio.Protocol):
    """Nobody keeps it but its transport, which is paused at once, when its receive has begun,
    or by its first data.
    """

    def __init__(self, made: list[weakref.ref[Any]], when: str) -> None:
        self.made = made
        self.when = when

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self.when == "at once":
            self.pause()
        elif self.when == "later":
            asyncio.get_running_loop().call_later(0.01, self.pause)

    def data_received(self, data: bytes) -> None:
        if self.when == "at first":
            self.pause()

    def pause(self) -> None:
        self.transport.pause_reading()
        self.made.append(weakref.ref(self.transport))


async def paused(made: list[weakref.ref[Any]], when: str, peer: Peer) -> None:
    if when == "at first":
        peer.send(b"x")
    async with asyncio.timeout(LIMIT):
        while not made:
            await asyncio.sleep(0.001)
    await settle()


async def collected(made: list[weakref.ref[Any]]) -> bool:
    gc.collect()
    await settle()  # the operation in flight, if there is one, comes back
    gc.collect()
    await settle()
    return made[0]() is None


moments = pytest.mark.parametrize("when", ["at once", "later", "at first"])


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@moments
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_paused_transport_that_nobody_keeps_is_collected(kind: str, when: str) -> None:
    """Its peer sees the end, and its descriptor is free."""
    loop = asyncio.get_running_loop()
    ours, other = pair(kind)
    number = ours.fileno()
    made: list[weakref.ref[Any]] = []
    with Peer(other, 5) as peer:
        await loop.create_connection(lambda: Forgotten(made, when), sock=ours)
        del ours
        await paused(made, when, peer)
        assert await collected(made)
        assert peer.told() == "FIN"
    assert "socket" not in descriptors().get(number, "")


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@moments
@pytest.mark.parametrize("order", ["waits before", "waits after"])
async def test_a_server_ends_though_a_paused_transport_was_forgotten(order: str, when: str) -> None:
    """``wait_closed`` returns, called before or after the transport is collected."""
    loop = asyncio.get_running_loop()
    if sys.version_info[:2] == (3, 12) and isinstance(loop, asyncio.SelectorEventLoop):
        pytest.skip("a transport of stock asyncio that is collected tells its server of it since Python 3.13")
    made: list[weakref.ref[Any]] = []
    server = await loop.create_server(lambda: Forgotten(made, when), "127.0.0.1", 0)
    with dial(server.sockets[0].getsockname(), 5) as peer:
        await paused(made, when, peer)
        server.close()
        task = asyncio.create_task(server.wait_closed()) if order == "waits before" else None
        await settle()
        assert await collected(made)
        async with asyncio.timeout(LIMIT):
            await (task or server.wait_closed())
        assert peer.told() == "FIN"
