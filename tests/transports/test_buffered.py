"""BufferedProtocol: whose buffer it is, how much of it is filled;
and changing the protocol of a live transport.
"""

from __future__ import annotations

import array
import asyncio
import random
import socket
import time
from typing import Any

import pytest

from .support import BIG, MIB, BufferedRecorder, Recorder, collect_errors, linked, turns

each_kind = pytest.mark.parametrize("kind", ["tcp", "accepted", "unix"])


@each_kind
async def test_callbacks_come_in_order(kind: str) -> None:
    async with linked(kind, BufferedRecorder()) as link:
        link.peer.sendall(b"hello")
        assert await link.protocol.until_received(5) == b"hello"
        link.peer.close()
        assert await link.protocol.until_lost() is None
        assert link.protocol.order == ["connection_made", "buffer_updated", "eof_received", "connection_lost"]


@each_kind
@pytest.mark.parametrize("size", [1, 7, 4096, 1_000_000])
async def test_counts_never_exceed_the_buffer_and_add_up(kind: str, size: int) -> None:
    data = random.Random(size).randbytes(min(2 * MIB, size * 200))
    async with linked(kind, BufferedRecorder(size)) as link:
        sending = asyncio.create_task(link.to_peer_end(data))
        assert await link.protocol.until_received(len(data)) == data
        await sending
        assert all(0 < count <= size for count in link.protocol.counts)
        assert sum(link.protocol.counts) == len(data)


async def test_the_hint_is_minus_one() -> None:
    """What stock asyncio's transports pass: no opinion about the size."""
    async with linked("tcp", BufferedRecorder()) as link:
        link.peer.sendall(b"x")
        await link.protocol.until_received(1)
        assert set(link.protocol.hints) == {-1}


async def test_a_new_buffer_each_time() -> None:
    def fresh(protocol: BufferedRecorder, _hint: int) -> bytearray:
        protocol.buffer = bytearray(random.Random(len(protocol.hints)).randrange(1, 5000))
        return protocol.buffer

    data = random.Random(2).randbytes(300_000)
    async with linked("tcp", BufferedRecorder(get_buffer=fresh)) as link:
        sending = asyncio.create_task(link.to_peer_end(data))
        assert await link.protocol.until_received(len(data)) == data
        await sending


async def test_a_part_of_a_buffer() -> None:
    def tail(protocol: BufferedRecorder, _hint: int) -> memoryview:
        return memoryview(protocol.buffer)[90:]

    def keep(protocol: BufferedRecorder, count: int) -> None:
        kept.extend(protocol.buffer[90 : 90 + count])
        assert not any(protocol.buffer[:90])

    kept = bytearray()
    async with linked("tcp", BufferedRecorder(100, get_buffer=tail, buffer_updated=keep)) as link:
        link.peer.sendall(b"0123456789" * 10)
        await link.protocol.until_received(100)
        assert kept == b"0123456789" * 10
        assert max(link.protocol.counts) <= 10


async def test_any_writable_buffer() -> None:
    def numbers(_protocol: BufferedRecorder, _hint: int) -> array.array[int]:
        return store

    store = array.array("B", bytes(64))
    async with linked("tcp", BufferedRecorder(get_buffer=numbers)) as link:
        link.peer.sendall(b"array")
        await link.protocol.until(lambda: sum(link.protocol.counts) == 5)
        assert store.tobytes()[:5] == b"array"


async def test_only_the_counted_part_is_touched() -> None:
    async with linked("tcp", BufferedRecorder(1000)) as link:
        link.protocol.buffer[:] = b"\xee" * 1000
        link.peer.sendall(b"abc")
        await link.protocol.until_received(3)
        assert bytes(link.protocol.buffer[:3]) == b"abc"
        assert bytes(link.protocol.buffer[3:]) == b"\xee" * 997


@pytest.mark.parametrize(
    "wrong", [bytearray(), memoryview(b""), b""], ids=["bytearray", "memoryview", "bytes"]
)
async def test_an_empty_buffer_is_an_error(wrong: Any) -> None:
    errors = collect_errors()
    protocol = BufferedRecorder()
    async with linked("tcp", protocol) as link:
        protocol.hooks["get_buffer"] = lambda *_: wrong
        link.peer.sendall(b"x" * 100_000)
        assert isinstance(await protocol.until_lost(), RuntimeError)
        assert [type(error["exception"]) for error in errors] == [RuntimeError]
        assert errors[0]["transport"] is link.transport


@pytest.mark.parametrize("wrong", [None, b"read-only", 5], ids=["None", "bytes", "int"])
async def test_what_is_no_writable_buffer_is_an_error(wrong: Any) -> None:
    errors = collect_errors()
    protocol = BufferedRecorder()
    async with linked("tcp", protocol) as link:
        protocol.hooks["get_buffer"] = lambda *_: wrong
        link.peer.sendall(b"x" * 100_000)
        assert isinstance(await protocol.until_lost(), TypeError)
        assert len(errors) == 1
        assert errors[0]["protocol"] is protocol


async def test_a_buffer_is_free_again_after_the_connection() -> None:
    """The protocol may change the size of its buffer once nothing receives into it."""
    async with linked("tcp", BufferedRecorder()) as link:
        link.peer.sendall(b"x")
        await link.protocol.until_received(1)
        link.transport.close()
        await link.protocol.until_lost()
        await turns(5)
        link.protocol.buffer.clear()


async def test_a_buffer_is_free_in_buffer_updated() -> None:
    """The callback may use the bytes and then resize the buffer, as parsers do."""

    def consume(protocol: BufferedRecorder, _count: int) -> None:
        protocol.buffer.clear()
        protocol.buffer.extend(bytes(100))

    async with linked("tcp", BufferedRecorder(100, buffer_updated=consume)) as link:
        for i in range(1, 4):
            link.peer.sendall(b"part%d" % i)
            await link.protocol.until_received(5 * i)
        assert link.protocol.data == b"part1part2part3"


@pytest.mark.parametrize("answer", [True, False])
async def test_the_end(answer: bool) -> None:
    async with linked("tcp", BufferedRecorder(eof_received=lambda _: answer)) as link:
        link.peer.sendall(b"bye")
        link.peer.shutdown(socket.SHUT_WR)
        await link.protocol.until_event("eof_received")
        assert link.protocol.data == b"bye"
        assert link.transport.is_closing() is not answer
        if answer:
            link.transport.write(b"good bye")
            assert await link.from_peer(8) == b"good bye"
        else:
            assert await link.protocol.until_lost() is None


@pytest.mark.ours  # stock asyncio keeps a view of the buffer, and sends what it holds later (3.12 and newer)
@each_kind
async def test_echo_of_a_buffered_protocol(kind: str) -> None:
    """The buffer is written back, and filled again at once: the write must have kept its own copy."""

    def echo(protocol: BufferedRecorder, count: int) -> None:
        protocol.transport.write(memoryview(protocol.buffer)[:count])

    data = random.Random(8).randbytes(200_000)
    async with linked(kind, BufferedRecorder(5000, buffer_updated=echo)) as link:
        sending = asyncio.create_task(link.to_peer_end(data))
        assert await link.from_peer(len(data)) == data
        await sending


async def test_set_protocol_and_get_protocol() -> None:
    async with linked("tcp") as link:
        assert link.transport.get_protocol() is link.protocol
        other = Recorder()
        link.transport.set_protocol(other)
        assert link.transport.get_protocol() is other
        link.peer.sendall(b"for the other")
        assert await other.until_received(13) == b"for the other"
        assert link.protocol.events == ["connection_made"]
        link.transport.set_protocol(link.protocol)


@each_kind
@pytest.mark.parametrize(("first", "second"), [(Recorder, BufferedRecorder), (BufferedRecorder, Recorder)])
async def test_switching_in_mid_stream_and_back(kind: str, first: Any, second: Any) -> None:
    """Bytes that come before the switch go to the first, later ones to the second, none to both."""
    async with linked(kind, first()) as link:
        other = second()
        for i in range(1, 6):
            link.transport.set_protocol(link.protocol)
            link.peer.sendall(b"one%d" % i)
            assert await link.protocol.until_received(4 * i) == b"".join(
                b"one%d" % k for k in range(1, i + 1)
            )
            link.transport.set_protocol(other)
            link.peer.sendall(b"two%d" % i)
            assert await other.until_received(4 * i) == b"".join(b"two%d" % k for k in range(1, i + 1))
        link.transport.set_protocol(link.protocol)
        assert other.events == [other.events[0]] * 5


@pytest.mark.parametrize(("first", "second"), [(Recorder, BufferedRecorder), (BufferedRecorder, Recorder)])
async def test_switching_inside_a_callback(first: Any, second: Any) -> None:
    """As an upgrade of the protocol does it; all that follows goes to the new one."""

    def switch(protocol: Any, *_: Any) -> None:
        protocol.transport.set_protocol(other)
        other.connection_made(protocol.transport)

    data = random.Random(6).randbytes(MIB)
    other = second()
    async with linked("unix", first(data_received=switch, buffer_updated=switch)) as link:
        sending = asyncio.create_task(link.to_peer_end(data))
        await other.until(lambda: len(link.protocol.data) + len(other.data) == len(data))
        await sending
        assert link.protocol.data + other.data == data
        assert (
            len([name for name in link.protocol.events if name in ("data_received", "buffer_updated")]) == 1
        )
        link.transport.set_protocol(link.protocol)


async def test_switching_while_paused() -> None:
    async with linked("tcp") as link:
        link.transport.pause_reading()
        link.peer.sendall(b"waiting")
        await asyncio.sleep(0.01)
        other = BufferedRecorder()
        link.transport.set_protocol(other)
        link.transport.resume_reading()
        assert await other.until_received(7) == b"waiting"
        link.transport.set_protocol(link.protocol)


async def test_the_new_protocol_hears_of_the_write_buffer_and_of_the_end() -> None:
    async with linked("tcp") as link:
        link.transport.write(b"w" * BIG)
        assert link.protocol.events == ["connection_made", "pause_writing"]
        other = Recorder()
        link.transport.set_protocol(other)
        await link.from_peer(BIG)
        await other.until_event("resume_writing")
        link.peer.close()
        assert await other.until_lost() is None
        assert other.events == ["resume_writing", "eof_received", "connection_lost"]
        assert link.protocol.events == ["connection_made", "pause_writing"]
        link.protocol.connection_lost(None)  # for the end of the test: it waits for its own protocol


async def test_a_connection_that_waits_for_data_costs_no_time() -> None:
    """Whatever the first packet of readiness said: a receive that finds nothing is not repeated."""
    async with linked("tcp", BufferedRecorder()) as link:
        link.peer.sendall(b"abc")
        await link.protocol.until_received(3)
        await asyncio.sleep(0.05)
        before = time.process_time()
        await asyncio.sleep(0.5)
        assert time.process_time() - before < 0.2
