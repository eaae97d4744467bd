"""Libraries that live on add_reader and add_writer, with descriptors that come and go: pyzmq, aiodns."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytestmark = pytest.mark.programs

LIMIT = 10


# pyzmq: one descriptor for each socket, edge-triggered, of which the library must be told every time


async def test_zmq_request_and_reply() -> None:
    zmq = pytest.importorskip("zmq")
    zmq_asyncio = pytest.importorskip("zmq.asyncio")
    context = zmq_asyncio.Context()
    try:
        with context.socket(zmq.REP) as server, context.socket(zmq.REQ) as client:
            port = server.bind_to_random_port("tcp://127.0.0.1")
            client.connect(f"tcp://127.0.0.1:{port}")

            async def serve() -> None:
                for _ in range(200):
                    await server.send(b"echo " + await server.recv())

            serving = asyncio.create_task(serve())
            for number in range(200):
                await client.send(b"%d" % number)
                assert await asyncio.wait_for(client.recv(), LIMIT) == b"echo %d" % number
            await asyncio.wait_for(serving, LIMIT)
    finally:
        context.destroy(linger=0)


async def test_zmq_many_messages_one_way() -> None:
    zmq = pytest.importorskip("zmq")
    zmq_asyncio = pytest.importorskip("zmq.asyncio")
    context = zmq_asyncio.Context()
    try:
        with context.socket(zmq.PULL) as target, context.socket(zmq.PUSH) as source:
            port = target.bind_to_random_port("tcp://127.0.0.1")
            source.connect(f"tcp://127.0.0.1:{port}")

            async def send() -> None:
                for number in range(5000):
                    await source.send(b"%d" % number)

            sending = asyncio.create_task(send())
            async with asyncio.timeout(LIMIT):
                got = [await target.recv() for _ in range(5000)]
            assert got == [b"%d" % number for number in range(5000)]
            await sending
    finally:
        context.destroy(linger=0)


async def test_zmq_a_cancelled_receive_and_sockets_that_come_and_go() -> None:
    zmq = pytest.importorskip("zmq")
    zmq_asyncio = pytest.importorskip("zmq.asyncio")
    context = zmq_asyncio.Context()
    try:
        for number in range(10):
            with context.socket(zmq.PAIR) as left, context.socket(zmq.PAIR) as right:
                left.bind(f"inproc://pair-{number}")
                right.connect(f"inproc://pair-{number}")
                waiting = asyncio.ensure_future(left.recv())
                await asyncio.sleep(0.001)
                waiting.cancel()
                await asyncio.wait([waiting])
                await right.send(b"hello")
                assert await asyncio.wait_for(left.recv(), LIMIT) == b"hello"
    finally:
        context.destroy(linger=0)


# aiodns: a resolver in C (c-ares) that opens and closes sockets as it likes and has the loop watch them


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for an address with 192.0.2.N, N being the length of the name;
    none for ``silent``.
    """

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        question = data[12 : data.index(b"\0", 12) + 5]
        if b"silent" in question:
            return
        known = b"unknown" not in question
        flags = 0x8180 if known else 0x8183  # NXDOMAIN, RFC 1035 section 4.1.1
        answer = (
            b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes((192, 0, 2, question[0]))
            if known
            else b""
        )
        self.transport.sendto(
            data[:2] + struct.pack("!HHHHH", flags, 1, int(known), 0, 0) + question + answer, addr
        )


@asynccontextmanager
async def resolver(**options: Any) -> AsyncIterator[Any]:
    aiodns = pytest.importorskip("aiodns")
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    found = aiodns.DNSResolver([f"127.0.0.1:{port}"], loop=loop, tries=1, **options)
    try:
        yield found
    finally:
        await found.close()
        transport.close()


async def addresses(found: Any, name: str) -> list[str]:
    answer = await asyncio.wait_for(found.query_dns(name, "A"), LIMIT)
    return [record.data.addr for record in answer.answer]


async def test_aiodns_answers() -> None:
    async with resolver() as found:
        assert await addresses(found, "four.example.com") == ["192.0.2.4"]
        names = ["a" * length + ".example.com" for length in range(1, 60)]
        got = await asyncio.gather(*(addresses(found, name) for name in names))
        assert got == [[f"192.0.2.{length}"] for length in range(1, 60)]


async def test_aiodns_errors_and_time_outs() -> None:
    aiodns = pytest.importorskip("aiodns")
    async with resolver(timeout=0.1) as found:
        for name in ("unknown.example.com", "silent.example.com"):
            with pytest.raises(aiodns.error.DNSError):
                await addresses(found, name)
        assert await addresses(found, "again.example.com") == ["192.0.2.5"]
