"""Large messages, which are received straight into the object that the protocol is given: nothing of that is
to be seen, whatever size comes behind which.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from .support import LIMIT, BufferedRecorder, Link, Recorder, collect_errors, linked, reset

KIB = 1024
LARGE = 24 * KIB  # as in the transport: from here on

each_kind = pytest.mark.parametrize("kind", ["tcp", "accepted", "unix"])
# Its buffers do not grow, and what is sent is there at once.
on_a_unix_socket = pytest.mark.parametrize("kind", ["unix"])

SIZES: dict[str, Sequence[int]] = {
    "equal": [40 * KIB] * 6,
    "around the last": [40 * KIB, 40 * KIB - 1, 40 * KIB + 1, 40 * KIB, 41 * KIB, 39 * KIB],
    "growing": [LARGE - 1, LARGE, LARGE + 1, 27_000, 33_333, 60_001, 100_000, 127 * KIB, 128 * KIB, 200_000],
    "shrinking": [200_000, 128 * KIB, 127 * KIB, 100_000, 60_001, 33_333, LARGE + 1, LARGE, LARGE - 1, 1],
    "alternating": [100_000, 10, 100_000, 10, 100_000, 100_000, 26_000, 100_000],
}


async def one_by_one(link: Link, sizes: Sequence[int]) -> bytes:
    """The peer sends the next message when the last one has come."""
    sent = b""
    for size in sizes:
        message = random.Random(size).randbytes(size)
        sent += message
        await link.to_peer_end(message)
        await link.protocol.until_received(len(sent))
    return sent


def expect_large(link: Link) -> Any:
    """What the transport does after large messages: two, since it may take the first one in pieces."""
    return one_by_one(link, [50_000, 50_000])


@each_kind
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
async def test_messages_come_whole_and_in_order(kind: str, sizes: Sequence[int]) -> None:
    async with linked(kind) as link:
        assert await one_by_one(link, sizes) == link.protocol.data


@each_kind
async def test_what_is_delivered_is_no_larger_than_its_bytes(kind: str) -> None:
    kept: list[bytes] = []

    def keep(_protocol: Recorder, data: bytes) -> None:
        kept.append(data)

    async with linked(kind, Recorder(data_received=keep)) as link:
        for sizes in SIZES.values():
            await one_by_one(link, sizes)
    assert [sys.getsizeof(data) for data in kept] == [sys.getsizeof(bytes(len(data))) for data in kept]
    assert b"".join(kept) == link.protocol.data  # nobody else writes into them
    assert all(hash(data) == hash(bytes(bytearray(data))) for data in kept)


@on_a_unix_socket
async def test_what_is_there_comes_in_one_call(kind: str) -> None:
    """However much less the message before it had."""
    lengths: list[int] = []

    def note(_protocol: Recorder, data: bytes) -> None:
        lengths.append(len(data))

    async with linked(kind, Recorder(data_received=note)) as link:
        for size in (26_000, 30_000, 90_000, 25_000, 90_000, 100):
            link.transport.pause_reading()
            await link.to_peer_end(bytes(size))
            link.transport.resume_reading()
            await link.protocol.until(lambda size=size: lengths and lengths[-1] == size)  # type: ignore[misc]
    assert lengths == [26_000, 30_000, 90_000, 25_000, 90_000, 100]


@each_kind
@pytest.mark.parametrize("size", [100, 50_000, 60_000])
async def test_the_end_right_behind(kind: str, size: int) -> None:
    async with linked(kind) as link:
        before = await expect_large(link)
        last = random.Random(1).randbytes(size)
        await link.to_peer_end(last)
        link.peer.close()
        assert await link.protocol.until_lost() is None
        assert link.protocol.data == before + last
        assert link.protocol.order[-2:] == ["eof_received", "connection_lost"]


@each_kind
async def test_the_end_alone(kind: str) -> None:
    async with linked(kind) as link:
        await expect_large(link)
        link.peer.shutdown(socket.SHUT_WR)
        await link.protocol.until_event("eof_received")
        assert await link.protocol.until_lost() is None


async def test_kept_open_behind_the_end() -> None:
    async with linked("tcp", Recorder(eof_received=lambda _protocol: True)) as link:
        await expect_large(link)
        link.peer.shutdown(socket.SHUT_WR)
        await link.protocol.until_event("eof_received")
        link.transport.write(b"answer")
        assert await link.from_peer(6) == b"answer"
        assert not link.transport.is_closing()


@pytest.mark.parametrize("kind", ["tcp", "accepted"])
async def test_a_reset(kind: str) -> None:
    async with linked(kind) as link:
        await expect_large(link)
        reset(link.peer)
        assert isinstance(await link.protocol.until_lost(), ConnectionResetError)


@each_kind
async def test_pausing_in_each_call(kind: str) -> None:
    def pause(protocol: Recorder, _data: bytes) -> None:
        protocol.transport.pause_reading()
        asyncio.get_running_loop().call_later(0.001, protocol.transport.resume_reading)

    async with linked(kind, Recorder(data_received=pause)) as link:
        assert await one_by_one(link, [*SIZES["growing"], *SIZES["alternating"]]) == link.protocol.data


@on_a_unix_socket
async def test_paused_bytes_stay_in_the_socket(kind: str) -> None:
    """A peer that goes on is stopped by the full buffers."""
    async with linked(kind) as link:
        await expect_large(link)
        link.transport.pause_reading()
        link.peer.setblocking(False)
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                sent += link.peer.send(bytes(50_000))
                await asyncio.sleep(0)
        events = len(link.protocol.events)
        await asyncio.sleep(0.01)
        assert len(link.protocol.events) == events
        link.transport.resume_reading()
        await link.protocol.until_received(100_000 + sent)


@each_kind
@pytest.mark.parametrize("other", [Recorder, BufferedRecorder])
async def test_another_protocol(kind: str, other: Any) -> None:
    """In data_received, and back again; what follows goes to the new one."""

    got = bytearray()

    def switch(protocol: Any, what: Any) -> None:
        nonlocal got
        got += what if isinstance(protocol, Recorder) else protocol.buffer[:what]
        link.transport.set_protocol(second if protocol is link.protocol else link.protocol)

    second = other(data_received=switch, buffer_updated=switch)
    async with linked(kind, Recorder(data_received=switch)) as link:
        sent = b""
        for size in (50_000, 50_000, 50_000, 100, 60_000, 60_000, 10):
            message = random.Random(size).randbytes(size)
            sent += message
            await link.to_peer_end(message)
            async with asyncio.timeout(LIMIT):
                while len(got) < len(sent):
                    await asyncio.sleep(0.001)
        link.transport.set_protocol(link.protocol)
        assert got == sent


@each_kind
async def test_closing_in_data_received(kind: str) -> None:
    def close(protocol: Recorder, _data: bytes) -> None:
        if len(protocol.data) >= 150_000:
            protocol.transport.close()

    async with linked(kind, Recorder(data_received=close)) as link:
        await expect_large(link)
        await link.to_peer_end(bytes(50_000))
        assert await link.protocol.until_lost() is None
        assert len(link.protocol.data) == 150_000


@each_kind
async def test_an_exception_in_data_received(kind: str) -> None:
    def fail(protocol: Recorder, _data: bytes) -> None:
        if len(protocol.data) >= 150_000:
            raise RuntimeError("of the user's")

    errors = collect_errors()
    async with linked(kind, Recorder(data_received=fail)) as link:
        await expect_large(link)
        await link.to_peer_end(bytes(50_000))
        assert isinstance(await link.protocol.until_lost(), RuntimeError)
    assert [type(context["exception"]) for context in errors] == [RuntimeError]


@pytest.mark.parametrize("exactly", [True, False])
async def test_a_reader(exactly: bool) -> None:
    """Sizes of which the reader has some left when more comes, and of which it has not."""
    sizes = [size for sizes in SIZES.values() for size in sizes]
    sent = [random.Random(size).randbytes(size) for size in sizes]
    ours, peer = socket.socketpair()
    with peer:
        reader, writer = await asyncio.open_connection(sock=ours)
        sending = asyncio.create_task(asyncio.to_thread(peer.sendall, b"".join(sent)))
        if exactly:
            assert [await reader.readexactly(len(message)) for message in sent] == sent
        else:
            got = b""
            while len(got) < sum(sizes):
                data = await reader.read(1 << 20)
                assert sys.getsizeof(data) == sys.getsizeof(bytes(len(data)))
                got += data
            assert got == b"".join(sent)
        await sending
        for message in sent:
            await asyncio.to_thread(peer.sendall, message)
            assert await reader.readexactly(len(message)) == message
        peer.shutdown(socket.SHUT_WR)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
