"""Each source gets its share of the loop, however much another one has to give: nobody starves."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import select
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from .flooded import KINDS, VICTIMS, Flooded
from .support import dial, eventually, listening, pair

# The bound is for a busy machine: the figures are those of tests/benchmarks/fairness.py, a thousandth of it.
BOUND = 10.0


@pytest.mark.parametrize("count", [1, 8, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_nobody_starves_beside_a_flood(word: str, kind: str, count: int) -> None:
    if kind == "backlog" and count == 64:
        pytest.skip("a backlog that is never empty is that with 8 as well")
    with Flooded(word, kind, count, BOUND) as flooded:
        waits = {victim: max(flooded.wait(victim) for _ in range(2)) for victim in VICTIMS}
        assert max(waits.values()) < BOUND, waits
        before = flooded.program.ask(limit=BOUND)
        eventually(lambda: flooded.program.ask(limit=BOUND) > before, "the flood has its share too")


# How many turns until the loop looks at the kernel

TURNS = 4  # on stock asyncio 2 or 3


class Seen(asyncio.Protocol, asyncio.DatagramProtocol):
    """Notes that something came."""

    seen = False

    def connection_made(self, transport: Any) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        self.seen = True

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.seen = True


class BufferedSeen(asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    seen = False

    def get_buffer(self, hint: int) -> bytearray:
        return bytearray(100)

    def buffer_updated(self, count: int) -> None:
        self.seen = True


def repeated(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Run it some times: the data comes at one moment or another between two looks of the loop at the
    kernel.
    """

    @functools.wraps(test)
    async def times(*args: Any, **kwargs: Any) -> None:
        for _ in range(8):
            await test(*args, **kwargs)

    return times


async def turns_until(seen: Callable[[], bool], arrived: socket.socket | int) -> int:
    """How many ``sleep(0)`` until it is seen, of what lies in the socket already."""
    assert select.select([arrived], [], [], 5)[0]
    for count in range(1, 200):
        await asyncio.sleep(0)
        if seen():
            return count
    return 200


async def settle() -> None:
    """All that the loop had to do is done, and it has looked for something new a while ago."""
    for _ in range(3):
        await asyncio.sleep(0.002)
    for _ in range(random.randrange(50)):
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("protocol", [Seen, BufferedSeen])
@repeated
async def test_data_is_seen_within_a_few_turns(kind: str, protocol: Any) -> None:
    ours, peer = pair(kind)
    with peer:
        transport, made = await asyncio.get_running_loop().create_connection(protocol, sock=ours)
        await settle()
        peer.send(b"x")
        count = await turns_until(lambda: made.seen, ours.fileno())
        transport.close()
    assert count <= TURNS


@repeated
async def test_data_of_a_stream_is_read_within_a_few_turns() -> None:
    ours, peer = pair("tcp")
    with peer:
        reader, writer = await asyncio.open_connection(sock=ours)
        task = asyncio.create_task(reader.read(10))
        await settle()
        peer.send(b"x")
        count = await turns_until(task.done, ours.fileno())
        writer.close()
        await writer.wait_closed()
    assert count <= TURNS + 1  # the task's own


@pytest.mark.parametrize("way", ["sock_recv", "add_reader"])
@repeated
async def test_a_readable_socket_is_seen_within_a_few_turns(way: str) -> None:
    loop = asyncio.get_running_loop()
    calls: list[Any] = []
    ours, peer = pair("tcp")
    with ours, peer:
        if way == "add_reader":
            loop.add_reader(ours, calls.append, 1)
        else:
            asyncio.create_task(loop.sock_recv(ours, 10)).add_done_callback(calls.append)
        await settle()
        peer.send(b"x")
        count = await turns_until(lambda: bool(calls), ours)
        loop.remove_reader(ours)
    assert count <= TURNS + 1


@repeated
async def test_a_datagram_is_seen_within_a_few_turns() -> None:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Seen, ("127.0.0.1", 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        await settle()
        sock = transport.get_extra_info("socket")
        peer.sendto(b"x", sock.getsockname())
        count = await turns_until(lambda: protocol.seen, sock.fileno())
    transport.close()
    await settle()
    assert count <= TURNS


@repeated
async def test_data_of_a_pipe_is_seen_within_a_few_turns() -> None:
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    transport, protocol = await loop.connect_read_pipe(Seen, os.fdopen(reading, "rb", buffering=0))
    await settle()
    os.write(writing, b"x")
    count = await turns_until(lambda: protocol.seen, reading)
    os.close(writing)
    transport.close()
    await settle()
    assert count <= TURNS


@repeated
async def test_a_new_connection_is_seen_within_a_few_turns() -> None:
    loop = asyncio.get_running_loop()
    made: list[int] = []

    class Visited(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            made.append(1)
            transport.close()

    sock = listening()
    server = await loop.create_server(Visited, sock=sock)
    await settle()
    with socket.create_connection(sock.getsockname()):
        count = await turns_until(lambda: bool(made), sock.fileno())
        server.close()
        await settle()
    assert count <= TURNS + 1  # accepted in one, made in another


@repeated
async def test_data_is_seen_though_callbacks_never_end() -> None:
    """Programs that keep some callbacks always ready; the data comes while they run."""
    loop = asyncio.get_running_loop()
    turning = True

    def again() -> None:
        if turning:
            loop.call_soon(again)

    for _ in range(20):
        loop.call_soon(again)
    ours, peer = pair("tcp")
    with peer:
        transport, protocol = await loop.create_connection(Seen, sock=ours)
        await settle()
        peer.send(b"x")
        count = await turns_until(lambda: protocol.seen, ours.fileno())
        turning = False
        transport.close()
    assert count <= TURNS


async def test_as_many_as_have_spoken_are_heard_within_a_few_turns() -> None:
    """The kernel tells of 20 completions in a call of io_uring_enter, however many there are."""
    loop = asyncio.get_running_loop()
    heard: list[Accepted] = []

    class Accepted(Seen):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            heard.append(self)

    server = await loop.create_server(Accepted, "127.0.0.1", 0, backlog=200)
    address = server.sockets[0].getsockname()
    peers = [dial(address) for _ in range(200)]
    while len(heard) < len(peers):
        await asyncio.sleep(0.01)
    await settle()
    for peer in peers:
        peer.send(b"x")
    arrived = heard[-1].transport.get_extra_info("socket")
    count = await turns_until(lambda: all(protocol.seen for protocol in heard), arrived)
    for peer in peers:
        peer.close()
    server.close()
    await server.wait_closed()
    assert count <= TURNS
