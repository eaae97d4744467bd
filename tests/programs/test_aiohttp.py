"""aiohttp: its server, by web.run_app, against curl; and its client and server against each other,
on every loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import signal
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from serving import EXAMPLES, Server, Start, curl, script, wrk

aiohttp = pytest.importorskip("aiohttp", minversion="3.10")
from aiohttp import web  # noqa: E402

pytestmark = pytest.mark.programs

HELLO = "Hello from proactorx!\n"
MIB = 1 << 20


def random_body(size: int) -> bytes:
    return hashlib.shake_128(b"body").digest(size)


def report(body: bytes) -> str:
    return f"{len(body)} {hashlib.sha256(body).hexdigest()}\n"


# The server, as the example runs it


@pytest.fixture
def server(example: Start, driver_name: str) -> Server:
    return example("aiohttp_app", driver_name)


def test_curl_gets_hello_on_one_connection(server: Server) -> None:
    assert curl("-w", "%{num_connects}", server.url, server.url) == f"{HELLO}1{HELLO}0"


def test_curl_uploads_and_downloads_some_mib(server: Server, tmp_path: Path) -> None:
    body = random_body(MIB)
    assert curl("--data-binary", "@-", f"{server.url}/upload", stdin=body) == report(body)
    curl("-o", tmp_path / "down", f"{server.url}/download/5000001")
    expected = (bytes(range(256)) * 20_000)[:5_000_001]
    assert hashlib.sha256((tmp_path / "down").read_bytes()).digest() == hashlib.sha256(expected).digest()


def test_wrk(server: Server) -> None:
    assert wrk(server.url) > 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_run_app_ends_well(driver_name: str, signum: signal.Signals) -> None:
    with script(EXAMPLES / "aiohttp_app.py", driver_name) as server, server.connect() as idle:
        assert curl(server.url) == HELLO
        assert server.stop(signum) == 0
        assert idle.recv(1) == b""
    assert server.printed.count("\n") == 1, server.printed


# The client and the server together, in this process


async def upload(request: web.Request) -> web.Response:
    digest, size = hashlib.sha256(), 0
    async for data in request.content.iter_any():
        digest.update(data)
        size += len(data)
    return web.Response(text=f"{size} {digest.hexdigest()}\n")


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(max_msg_size=8 * MIB)
    await ws.prepare(request)
    async for message in ws:
        await (ws.send_str if message.type is aiohttp.WSMsgType.TEXT else ws.send_bytes)(message.data)
    return ws


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text=HELLO)


async def never(_request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def stall(request: web.Request) -> web.StreamResponse:
    """The start of an answer, and then nothing."""
    response = web.StreamResponse(headers={"Content-Length": "100"})
    await response.prepare(request)
    await response.write(b"x" * 10)
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


@asynccontextmanager
async def site(**options: Any) -> AsyncIterator[tuple[str, int]]:
    """The address of an aiohttp server with the handlers above."""
    app = web.Application(client_max_size=16 * MIB)
    for path, handler in {"/": hello, "/ws": echo, "/never": never, "/stall": stall}.items():
        app.router.add_get(path, handler)
    app.router.add_post("/upload", upload)
    runner = web.AppRunner(app, shutdown_timeout=1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, **options).start()
        yield runner.addresses[0][:2]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def client(limit: int = 100, timeout: float = 20) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A session, and the URL of a server for it."""
    async with site() as (host, port):
        connector = aiohttp.TCPConnector(limit=limit)
        async with aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=timeout)
        ) as session:
            yield session, f"http://{host}:{port}"


async def is_well(session: aiohttp.ClientSession, url: str) -> bool:
    async with session.get(url) as response:
        return response.status == 200 and await response.text() == HELLO


async def test_bodies_of_some_mib() -> None:
    body = random_body(5 * MIB)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    async with client() as (session, url):
        async with session.post(f"{url}/upload", data=body[:MIB]) as response:
            assert await response.text() == report(body[:MIB])
        async with session.post(f"{url}/upload", data=pieces()) as response:
            assert await response.text() == report(body)


async def test_many_requests_at_once_over_few_connections() -> None:
    async with client(limit=10) as (session, url):
        assert all(await asyncio.gather(*(is_well(session, url) for _ in range(200))))


async def test_websocket_echo() -> None:
    async with client() as (session, url), session.ws_connect(f"{url}/ws", max_msg_size=8 * MIB) as ws:
        for size in (0, 1, 125, 126, 65535, 65536, 2 * MIB):
            body = random_body(size)
            await ws.send_bytes(body)
            assert await ws.receive_bytes() == body
            await ws.send_str("é" * size)
            assert await ws.receive_str() == "é" * size
        for n in range(100):
            await ws.send_str(str(n))
        assert [await ws.receive_str() for _ in range(100)] == [str(n) for n in range(100)]
        assert await ws.close()
        assert ws.close_code == aiohttp.WSCloseCode.OK


@pytest.mark.parametrize("path", ["/never", "/stall"])
async def test_a_timeout_leaves_the_session_usable(path: str) -> None:
    async with client() as (session, url):
        with pytest.raises(asyncio.TimeoutError):
            async with session.get(url + path, timeout=aiohttp.ClientTimeout(total=0.1)) as response:
                await response.read()
        assert await is_well(session, url)


@pytest.mark.parametrize("path", ["/never", "/stall"])
async def test_a_cancelled_request_leaves_the_session_usable(path: str) -> None:
    async with client() as (session, url):

        async def get() -> None:
            async with session.get(url + path) as response:
                await response.read()

        tasks = [asyncio.create_task(get()) for _ in range(10)]
        await is_well(session, url)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        assert await is_well(session, url)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"])
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_server_that_goes_away_in_the_middle(answer: bytes, how: str) -> None:
    async def misbehave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if how == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    server = await asyncio.start_server(misbehave, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        async with aiohttp.ClientSession() as session:
            for _ in range(3):
                with pytest.raises(aiohttp.ClientError):
                    async with session.post(f"http://{host}:{port}/", data=b"x") as response:
                        await response.read()
    finally:
        server.close()
        await server.wait_closed()


async def test_a_client_that_goes_away_cancels_the_handler() -> None:
    async with site() as address:
        for rest in (b"/never HTTP/1.1\r\nHost: h\r\n\r\n", b"/stall HTTP/1.1\r\nHost: h\r\n\r\n", b"/half"):
            _, writer = await asyncio.open_connection(*address)
            writer.write(b"GET " + rest)
            await writer.drain()
            writer.transport.abort()
        async with aiohttp.ClientSession() as session:
            assert await is_well(session, "http://{}:{}".format(*address))


async def test_https(certificate: tuple[Path, Path]) -> None:
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(*certificate)
    theirs = ssl.create_default_context(cafile=certificate[0])
    body = random_body(2 * MIB)
    async with site(ssl_context=ours) as (_, port):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=theirs)) as session:
            async with session.post(f"https://localhost:{port}/upload", data=io.BytesIO(body)) as response:
                assert await response.text() == report(body)
            assert await is_well(session, f"https://localhost:{port}/")


async def test_unix_socket(short_path: Path) -> None:
    path = str(short_path / f"aiohttp{time.monotonic_ns()}")
    app = web.Application()
    app.router.add_get("/", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.UnixSite(runner, path).start()
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session:
            assert all(await asyncio.gather(*(is_well(session, "http://localhost/") for _ in range(20))))
    finally:
        await runner.cleanup()
