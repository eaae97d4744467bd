"""The receive of a stream, multishot where the driver has that: every byte, once, in order."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
from collections.abc import Callable
from typing import Any

import pytest

from .streams import EACH, EACH_PAIR, Plain, connect, end, make, run, until, write
from .support import Sockets


@EACH
@EACH_PAIR
@pytest.mark.parametrize("sizes", [(1, 10), (60, 70), (100, 20_000), (1, 300_000)], ids=str)
def test_every_byte_in_order(
    loop: Any, sockets: Sockets, buffered: bool, kind: str, sizes: tuple[int, int]
) -> None:
    """Messages below, at and above the size of a buffer; large ones change how the stream is received."""

    async def main() -> None:
        a, b = getattr(sockets, kind)()
        protocol = await connect(a, make(buffered))
        rng = random.Random(sizes[1])
        sent, count = hashlib.sha256(), 0
        for i in range(150 if sizes[1] < 100_000 else 20):
            data = rng.randbytes(rng.randint(*sizes))
            sent.update(data)
            count += len(data)
            await write(b, data)
            if i % 3 == 0:
                await asyncio.sleep(0)
            if i % 10 == 0:
                await until(lambda count=count: protocol.count == count)
        await until(lambda count=count: protocol.count == count)
        assert protocol.hash.digest() == sent.digest()
        b.shutdown(socket.SHUT_WR)
        await until(lambda: protocol.eof)
        await end(protocol)

    run(loop, main())


@EACH
def test_large_and_then_small_and_then_large(loop: Any, sockets: Sockets, buffered: bool) -> None:
    """A stream that has calmed down is received as a small one again."""

    async def main() -> None:
        a, b = sockets.tcp_pair()
        protocol = await connect(a, make(buffered))
        sent, count = hashlib.sha256(), 0
        for size in (500_000, *[20] * 200, 300_000, *[5000] * 100, 200_000, 7):
            data = os.urandom(size)
            sent.update(data)
            count += size
            await write(b, data)
            await until(lambda count=count: protocol.count == count)
        assert protocol.hash.digest() == sent.digest()
        await end(protocol)

    run(loop, main())


@EACH
def test_a_paused_stream_holds_its_peer_back(loop: Any, sockets: Sockets, buffered: bool) -> None:
    """What nobody reads stays with the sender: neither the driver nor the transport keep taking it."""

    async def main() -> None:
        a, b = sockets.pair()
        protocol = await connect(a, make(buffered))
        b.send(b"begin")
        await until(lambda: protocol.count == 5)
        protocol.transport.pause_reading()
        sent, stuck = 0, 0
        while stuck < 20:
            try:
                sent += b.send(bytes(65536))
                stuck = 0
            except BlockingIOError:
                stuck += 1
                await asyncio.sleep(0.001)
        assert sent < 16_000_000
        assert protocol.count == 5
        protocol.transport.resume_reading()
        await until(lambda: protocol.count == 5 + sent)
        await end(protocol)

    run(loop, main())


@EACH
@EACH_PAIR
def test_pauses_and_resumes_lose_nothing(loop: Any, sockets: Sockets, buffered: bool, kind: str) -> None:
    async def main() -> None:
        a, b = getattr(sockets, kind)()
        protocol = await connect(a, make(buffered))
        rng = random.Random(7)
        data = rng.randbytes(1_500_000)
        writer = asyncio.create_task(write(b, data))
        while protocol.count < len(data):
            transport = protocol.transport
            if rng.random() < 0.5:
                transport.pause_reading()
                before = protocol.count
                for _ in range(rng.randint(0, 4)):
                    await asyncio.sleep(0)
                assert protocol.count == before
            transport.resume_reading()
            if rng.random() < 0.2:
                transport.pause_reading()
                transport.resume_reading()
            await asyncio.sleep(0 if rng.random() < 0.8 else 0.001)
        await writer
        assert protocol.hash.digest() == hashlib.sha256(data).digest()
        await end(protocol)

    run(loop, main())


@EACH
def test_the_end_comes_after_the_data_also_when_paused(loop: Any, sockets: Sockets, buffered: bool) -> None:
    async def main() -> None:
        for size in (1, 200, 100_000):
            a, b = sockets.pair()
            protocol = await connect(a, make(buffered))
            protocol.transport.pause_reading()
            await write(b, os.urandom(size))
            b.close()
            for _ in range(5):
                await asyncio.sleep(0.001)
            assert not protocol.count
            assert not protocol.eof
            protocol.transport.resume_reading()
            await until(lambda protocol=protocol: protocol.eof)
            assert protocol.count == size
            await end(protocol)

    run(loop, main())


@EACH
@pytest.mark.parametrize("size", [10, 200_000])
def test_a_protocol_that_changes_half_way(loop: Any, sockets: Sockets, buffered: bool, size: int) -> None:
    """From one kind to the other and back, while data flows."""

    async def main() -> None:
        a, b = sockets.pair()
        protocols: list[Plain] = [make(buffered)]
        await connect(a, protocols[0])
        transport = protocols[0].transport
        data = os.urandom(size * 20)
        writer = asyncio.create_task(write(b, data))
        seen = bytearray()
        for i in range(30):
            after = make(bool(i % 2) ^ buffered ^ True)
            after.take = _collect(after, seen)  # type: ignore[method-assign]
            protocols.append(after)
            transport.set_protocol(after)
            for _ in range(i % 4):
                await asyncio.sleep(0)
        await writer
        await until(lambda: sum(p.count for p in protocols) == len(data))
        assert bytes(seen) == data[protocols[0].count :]
        transport.abort()
        await until(lambda: protocols[-1].lost)

    run(loop, main())


def _collect(protocol: Plain, into: bytearray) -> Callable[[bytes], None]:
    def take(data: bytes) -> None:
        protocol.count += len(data)
        into.extend(data)

    return take
