"""A loop program under floods, and the visitors that wait meanwhile; the benchmark of fairness uses it too.

What floods is digested at a cost (sha256), as an upload is.  The victims come by other ways: a connection
that was idle, a new one, a datagram, a signal, a child's output.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any, Self

from .support import LIMIT, Child, Flood, Peer, Thread, dial, short_folder

KINDS = ("protocol", "buffered", "streams", "unix", "datagrams", "backlog")
VICTIMS = ("idle connection", "new connection", "datagram", "signal", "child's pipe")

PROGRAM = """
import hashlib

KIND, PATH, FEED = ARGS
loads = 0

def digest(data):
    global loads
    loads += 1
    hashlib.sha256(data).digest()

class Upload(asyncio.Protocol):
    def data_received(self, data):
        digest(data)

class Buffered(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.buffer = bytearray(1 << 18)
    def get_buffer(self, hint):
        return self.buffer
    def buffer_updated(self, count):
        digest(memoryview(self.buffer)[:count])

class Costly(asyncio.DatagramProtocol):
    def datagram_received(self, data, address):
        digest(data * 4)

class Visitor(asyncio.Protocol):
    def connection_made(self, transport):
        digest(bytes(1 << 20))
        transport.abort()

async def stream(reader, writer):
    while data := await reader.read(1 << 18):
        digest(data)

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

class EchoDatagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        self.transport.sendto(data, address)

async def flooded(loop):
    here = "127.0.0.1"
    if KIND == "streams":
        return await asyncio.start_server(stream, here, 0)
    if KIND == "unix":
        return await loop.create_unix_server(Upload, PATH)
    if KIND == "datagrams":
        return (await loop.create_datagram_endpoint(Costly, (here, 0)))[0]
    protocol = {"protocol": Upload, "buffered": Buffered, "backlog": Visitor}[KIND]
    return await loop.create_server(protocol, here, 0)

def address_of(server):
    sock = server.sockets[0] if hasattr(server, "sockets") else server.get_extra_info("socket")
    return sock.getsockname()

async def main():
    loop = asyncio.get_running_loop()
    server = await flooded(loop)
    echo = await loop.create_server(Echo, "127.0.0.1", 0)
    datagrams, _ = await loop.create_datagram_endpoint(EchoDatagrams, ("127.0.0.1", 0))
    loop.add_signal_handler(signal.SIGUSR1, say, "signal")
    cat = await asyncio.create_subprocess_exec("cat", stdin=FEED, stdout=asyncio.subprocess.PIPE)
    os.close(FEED)
    told(lambda value: say(loads))
    say(address_of(server), address_of(echo), address_of(datagrams))
    while line := await cat.stdout.readline():
        say("pipe")

run(main())
"""


class Visits(Thread):
    """Connections without end to a listener, faster than it can serve them."""

    def __init__(self, address: Any, count: int) -> None:
        self.ended = threading.Event()
        self._address = (address[0], address[1])
        self._count = count
        super().__init__(self._visit)

    def _visit(self) -> None:
        reset = b"\1\0\0\0\0\0\0\0"  # SO_LINGER of no time: no TIME_WAIT that would use up the ports
        waiting: list[socket.socket] = []
        while not self.ended.is_set():
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                sock.connect(self._address)
            waiting.append(sock)
            if len(waiting) >= 16 * self._count:
                select.select([], waiting[:1], [], 0.05)
                waiting.pop(0).close()
        for sock in waiting:
            sock.close()

    def __exit__(self, *exc: object) -> None:
        self.ended.set()
        self.finish()


class Flooded:
    """The program under so many floods of a kind; ``wait(victim)`` says how long that visitor waited."""

    def __init__(self, word: str, kind: str, count: int, limit: float = LIMIT) -> None:
        self._stack = contextlib.ExitStack()
        self._limit = limit
        ways = (
            self._by_idle_connection,
            self._by_new_connection,
            self._by_datagram,
            self._by_signal,
            self._by_pipe,
        )
        self._ways = dict(zip(VICTIMS, ways, strict=True))
        try:
            self._start(word, kind, count)
        except BaseException:
            self._stack.close()
            raise

    def _start(self, word: str, kind: str, count: int) -> None:
        enter = self._stack.enter_context
        folder: Path = enter(short_folder())
        feed, self._feed = os.pipe()
        self._stack.callback(os.close, self._feed)
        try:
            self.program = enter(Child(word, PROGRAM, kind, str(folder / "s"), feed, pass_fds=[feed]))
        finally:
            os.close(feed)
        flooded, self._echo, self._datagrams = self.program.hear()
        self._idle: Peer = enter(dial(self._echo, self._limit))
        self._udp = enter(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._udp.settimeout(self._limit)
        for victim in VICTIMS:  # before the flood: each way is open
            self.wait(victim)
        where = tuple(flooded) if isinstance(flooded, list) else flooded
        if kind == "backlog":
            enter(Visits(where, count))
        elif kind == "datagrams":
            enter(Flood(where, size=60_000, count=count, kind="datagram"))
        else:
            enter(Flood(where, count=count))
        deadline = time.monotonic() + self._limit
        self._udp.setblocking(True)
        self._udp.settimeout(self._limit)
        while self.program.ask(limit=self._limit) < 50:  # the flood is there
            assert time.monotonic() < deadline, "no flood comes"
            time.sleep(0.01)

    def wait(self, victim: str) -> float:
        """Seconds from the visitor's coming to the answer."""
        before = time.perf_counter()
        self._ways[victim]()
        return time.perf_counter() - before

    def _by_idle_connection(self) -> None:
        self._idle.send(b"idle")
        assert self._idle.take(4) == b"idle"

    def _by_new_connection(self) -> None:
        with dial(self._echo, self._limit) as peer:
            peer.send(b"new")
            assert peer.take(3) == b"new"

    def _by_datagram(self) -> None:
        # One datagram may be dropped where memory for them is short; it is asked for again then.
        deadline = time.monotonic() + self._limit
        self._udp.settimeout(self._limit / 5)
        while True:
            self._udp.sendto(b"datagram", tuple(self._datagrams))
            try:
                assert self._udp.recv(100) == b"datagram"
                return
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise

    def _by_signal(self) -> None:
        self.program.kill(signal.SIGUSR1)
        assert self.program.hear(self._limit) == "signal"

    def _by_pipe(self) -> None:
        os.write(self._feed, b"line\n")
        assert self.program.hear(self._limit) == "pipe"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()
