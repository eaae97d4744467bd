"""Streams that are interrupted: by urgent data, resets, closes, threads, and the end of their loop."""

from __future__ import annotations

import array
import asyncio
import contextlib
import gc
import hashlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from .streams import EACH, Plain, connect, end, make, run, until, write
from .support import LIMIT, Sockets, drain, in_thread, reset


@EACH
@pytest.mark.parametrize("before", [0, 100_000], ids=["fresh", "after-large"])
@pytest.mark.skipif(not hasattr(socket, "SCM_RIGHTS"), reason="descriptors cannot be passed")
def test_passed_descriptors_do_not_stop_the_stream(
    loop: Any, sockets: Sockets, buffered: bool, before: int
) -> None:
    """recv(2) stops behind each of them, short of what there is: not the end of the data."""

    async def main() -> None:
        a, b = sockets.pair()
        protocol = await connect(a, make(buffered))
        await write(b, bytes(before))
        await until(lambda: protocol.count == before)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [b.fileno()]))]
        for _ in range(3):
            b.sendmsg([b"a"], rights)
            b.send(b"b" * 10)
        await until(lambda: protocol.count == before + 33)
        assert protocol.last[-33:] == (b"a" + b"b" * 10) * 3
        await end(protocol)

    run(loop, main())


@EACH
@pytest.mark.parametrize("before", [0, 100_000], ids=["fresh", "after-large"])
def test_urgent_data_does_not_stop_the_stream(
    loop: Any, sockets: Sockets, buffered: bool, before: int
) -> None:
    """recv(2) stops at the urgent mark, tcp(7)."""

    async def main() -> None:
        a, b = sockets.tcp_pair()
        protocol = await connect(a, make(buffered))
        await write(b, bytes(before))
        await until(lambda: protocol.count == before)
        for _ in range(3):
            b.send(b"a" * 10)
            b.send(b"!", socket.MSG_OOB)
            b.send(b"c" * 10)
        # A mark that a later one has replaced is ordinary data.
        await until(lambda: protocol.count >= before + 60)
        assert protocol.last.endswith(b"c" * 10)
        await end(protocol)

    run(loop, main())


@EACH
def test_urgent_data_at_any_moment(loop: Any, sockets: Sockets, buffered: bool) -> None:
    """What lies behind the mark is received, whenever it comes: the peer waits for each answer."""
    rng = random.Random(7)

    def speak(peer: socket.socket, times: int) -> int:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.settimeout(10)
        for answered in range(times):
            before = rng.randrange(20)
            if rng.random() < 0.5 and before:
                peer.send(b"a" * before)
                peer.send(b"!", socket.MSG_OOB)
            else:
                peer.send(b"a" * before + b"!", socket.MSG_OOB)
            until_then = time.perf_counter() + rng.choice((0, 1e-6, 1e-5, 1e-4))
            while time.perf_counter() < until_then:
                pass
            peer.send(b"c" * (20 - before))
            try:
                peer.recv(1)
            except TimeoutError:
                return answered
        return times

    async def main() -> None:
        a, b = sockets.tcp_pair()
        protocol = await connect(a, make(buffered))
        take = protocol.take

        def taken(data: bytes) -> None:
            take(data)
            if protocol.count % 20 == 0:
                protocol.transport.write(b"k")

        protocol.take = taken
        assert await asyncio.to_thread(speak, b, 500) == 500
        await end(protocol)

    run(loop, main(), 6 * LIMIT)  # where a system call takes 0.1 ms, 100 answers take two seconds


@EACH
def test_a_reset_is_reported(loop: Any, sockets: Sockets, buffered: bool) -> None:
    async def main() -> None:
        for size in (0, 10, 100_000):
            a, b = sockets.tcp_pair()
            protocol = await connect(a, make(buffered))
            await write(b, bytes(size))
            await until(lambda protocol=protocol, size=size: protocol.count == size)
            reset(b)
            await until(lambda protocol=protocol: protocol.lost)
            assert isinstance(protocol.lost[0], ConnectionResetError)

    run(loop, main())


@EACH
def test_more_streams_than_buffers(loop: Any, sockets: Sockets, buffered: bool) -> None:
    """All at once, and again and again: none is forgotten when buffers run out."""

    async def main() -> None:
        pairs = [sockets.pair() for _ in range(150)]
        protocols = [await connect(a, make(buffered)) for a, _b in pairs]
        for round_ in range(1, 6):
            for _a, b in pairs:
                b.send(b"x" * 100)
            await until(lambda round_=round_: all(p.count == 100 * round_ for p in protocols))
        for protocol in protocols:
            await end(protocol)

    run(loop, main())


@EACH
@pytest.mark.parametrize("how", ["close", "abort"])
def test_closing_while_data_comes(loop: Any, sockets: Sockets, buffered: bool, how: str) -> None:
    """Nothing is received after the call, the peer sees the end, the descriptor is closed."""

    async def main() -> None:
        for turns in range(6):
            a, b = sockets.pair()
            protocol = await connect(a, make(buffered))
            for _ in range(10):
                b.send(bytes(1000))
            for _ in range(turns):
                await asyncio.sleep(0)
            getattr(protocol.transport, how)()
            count = protocol.count
            await until(lambda protocol=protocol: protocol.lost)
            assert protocol.lost == [None]
            assert protocol.count == count
            await until(lambda a=a: a.fileno() == -1)
            with pytest.raises(OSError):
                while True:
                    b.send(b"x")

    run(loop, main())


@EACH
@pytest.mark.parametrize("paused", [False, True])
def test_a_stream_goes_on_in_another_thread(
    loop: Any, sockets: Sockets, buffered: bool, paused: bool
) -> None:
    protocol = make(buffered)
    a, b = sockets.pair()
    data = os.urandom(400_000)
    sent = 0

    def send_some() -> None:
        nonlocal sent
        try:
            sent += b.send(data[sent : sent + 9000])
        except BlockingIOError:
            return

    async def begin() -> None:
        await connect(a, protocol)
        send_some()

    async def some_turns() -> None:
        if paused:
            protocol.transport.resume_reading()
        send_some()
        await asyncio.sleep(0.001)
        if paused:
            protocol.transport.pause_reading()
        send_some()

    run(loop, begin())
    for i in range(400):
        if protocol.count == len(data):
            break
        send_some()
        (in_thread if i % 2 else lambda function: function())(lambda: run(loop, some_turns()))
    assert protocol.count == len(data)
    assert protocol.hash.digest() == hashlib.sha256(data).digest()
    run(loop, end(protocol))


def test_a_wake_up_while_the_driver_opens(
    new_loop: Callable[[], Any], variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback posted by another thread at that moment is run, and not when the next timer comes."""
    if variant != "select":
        pytest.skip("only the driver that is written in Python can be slowed down from here")
    from proactorx.drivers.select.driver import SelectDriver

    opening = threading.Event()
    real = SelectDriver._open

    def slow(self: Any) -> None:
        opening.set()
        time.sleep(0.1)
        real(self)

    monkeypatch.setattr(SelectDriver, "_open", slow)
    took: list[float] = []
    loop = new_loop()

    def drive() -> None:
        timer = loop.call_later(LIMIT, loop.stop)
        before = time.monotonic()
        loop.run_forever()
        took.append(time.monotonic() - before)
        timer.cancel()

    thread = threading.Thread(target=drive)
    thread.start()
    assert opening.wait(LIMIT)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(2 * LIMIT)
    loop.close()
    assert took[0] < LIMIT / 2


class PausesAtOnce(Plain):
    """Wants one piece at a time."""

    def take(self, data: bytes) -> None:
        super().take(data)
        self.transport.pause_reading()


@pytest.mark.parametrize("unsent", [0, 2_000_000], ids=["all-sent", "unsent"])
@pytest.mark.parametrize("how", ["close", "abort"])
def test_what_was_kept_while_paused_is_not_given_after_close(
    loop: Any, sockets: Sockets, how: str, unsent: int
) -> None:
    """Resumed and then closed: the rest is for nobody."""

    async def main() -> None:
        a, b = sockets.pair()
        protocol = PausesAtOnce()
        await connect(a, protocol)
        b.send(bytes(100_000))  # several packets, where buffers are taken from a ring
        await until(lambda: protocol.count)
        count = protocol.count
        protocol.transport.write(bytes(unsent))
        protocol.transport.resume_reading()
        getattr(protocol.transport, how)()
        while not protocol.lost:
            with contextlib.suppress(ConnectionResetError):  # of what nobody received
                drain(b)
            await asyncio.sleep(0.001)
        assert protocol.count == count

    run(loop, main())


class Kept(Plain):
    """Keeps everything; calls `then` when it has `count` bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.everything = bytearray()
        self.then: tuple[int, Callable[[], Any]] | None = None

    def take(self, data: bytes) -> None:
        super().take(data)
        self.everything += data
        if self.then is not None and self.count == self.then[0]:
            self.then[1]()


@pytest.mark.parametrize("kind", ["pair", "tcp_pair"])
def test_a_stream_that_changes_its_way_keeps_its_order(loop: Any, sockets: Sockets, kind: str) -> None:
    """Paused when it has calmed down, resumed, and submitted before it is looked at:
    old bytes before new ones.
    """

    async def attempt(calm: int) -> None:
        a, b = getattr(sockets, kind)()
        protocol = Kept()
        await connect(a, protocol)
        b.send(bytes(60_000))
        await until(lambda: protocol.count == 60_000)

        def pause() -> None:
            protocol.transport.pause_reading()
            b.send(b"<" * 10)

        total = 60_000 + 100 * calm
        protocol.then = (total, pause)
        for i in range(calm):
            b.send(b"%100d" % i)
            await until(lambda i=i: protocol.count == 60_100 + 100 * i)
        await asyncio.sleep(0.002)
        server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
        protocol.transport.resume_reading()
        server.close()  # has the kernel act at once
        b.send(b">" * 10)
        await until(lambda: protocol.count == total + 20)
        assert protocol.everything.endswith(b"<" * 10 + b">" * 10)
        await end(protocol)
        await server.wait_closed()

    for calm in (1, 2, *range(62, 67)):
        run(loop, attempt(calm))


@EACH
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_closing_the_loop_calls_no_protocol(
    new_loop: Callable[[], Any], sockets: Sockets, buffered: bool
) -> None:
    """A connection that is still open has data: nobody is told while the loop closes."""
    loop = new_loop()
    pairs = [sockets.pair() for _ in range(3)]
    protocols = [make(buffered) for _ in pairs]

    async def begin() -> None:
        for (a, _b), protocol in zip(pairs, protocols, strict=True):
            await connect(a, protocol)
        await asyncio.sleep(0.001)

    run(loop, begin())
    pairs[0][1].send(b"x" * 10)
    pairs[1][1].send(b"x" * 1000)
    pairs[2][1].close()
    loop.close()
    told = [(protocol.count, protocol.eof, protocol.lost) for protocol in protocols]
    for protocol in protocols:
        protocol.transport = None
    gc.collect()
    assert told == [(0, False, [])] * 3


def test_a_loop_is_closed_by_another_thread_than_it_ran_in_last(new_loop: Callable[[], Any]) -> None:
    loop = new_loop()
    run(loop, asyncio.sleep(0.01))  # in the main thread signals are watched
    in_thread(lambda: run(loop, asyncio.sleep(0.01)))
    loop.close()
    other = new_loop()
    in_thread(lambda: run(other, asyncio.sleep(0.01)))
    other.close()
    third = new_loop()
    run(third, asyncio.sleep(0.01))
    in_thread(third.close)
