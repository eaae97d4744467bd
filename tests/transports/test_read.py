"""What a protocol is told about what its peer sends: data, its order, its end."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
from typing import Any

import pytest

from .support import LIMIT, MIB, BufferedRecorder, Recorder, collect_errors, linked, turns

KINDS = ("tcp", "tcp6", "accepted", "unix")
each_kind = pytest.mark.parametrize("kind", KINDS)


def pieces(seed: int, total: int) -> list[bytes]:
    """Random data in pieces of random sizes, small and large."""
    rng = random.Random(seed)
    out = []
    while total:
        size = min(
            total, rng.choice((1, rng.randrange(1, 100), rng.randrange(1, 5000), rng.randrange(1, 400_000)))
        )
        out.append(rng.randbytes(size))
        total -= size
    return out


@each_kind
async def test_callbacks_come_in_order(kind: str) -> None:
    async with linked(kind) as link:
        link.peer.sendall(b"hello")
        assert await link.protocol.until_received(5) == b"hello"
        link.peer.shutdown(socket.SHUT_WR)
        assert await link.protocol.until_lost() is None
        assert link.protocol.order == ["connection_made", "data_received", "eof_received", "connection_lost"]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize(
    "size", [1, 2, 1023, 1024, 1025, 4096, 65_535, 65_536, 65_537, 262_144, 262_145, 1_000_003]
)
async def test_exact_bytes_of_every_size(kind: str, size: int) -> None:
    data = random.Random(size).randbytes(size)
    async with linked(kind) as link:
        sending = asyncio.create_task(link.to_peer_end(data))
        assert await link.protocol.until_received(size) == data
        await sending


@pytest.mark.parametrize("kind", ["tcp", "accepted", "unix"])
async def test_large_random_pieces_both_ways(kind: str) -> None:
    """5 MiB each way at the same time, in pieces of all sizes."""
    there, back = pieces(1, 5 * MIB), pieces(2, 5 * MIB)
    async with linked(kind) as link:

        def send() -> None:
            for piece in there:
                link.peer.sendall(piece)

        sending = asyncio.create_task(asyncio.to_thread(send))
        receiving = asyncio.create_task(link.from_peer(5 * MIB))
        for i, piece in enumerate(back):
            link.transport.write(piece)
            if i % 16 == 0:
                await asyncio.sleep(0)
        got = await receiving
        await sending
        await link.protocol.until_received(5 * MIB)
        assert hashlib.sha256(got).digest() == hashlib.sha256(b"".join(back)).digest()
        assert hashlib.sha256(link.protocol.data).digest() == hashlib.sha256(b"".join(there)).digest()


@each_kind
async def test_data_sent_before_the_loop_looks_is_not_lost(kind: str) -> None:
    async with linked(kind) as link:
        for i in range(50):
            link.peer.sendall(b"%04d" % i)
        link.peer.close()
        assert await link.protocol.until_lost() is None
        assert link.protocol.data == b"".join(b"%04d" % i for i in range(50))
        assert link.protocol.order == ["connection_made", "data_received", "eof_received", "connection_lost"]


async def test_connection_made_comes_before_data_that_is_already_there() -> None:
    ours, peer = socket.socketpair()
    with peer:
        peer.sendall(b"early")
        protocol = Recorder()
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=ours)
        assert await protocol.until_received(5) == b"early"
        assert protocol.events[0] == "connection_made"
        transport.close()
        await protocol.until_lost()


async def test_connection_made_has_run_when_create_connection_returns() -> None:
    async with linked("tcp") as link:
        assert link.protocol.events[0] == "connection_made"
        assert link.protocol.transport is link.transport


@each_kind
async def test_an_empty_connection_ends_without_data(kind: str) -> None:
    async with linked(kind) as link:
        link.peer.close()
        assert await link.protocol.until_lost() is None
        assert link.protocol.events == ["connection_made", "eof_received", "connection_lost"]


@each_kind
@pytest.mark.parametrize("answer", [None, False, 0, ""])
async def test_eof_received_that_returns_nothing_closes(kind: str, answer: Any) -> None:
    async with linked(kind, Recorder(eof_received=lambda _: answer)) as link:
        link.peer.shutdown(socket.SHUT_WR)
        assert await link.protocol.until_lost() is None
        assert link.transport.is_closing()
        assert link.peer.recv(1) == b""


@each_kind
@pytest.mark.parametrize("answer", [True, 1, "yes"])
async def test_eof_received_that_returns_true_keeps_the_other_direction(kind: str, answer: Any) -> None:
    async with linked(kind, Recorder(eof_received=lambda _: answer)) as link:
        link.peer.shutdown(socket.SHUT_WR)
        await link.protocol.until_event("eof_received")
        assert not link.transport.is_closing()
        link.transport.write(b"x" * 300_000)
        assert await link.from_peer(300_000) == b"x" * 300_000
        link.transport.close()
        assert await link.protocol.until_lost() is None
        assert link.peer.recv(1) == b""
        assert (
            link.protocol.events.count("eof_received") == link.protocol.events.count("connection_lost") == 1
        )


async def test_writing_in_eof_received_reaches_the_peer() -> None:
    def answer(protocol: Recorder) -> None:
        protocol.transport.write(b"last words")

    async with linked("tcp", Recorder(eof_received=answer)) as link:
        link.peer.shutdown(socket.SHUT_WR)
        assert await link.rest_of_peer() == b"last words"
        assert await link.protocol.until_lost() is None


async def test_a_large_answer_in_eof_received_is_flushed() -> None:
    async with linked("tcp", Recorder(eof_received=lambda p: p.transport.write(b"a" * 3 * MIB))) as link:
        link.peer.shutdown(socket.SHUT_WR)
        assert len(await link.rest_of_peer()) == 3 * MIB
        assert await link.protocol.until_lost() is None


@each_kind
async def test_write_eof_ends_our_direction_only(kind: str) -> None:
    async with linked(kind) as link:
        assert link.transport.can_write_eof()
        link.transport.write(b"request")
        link.transport.write_eof()
        assert await link.rest_of_peer() == b"request"
        assert not link.transport.is_closing()
        await link.to_peer_end(b"answer" * 10_000)
        assert await link.protocol.until_received(60_000) == b"answer" * 10_000
        link.peer.close()
        assert await link.protocol.until_lost() is None


@each_kind
async def test_write_eof_waits_for_what_is_buffered(kind: str) -> None:
    async with linked(kind) as link:
        link.transport.write(b"b" * 2 * MIB)
        link.transport.write_eof()
        assert len(await link.rest_of_peer()) == 2 * MIB
        assert "connection_lost" not in link.protocol.events


async def test_write_eof_twice_is_harmless() -> None:
    async with linked("tcp") as link:
        link.transport.write_eof()
        link.transport.write_eof()
        assert await link.rest_of_peer() == b""


async def test_nothing_can_be_written_after_write_eof() -> None:
    async with linked("tcp") as link:
        link.transport.write_eof()
        with pytest.raises(RuntimeError):
            link.transport.write(b"more")
        with pytest.raises(RuntimeError):
            link.transport.writelines([b"more"])
        assert await link.rest_of_peer() == b""


async def test_write_eof_of_a_closing_transport_is_harmless() -> None:
    async with linked("tcp") as link:
        link.transport.close()
        link.transport.write_eof()
        assert await link.protocol.until_lost() is None
        link.transport.write_eof()


async def test_both_ends_half_close() -> None:
    async with linked("tcp", Recorder(eof_received=lambda _: True)) as link:
        link.transport.write(b"ours")
        link.transport.write_eof()
        link.peer.sendall(b"theirs")
        link.peer.shutdown(socket.SHUT_WR)
        assert await link.rest_of_peer() == b"ours"
        await link.protocol.until_event("eof_received")
        assert link.protocol.data == b"theirs"
        await turns()
        assert not link.transport.is_closing()
        link.transport.close()
        assert await link.protocol.until_lost() is None


async def test_no_data_comes_after_connection_lost() -> None:
    async with linked("tcp") as link:
        link.peer.sendall(b"one")
        await link.protocol.until_received(3)
        link.transport.close()
        with_data = asyncio.to_thread(_send_until_refused, link.peer)
        await link.protocol.until_lost()
        await asyncio.wait_for(with_data, LIMIT)
        await turns(5)
        assert link.protocol.events[-1] == "connection_lost"
        assert link.protocol.data == b"one"


def _send_until_refused(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            peer.sendall(b"n" * 1000)


async def test_many_connections_at_once_keep_their_data_apart() -> None:
    async with asyncio.timeout(LIMIT):
        await asyncio.gather(*(_one_of_many(i) for i in range(50)))


async def _one_of_many(number: int) -> None:
    data = random.Random(number).randbytes(20_000 + number)
    async with linked("unix" if number % 2 else "tcp") as link:
        sending = asyncio.create_task(link.to_peer_end(data))
        assert await link.protocol.until_received(len(data)) == data
        await sending


@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
async def test_a_slow_protocol_gets_everything(make: Any) -> None:
    """A stream keeps what it cannot deliver yet: the peer feels it, and nothing is lost or doubled."""
    errors = collect_errors()
    data = random.Random(7).randbytes(3 * MIB)
    async with linked("tcp", make()) as link:
        sending = asyncio.create_task(link.to_peer_end(data))
        while len(link.protocol.data) < len(data):
            link.transport.pause_reading()
            await asyncio.sleep(0)
            seen = len(link.protocol.data)
            await asyncio.sleep(0)
            assert len(link.protocol.data) == seen
            link.transport.resume_reading()
            await link.protocol.until(lambda seen=seen: len(link.protocol.data) > seen)
        await sending
        assert link.protocol.data == data
    assert errors == []
