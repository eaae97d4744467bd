"""New connections, whose first bytes may be there when they are accepted, and which may soon end."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from .support import (
    LIMIT,
    BufferedRecorder,
    Echo,
    Recorder,
    dial,
    eventually,
    read_exactly,
    read_to_end,
    reset,
    serving,
)

each_protocol = pytest.mark.parametrize("protocol", [Recorder, BufferedRecorder])


@each_protocol
@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("messages", range(7))
async def test_every_message_comes(protocol: Any, early: bool, messages: int) -> None:
    """However many there are before the end: each comes once, in order, and the end behind them."""
    made: list[Any] = []

    def factory() -> Any:
        made.append(protocol())
        return made[-1]

    async with serving(factory) as (_, address):
        with dial(address) as peer:
            if not early:
                await eventually(lambda: made, "the connection")
                await asyncio.sleep(0.01)
            sent = b""
            for number in range(messages):
                message = b"%d" % number * 100
                sent += message
                peer.sendall(message)
                await eventually(lambda: made, "the connection")
                await made[0].until_received(len(sent))
            peer.shutdown(socket.SHUT_WR)
            await eventually(lambda: made, "the connection")
            assert await made[0].until_lost() is None
            assert made[0].data == sent
            assert made[0].events.count("eof_received") == 1


@each_protocol
@pytest.mark.parametrize("size", [1, 70_000, 600_000])
async def test_what_was_sent_before_the_connection_is_accepted(protocol: Any, size: int) -> None:
    made: list[Any] = []

    def factory() -> Any:
        made.append(protocol())
        return made[-1]

    async with serving(factory) as (_, address):
        peers = [dial(address) for _ in range(40)]
        try:
            data = bytes(range(251)) * (size // 251 + 1)
            for number, peer in enumerate(peers):
                peer.setblocking(False)
                peer.send(data[: size + number % 3])
                peer.shutdown(socket.SHUT_WR)
            await eventually(lambda: len(made) == len(peers), "all connections")
            for one in made:
                assert await one.until_lost() is None
                assert one.data == data[: len(one.data)]
                assert one.data
        finally:
            for peer in peers:
                peer.close()


async def test_a_peer_that_says_nothing_and_ends() -> None:
    protocol = Recorder()
    async with serving(lambda: protocol) as (_, address):
        dial(address).close()
        assert await protocol.until_lost() is None
        assert protocol.order == ["connection_made", "eof_received", "connection_lost"]


async def test_a_peer_that_resets_at_once() -> None:
    protocol = Recorder()
    async with serving(lambda: protocol) as (_, address):
        peer = dial(address)
        peer.sendall(b"hello")
        reset(peer)
        await protocol.until_lost()
        assert protocol.data in (b"", b"hello")


@each_protocol
async def test_paused_before_the_first_byte(protocol: Any) -> None:
    """What has come stays in the socket until reading resumes."""

    one = protocol(connection_made=lambda one: one.transport.pause_reading())
    async with serving(lambda: one) as (_, address):
        with dial(address) as peer:
            peer.sendall(b"hello")
            await one.until_event("connection_made")
            await asyncio.sleep(0.02)
            assert not one.data
            assert one.transport.get_extra_info("socket").fileno() >= 0
            one.transport.resume_reading()
            assert await one.until_received(5) == b"hello"
            one.transport.pause_reading()
            peer.sendall(b" again")
            await asyncio.sleep(0.02)
            assert one.data == b"hello"
            one.transport.resume_reading()
            assert await one.until_received(11) == b"hello again"


async def test_closed_before_the_first_byte_is_read() -> None:
    """The protocol hears of nothing that has come."""
    protocol = Recorder(connection_made=lambda one: one.transport.close())
    async with serving(lambda: protocol) as (_, address):
        with dial(address) as peer:
            peer.sendall(b"hello")
            assert await protocol.until_lost() is None
            assert not protocol.data


async def test_urgent_data_among_the_first_bytes() -> None:
    async with serving(Echo) as (_, address):
        with dial(address) as peer:
            peer.sendall(b"abc")
            peer.send(b"!", socket.MSG_OOB)
            peer.sendall(b"def")
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, read_exactly, peer, 6) == b"abcdef"
            peer.sendall(b"ghi")
            assert await loop.run_in_executor(None, read_exactly, peer, 3) == b"ghi"
            peer.shutdown(socket.SHUT_WR)
            assert await loop.run_in_executor(None, read_to_end, peer) == b""


async def test_addresses_that_are_asked_for_after_the_end_only() -> None:
    """Whoever keeps the transport can still ask."""
    protocol = Recorder()
    async with serving(lambda: protocol) as (_, address):
        with dial(address) as peer:
            ends = peer.getpeername(), peer.getsockname()
            await protocol.until_event("connection_made")
        await protocol.until_lost()
        await asyncio.sleep(0.01)
        transport = protocol.transport
        assert (transport.get_extra_info("sockname"), transport.get_extra_info("peername")) == ends


async def test_one_connection_at_a_time_and_then_many() -> None:
    """Those that come alone say nothing of how many come next: all are accepted."""
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    async with serving(factory, backlog=200) as (_, address):
        peers = []
        for count in [1] * 10 + [100] + [1] * 3 + [2] * 5:
            peers += [dial(address) for _ in range(count)]
            async with asyncio.timeout(LIMIT):
                while len(made) < len(peers):
                    await asyncio.sleep(0.002)
        for peer in peers:
            peer.sendall(b"x")
        for one in made:
            await one.until_received(1)
        for peer in peers:
            peer.close()
        for one in made:
            await one.until_lost()
