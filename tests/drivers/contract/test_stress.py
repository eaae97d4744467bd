"""Random use, with every byte checked.

    PROACTORX_STRESS_SECONDS=60 PROACTORX_STRESS_SEED=5 \\
        python -m pytest tests/drivers/contract/test_stress.py -o faulthandler_timeout=0

The seed is in the message of a failure; the order in which the kernel answers is not the seed's to say.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from proactorx.ops.constants import ACCEPT_ONE, POLL, POLLIN, RECV, RECV_INTO, SEND
from proactorx.ops.op import Overlapped
from proactorx.port.loop_port import LoopPort

from .support import Sockets, descriptors, done, reset, until

SECONDS = float(os.environ.get("PROACTORX_STRESS_SECONDS", "2"))
SEED = int(os.environ.get("PROACTORX_STRESS_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
# what every stream says, from a place of its own on, round and round
BLOCK = random.Random(0).randbytes(1 << 20)
CONNECTIONS = 40
pytestmark = pytest.mark.timeout(SECONDS + 60)


def content(place: int, size: int) -> bytes:
    """`size` bytes of the stream at `place`."""
    place %= len(BLOCK)
    return (
        BLOCK[place : place + size]
        if place + size <= len(BLOCK)
        else BLOCK[place:] + content(0, size - len(BLOCK) + place)
    )


@pytest.fixture
def rng() -> random.Random:
    print(f"PROACTORX_STRESS_SEED={SEED}")
    return random.Random(SEED)


# ------------------------------------------------------------------------------------------------- transports


class Side:
    """One end of a connection: what it has sent and received, whichever protocol its transport has."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.sent = self.received = 0
        self.other: Side
        self.transport: Any = None
        self.paused_writing = self.eof_sent = self.eof_seen = self.closed = self.lost = False
        self.plain, self.buffered = PlainFace(self), BufferedFace(self)

    def take(self, data: bytes) -> None:
        assert not self.closed, "data after close()"
        assert self.transport.is_reading(), "data while paused"
        assert data == content(self.other.start + self.received, len(data)), "wrong bytes"
        self.received += len(data)
        assert self.received <= self.other.sent
        if self.received % 7 == 0:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self.resume)

    def resume(self) -> None:
        if not self.closed:
            self.transport.resume_reading()

    def write(self, size: int) -> None:
        if self.closed or self.eof_sent or self.lost:
            return
        data = content(self.start + self.sent, size)
        self.sent += size
        if size % 5 == 0:
            half = bytearray(data)
            self.transport.write(half)
            half[:] = bytes(size)  # it may be changed once write() has returned
        elif size % 5 == 1:
            self.transport.writelines([data[:10], data[10:1000], data[1000:]])
        else:
            self.transport.write(data)

    def finish(self) -> None:
        if not (self.closed or self.eof_sent or self.lost):
            self.eof_sent = True
            self.transport.write_eof()

    def close(self, abort: bool) -> None:
        self.closed = True
        (self.transport.abort if abort else self.transport.close)()


class Face:
    """What both kinds of protocol do for their side."""

    def __init__(self, side: Side) -> None:
        self.side = side

    def connection_made(self, transport: Any) -> None:
        self.side.transport = transport

    def pause_writing(self) -> None:
        assert not self.side.paused_writing
        self.side.paused_writing = True

    def resume_writing(self) -> None:
        assert self.side.paused_writing
        self.side.paused_writing = False

    def eof_received(self) -> bool:
        side = self.side
        assert not side.eof_seen
        side.eof_seen = True
        if not (side.closed or side.other.closed):
            assert side.other.eof_sent
            assert side.received == side.other.sent, "the end came before the data"
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        side = self.side
        assert not side.lost
        side.lost = True
        assert exc is None or isinstance(exc, OSError)
        # Without a fault of its own or the other side's, a connection is not lost.
        assert side.closed or side.other.closed, exc


class PlainFace(Face, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.side.take(data)


class BufferedFace(Face, asyncio.BufferedProtocol):
    memory = bytearray()

    def get_buffer(self, _hint: int) -> memoryview:
        self.memory = self.memory or bytearray(100_000)
        return memoryview(self.memory)[: random.choice((1, 64, 3000, 100_000))]

    def buffer_updated(self, size: int) -> None:
        self.side.take(bytes(self.memory[:size]))


class Crowd:
    """Connections on one loop, and what happens to them."""

    def __init__(self, rng: random.Random, loop: Any) -> None:
        self.rng = rng
        self.loop = loop
        self.pairs: list[tuple[Side, Side]] = []
        self.made = 0
        self.problems: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _loop, context: self.problems.append(context))

    async def open(self) -> None:
        sides = Side(self.rng.randrange(1 << 20)), Side(self.rng.randrange(1 << 20))
        sides[0].other, sides[1].other = sides[1], sides[0]
        socks = socket.socketpair() if self.rng.random() < 0.5 else _tcp_pair()
        if self.rng.random() < 0.3:
            for sock in socks:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for side, sock in zip(sides, socks, strict=True):
            sock.setblocking(False)
            face = self.rng.choice((side.plain, side.buffered))
            await self.loop.create_connection(lambda face=face: face, sock=sock)
        self.pairs.append(sides)
        self.made += 1

    def act(self) -> None:
        """Something happens to somebody."""
        pair = self.rng.choice(self.pairs)
        side = pair[self.rng.randrange(2)]
        what = self.rng.random()
        if side.closed or side.lost:
            return
        if what < 0.5:
            if not side.paused_writing:
                side.write(self.rng.choice((1, 20, 64, 65, 700, 5000, 16384, 40_000, 200_000)))
        elif what < 0.65:
            side.transport.pause_reading()
        elif what < 0.88:
            side.transport.resume_reading()
        elif what < 0.96:
            side.transport.set_protocol(self.rng.choice((side.plain, side.buffered)))
        elif what < 0.98:
            side.finish()
        else:
            side.close(abort=self.rng.random() < 0.5)

    async def clear(self) -> None:
        """Replace the connections of which one side is gone."""
        for pair in [pair for pair in self.pairs if pair[0].lost or pair[1].lost]:
            self.pairs.remove(pair)
            await self.dismiss(pair)
            await self.open()

    async def dismiss(self, pair: tuple[Side, Side]) -> None:
        for side in pair:
            # also where it is closing: two that do so with full buffers would wait for ever
            side.close(abort=True)
        await asyncio.wait_for(_until(lambda: pair[0].lost and pair[1].lost), 10)

    async def flow(self) -> None:
        """Whoever neither closed nor ended gets everything, however often it was paused."""
        for side in itertools.chain(*self.pairs):
            if not (side.closed or side.lost):
                side.transport.resume_reading()

        def complete(side: Side) -> bool:
            return side.closed or side.lost or side.other.closed or side.received == side.other.sent

        await asyncio.wait_for(
            _until(lambda: all(complete(side) for side in itertools.chain(*self.pairs))), 20
        )

    async def burst(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.problems:
            for _ in range(self.rng.randint(1, 30)):
                self.act()
            await asyncio.sleep(0)
            if self.rng.random() < 0.02:
                await self.clear()
        assert not self.problems, self.problems[0]
        await self.flow()
        assert not self.problems, self.problems[0]


async def _until(happened: Callable[[], Any]) -> None:
    while not happened():
        await asyncio.sleep(0.001)


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


def test_transports(new_loop: Callable[[], Any], rng: random.Random) -> None:
    """Writes, pauses, resumes, changes of protocol, ends, closes and aborts;
    now and then in another thread.
    """
    loop = new_loop()
    crowd = Crowd(rng, loop)

    async def begin() -> None:
        for _ in range(CONNECTIONS):
            await crowd.open()

    async def finish() -> None:
        for pair in crowd.pairs:
            await crowd.dismiss(pair)
        await asyncio.sleep(0)

    try:
        loop.run_until_complete(begin())
        deadline = time.monotonic() + SECONDS
        with ThreadPoolExecutor(1) as pool:
            while time.monotonic() < deadline:
                length = min(0.3, SECONDS / 3)
                if rng.random() < 0.5:
                    pool.submit(lambda length=length: loop.run_until_complete(crowd.burst(length))).result()
                else:
                    loop.run_until_complete(crowd.burst(length))
        loop.run_until_complete(finish())
        assert not crowd.problems, crowd.problems[0]
    finally:
        loop.close()


# -------------------------------------------------------------------------------------------------------- ops


class Talk:
    """One direction of a socket pair, sent and received by ops that are often cancelled."""

    def __init__(
        self, port: LoopPort, rng: random.Random, socks: tuple[socket.socket, socket.socket]
    ) -> None:
        self.port = port
        self.rng = rng
        self.writer, self.reader = socks
        self.start = rng.randrange(1 << 20)
        self.sent = self.received = 0
        self.send: Overlapped | None = None
        self.receive: Overlapped | None = None
        self.target = bytearray()

    def take(self, data: bytes) -> None:
        assert data == content(self.start + self.received, len(data)), "wrong bytes"
        self.received += len(data)

    def began(self) -> None:
        if self.send is None and self.rng.random() < 0.7:
            size = self.rng.choice((1, 64, 1000, 50_000, 400_000))
            data = content(self.start + self.sent, size)
            self.send = Overlapped(SEND, self.writer.fileno(), data=data, on_done=self.sending_ended)
            self.port.start(self.send)
        if self.receive is None:
            size = self.rng.choice((1, 60, 64, 65, 5000, 16384, 100_000))
            fd = self.reader.fileno()
            if self.rng.random() < 0.3:
                self.target = bytearray(size)
                self.receive = Overlapped(RECV_INTO, fd, data=self.target, on_done=self.receiving_into_ended)
            elif self.rng.random() < 0.1:
                self.receive = Overlapped(POLL, fd, events=POLLIN, on_done=self.receiving_ended)
            else:
                self.receive = Overlapped(RECV, fd, size=size, on_done=self.receiving_ended)
            self.port.start(self.receive)

    def sending_ended(self, op: Overlapped) -> None:
        assert op is self.send
        self.send = None
        self.sent += op.nbytes

    def receiving_ended(self, op: Overlapped) -> None:
        assert op is self.receive
        self.receive = None
        if not op.error and isinstance(op.result(), bytes):
            self.take(op.result())
        if self.rng.random() < 0.5:
            self.began()

    def receiving_into_ended(self, op: Overlapped) -> None:
        self.take(self.target[: op.nbytes])
        self.receiving_ended(op)

    def cancelled(self) -> None:
        for op in (self.send, self.receive):
            if op is not None and self.rng.random() < 0.5:
                self.port.stop(op)

    def rest(self) -> None:
        """All ops have ended: what is in the socket is the rest."""
        while self.received < self.sent and select.select([self.reader], [], [], 5)[0]:
            self.take(self.reader.recv(1 << 20))
        assert self.received == self.sent, "bytes were lost"


def test_ops(new_port: Callable[[], LoopPort], sockets: Sockets, rng: random.Random) -> None:
    """Sends, receives and polls, cancelled at any moment, in two threads by turns,
    with wake-ups from a third.
    """
    port = new_port()
    talks = []
    for i in range(30):
        pair = sockets.pair() if i % 2 else sockets.tcp_pair(send_buffer=8192)
        talks += [Talk(port, rng, pair), Talk(port, rng, pair[::-1])]
    ended = threading.Event()

    def wake() -> None:
        while not ended.wait(0.001):
            port.wake()

    def burst() -> None:
        port.attach_thread()
        stop = time.monotonic() + 0.1
        while time.monotonic() < stop:
            for talk in rng.sample(talks, 10):
                (talk.began if rng.random() < 0.7 else talk.cancelled)()
            port.run(rng.choice((0, 0, 0.001)))
        port.detach_thread()

    waker = threading.Thread(target=wake)
    waker.start()
    try:
        deadline = time.monotonic() + SECONDS
        with ThreadPoolExecutor(1) as pool:
            while time.monotonic() < deadline:
                pool.submit(burst).result() if rng.random() < 0.5 else burst()
    finally:
        ended.set()
        waker.join()
    port.attach_thread()
    for talk in talks:
        talk.rng = random.Random(1)
        talk.began = lambda: None  # type: ignore[method-assign]
        for op in (talk.send, talk.receive):
            if op is not None:
                port.stop(op)
    until(port, lambda: not port.driver.inflight)
    for talk in talks:
        talk.rest()
    port.detach_thread()


def test_connections(new_port: Callable[[], LoopPort], sockets: Sockets, rng: random.Random) -> None:
    """Clients come, leave and reset while accepts are started and cancelled:
    each is accepted once or never.
    """
    port = new_port()
    listener = sockets.listener(512)
    accepted: list[int] = []
    clients: dict[Any, socket.socket] = {}
    waiting: list[Overlapped] = []
    left = 0

    def owner(op: Overlapped) -> None:
        waiting.remove(op)
        if not op.error:
            accepted.append(op.result())

    def recognise() -> None:
        nonlocal left
        while accepted:
            with socket.socket(fileno=accepted.pop()) as conn:
                try:
                    clients.pop(conn.getpeername()).close()
                except OSError:
                    left -= 1  # reset before

    deadline = time.monotonic() + SECONDS / 4
    while time.monotonic() < deadline:
        what = rng.random()
        if what < 0.4 and len(clients) < 200:
            client = socket.create_connection(listener.getsockname())
            if rng.random() < 0.2:
                reset(client)
                left += 1
            else:
                clients[client.getsockname()] = client
        elif what < 0.7 and len(waiting) < 20:
            op = Overlapped(ACCEPT_ONE, listener.fileno(), on_done=owner)
            waiting.append(op)
            port.start(op)
        elif what < 0.8 and waiting:
            port.stop(rng.choice(waiting))
        else:
            port.run(0)
            recognise()
    while clients:
        op = Overlapped(ACCEPT_ONE, listener.fileno(), on_done=owner)
        waiting.append(op)
        done(port, port.start(op))
        recognise()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = len(descriptors())
    threads = threading.active_count()
    yield
    gc.collect()
    assert len(descriptors()) <= before
    assert threading.active_count() <= threads  # one of an earlier test may have ended meanwhile
