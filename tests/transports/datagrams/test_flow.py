"""What the socket does not take waits in the transport, and the protocol is told when that is too much."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from .support import LIMIT, Recorder, collect_errors, endpoint, peer, running, socket_directory, take, turns

PIECE = 1000


@contextlib.asynccontextmanager
async def stalled(
    protocol: Any = None, *, connected: bool = True
) -> AsyncIterator[tuple[Any, Any, socket.socket]]:
    """An endpoint whose peer takes nothing until the test does: Unix datagrams wait in a short queue,
    unix(7).
    """
    with socket_directory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(f"{directory}/s")
        other.settimeout(LIMIT)
        mine = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        if connected:
            mine.connect(f"{directory}/s")
        async with endpoint(protocol, sock=mine) as (transport, made):
            yield transport, made, other


def fill(transport: Any, address: Any = None) -> int:
    """Send until the transport has to keep some; how many there were."""
    count = 0
    while transport.get_write_buffer_size() == 0:
        transport.sendto(b"%d" % count, address)
        count += 1
        assert count < 10_000
    return count


async def drain(other: socket.socket, count: int) -> list[bytes]:
    return [await take(other) for _ in range(count)]


@pytest.mark.ours  # stock asyncio of 3.13 never counts down what it counts for the header of a datagram
async def test_all_that_waits_is_sent_in_order() -> None:
    async with stalled() as (transport, _, other):
        count = fill(transport)
        for n in range(count, count + 200):
            transport.sendto(b"%d" % n)
        assert await drain(other, count + 200) == [b"%d" % n for n in range(count + 200)]
        assert transport.get_write_buffer_size() == 0


async def test_pause_and_resume() -> None:
    async with stalled() as (transport, protocol, other):
        transport.set_write_buffer_limits(high=10 * PIECE, low=2 * PIECE)
        sent = 0
        while "pause_writing" not in protocol.events:
            transport.sendto(bytes(PIECE))
            sent += 1
            assert sent < 1000
            await turns(1)
        assert transport.get_write_buffer_size() > 10 * PIECE
        await turns(5)
        assert "resume_writing" not in protocol.events
        for _ in range(5):  # more than that waits, still
            transport.sendto(bytes(PIECE))
        assert protocol.events.count("pause_writing") == 1
        await drain(other, sent)
        await protocol.until_event("resume_writing")
        assert transport.get_write_buffer_size() <= 2 * PIECE + 100
        await drain(other, 5)
        assert protocol.events == ["connection_made", "pause_writing", "resume_writing"]


@pytest.mark.ours  # the same
async def test_a_high_limit_of_zero() -> None:
    """Each datagram that waits pauses; one that does not wait does not."""
    async with stalled() as (transport, protocol, other):
        transport.set_write_buffer_limits(high=0)
        count = fill(transport)
        assert protocol.events == ["connection_made", "pause_writing"]
        await drain(other, count)
        await protocol.until_event("resume_writing")
        transport.sendto(b"x")
        await turns(3)
        assert await take(other) == b"x"
        assert protocol.events == ["connection_made", "pause_writing", "resume_writing"]


async def test_limits() -> None:
    async with endpoint() as (transport, _):
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        transport.set_write_buffer_limits()
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        with pytest.raises(ValueError):
            transport.set_write_buffer_limits(high=1, low=2)


async def test_the_size_counts_what_waits() -> None:
    async with stalled() as (transport, _, other):
        assert transport.get_write_buffer_size() == 0
        count = fill(transport)
        before = transport.get_write_buffer_size()
        transport.sendto(bytes(PIECE))
        assert PIECE <= transport.get_write_buffer_size() - before <= PIECE + 100
        await drain(other, count + 1)


async def test_what_waits_may_be_changed_by_the_caller() -> None:
    async with stalled() as (transport, _, other):
        count = fill(transport)
        buffer = bytearray(b"before")
        transport.sendto(buffer)
        buffer[:] = b"after!"
        assert (await drain(other, count + 1))[-1] == b"before"


@pytest.mark.ours  # the same
async def test_resume_writing_may_send_and_may_raise() -> None:
    def more(protocol: Recorder) -> None:
        if protocol.events.count("resume_writing") == 1:
            protocol.transport.sendto(b"last")
            raise ZeroDivisionError

    errors = collect_errors()
    async with stalled(Recorder(resume_writing=more)) as (transport, _, other):
        transport.set_write_buffer_limits(high=0)
        count = fill(transport)
        assert (await drain(other, count + 1))[-1] == b"last"
    assert [type(context["exception"]) for context in errors] == [ZeroDivisionError]


async def test_close_sends_what_waits() -> None:
    async with stalled() as (transport, protocol, other):
        count = fill(transport)
        for n in range(count, count + 50):
            transport.sendto(b"%d" % n)
        transport.close()
        assert transport.is_closing()
        await turns(5)
        assert "connection_lost" not in protocol.events
        assert await drain(other, count + 50) == [b"%d" % n for n in range(count + 50)]
        assert await protocol.until_lost() is None


@pytest.mark.ours  # the same
async def test_abort_drops_what_waits() -> None:
    async with stalled() as (transport, protocol, other):
        count = fill(transport)
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert await protocol.until_lost() is None
        other.setblocking(False)
        came = 0
        with contextlib.suppress(BlockingIOError):
            while other.recv(100):
                came += 1
        assert came < count


async def test_close_and_then_abort() -> None:
    async with stalled() as (transport, protocol, _):
        fill(transport)
        transport.close()
        transport.abort()
        await protocol.until_lost()
        assert protocol.events.count("connection_lost") == 1


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_ended_by_pause_writing(ending: str) -> None:
    protocol = Recorder(pause_writing=lambda p: getattr(p.transport, ending)())
    async with stalled(protocol) as (transport, _, other):
        transport.set_write_buffer_limits(high=0)
        count = fill_until_closing(transport)
        if ending == "close":
            await drain(other, count)
        assert await protocol.until_lost() is None


def fill_until_closing(transport: Any) -> int:
    count = 0
    while not transport.is_closing():
        transport.sendto(b"%d" % count)
        count += 1
        transport.get_write_buffer_size()
        assert count < 10_000
    return count


@pytest.mark.ours  # stock asyncio spins
async def test_a_receiver_that_is_full_costs_no_time() -> None:
    """A socket that is not connected is said to be writable all the time:
    waiting for it must not take the CPU.
    """
    async with stalled(connected=False) as (transport, _, other):
        address = other.getsockname()
        count = fill(transport, address)
        started, used = time.monotonic(), time.process_time()
        await asyncio.sleep(0.3)
        elapsed, used = time.monotonic() - started, time.process_time() - used
        assert used < elapsed / 2
        for n in range(count, count + 30):
            transport.sendto(b"%d" % n, address)
        assert await drain(other, count + 30) == [b"%d" % n for n in range(count + 30)]


async def test_closing_while_a_receiver_is_full() -> None:
    async with stalled(connected=False) as (transport, protocol, other):
        count = fill(transport, other.getsockname())
        await asyncio.sleep(0.02)
        transport.close()
        assert await drain(other, count) == [b"%d" % n for n in range(count)]
        assert await protocol.until_lost() is None
    async with stalled(connected=False) as (transport, protocol, other):
        fill(transport, other.getsockname())
        await asyncio.sleep(0.02)
        transport.abort()
        assert await protocol.until_lost() is None


async def test_udp_takes_a_burst_larger_than_its_buffer() -> None:
    """The loopback delivers at once; what the receiver cannot hold is lost there,
    but nothing waits for ever.
    """
    with peer() as other:
        async with endpoint(remote_addr=other.getsockname()) as (transport, protocol):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for _ in range(300):
                transport.sendto(bytes(PIECE))
            async with asyncio.timeout(LIMIT):
                while transport.get_write_buffer_size():
                    await asyncio.sleep(0.001)
            assert protocol.events.count("pause_writing") == protocol.events.count("resume_writing")
            assert len(await take(other)) == PIECE


def test_closing_the_loop_while_datagrams_wait(loop: asyncio.AbstractEventLoop) -> None:
    """Nobody is called any more, and the unclosed transport says so."""
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    async def main() -> tuple[Any, Recorder]:
        made = await running().create_datagram_endpoint(Recorder, sock=ours)
        with contextlib.suppress(Exception):
            fill(made[0])
        return made

    collected: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: collected.append(context))
    transport, protocol = loop.run_until_complete(main())
    loop.close()
    assert "connection_lost" not in protocol.events or collected
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        protocol.transport = None
        del transport
        gc.collect()
    assert all("unclosed transport" in str(each.message) for each in caught)
    assert len(caught) == (not collected)
    other.close()
