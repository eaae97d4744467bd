"""Each family, cancelled after any number of turns: nothing is left, and the same works the next time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import IO, Any

import pytest

from .certs import Certificates
from .support import CAT, LIMIT, open_fds, pipe_of_files

#: After so many turns, and, where threads and children take their time, after so many seconds.
TURNS = range(100)
SECONDS = [0.0002 * 1.3**n for n in range(32)]


class World:
    """What the scenarios talk to."""

    def __init__(
        self, certificates: Certificates, file: IO[bytes], plain: Any, secure: Any, path: str = ""
    ) -> None:
        self.certificates = certificates
        self.file = file
        self.plain = plain
        self.secure = secure
        self.path = path


Scenario = Callable[[World], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def running() -> Any:
    return asyncio.get_running_loop()


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        text = b"x" * 300_000 + b"\n"
        writer.write(text)
        await writer.drain()
        assert await reader.readexactly(len(text)) == text
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@scenario
async def streams(world: World) -> None:
    await _talk(*await asyncio.open_connection(*world.plain, limit=1 << 20))


@scenario
async def unix_streams(world: World) -> None:
    await _talk(*await asyncio.open_unix_connection(world.path, limit=1 << 20))


@scenario
async def by_name(world: World) -> None:
    await _talk(*await asyncio.open_connection("localhost", world.plain[1], limit=1 << 20))


@scenario
async def tls(world: World) -> None:
    context = world.certificates.client()
    await _talk(
        *await asyncio.open_connection(*world.secure, ssl=context, server_hostname="localhost", limit=1 << 20)
    )


@scenario
async def upgrade(world: World) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await reader.readline()
            writer.write(b"go\n")
            await writer.start_tls(world.certificates.server())
            writer.write(await reader.readline())
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            writer.write(b"tls\n")
            await reader.readline()
            await writer.start_tls(world.certificates.client(), server_hostname="localhost")
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    finally:
        server.close()


@scenario
async def datagrams(world: World) -> None:
    got = running().create_future()

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: Any) -> None:
            if not got.done():
                got.set_result(data)

    first, _ = await running().create_datagram_endpoint(Protocol, ("127.0.0.1", 0))
    try:
        address = first.get_extra_info("sockname")
        second, _ = await running().create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
        second.sendto(b"hello")
        second.close()
        assert await got == b"hello"
    finally:
        first.close()


@scenario
async def datagrams_on_sockets(world: World) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as left,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as right,
    ):
        for sock in (left, right):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        receive = asyncio.create_task(running().sock_recvfrom(left, 100))
        try:
            await asyncio.sleep(0)
            await running().sock_sendto(right, b"hello", left.getsockname())
            assert (await receive)[0] == b"hello"
        finally:
            receive.cancel()
            await asyncio.wait([receive])


@scenario
async def sockets(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        for sock in (listener, client):
            sock.setblocking(False)
        await running().sock_connect(client, listener.getsockname())
        server, _ = await running().sock_accept(listener)
        with server:
            await running().sock_sendall(client, b"hello" * 20_000)
            client.shutdown(socket.SHUT_WR)
            count = 0
            while data := await running().sock_recv(server, 30_000):
                count += len(data)
            assert count == 100_000


@scenario
async def files(world: World) -> None:
    reader, writer = await asyncio.open_connection(*world.plain, limit=1 << 20)
    try:
        world.file.seek(0)
        sent = await running().sendfile(writer.transport, world.file)
        assert len(await reader.readexactly(sent)) == sent
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@scenario
async def pipes(world: World) -> None:
    source, target = pipe_of_files()
    with source, target:
        reader = asyncio.StreamReader()
        incoming, _ = await running().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
        try:
            outgoing, _ = await running().connect_write_pipe(asyncio.Protocol, target)
            outgoing.write(b"hello\n")
            outgoing.close()
            assert await reader.read() == b"hello\n"
        finally:
            incoming.close()
            await asyncio.sleep(0)


@scenario
async def children(world: World) -> None:
    process = await asyncio.create_subprocess_exec(*CAT, stdin=-1, stdout=-1)
    try:
        assert await process.communicate(b"hello") == (b"hello", None)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined]


@scenario
async def looked_up(world: World) -> None:
    await running().getaddrinfo("localhost", 80)
    await running().getnameinfo(("127.0.0.1", 80))


@contextlib.asynccontextmanager
async def _world(certificates: Certificates) -> AsyncIterator[World]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as file:
        file.write(b"0123456789" * 50_000)
        file.flush()
        servers = [
            await asyncio.start_server(echo, "127.0.0.1", 0),
            await asyncio.start_server(echo, "127.0.0.1", 0, ssl=certificates.server()),
        ]
        if hasattr(socket, "AF_UNIX"):
            servers.append(await asyncio.start_unix_server(echo, f"{directory}/s"))
        try:
            names = [server.sockets[0].getsockname() for server in servers]
            yield World(certificates, file, *names)
        finally:
            for server in servers:
                server.close()
            await asyncio.sleep(0)


async def _settled(before: dict[int, tuple[int, int]], others: set[asyncio.Task[Any]], when: float) -> None:
    """No descriptor and no task is left but those that were there before."""
    try:
        async with asyncio.timeout(LIMIT):
            while open_fds() != before or asyncio.all_tasks() - others:
                await asyncio.sleep(0.001)
    except TimeoutError:
        left = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in open_fds().keys() - before.keys()}
        pytest.fail(f"cancelled at {when}, left: {left or 'no descriptor'}, {asyncio.all_tasks() - others}")


@pytest.mark.ours  # stock asyncio leaves descriptors to the collector in several of these
@pytest.mark.parametrize("name", SCENARIOS)
async def test_nothing_is_left_when_cancelled(name: str, certificates: Certificates) -> None:
    reported: list[dict[str, Any]] = []
    running().set_exception_handler(lambda _loop, context: reported.append(context))
    async with _world(certificates) as world:
        await SCENARIOS[name](world)
        await asyncio.sleep(0.01)
        before, others = open_fds(), asyncio.all_tasks()
        gc.collect()
        gc.disable()  # what only the collector would close is left open
        try:
            for when in (*TURNS, *SECONDS):
                task = asyncio.ensure_future(SCENARIOS[name](world))
                if isinstance(when, int):
                    for _ in range(when):
                        await asyncio.sleep(0)
                else:
                    await asyncio.sleep(when)
                ended = task.done()
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait_for(task, LIMIT)
                del task  # and with it the traceback, which leads to all that the scenario had
                await _settled(before, others, when)
                if ended:
                    break
        finally:
            gc.enable()
        await SCENARIOS[name](world)
        await _settled(before, others, -1)
    assert [context for context in reported if "SSL" not in str(context)] == []
