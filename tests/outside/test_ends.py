"""A request and the end of its stream that come together:
the end is told in a later turn than the last data.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from .support import Child, Peer, dial, pair, short_folder

REQUEST = b"GET / HTTP/1.0\r\n\r\n"
TIMES = 5

Answer = Callable[[bytes], Awaitable[bytes]]


def ask(address: Any, request: bytes = REQUEST) -> bytes:
    """As ``printf request | nc -N``: the request and the end in one go, then all of the answer."""
    with dial(address, 10) as peer:
        peer.sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_CORK, 1
        ) if peer.sock.family == socket.AF_INET else None
        peer.send(request)
        peer.finish()
        try:
            return peer.take_all()
        except ConnectionResetError:
            return b"reset"


class Tasked(asyncio.Protocol):
    """Answers in a task that its data makes, if the end has not come before: then it gives up,
    as frameworks do.
    """

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.begun = False

    def data_received(self, data: bytes) -> None:
        self.task = asyncio.get_running_loop().create_task(self.answer())

    async def answer(self) -> None:
        self.begun = True
        self.transport.write(b"answer")
        self.transport.close()

    def eof_received(self) -> bool:
        if not self.begun:
            self.task.cancel()
            self.transport.close()
        return True


class BufferedTasked(Tasked, asyncio.BufferedProtocol):  # type: ignore[misc]
    """The same with a buffer of its own."""

    data_received = None  # type: ignore[assignment]

    def get_buffer(self, hint: int) -> bytearray:
        return bytearray(1000)

    def buffer_updated(self, count: int) -> None:
        Tasked.data_received(self, b"")


@asynccontextmanager
async def serving(kind: str, protocol: Any) -> AsyncIterator[Any]:
    loop = asyncio.get_running_loop()
    with short_folder() as folder:
        if kind == "unix":
            server = await loop.create_unix_server(protocol, folder / "s")
        else:
            server = await loop.create_server(protocol, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()
        finally:
            server.close()


@pytest.mark.parametrize("protocol", [Tasked, BufferedTasked])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_task_made_by_the_data_runs_before_the_end_is_told(kind: str, protocol: Any) -> None:
    async with serving(kind, protocol) as address:
        assert [await asyncio.to_thread(ask, address) for _ in range(TIMES)] == [b"answer"] * TIMES


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_what_lies_there_when_the_transport_begins_to_read(kind: str) -> None:
    """The request and the end are in the socket before there is a transport."""
    for _ in range(TIMES):
        ours, other = pair(kind)
        with Peer(other, 10) as peer:
            peer.send(REQUEST)
            peer.finish()
            await asyncio.get_running_loop().create_connection(Tasked, sock=ours)
            assert await asyncio.to_thread(peer.take_all) == b"answer"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_what_lies_there_when_reading_is_resumed(kind: str) -> None:
    for _ in range(TIMES):
        ours, other = pair(kind)
        with Peer(other, 10) as peer:
            transport, _ = await asyncio.get_running_loop().create_connection(Tasked, sock=ours)
            transport.pause_reading()
            peer.send(REQUEST)
            peer.finish()
            await asyncio.sleep(0.02)
            transport.resume_reading()
            assert await asyncio.to_thread(peer.take_all) == b"answer"


class Turns(asyncio.Protocol):
    """Counts turns, and notes in which its data and its end were told."""

    def __init__(self) -> None:
        self.turn = 0
        self.data = self.end = -1
        self.lost = asyncio.get_running_loop().create_future()
        self.count()

    def count(self) -> None:
        self.turn += 1
        if not self.lost.done():
            asyncio.get_running_loop().call_soon(self.count)

    def data_received(self, data: bytes) -> None:
        self.data = self.turn

    def eof_received(self) -> None:
        self.end = self.turn

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


@pytest.mark.parametrize("kind", ["tcp", "unix", "pipe"])
async def test_the_end_is_told_in_a_later_turn(kind: str) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(TIMES):
        ours, other = pair("unix" if kind == "pipe" else kind)
        with Peer(other, 10) as peer:
            if kind == "pipe":
                made = (await loop.connect_read_pipe(Turns, ours))[1]
            else:
                made = (await loop.create_connection(Turns, sock=ours))[1]
            peer.send(REQUEST)
            peer.finish()
            async with asyncio.timeout(10):
                await made.lost
            assert made.data < made.end or kind == "pipe"
            assert made.data > 0


async def test_a_pipes_end_is_told_after_the_task_that_its_data_made() -> None:
    class Piped(asyncio.Protocol):
        order: list[str]

        def data_received(self, data: bytes) -> None:
            self.order.append("data")
            asyncio.get_running_loop().call_soon(self.order.append, "task")

        def eof_received(self) -> None:
            self.order.append("end")

        def connection_lost(self, exc: Exception | None) -> None:
            self.order.append("lost")

    for _ in range(TIMES):
        reading, writing = os.pipe()
        os.write(writing, b"x")
        os.close(writing)
        made = Piped()
        made.order = []
        file = os.fdopen(reading, "rb", buffering=0)
        await asyncio.get_running_loop().connect_read_pipe(lambda: made, file)  # noqa: B023
        async with asyncio.timeout(10):
            while "lost" not in made.order:
                await asyncio.sleep(0.001)
        assert made.order == ["data", "task", "end", "lost"]


# Real servers: an application that answers at once is asked before its server hears of the end, and gives up

UVICORN = """
import uvicorn
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
    await send({"type": "http.response.body", "body": b"answer"})

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        say(self.servers[0].sockets[0].getsockname())

http = ARGS[0]
server = Server(uvicorn.Config(app, "127.0.0.1", 0, http=http, lifespan="off", log_level="error"))
run(server.serve())
"""

AIOHTTP = """
from aiohttp import web
async def answer(request):
    return web.Response(text="answer")

async def main():
    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    say(runner.addresses[0])
    await forever()
run(main())
"""


@pytest.mark.programs
@pytest.mark.parametrize("http", ["h11", "httptools"])
def test_uvicorn_answers_a_request_that_came_with_its_end(http: str, child: Callable[..., Child]) -> None:
    pytest.importorskip("uvicorn")
    pytest.importorskip(http)
    address = child(UVICORN, http).hear()
    answers = [ask(address) for _ in range(TIMES)]
    assert [answer[-6:] for answer in answers] == [b"answer"] * TIMES


@pytest.mark.programs
@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="without eager tasks aiohttp gives up at the end on every loop"
)
def test_aiohttp_answers_a_request_that_came_with_its_end(child: Callable[..., Child]) -> None:
    pytest.importorskip("aiohttp")
    address = child(AIOHTTP).hear()
    answers = [ask(address) for _ in range(TIMES)]
    assert [answer[-6:] for answer in answers] == [b"answer"] * TIMES


STREAMS = """
async def serve(reader, writer):
    line = await reader.readline()
    writer.write(b"answer to " + line)
    writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    say(server.sockets[0].getsockname())
    await forever()
run(main())
"""


@pytest.mark.programs
def test_nc_is_answered(child: Callable[..., Child]) -> None:
    """The real one, with the option that most of them have."""
    path = Path("/usr/bin/nc")
    if not path.exists() or b"-N" not in subprocess.run([path, "-h"], capture_output=True).stderr:
        pytest.skip("needs nc with -N")
    host, port = child(textwrap.dedent(STREAMS)).hear()
    for _ in range(TIMES):
        done = subprocess.run(
            [path, "-N", host, str(port)], input=b"me\n", capture_output=True, timeout=10, check=True
        )
        assert done.stdout == b"answer to me\n"
