"""One loop in a process of its own, for loops.py: a server, or calls on the loop.

    python loop_server.py LOOP serve KIND ADDRESS [--tls CERTIFICATE KEY] [--fresh]
    python loop_server.py LOOP call NAME SECONDS

It imports nothing but the loop (and, for some kinds, the server that people use on it), so that another
Python can run it.  A server prints its address and goes on until it is killed; calls print a line of JSON.
A server frees a large block before it begins, as every program has done after a while: the C library then
keeps large blocks instead of unmapping them.  With --fresh it does not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.metadata
import json
import os
import socket
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

OURS = ("io_uring", "epoll", "select")
CHUNK = 256 * 1024
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 13\r\nServer: echo\r\n\r\nHello, World!"
)


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """The loop of this name."""
    if name in OURS:
        import proactorx

        return proactorx.new_event_loop(name)
    if name == "asyncio":
        return asyncio.SelectorEventLoop()
    if name == "aiofastnet":  # its transports in uvloop
        made = importlib.import_module(name).loop_factory(importlib.import_module("uvloop").new_event_loop)()
    else:
        made = importlib.import_module(name).new_event_loop()
    return made


def version(name: str) -> str:
    """The version of this loop's package; nothing for asyncio."""
    try:
        return importlib.metadata.version("proactorx" if name in OURS else name)
    except importlib.metadata.PackageNotFoundError:
        return ""


# Servers


class Echo(asyncio.Protocol):
    """Sends back what it is given."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Pieces(Echo):
    """The same in three writes, as servers write a head, a body and an end."""

    def data_received(self, data: bytes) -> None:
        first, second = len(data) // 8, len(data) // 2
        self.transport.write(data[:first])
        self.transport.write(data[first:second])
        self.transport.write(data[second:])


class Buffered(asyncio.BufferedProtocol):
    """The same with a buffer of the protocol's."""

    def __init__(self) -> None:
        self.room = bytearray(CHUNK)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(self.room[:nbytes])


class Datagrams(asyncio.DatagramProtocol):
    """Sends each datagram back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(data, addr)


class Http(Echo):
    """Counts the ends of requests."""

    rest = b""

    def data_received(self, data: bytes) -> None:
        data = self.rest + data
        end = data.rfind(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 0
        if end:
            self.transport.write(ANSWER * data.count(b"\r\n\r\n"))
        self.rest = data[end:]


class Httptools(Echo):
    """Parses requests with httptools."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.parser: Any = importlib.import_module("httptools").HttpRequestParser(self)
        self.headers: list[tuple[bytes, bytes]] = []

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        self.headers.clear()
        self.transport.write(ANSWER)
        if not self.parser.should_keep_alive():
            self.transport.close()


PROTOCOLS: dict[str, Callable[[], asyncio.BaseProtocol]] = {
    "protocol": Echo,
    "pieces": Pieces,
    "buffered": Buffered,
    "http": Http,
    "httptools": Httptools,
}


async def echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()


async def echo_socket(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with sock, contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(sock, CHUNK // 4):
            await loop.sock_sendall(sock, data)


class Watched:
    """A connection that is read when add_reader says so: how database drivers and ZeroMQ do it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(sock, self.ready)

    def ready(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            if data := self.sock.recv(CHUNK // 4):
                self.sock.send(data)
                return
            self.loop.remove_reader(self.sock)
            self.sock.close()


async def accept(listener: socket.socket, use: Callable[[socket.socket], Any]) -> None:
    """Hand each client on to `use`."""
    loop, tasks = asyncio.get_running_loop(), set()
    while True:
        sock, _ = await loop.sock_accept(listener)
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made = use(sock)
        if asyncio.iscoroutine(made):
            task = loop.create_task(made)
            tasks.add(task)
            task.add_done_callback(tasks.discard)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI application that uvicorn and hypercorn serve."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        return
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"13")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"Hello, World!"})


async def serve_uvicorn(listener: socket.socket) -> None:
    uvicorn = importlib.import_module("uvicorn")
    options = {"http": "httptools", "lifespan": "off", "access_log": False, "log_level": "warning"}
    await uvicorn.Server(uvicorn.Config(application, loop="none", **options)).serve(sockets=[listener])


async def serve_hypercorn(listener: socket.socket) -> None:
    serving = importlib.import_module("hypercorn.asyncio")
    config = importlib.import_module("hypercorn.config").Config()
    config.bind, config.errorlog = [f"fd://{listener.fileno()}"], None
    await serving.serve(application, config, shutdown_trigger=asyncio.Event().wait)


async def serve_aiohttp(listener: socket.socket) -> None:
    web = importlib.import_module("aiohttp.web")

    async def answer(request: Any) -> Any:
        return web.Response(text="Hello, World!")

    made = web.Application()
    made.router.add_get("/", answer)
    runner = web.AppRunner(made, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listener).start()
    await asyncio.Event().wait()


SERVERS = {"uvicorn": serve_uvicorn, "hypercorn": serve_hypercorn, "aiohttp": serve_aiohttp}


async def serve(options: argparse.Namespace) -> None:
    """Serve for ever."""
    loop, kind = asyncio.get_running_loop(), options.kind
    if kind == "udp":
        transport, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
        print(transport.get_extra_info("sockname")[1], flush=True)
        await asyncio.Event().wait()
    if "/" in options.address:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(options.address)
    else:
        listener = socket.create_server(("127.0.0.1", 0))
        with contextlib.suppress(OSError):  # others pace what they send; clients inherit it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    listener.listen(2048)
    listener.setblocking(False)
    context = None
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*options.tls)
    print(options.address if "/" in options.address else listener.getsockname()[1], flush=True)
    if kind in SERVERS:
        await SERVERS[kind](listener)
    elif kind in ("sockets", "readers"):
        await accept(listener, echo_socket if kind == "sockets" else Watched)
    elif kind == "streams":
        await asyncio.start_server(echo_stream, sock=listener, ssl=context, backlog=2048)
    else:
        await loop.create_server(PROTOCOLS[kind], sock=listener, ssl=context, backlog=2048)
    await asyncio.Event().wait()


# Calls: each makes some, and says how many


def nothing() -> None:
    pass


async def ends() -> None:
    pass


async def call_soon() -> int:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    for _ in range(1000):
        loop.call_soon(nothing)
    loop.call_soon(done.set_result, None)
    await done
    return 1000


async def call_later_cancel() -> int:
    loop = asyncio.get_running_loop()
    for handle in [loop.call_later(60 + n * 1e-3, nothing) for n in range(1000)]:
        handle.cancel()
    await asyncio.sleep(0)
    return 1000


async def timers_fire() -> int:
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    for n in range(2000):
        loop.call_later(n * 7919 % 2000 * 1e-5, nothing)
    loop.call_later(0.0201, done.set_result, None)
    await done
    return 2000


async def call_soon_threadsafe() -> int:
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def work() -> None:
        for _ in range(5000):
            loop.call_soon_threadsafe(nothing)
        loop.call_soon_threadsafe(done.set_result, None)

    thread = threading.Thread(target=work)
    thread.start()
    await done
    thread.join()
    return 5000


async def sleep0() -> int:
    for _ in range(1000):
        await asyncio.sleep(0)
    return 1000


async def task_create() -> int:
    loop = asyncio.get_running_loop()
    for _ in range(500):
        await loop.create_task(ends())
    return 500


async def gather100() -> int:
    await asyncio.gather(*[ends() for _ in range(100)])
    return 100


async def future_await() -> int:
    loop = asyncio.get_running_loop()
    for _ in range(500):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future
    return 500


async def timeout_ctx() -> int:
    for _ in range(300):
        async with asyncio.timeout(30):
            await asyncio.sleep(0)
    return 300


async def executor() -> int:
    loop = asyncio.get_running_loop()
    for _ in range(100):
        await loop.run_in_executor(None, nothing)
    return 100


async def subprocess() -> int:
    for _ in range(8):
        child = await asyncio.create_subprocess_exec("/bin/true")
        await child.wait()
    return 8


async def readline(reader: asyncio.StreamReader) -> int:
    for _ in range(255):
        await reader.readline()
    return 255


async def readexactly(reader: asyncio.StreamReader) -> int:
    for _ in range(16000):
        await reader.readexactly(16)
    return 16000


class Reading:
    """What is read from a StreamReader whose buffer is full: the time of filling it is not counted."""

    def __init__(self, read: Callable[[asyncio.StreamReader], Awaitable[int]]) -> None:
        self.read = read

    async def prepare(self) -> None:
        here, there = socket.socketpair()
        here.setblocking(False)
        self.reader, self.writer = await asyncio.open_connection(sock=here, limit=1 << 20)
        line = b"x" * 1023 + b"\n"
        there.setblocking(True)
        await asyncio.get_running_loop().run_in_executor(None, there.sendall, line * 256)
        there.close()
        await asyncio.sleep(0.02)

    async def batch(self) -> int:
        return await self.read(self.reader)

    async def clean(self) -> None:
        self.writer.transport.abort()
        await asyncio.sleep(0)


class Calls:
    """A batch that needs nothing before or after it."""

    def __init__(self, batch: Callable[[], Awaitable[int]]) -> None:
        self.batch = batch

    async def prepare(self) -> None:
        pass

    clean = prepare


CALLS: dict[str, Calls | Reading] = {
    function.__name__: Calls(function)
    for function in (
        call_soon,
        call_later_cancel,
        timers_fire,
        call_soon_threadsafe,
        sleep0,
        task_create,
        gather100,
        future_await,
        timeout_ctx,
        executor,
        subprocess,
    )
}
CALLS["readline"] = Reading(readline)
CALLS["readexactly"] = Reading(readexactly)


def cpu() -> float:
    """Seconds of this process, its threads and its children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


async def call(name: str, seconds: float) -> None:
    """Make calls for so long, and print how many and their CPU time."""
    one = CALLS[name]
    count, used, end = 0, 0.0, 0.0
    while not count or time.perf_counter() < end:
        await one.prepare()
        before = cpu()
        made = await one.batch()
        if end:  # the first batch was a warm-up
            used += cpu() - before
            count += made
        else:
            end = time.perf_counter() + seconds
        await one.clean()
    print(json.dumps({"requests": count, "cpu": used, "wall": seconds}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("loop")
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("serve")
    serving.add_argument("kind")
    serving.add_argument("address")
    serving.add_argument("--tls", nargs=2)
    serving.add_argument("--fresh", action="store_true")
    calling = commands.add_parser("call")
    calling.add_argument("name")
    calling.add_argument("seconds", type=float)
    commands.add_parser("version")
    options = parser.parse_args()
    if options.command == "version":
        new_loop(options.loop).close()
        print(json.dumps({"version": version(options.loop), "python": sys.version.split()[0]}))
        return
    if options.command == "call":
        work = call(options.name, options.seconds)
    else:
        if not options.fresh:
            del [bytearray(31 << 20)][0]
        work = serve(options)
    with asyncio.Runner(loop_factory=lambda: new_loop(options.loop)) as runner:
        runner.run(work)


if __name__ == "__main__":
    main()
