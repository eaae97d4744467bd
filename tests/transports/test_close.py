"""close and abort: what still arrives, and that connection_lost is the last word, said once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import socket
import weakref
from typing import Any

import pytest

from .support import BIG, MIB, BufferedRecorder, Recorder, collect_errors, dial, linked, serving, turns

each_kind = pytest.mark.parametrize("kind", ["tcp", "accepted", "unix"])


def closing(protocol: Any, *_: Any) -> None:
    protocol.transport.close()


def aborting(protocol: Any, *_: Any) -> None:
    protocol.transport.abort()


both_ways = pytest.mark.parametrize("leave", [closing, aborting])


@each_kind
async def test_close_is_seen_by_the_peer(kind: str) -> None:
    async with linked(kind) as link:
        link.transport.close()
        assert link.transport.is_closing()
        assert link.protocol.events == ["connection_made"], "connection_lost is never told inside close"
        assert await link.protocol.until_lost() is None
        assert await link.rest_of_peer() == b""
        assert link.protocol.events == ["connection_made", "connection_lost"]


@each_kind
async def test_close_flushes_to_a_slow_reader(kind: str) -> None:
    data = random.Random(9).randbytes(BIG)
    async with linked(kind) as link:
        link.transport.write(data)
        link.transport.close()
        assert link.transport.get_write_buffer_size() > 0
        got = bytearray()
        for _ in range(8):
            got += await link.from_peer(BIG // 16)
            await asyncio.sleep(0.001)
        assert "connection_lost" not in link.protocol.events
        got += await link.rest_of_peer()
        assert got == data
        assert await link.protocol.until_lost() is None


async def test_close_flushes_writelines() -> None:
    async with linked("tcp") as link:
        link.transport.writelines([b"x" * 100_000] * 30)
        link.transport.close()
        assert len(await link.rest_of_peer()) == 3_000_000
        assert await link.protocol.until_lost() is None


async def test_close_with_the_buffer_full_and_the_end_written() -> None:
    async with linked("tcp") as link:
        link.transport.write(b"x" * 2 * MIB)
        link.transport.write_eof()
        link.transport.close()
        assert len(await link.rest_of_peer()) == 2 * MIB
        assert await link.protocol.until_lost() is None


@each_kind
async def test_abort_drops_what_is_buffered(kind: str) -> None:
    async with linked(kind) as link:
        link.transport.write(b"d" * BIG)
        link.transport.abort()
        assert link.transport.is_closing()
        assert await link.protocol.until_lost() is None
        got = await asyncio.to_thread(_count_until_end, link.peer)
        assert got < BIG
        assert link.protocol.events == ["connection_made", "pause_writing", "connection_lost"]


def _count_until_end(peer: socket.socket) -> int:
    count = 0
    try:
        while chunk := peer.recv(MIB):
            count += len(chunk)
    except ConnectionResetError:
        pass
    return count


async def test_abort_empties_the_buffer() -> None:
    async with linked("tcp") as link:
        link.transport.write(b"d" * BIG)
        link.transport.abort()
        assert link.transport.get_write_buffer_size() == 0
        await link.protocol.until_lost()


@pytest.mark.parametrize("steps", ["cc", "ca", "ac", "aa", "cca"])
async def test_leaving_twice_is_as_once(steps: str) -> None:
    async with linked("tcp") as link:
        for step in steps:
            link.transport.close() if step == "c" else link.transport.abort()
        assert await link.protocol.until_lost() is None
        await turns(5)
        link.transport.close()
        link.transport.abort()
        await turns(5)
        assert link.protocol.events == ["connection_made", "connection_lost"]


async def test_abort_cuts_a_close_short() -> None:
    """close waits for a peer that does not read; abort does not."""
    async with linked("tcp") as link:
        link.transport.write(b"d" * BIG)
        link.transport.close()
        await turns()
        assert "connection_lost" not in link.protocol.events
        link.transport.abort()
        assert await link.protocol.until_lost() is None
        assert link.protocol.events.count("connection_lost") == 1


@pytest.mark.ours  # stock asyncio: AttributeError, when close had something to flush
async def test_abort_after_a_close_that_flushed() -> None:
    async with linked("tcp") as link:
        link.transport.write(b"d" * BIG)
        link.transport.close()
        await link.rest_of_peer()
        await link.protocol.until_lost()
        link.transport.abort()
        link.transport.close()
        await turns()
        assert link.protocol.events.count("connection_lost") == 1


@both_ways
@each_kind
async def test_leaving_in_data_received(kind: str, leave: Any) -> None:
    async with linked(kind, Recorder(data_received=leave)) as link:
        link.peer.sendall(b"a")
        assert await link.protocol.until_lost() is None
        assert link.protocol.events == ["connection_made", "data_received", "connection_lost"]


@both_ways
async def test_leaving_in_data_received_with_more_to_read(leave: Any) -> None:
    """Nothing more is delivered, however much of it is there."""
    async with linked("unix", Recorder(data_received=leave)) as link:
        sending = asyncio.create_task(asyncio.to_thread(_send_ignoring_errors, link.peer, b"m" * 2 * MIB))
        assert await link.protocol.until_lost() is None
        await sending
        assert link.protocol.events == ["connection_made", "data_received", "connection_lost"]


def _send_ignoring_errors(peer: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        peer.sendall(data)


@both_ways
async def test_leaving_in_buffer_updated(leave: Any) -> None:
    async with linked("tcp", BufferedRecorder(buffer_updated=leave)) as link:
        link.peer.sendall(b"a")
        assert await link.protocol.until_lost() is None
        assert link.protocol.events == ["connection_made", "buffer_updated", "connection_lost"]


@both_ways
@each_kind
async def test_leaving_in_connection_made(kind: str, leave: Any) -> None:
    async with linked(kind, Recorder(connection_made=leave)) as link:
        assert await link.protocol.until_lost() is None
        assert link.protocol.events == ["connection_made", "connection_lost"]


@both_ways
async def test_leaving_in_connection_made_with_data_already_there(leave: Any) -> None:
    ours, peer = socket.socketpair()
    with peer:
        peer.sendall(b"not for you")
        protocol = Recorder(connection_made=leave)
        await asyncio.get_running_loop().create_connection(lambda: protocol, sock=ours)
        assert await protocol.until_lost() is None
        await turns()
        assert protocol.events == ["connection_made", "connection_lost"]


@both_ways
@pytest.mark.parametrize("answer", [True, False])
async def test_leaving_in_eof_received(leave: Any, answer: bool) -> None:
    def last(protocol: Recorder) -> bool:
        leave(protocol)
        return answer

    async with linked("tcp", Recorder(eof_received=last)) as link:
        link.peer.shutdown(socket.SHUT_WR)
        assert await link.protocol.until_lost() is None
        assert link.protocol.events == ["connection_made", "eof_received", "connection_lost"]


async def test_closing_in_pause_writing_still_flushes() -> None:
    async with linked("tcp", Recorder(pause_writing=closing)) as link:
        link.transport.write(b"f" * BIG)
        assert len(await link.rest_of_peer()) == BIG
        assert await link.protocol.until_lost() is None
        assert link.protocol.events.count("connection_lost") == 1


async def test_aborting_in_pause_writing() -> None:
    async with linked("tcp", Recorder(pause_writing=aborting)) as link:
        link.transport.write(b"f" * BIG)
        assert await link.protocol.until_lost() is None
        await turns()
        assert link.protocol.events == ["connection_made", "pause_writing", "connection_lost"]


@pytest.mark.ours  # stock asyncio reports an error of its own
@both_ways
async def test_leaving_in_resume_writing(leave: Any) -> None:
    async with linked("tcp", Recorder(resume_writing=leave)) as link:
        link.transport.write(b"f" * BIG)
        await asyncio.to_thread(_count_until_end, link.peer)
        assert await link.protocol.until_lost() is None
        assert link.protocol.events == [
            "connection_made",
            "pause_writing",
            "resume_writing",
            "connection_lost",
        ]


@both_ways
async def test_leaving_in_connection_lost(leave: Any) -> None:
    errors = collect_errors()
    async with linked("tcp", Recorder(connection_lost=lambda p, _: leave(p))) as link:
        link.transport.close()
        await link.protocol.until_lost()
        await turns(5)
        assert link.protocol.events == ["connection_made", "connection_lost"]
    assert errors == []


async def test_closing_while_the_peer_closes() -> None:
    for _ in range(20):
        async with linked("tcp") as link:
            link.peer.close()
            link.transport.close()
            assert await link.protocol.until_lost() is None
            assert link.protocol.events.count("connection_lost") == 1


async def test_closing_with_unread_data_from_the_peer() -> None:
    """Data that nobody will read does not keep a closing connection open."""
    async with linked("tcp") as link:
        link.transport.pause_reading()
        link.peer.sendall(b"unread")
        link.transport.write(b"our last words")
        link.transport.close()
        assert await link.protocol.until_lost() is None
        assert link.protocol.data == b""


async def test_the_peer_learns_of_close_although_we_keep_the_transport() -> None:
    """The descriptor is closed when the connection is lost, not when the objects go."""
    async with linked("tcp") as link:
        sock = link.transport.get_extra_info("socket")
        link.transport.close()
        await link.protocol.until_lost()
        await turns()
        assert sock.fileno() == -1
        assert link.peer.recv(1) == b""


async def test_the_peer_learns_of_close_while_a_receive_is_under_way() -> None:
    """Nothing that still waits for data keeps the connection open behind our back."""
    async with linked("tcp") as link:
        link.peer.sendall(b"x")
        await link.protocol.until_received(1)
        await asyncio.sleep(0.01)
        link.transport.close()
        await link.protocol.until_lost()
        assert await asyncio.wait_for(link.rest_of_peer(), 2) == b""


async def test_closing_many_at_once() -> None:
    protocols: list[Recorder] = []

    def factory() -> Recorder:
        protocols.append(Recorder())
        return protocols[-1]

    async with serving(factory) as (_, address):
        peers = [dial(address) for _ in range(40)]
        while len(protocols) < 40 or any(p.transport is None for p in protocols):
            await asyncio.sleep(0.001)
        for protocol in protocols:
            protocol.transport.write(b"bye")
            protocol.transport.close()
        for protocol in protocols:
            assert await protocol.until_lost() is None
        for peer in peers:
            assert await asyncio.to_thread(peer.recv, 100) == b"bye"
            peer.close()


async def test_a_closed_transport_gives_its_protocol_free() -> None:
    """A protocol dies with its connection: no cycle through the loop or the transport keeps it."""
    async with serving(Recorder) as (_, address):
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, *address)
        transport.close()
        await protocol.until_lost()
        await turns()
        protocol.transport = None
        gone = weakref.ref(protocol)
        del protocol
        gc.collect()
        assert gone() is None
        assert transport.is_closing()
