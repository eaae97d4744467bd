"""pause_reading and resume_reading in every state of a transport."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import Any

import pytest

from .support import (
    BIG,
    LIMIT,
    MIB,
    BufferedRecorder,
    Echo,
    Recorder,
    dial,
    eventually,
    linked,
    serving,
    turns,
)

both_kinds = pytest.mark.parametrize("kind", ["tcp", "accepted", "unix"])
both_protocols = pytest.mark.parametrize("make", [Recorder, BufferedRecorder])


async def quiet(link: Any) -> None:
    """Long enough for data that is already there to come in, if anything let it."""
    for _ in range(5):
        await asyncio.sleep(0.002)


@both_kinds
@both_protocols
async def test_paused_before_data(kind: str, make: Any) -> None:
    async with linked(kind, make()) as link:
        link.transport.pause_reading()
        link.peer.sendall(b"while paused")
        await quiet(link)
        assert link.protocol.data == b""
        link.transport.resume_reading()
        assert await link.protocol.until_received(12) == b"while paused"


@both_kinds
async def test_paused_in_connection_made(kind: str) -> None:
    async with linked(kind, Recorder(connection_made=lambda p: p.transport.pause_reading())) as link:
        assert not link.transport.is_reading()
        link.peer.sendall(b"early")
        await quiet(link)
        assert link.protocol.events == ["connection_made"]
        link.transport.resume_reading()
        assert await link.protocol.until_received(5) == b"early"


async def test_paused_and_resumed_in_connection_made() -> None:
    def both(protocol: Recorder) -> None:
        protocol.transport.pause_reading()
        protocol.transport.resume_reading()

    async with linked("tcp", Recorder(connection_made=both)) as link:
        link.peer.sendall(b"x" * 1000)
        assert await link.protocol.until_received(1000) == b"x" * 1000


@both_kinds
@both_protocols
async def test_paused_with_data_in_flight(kind: str, make: Any) -> None:
    """Paused while the peer keeps sending: nothing is given, nothing lost, the order kept."""
    data = random.Random(5).randbytes(2 * MIB)
    async with linked(kind, make()) as link:
        sending = asyncio.create_task(link.to_peer_end(data))
        for mark in (1, MIB // 2, MIB):
            await link.protocol.until_received(mark)
            link.transport.pause_reading()
            seen = len(link.protocol.data)
            await quiet(link)
            assert len(link.protocol.data) == seen
            link.transport.resume_reading()
        assert await link.protocol.until_received(len(data)) == data
        await sending


@both_protocols
@both_kinds
async def test_paused_inside_the_callback_stops_at_once(kind: str, make: Any) -> None:
    """A protocol that pauses in each callback is never called again before it resumes."""

    def pause(protocol: Any, *_: Any) -> None:
        assert protocol.transport.is_reading()
        protocol.transport.pause_reading()

    async with linked(kind, make(data_received=pause, buffer_updated=pause)) as link:
        data = bytes(range(256)) * 2048
        sending = asyncio.create_task(link.to_peer_end(data))
        while len(link.protocol.data) < len(data):
            count = len(link.protocol.events)
            await link.protocol.until(lambda count=count: len(link.protocol.events) > count)
            assert not link.transport.is_reading()
            count = len(link.protocol.events)
            await turns()
            assert len(link.protocol.events) == count
            link.transport.resume_reading()
        await sending
        assert link.protocol.data == data


async def test_a_paused_transport_holds_the_peer_back() -> None:
    """What is not read stays with the peer, and does not pile up in this process."""
    async with linked("accepted") as link:
        link.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        link.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        link.transport.pause_reading()
        sending = asyncio.create_task(link.to_peer_end(b"p" * 8 * MIB))
        done, _ = await asyncio.wait([sending], timeout=0.2)
        assert not done
        link.transport.resume_reading()
        await link.protocol.until_received(8 * MIB)
        await asyncio.wait_for(sending, LIMIT)


async def test_twice_is_as_once() -> None:
    async with linked("tcp") as link:
        link.transport.pause_reading()
        link.transport.pause_reading()
        assert not link.transport.is_reading()
        link.transport.resume_reading()
        assert link.transport.is_reading()
        link.transport.resume_reading()
        link.peer.sendall(b"once")
        assert await link.protocol.until_received(4) == b"once"
        await turns(5)
        assert link.protocol.data == b"once"


async def test_resumed_without_a_pause() -> None:
    async with linked("tcp") as link:
        link.transport.resume_reading()
        link.peer.sendall(b"only once")
        await link.protocol.until_received(9)
        await quiet(link)
        assert link.protocol.data == b"only once"


async def test_rapid_pauses_and_resumes_keep_every_byte() -> None:
    data = random.Random(3).randbytes(MIB)
    async with linked("tcp") as link:
        sending = asyncio.create_task(link.to_peer_end(data))
        while len(link.protocol.data) < len(data):
            for _ in range(7):
                link.transport.pause_reading()
                link.transport.resume_reading()
            link.transport.pause_reading()
            await asyncio.sleep(0)
            link.transport.resume_reading()
            await asyncio.sleep(0.0005)
        await sending
        assert link.protocol.data == data


async def test_after_close_both_do_nothing() -> None:
    async with linked("tcp") as link:
        link.transport.close()
        assert not link.transport.is_reading()
        link.transport.pause_reading()
        link.transport.resume_reading()
        assert not link.transport.is_reading()
        assert await link.protocol.until_lost() is None
        link.transport.pause_reading()
        link.transport.resume_reading()
        assert not link.transport.is_reading()
        assert link.protocol.events == ["connection_made", "connection_lost"]


async def test_closed_while_paused() -> None:
    async with linked("tcp") as link:
        link.transport.pause_reading()
        link.peer.sendall(b"never seen")
        await quiet(link)
        link.transport.close()
        assert await link.protocol.until_lost() is None
        assert link.protocol.data == b""


async def test_the_end_waits_for_resume() -> None:
    """Paused: neither the data nor the end of it is told; resumed: both, in order."""
    async with linked("tcp") as link:
        link.transport.pause_reading()
        link.peer.sendall(b"bye")
        link.peer.close()
        await quiet(link)
        assert link.protocol.events == ["connection_made"]
        link.transport.resume_reading()
        assert await link.protocol.until_lost() is None
        assert link.protocol.data == b"bye"
        assert link.protocol.order == ["connection_made", "data_received", "eof_received", "connection_lost"]


async def test_after_eof_pausing_is_harmless() -> None:
    async with linked("tcp", Recorder(eof_received=lambda _: True)) as link:
        link.peer.shutdown(socket.SHUT_WR)
        await link.protocol.until_event("eof_received")
        link.transport.pause_reading()
        link.transport.write(b"still here")
        assert await link.from_peer(10) == b"still here"
        assert "connection_lost" not in link.protocol.events


@pytest.mark.ours  # stock asyncio reads again after resume, and tells the same end a second time
async def test_the_end_is_told_once_whatever_is_paused_after_it() -> None:
    async with linked("tcp", Recorder(eof_received=lambda _: True)) as link:
        link.peer.shutdown(socket.SHUT_WR)
        await link.protocol.until_event("eof_received")
        link.transport.pause_reading()
        link.transport.resume_reading()
        await quiet(link)
        assert link.protocol.events.count("eof_received") == 1


async def test_writing_goes_on_while_reading_is_paused() -> None:
    async with linked("tcp") as link:
        link.transport.pause_reading()
        link.transport.write(b"w" * 2 * MIB)
        assert len(await link.from_peer(2 * MIB)) == 2 * MIB


async def test_is_reading_tells_the_state() -> None:
    async with linked("tcp") as link:
        states = [link.transport.is_reading()]
        for step in ("pause_reading", "resume_reading", "pause_reading", "close", "resume_reading"):
            getattr(link.transport, step)()
            states.append(link.transport.is_reading())
        assert states == [True, False, True, False, False, False]


async def test_paused_while_writing_is_stalled_and_then_reset_by_the_peer() -> None:
    """A paused transport with a full buffer still learns that its peer is gone."""
    async with linked("tcp") as link:
        link.transport.pause_reading()
        link.transport.write(b"s" * BIG)
        assert link.transport.get_write_buffer_size() > 0
        link.peer.close()
        error = await link.protocol.until_lost()
        assert isinstance(error, ConnectionError)
        assert link.protocol.data == b""


async def test_many_paused_connections_starve_nobody() -> None:
    """However many hold data that nobody reads yet, the others are served; and then all of it comes."""
    protocols: list[Recorder] = []

    def factory() -> Recorder:
        protocols.append(Recorder(data_received=pause_after_the_first))
        return protocols[-1]

    def pause_after_the_first(protocol: Recorder, _data: bytes) -> None:
        if len(protocol.data) == 1:
            protocol.transport.pause_reading()

    async with serving(factory, backlog=300) as (_, address):
        clients = [dial(address) for _ in range(150)]
        for client in clients:
            client.sendall(b"!")
        await eventually(
            lambda: len(protocols) == 150 and all(len(p.data) == 1 for p in protocols), "all are paused"
        )
        for i, client in enumerate(clients):
            client.sendall(b"%08d" % i * 4000)
        async with linked("accepted", Echo()) as link:
            for i in range(20):
                link.peer.sendall(b"%03d" % i)
                assert await link.from_peer(3) == b"%03d" % i
        assert all(len(protocol.data) == 1 for protocol in protocols)
        for protocol in protocols:
            protocol.transport.resume_reading()
        for protocol in protocols:
            data = await protocol.until_received(32_001)
            assert data[1:] == data[1:9] * 4000
        assert {bytes(protocol.data[1:9]) for protocol in protocols} == {b"%08d" % i for i in range(150)}
        for client in clients:
            client.close()
        for protocol in protocols:
            assert await protocol.until_lost() is None
