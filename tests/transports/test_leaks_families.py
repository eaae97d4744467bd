"""Every family of operations 160 times: no descriptor, no thread, no object and no memory is left."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

import proactorx

from .certs import Certificates

TIMES = 160
WARM = 40
# that may be more than before: 64 cancelled timers that are not swept yet; a leak in every round is more
OBJECTS = 150
#: glibc's: blocks that it keeps for later are no leak.
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
MEMORY = 2 << 20  # bytes that may be more than before: Python's arenas have 1 MiB

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.timeout(120),
]


class Talker(asyncio.Protocol):
    """A client: sends a few bytes, and is done when they are back."""

    def __init__(self) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        transport.write(b"ping")

    def data_received(self, data: bytes) -> None:
        if not self.done.done():
            self.done.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Answerer(asyncio.DatagramProtocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if data == b"ping":
            self.transport.sendto(b"pong", addr)
        elif not self.answer.done():
            self.answer.set_result(data)


@dataclass
class World:
    """What the families share: peers that live as long as the test."""

    tcp: Any
    tls: Any
    unix: str
    udp: Any
    certificates: Certificates
    file: IO[bytes]


Family = Callable[[World, int], Awaitable[None]]
FAMILIES: dict[str, Family] = {}


def family(function: Family) -> Family:
    FAMILIES[function.__name__] = function
    return function


def running() -> Any:
    return asyncio.get_running_loop()


async def _talk(transport: Any, protocol: Any, number: int) -> None:
    await protocol.done
    transport.abort() if number % 2 else transport.close()
    await protocol.lost


@family
async def tcp(world: World, number: int) -> None:
    await _talk(*await running().create_connection(Talker, *world.tcp), number)


@family
async def unix(world: World, number: int) -> None:
    await _talk(*await running().create_unix_connection(Talker, world.unix), number)


@family
async def refused(world: World, number: int) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await running().create_connection(Talker, *sock.getsockname())


@family
async def servers(world: World, number: int) -> None:
    server = await running().create_server(Echo, "127.0.0.1", 0)
    await _talk(*await running().create_connection(Talker, *server.sockets[0].getsockname()), number)
    server.close()
    await server.wait_closed()


@family
async def streams(world: World, number: int) -> None:
    reader, writer = await asyncio.open_connection(*world.tcp)
    writer.write(b"line\n")
    assert await reader.readline() == b"line\n"
    writer.close()
    await writer.wait_closed()


@family
async def tls(world: World, number: int) -> None:
    client = world.certificates.client()
    await _talk(
        *await running().create_connection(Talker, *world.tls, ssl=client, server_hostname="localhost"),
        number,
    )


@family
async def failed_tls(world: World, number: int) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await running().create_connection(
            Talker, *world.tls, ssl=world.certificates.stranger(), server_hostname="localhost"
        )


@family
async def sockets(world: World, number: int) -> None:
    loop = running()
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        for sock in (listener, client):
            sock.setblocking(False)
        accepting = asyncio.create_task(loop.sock_accept(listener))
        await loop.sock_connect(client, listener.getsockname())
        conn, _ = await accepting
        with conn:
            await loop.sock_sendall(client, b"hello")
            assert await loop.sock_recv(conn, 10) == b"hello"
            waiting = asyncio.create_task(loop.sock_recv(conn, 10))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])


@family
async def datagrams(world: World, number: int) -> None:
    transport, protocol = await running().create_datagram_endpoint(Answerer, remote_addr=world.udp)
    transport.sendto(b"ping")
    assert await protocol.answer == b"pong"
    transport.close()
    await asyncio.sleep(0)


@family
async def pipes(world: World, number: int) -> None:
    source, target = os.pipe()
    reader = asyncio.StreamReader()
    reading, _ = await running().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader),
        os.fdopen(source, "rb", 0),
    )
    writing, _ = await running().connect_write_pipe(asyncio.BaseProtocol, os.fdopen(target, "wb", 0))
    writing.write(b"through")
    assert await reader.readexactly(7) == b"through"
    writing.close()
    assert await reader.read() == b""
    reading.close()


@family
async def processes(world: World, number: int) -> None:
    process = await asyncio.create_subprocess_exec("true" if number % 2 else "cat", stdin=-1, stdout=-1)
    assert await process.communicate(b"" if number % 2 else b"in") == (b"" if number % 2 else b"in", None)


@family
async def files(world: World, number: int) -> None:
    reader, writer = await asyncio.open_connection(*world.tcp)
    assert await running().sendfile(writer.transport, world.file) == 10_000
    assert len(await reader.readexactly(10_000)) == 10_000
    writer.close()
    await writer.wait_closed()


@family
async def readers(world: World, number: int) -> None:
    left, right = socket.socketpair()
    with left, right:
        seen = running().create_future()
        running().add_reader(left, lambda: seen.done() or seen.set_result(None))
        right.send(b"x")
        await seen
        running().remove_reader(left)


@family
async def timers(world: World, number: int) -> None:
    running().call_later(100, print, number).cancel()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0 if number % 2 else 100):
            await asyncio.sleep(0.0001)


@family
async def threads(world: World, number: int) -> None:
    assert await asyncio.to_thread(abs, -number) == number


@family
async def names(world: World, number: int) -> None:
    assert await running().getaddrinfo("localhost", 80)


@family
async def io_threads(world: World, number: int) -> None:
    """A pool each time, with a result, a cancelled call, an orphan and a bound socket."""
    loop = running()
    ended: list[int] = []
    left, right = socket.socketpair()
    with left, right:
        pool = proactorx.IOThreadPool(2, 4, gate=0.01, idle=0.01)
        assert await pool.call(loop, abs, -number) == number
        orphan = pool.call(loop, lambda: (time.sleep(0.001), 1)[1], on_orphan=ended.append)
        await asyncio.sleep(0)
        orphan.cancel()
        pool.bind(left, lambda packet: ended.append(packet.nbytes))
        pool.port.recv(left, 10)
        right.sendall(b"ping")
        pool.queue(ended.append, 0)
        if number % 2:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(pool.close)
        assert 0 in ended


@family
async def signals(world: World, number: int) -> None:
    seen = running().create_future()
    running().add_signal_handler(signal.SIGUSR1, lambda: seen.done() or seen.set_result(None))
    os.kill(os.getpid(), signal.SIGUSR1)
    await seen
    running().remove_signal_handler(signal.SIGUSR1)


def _state() -> dict[str, int]:
    for _ in range(3):
        gc.collect()
    if TRIM is not None:
        TRIM(ctypes.c_size_t(0))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "objects": len(gc.get_objects()),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
    }


ROOM = {"descriptors": 0, "threads": 0, "objects": OBJECTS, "memory": MEMORY}


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in before if after[name] - before[name] > ROOM[name]}


@pytest.fixture
def file() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(b"0123456789" * 1000)
        file.flush()
        yield file


@contextlib.asynccontextmanager
async def _world(certificates: Certificates, file: IO[bytes]) -> Any:
    loop = running()
    async with contextlib.AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        path = f"{directory}/socket"
        plain = await loop.create_server(Echo, "127.0.0.1", 0)
        secure = await loop.create_server(Echo, "127.0.0.1", 0, ssl=certificates.server())
        local = await loop.create_unix_server(Echo, path)
        for server in (plain, secure, local):
            stack.callback(server.close)
        transport, _ = await loop.create_datagram_endpoint(Answerer, local_addr=("127.0.0.1", 0))
        stack.callback(transport.close)
        addresses = [server.sockets[0].getsockname() for server in (plain, secure)]
        yield World(*addresses, path, transport.get_extra_info("sockname"), certificates, file)
    await asyncio.sleep(0)


#: What most programs do; the rest shares its code, and is looked at in the exhaustive run.
COMMON = {"tcp", "servers", "streams", "tls", "sockets", "datagrams", "pipes", "files"}
NAMES = [
    pytest.param(name, marks=() if name in COMMON else pytest.mark.exhaustive, id=name) for name in FAMILIES
]


@pytest.mark.parametrize("name", NAMES)
async def test_it_leaves_nothing(name: str, certificates: Certificates, file: IO[bytes]) -> None:
    running().set_exception_handler(lambda *_: None)  # failed handshakes, which the server reports
    async with _world(certificates, file) as world:
        for number in range(WARM):
            await FAMILIES[name](world, number)
        # As many threads as there can be: a pool grows while all it has are busy.
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.01) for _ in range(64)))
        await asyncio.gather(*(running().getaddrinfo("localhost", port) for port in range(64)))
        await asyncio.sleep(0.01)
        before = _state()
        for number in range(TIMES):
            await FAMILIES[name](world, number)
        # What the other end has still to notice ends soon.
        deadline = time.monotonic() + 5
        while (grown := _grown(before, _state())) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        assert grown == {}


def test_loops(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    def one() -> None:
        loop = loop_factory()
        loop.run_until_complete(asyncio.sleep(0.0001))
        loop.run_until_complete(loop.getaddrinfo("127.0.0.1", 80))
        loop.close()

    def settled() -> dict[str, int]:
        # close() waits for no thread, as that of stock asyncio does not.
        deadline = time.monotonic() + 5
        while threading.active_count() > threads and time.monotonic() < deadline:
            time.sleep(0.01)
        return _state()

    threads = threading.active_count()
    for _ in range(WARM):
        one()
    before = settled()
    for _ in range(TIMES):
        one()
    # A free-threaded Python gives back what another thread let go of only when its owner comes to it.
    deadline = time.monotonic() + 5
    while (grown := _grown(before, settled())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert grown == {}
