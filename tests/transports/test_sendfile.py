"""loop.sendfile on transports and loop.sock_sendfile on sockets, with sendfile(2) and with the fall-back."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from .certs import Certificates
from .support import BIG, LIMIT, MIB, Recorder, linked, read_exactly, reset, serving, turns

PATTERN = bytes(range(256)) * (BIG // 256)
KINDS = pytest.mark.parametrize("kind", ["tcp", "accepted", "unix"])


@pytest.fixture
def file(tmp_path: Path) -> Iterator[IO[bytes]]:
    path = tmp_path / "file"
    path.write_bytes(PATTERN)
    with path.open("rb") as opened:
        yield opened


def running() -> Any:
    return asyncio.get_running_loop()


@KINDS
async def test_the_whole_file(kind: str, file: IO[bytes]) -> None:
    async with linked(kind) as link:
        sending = asyncio.create_task(running().sendfile(link.transport, file, fallback=False))
        assert await link.from_peer(BIG) == PATTERN
        assert await asyncio.wait_for(sending, LIMIT) == BIG
        assert file.tell() == BIG


@pytest.mark.parametrize(
    ("offset", "count"), [(0, 1), (1000, 5000), (BIG - 10, 100), (BIG + 5, None), (MIB, 2 * MIB)]
)
async def test_a_part_of_it(offset: int, count: int | None, file: IO[bytes]) -> None:
    expected = PATTERN[offset:] if count is None else PATTERN[offset : offset + count]
    async with linked() as link:
        sending = asyncio.create_task(running().sendfile(link.transport, file, offset, count))
        assert await link.from_peer(len(expected)) == expected
        assert await asyncio.wait_for(sending, LIMIT) == len(expected)
        if expected:
            assert file.tell() == offset + len(expected)


async def test_it_keeps_its_place_among_writes(file: IO[bytes]) -> None:
    async with linked() as link:
        link.transport.write(b"before" * 100_000)
        sending = asyncio.create_task(running().sendfile(link.transport, file))
        await turns(2)
        with pytest.raises(RuntimeError, match="sendfile is in progress"):
            link.transport.write(b"between")
        assert await link.from_peer(600_000) == b"before" * 100_000
        assert await link.from_peer(BIG) == PATTERN
        await asyncio.wait_for(sending, LIMIT)
        link.transport.write(b"after")
        assert await link.from_peer(5) == b"after"


async def test_it_reads_on_meanwhile(file: IO[bytes]) -> None:
    async with linked() as link:
        sending = asyncio.create_task(running().sendfile(link.transport, file))
        await turns(3)
        await link.to_peer_end(b"hello")
        assert await link.from_peer(BIG) == PATTERN
        await asyncio.wait_for(sending, LIMIT)
        assert await link.protocol.until_received(5) == b"hello"


@pytest.mark.ours  # stock asyncio reports an InvalidStateError of its own besides
async def test_the_peer_goes_away(file: IO[bytes]) -> None:
    async with linked() as link:
        sending = asyncio.create_task(running().sendfile(link.transport, file))
        await link.from_peer(100_000)
        reset(link.peer)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(sending, LIMIT)
        link.transport.abort()
        await link.protocol.until_lost()


@pytest.mark.ours  # likewise
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_the_transport_is_closed_meanwhile(how: str, file: IO[bytes]) -> None:
    """It ends with an error, and nothing goes to whoever gets the number next."""
    async with linked() as link:
        sending = asyncio.create_task(running().sendfile(link.transport, file))
        await turns(3)
        getattr(link.transport, how)()
        await link.protocol.until_lost()
        left, right = socket.socketpair()
        with left, right:
            with pytest.raises((ConnectionError, OSError, RuntimeError)):
                await asyncio.wait_for(sending, LIMIT)
            right.setblocking(False)
            left.setblocking(False)
            for end in (left, right):
                with pytest.raises(BlockingIOError):
                    end.recv(1)


@pytest.mark.ours  # stock asyncio sends on after the cancellation
async def test_cancelled_half_way(file: IO[bytes]) -> None:
    """The position of the file tells how much went out, and the transport can be used again."""
    async with linked() as link:
        sending = asyncio.create_task(running().sendfile(link.transport, file))
        while file.tell() == 0 and not sending.done():
            await turns(3)
            sending.cancel()
            await turns(2)
        with pytest.raises(asyncio.CancelledError):
            await sending
        sent = os.lseek(file.fileno(), 0, os.SEEK_CUR)
        assert 0 < sent < BIG
        link.transport.write(b"then this")
        assert await link.from_peer(sent + 9) == PATTERN[:sent] + b"then this"


async def test_a_closing_transport_is_refused(file: IO[bytes]) -> None:
    async with linked() as link:
        link.transport.close()
        with pytest.raises(RuntimeError, match="closing"):
            await running().sendfile(link.transport, file)
        await link.protocol.until_lost()


@pytest.mark.ours  # stock asyncio: a KeyError
async def test_two_at_once_are_refused(file: IO[bytes]) -> None:
    async with linked() as link:
        first = asyncio.create_task(running().sendfile(link.transport, file))
        await turns(2)
        with pytest.raises(RuntimeError):
            await running().sendfile(link.transport, file, fallback=False)
        assert await link.from_peer(BIG) == PATTERN
        await asyncio.wait_for(first, LIMIT)


async def test_what_is_no_file(file: IO[bytes]) -> None:
    async with linked() as link:
        with pytest.raises((asyncio.SendfileNotAvailableError, RuntimeError)):
            await running().sendfile(link.transport, io.BytesIO(b"in memory"), fallback=False)
        assert await running().sendfile(link.transport, io.BytesIO(b"in memory")) == 9
        assert await link.from_peer(9) == b"in memory"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"count": 0}, ValueError),
        ({"count": -1}, ValueError),
        ({"count": 1.5}, TypeError),
        ({"offset": -1}, ValueError),
        ({"offset": 1.5}, TypeError),
    ],
    ids=str,
)
async def test_wrong_numbers_are_refused(
    options: dict[str, Any], error: type[Exception], file: IO[bytes]
) -> None:
    file.seek(123)
    async with linked() as link:
        with pytest.raises(error, match=r"must be a (positive|non-negative) integer \(got "):
            await running().sendfile(link.transport, file, **options)
        assert file.tell() == 123
        link.transport.write(b"fine")
        assert await link.from_peer(4) == b"fine"


def as_text(file: IO[bytes]) -> IO[str]:
    return Path(file.name).open()


async def test_a_file_of_text_is_refused(file: IO[bytes]) -> None:
    async with linked() as link:
        with as_text(file) as text, pytest.raises(ValueError, match="binary mode"):
            await running().sendfile(link.transport, text)


@pytest.mark.ours  # stock asyncio before 3.13.15 leaves it where it was
async def test_the_position_after_nothing_was_left_to_send(file: IO[bytes]) -> None:
    file.seek(123)
    async with linked() as link:
        assert await running().sendfile(link.transport, file, BIG, fallback=False) == 0
        assert file.tell() == BIG


async def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    async with linked() as link:
        with (tmp_path / "empty").open("rb") as file:
            assert await running().sendfile(link.transport, file) == 0


async def test_over_tls(certificates: Certificates, file: IO[bytes]) -> None:
    server_protocol = Recorder()
    async with serving(lambda: server_protocol, ssl=certificates.server()) as (_, address):
        client_protocol = Recorder()
        transport, _ = await running().create_connection(
            lambda: client_protocol, *address, ssl=certificates.client(), server_hostname="localhost"
        )
        if transport._sendfile_compatible.name == "FALLBACK":  # the kernel cannot encrypt
            with pytest.raises((asyncio.SendfileNotAvailableError, RuntimeError)):
                await running().sendfile(transport, file, fallback=False)
        file.seek(0)
        assert await running().sendfile(transport, file) == BIG
        assert await server_protocol.until_received(BIG) == PATTERN
        transport.close()
        await client_protocol.until_lost()
        await server_protocol.until_lost()


async def test_on_a_socket(file: IO[bytes]) -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        peer.settimeout(LIMIT)
        sending = asyncio.create_task(running().sock_sendfile(ours, file, 1000, 3 * MIB))
        assert await asyncio.to_thread(read_exactly, peer, 3 * MIB) == PATTERN[1000 : 1000 + 3 * MIB]
        assert await asyncio.wait_for(sending, LIMIT) == 3 * MIB
        assert file.tell() == 1000 + 3 * MIB


@pytest.mark.ours
async def test_on_a_socket_that_is_closed_meanwhile(file: IO[bytes]) -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        peer.settimeout(LIMIT)
        sending = asyncio.create_task(running().sock_sendfile(ours, file))
        await turns(3)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        ours.close()
        sent = file.tell()
        assert await asyncio.to_thread(read_exactly, peer, sent) == PATTERN[:sent]
        assert peer.recv(1) == b""


async def test_on_a_socket_what_is_no_file() -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await running().sock_sendfile(ours, io.BytesIO(b"in memory"), fallback=False)
        assert await running().sock_sendfile(ours, io.BytesIO(b"in memory")) == 9
        assert peer.recv(100) == b"in memory"


@pytest.mark.parametrize(("offset", "count"), [(0, None), (1000, 3 * MIB), (BIG - 10, 100)])
async def test_large_ones_by_the_fall_back(offset: int, count: int | None) -> None:
    expected = PATTERN[offset:] if count is None else PATTERN[offset : offset + count]
    file = io.BytesIO(PATTERN)
    async with linked() as link:
        sending = asyncio.create_task(running().sendfile(link.transport, file, offset, count))
        assert await link.from_peer(len(expected)) == expected
        assert await asyncio.wait_for(sending, LIMIT) == len(expected)
        assert file.tell() == offset + len(expected)
    file.seek(0)
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        peer.settimeout(LIMIT)
        sending = asyncio.create_task(running().sock_sendfile(ours, file, offset, count))
        assert await asyncio.to_thread(read_exactly, peer, len(expected)) == expected
        assert await asyncio.wait_for(sending, LIMIT) == len(expected)
        assert file.tell() == offset + len(expected)


@pytest.mark.ours  # stock asyncio sends nothing, up to some release of 3.13
async def test_the_fall_back_begins_at_the_offset_wherever_the_file_is() -> None:
    file = io.BytesIO(b"in memory")
    file.seek(9)
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        assert await running().sock_sendfile(ours, file) == 9
        assert peer.recv(100) == b"in memory"


@pytest.mark.ours  # stock asyncio tells neither
async def test_the_fall_back_tells_of_a_full_transport_afterwards() -> None:
    async with linked() as link:
        calls: list[str] = []
        for name in ("pause_writing", "resume_writing"):
            setattr(link.protocol, name, lambda name=name: calls.append(name))
        link.transport.set_write_buffer_limits(1)
        size = await running().sendfile(link.transport, io.BytesIO(PATTERN[: 1 << 18]))
        while link.transport.get_write_buffer_size() == 0:
            size += await running().sendfile(link.transport, io.BytesIO(PATTERN[: 1 << 18]))
        assert calls == ["pause_writing"]
        await link.from_peer(size)
        await turns(3)
        assert calls == ["pause_writing", "resume_writing"]
        link.transport.pause_reading()
        assert await running().sendfile(link.transport, io.BytesIO(b"more")) == 4
        assert not link.transport.is_reading()


@pytest.mark.ours  # stock asyncio reports an InvalidStateError of its own besides
async def test_the_peer_of_the_fall_back_goes_away() -> None:
    async with linked() as link:
        sending = asyncio.create_task(running().sendfile(link.transport, io.BytesIO(PATTERN)))
        await link.from_peer(100_000)
        reset(link.peer)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(sending, LIMIT)
        await link.protocol.until_lost()


@pytest.mark.ours  # on stock asyncio the read that was cancelled moves the position afterwards
async def test_the_fall_back_cancelled_while_it_reads() -> None:
    begun, may_read, has_read = threading.Event(), threading.Event(), threading.Event()

    class Slow(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            if self.tell():
                begun.set()
                assert may_read.wait(LIMIT)
            return super().readinto(buffer)

        def seek(self, *args: int) -> int:
            if may_read.is_set():
                has_read.set()
            return super().seek(*args)

    file = Slow(PATTERN)
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        peer.settimeout(LIMIT)
        sending = asyncio.create_task(running().sock_sendfile(ours, file))
        received = await asyncio.to_thread(peer.recv, 1 << 20)
        await asyncio.to_thread(begun.wait, LIMIT)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        sent = file.tell()
        may_read.set()
        assert await asyncio.to_thread(has_read.wait, LIMIT)
        ours.close()
        while more := await asyncio.to_thread(peer.recv, 1 << 20):
            received += more
    assert received == PATTERN[:sent]
    assert file.tell() == sent


@pytest.mark.ours
async def test_a_gibibyte_takes_no_memory(tmp_path: Path) -> None:
    """A hole of 1 GiB with a word at its end, so that nothing has to be read from a disk."""

    def drain(peer: socket.socket) -> tuple[int, bytes]:
        count, buffer = 0, bytearray(MIB)
        last = b""
        while size := peer.recv_into(buffer):
            count += size
            last = (last + bytes(buffer[max(0, size - 4) : size]))[-4:]
        return count, last

    path = tmp_path / "large"
    with path.open("wb") as out:
        out.truncate((1 << 30) - 4)
        out.seek(0, os.SEEK_END)
        out.write(b"last")
    async with linked() as link:
        drained = asyncio.create_task(asyncio.to_thread(drain, link.peer))
        before = _resident()
        with path.open("rb") as file:
            assert await running().sendfile(link.transport, file, fallback=False) == 1 << 30
        assert _resident() - before < 32 * MIB
        link.transport.close()
        assert await drained == (1 << 30, b"last")


def _resident() -> int:
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


@pytest.mark.ours  # asyncio's own coroutine fails when it is collected
def test_the_loop_is_closed_meanwhile(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], file: IO[bytes]
) -> None:
    """Nobody runs what waits for room any more; that is no error of the loop's."""
    loop = loop_factory()
    errors: list[Any] = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    left, right = socket.socketpair()

    async def begin() -> list[Any]:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=left)
        sending: Any = loop.create_task(loop.sendfile(transport, file))
        while not await loop.sock_recv(right, 1):
            pass
        await turns(5)
        sending._log_destroy_pending = False
        return [transport, sending]

    right.setblocking(False)
    kept = loop.run_until_complete(begin())
    assert not kept[1].done()
    loop.close()
    with right, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the transport is not closed
        kept.clear()
        gc.collect()
    assert not errors
