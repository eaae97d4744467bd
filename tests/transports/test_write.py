"""write and writelines: what reaches the peer, and when a mistake is told."""

from __future__ import annotations

import array
import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from .support import BIG, LIMIT, MIB, Recorder, collect_errors, linked, listening, turns

each_kind = pytest.mark.parametrize("kind", ["tcp", "accepted", "unix"])
SOURCE = bytes(range(256)) * 16

SAME: list[Callable[[bytes], Any]] = [bytes, bytearray, memoryview, lambda data: memoryview(bytearray(data))]
SAME_IDS = ["bytes", "bytearray", "memoryview", "writable-memoryview"]


@each_kind
@pytest.mark.parametrize("convert", SAME, ids=SAME_IDS)
async def test_every_kind_of_buffer_arrives(kind: str, convert: Any) -> None:
    async with linked(kind) as link:
        link.transport.write(convert(SOURCE))
        assert await link.from_peer(len(SOURCE)) == SOURCE


@pytest.mark.parametrize("convert", SAME, ids=SAME_IDS)
async def test_every_kind_of_buffer_arrives_late(convert: Any) -> None:
    """The peer reads only after the socket is full."""
    data = random.Random(1).randbytes(2 * MIB)
    async with linked("tcp") as link:
        link.transport.write(convert(data))
        link.transport.write(convert(SOURCE))
        assert link.transport.get_write_buffer_size() > 0
        assert await link.from_peer(len(data) + len(SOURCE)) == data + SOURCE


async def test_a_slice_of_a_memoryview() -> None:
    async with linked("tcp") as link:
        link.transport.write(memoryview(SOURCE)[100:300])
        assert await link.from_peer(200) == SOURCE[100:300]


@each_kind
async def test_a_memoryview_of_wider_items(kind: str) -> None:
    numbers = array.array("I", range(500))
    async with linked(kind) as link:
        link.transport.write(memoryview(numbers))
        link.transport.write(memoryview(bytes(64)).cast("B", (8, 8)))
        assert await link.from_peer(2064) == numbers.tobytes() + bytes(64)


@pytest.mark.ours  # stock asyncio counts the rest of it in items, not in bytes
async def test_a_large_memoryview_of_wider_items() -> None:
    numbers = array.array("Q", range(400_000))
    async with linked("tcp") as link:
        link.transport.write(memoryview(numbers))
        link.transport.write(b"end")
        whole = numbers.tobytes() + b"end"
        assert 0 < link.transport.get_write_buffer_size() <= len(whole)
        assert await link.from_peer(len(whole)) == whole


@pytest.mark.ours  # stock asyncio drops the connection
async def test_a_memoryview_with_gaps() -> None:
    """Sent as the bytes it shows, or refused where it is written; the connection lives on."""
    view = memoryview(SOURCE)[::2]
    async with linked("tcp") as link:
        try:
            link.transport.write(view)
        except (BufferError, TypeError, ValueError):
            expected = b"after"
        else:
            expected = SOURCE[::2] + b"after"
        link.transport.write(b"after")
        assert await link.from_peer(len(expected)) == expected


@each_kind
async def test_a_small_mutable_buffer_may_change_once_written(kind: str) -> None:
    async with linked(kind) as link:
        buffer = bytearray(b"first")
        link.transport.write(buffer)
        buffer[:] = b"other and longer"
        link.transport.write(buffer)
        buffer.clear()
        assert await link.from_peer(21) == b"first" + b"other and longer"


@pytest.mark.ours  # stock asyncio sends what the buffer holds later (3.12 and newer)
@each_kind
@pytest.mark.parametrize("size", [100, 70_000, BIG])
async def test_a_mutable_buffer_may_change_while_the_peer_is_stalled(kind: str, size: int) -> None:
    async with linked(kind) as link:
        link.transport.write(b"-" * BIG)
        buffer = bytearray(b"a" * size)
        link.transport.write(buffer)
        buffer[:] = b"b" * size
        link.transport.write(memoryview(buffer))
        buffer[:] = b"c" * size
        link.transport.writelines([buffer, memoryview(buffer)])
        buffer[:] = b"d" * size
        buffer.clear()  # and it is not held: its size may change too
        got = await link.from_peer(BIG + 4 * size)
        assert got[BIG:] == b"a" * size + b"b" * size + b"c" * 2 * size


@each_kind
async def test_small_writes_in_one_callback_keep_their_order(kind: str) -> None:
    def many(protocol: Recorder, _data: bytes) -> None:
        for i in range(3000):
            protocol.transport.write(b"%06d" % i)

    async with linked(kind, Recorder(data_received=many)) as link:
        link.peer.sendall(b"?")
        assert await link.from_peer(18_000) == b"".join(b"%06d" % i for i in range(3000))


async def test_small_and_large_writes_keep_their_order() -> None:
    rng = random.Random(4)
    parts = [rng.randbytes(rng.choice((1, 10, 1000, 66_000, 300_000))) for _ in range(60)]
    async with linked("tcp") as link:
        for part in parts:
            link.transport.write(part)
        got = await link.from_peer(sum(map(len, parts)))
        assert hashlib.sha256(got).digest() == hashlib.sha256(b"".join(parts)).digest()


async def test_writes_of_different_turns_keep_their_order() -> None:
    async with linked("tcp") as link:
        for i in range(300):
            link.transport.write(b"%04d" % i)
            if i % 7 == 0:
                await asyncio.sleep(0)
        assert await link.from_peer(1200) == b"".join(b"%04d" % i for i in range(300))


async def test_a_write_goes_out_without_another_event() -> None:
    """What is written just before the program waits for something else is not kept back."""
    async with linked("tcp") as link:
        link.transport.write(b"now")
        assert await link.from_peer(3) == b"now"


@each_kind
@pytest.mark.parametrize("make", [list, tuple], ids=["list", "tuple"])
async def test_writelines_joins(kind: str, make: Any) -> None:
    parts = [b"one", bytearray(b"two"), memoryview(b"three"), b"", b"four"]
    async with linked(kind) as link:
        link.transport.writelines(make(parts))
        assert await link.from_peer(15) == b"onetwothreefour"


async def test_writelines_of_many_parts() -> None:
    """More parts than one system call takes, and more than the peer takes at once."""
    parts = [b"%07d" % i * 20 for i in range(10_000)]
    async with linked("tcp") as link:
        link.transport.writelines(parts)
        assert await link.from_peer(1_400_000) == b"".join(parts)


async def test_writelines_after_a_stalled_write_keeps_the_order() -> None:
    async with linked("tcp") as link:
        link.transport.write(b"w" * BIG)
        link.transport.writelines([b"l" * 1000, b"m" * 1000])
        link.transport.write(b"n" * 1000)
        got = await link.from_peer(BIG + 3000)
        assert got == b"w" * BIG + b"l" * 1000 + b"m" * 1000 + b"n" * 1000


@pytest.mark.ours  # stock asyncio: forgotten before 3.13.1
async def test_writelines_pauses_the_protocol_as_write_does() -> None:
    async with linked("tcp") as link:
        link.transport.writelines([b"x" * MIB] * 4)
        assert link.protocol.events == ["connection_made", "pause_writing"]
        await link.from_peer(4 * MIB)
        await link.protocol.until_event("resume_writing")


@pytest.mark.parametrize(
    "empty", [b"", bytearray(), memoryview(b"")], ids=["bytes", "bytearray", "memoryview"]
)
async def test_writing_nothing(empty: Any) -> None:
    async with linked("tcp") as link:
        link.transport.write(empty)
        link.transport.writelines([])
        assert link.transport.get_write_buffer_size() == 0
        link.transport.write(b"something")
        assert await link.from_peer(9) == b"something"


@each_kind
@pytest.mark.parametrize(
    "wrong", ["text", 3, None, [b"list"], 1.5, object()], ids=lambda value: type(value).__name__
)
async def test_what_is_not_bytes_is_refused_and_harms_nothing(kind: str, wrong: Any) -> None:
    async with linked(kind) as link:
        with pytest.raises(TypeError):
            link.transport.write(wrong)
        link.transport.write(b"fine")
        assert await link.from_peer(4) == b"fine"


async def test_writelines_of_text_is_refused() -> None:
    async with linked("tcp") as link:
        with pytest.raises(TypeError):
            link.transport.writelines(["text"])
        link.transport.write(b"fine")
        assert await link.from_peer(4) == b"fine"


def raising_after(*parts: bytes) -> Iterator[bytes]:
    yield from parts
    raise LookupError


@each_kind
@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: [b"sent?", "text"], TypeError),
        (lambda: raising_after(b"sent?"), LookupError),
        (lambda: 5, TypeError),
    ],
    ids=["text", "raises", "number"],
)
async def test_writelines_sends_all_or_nothing(
    kind: str, make: Callable[[], Any], error: type[Exception]
) -> None:
    async with linked(kind) as link:
        with pytest.raises(error):
            link.transport.writelines(make())
        link.transport.writelines([array.array("B", b"an array, "), b"fine"])
        assert await link.from_peer(14) == b"an array, fine"


async def test_writelines_after_write_eof_is_refused() -> None:
    async with linked("tcp") as link:
        link.transport.write_eof()
        with pytest.raises(RuntimeError, match=r"^Cannot call write(lines)?\(\) after write_eof\(\)$"):
            link.transport.writelines([])


async def test_writing_after_the_end_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    """At most a warning: a protocol may not know yet that its peer is gone."""
    errors = collect_errors()
    async with linked("tcp") as link:
        link.transport.abort()
        await link.protocol.until_lost()
        with caplog.at_level(logging.WARNING):
            for _ in range(20):
                link.transport.write(b"too late")
        await turns()
        assert link.protocol.events == ["connection_made", "connection_lost"]
    assert errors == []
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}


@pytest.mark.ours  # stock asyncio: writelines after close is a TypeError or an assertion in some versions
async def test_writelines_after_the_end_never_raises() -> None:
    async with linked("tcp") as link:
        link.transport.close()
        link.transport.writelines([b"too", b"late"])
        await link.protocol.until_lost()
        link.transport.writelines([b"too", b"late"])


async def test_writing_before_connection_made_has_returned() -> None:
    async with linked("tcp", Recorder(connection_made=lambda p: p.transport.write(b"welcome"))) as link:
        assert await link.from_peer(7) == b"welcome"


async def test_write_can_be_replaced_on_one_transport() -> None:
    async with linked("tcp") as link:
        with mock.patch.object(link.transport, "write") as write:
            link.transport.write(b"caught")
        write.assert_called_once_with(b"caught")
        link.transport.write(b"real")
        assert await link.from_peer(4) == b"real"


async def test_a_stream_of_requests_and_answers() -> None:
    """Many turns of a conversation: each answer belongs to its request."""

    def answer(protocol: Recorder, data: bytes) -> None:
        protocol.transport.write(data[::-1])

    def talk(peer: Any) -> None:
        for i in range(500):
            message = b"%05d" % i
            peer.sendall(message)
            assert peer.recv(5) == message[::-1]

    async with linked("accepted", Recorder(data_received=answer)) as link:
        await asyncio.wait_for(asyncio.to_thread(talk, link.peer), LIMIT)


@pytest.mark.parametrize("size", [5, BIG])
def test_what_is_written_in_the_last_turn_goes_out(loop: asyncio.AbstractEventLoop, size: int) -> None:
    """As much of it as the socket takes: the loop stops right after the write, and turns no more for now."""

    async def write() -> Any:
        transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        peer, _ = listener.accept()
        transport.write(b"w" * size)
        return transport, protocol, peer

    with listening() as listener:
        transport, protocol, peer = loop.run_until_complete(write())
        with peer:
            peer.settimeout(LIMIT)
            assert peer.recv(5) == b"wwwww"
            transport.abort()
            loop.run_until_complete(protocol.until_lost())


@pytest.mark.parametrize("step", ["write_eof", "close"])
def test_what_ends_in_the_last_turn_goes_out(loop: asyncio.AbstractEventLoop, step: str) -> None:
    async def write() -> Any:
        transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        peer, _ = listener.accept()
        transport.write(b"bye")
        getattr(transport, step)()
        return transport, protocol, peer

    with listening() as listener:
        transport, protocol, peer = loop.run_until_complete(write())
        with peer:
            peer.settimeout(LIMIT)
            assert peer.recv(10) == b"bye"
            transport.abort()
            loop.run_until_complete(protocol.until_lost())
            assert peer.recv(10) == b""


@each_kind
async def test_seventy_thousand_writes_after_the_end(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """No counter wraps: the connection stays dead, and its protocol hears nothing more."""
    async with linked(kind) as link:
        link.transport.abort()
        await link.protocol.until_lost()
        told = list(link.protocol.events)
        with caplog.at_level(logging.ERROR, "asyncio"):  # each but a few is a warning
            for _ in range(70_000):
                link.transport.write(b"x")
        await turns(5)
        assert link.protocol.events == told
        assert link.transport.get_write_buffer_size() == 0
        assert await link.rest_of_peer() == b""
