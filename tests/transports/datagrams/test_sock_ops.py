"""loop.sock_recvfrom, sock_recvfrom_into and sock_sendto on the caller's own sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .support import (
    LARGEST,
    endpoint,
    has_ipv6,
    linux_only,
    peer,
    running,
    socket_directory,
    take,
    turns,
    unix_peer,
    unused_port,
)
from .test_endpoints import link_local

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Our socket, non-blocking, and a blocking one."""
    with peer() as ours, peer() as other:
        ours.setblocking(False)
        yield ours, other


async def receive(sock: socket.socket, size: int, into: bool) -> tuple[bytes, Any]:
    if not into:
        data, address = await running().sock_recvfrom(sock, size)
        assert type(data) is bytes
        return data, address
    buffer = bytearray(size)
    count, address = await running().sock_recvfrom_into(sock, buffer)
    return bytes(buffer[:count]), address


EACH_FORM = pytest.mark.parametrize("into", [False, True], ids=["new", "into"])


@EACH_FORM
async def test_what_is_there(pair: Pair, into: bool) -> None:
    ours, other = pair
    for data in (b"one", b"", b"three"):
        other.sendto(data, ours.getsockname())
    for data in (b"one", b"", b"three"):
        assert await receive(ours, 100, into) == (data, other.getsockname())


@EACH_FORM
async def test_what_comes(pair: Pair, into: bool) -> None:
    ours, other = pair
    for data in (b"one", b"", b"three"):
        task = asyncio.create_task(receive(ours, 100, into))
        await turns()
        assert not task.done()
        other.sendto(data, ours.getsockname())
        assert await task == (data, other.getsockname())


@EACH_FORM
@pytest.mark.parametrize("size", [LARGEST, 300_000])
async def test_the_largest(pair: Pair, into: bool, size: int) -> None:
    ours, other = pair
    other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 300_000)
    data = (bytes(range(251)) * 262)[:LARGEST]
    task = asyncio.create_task(receive(ours, size, into))
    await turns()
    other.sendto(data, ours.getsockname())
    assert await task == (data, other.getsockname())
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 300_000)
    assert await running().sock_sendto(ours, bytearray(data), other.getsockname()) == LARGEST
    assert await asyncio.to_thread(other.recv, 70_000) == data


@EACH_FORM
async def test_the_rest_of_a_datagram_is_gone(pair: Pair, into: bool) -> None:
    ours, other = pair
    task = asyncio.create_task(receive(ours, 3, into))
    await turns()
    other.sendto(b"hello", ours.getsockname())
    other.sendto(b"next", ours.getsockname())
    assert (await task)[0] == b"hel"
    assert (await receive(ours, 3, into))[0] == b"nex"


async def test_into_a_part_of_a_buffer(pair: Pair) -> None:
    ours, other = pair
    buffer = bytearray(b"........")
    for waits in (False, True):
        if not waits:
            other.sendto(b"abcdef", ours.getsockname())
        task = asyncio.create_task(running().sock_recvfrom_into(ours, memoryview(buffer)[2:6], 3))
        if waits:
            await turns()
            other.sendto(b"uvwxyz", ours.getsockname())
        assert await task == (3, other.getsockname())
        assert buffer == (b"..uvw..." if waits else b"..abc...")


async def test_arguments_that_are_refused(pair: Pair) -> None:
    ours, _ = pair
    with pytest.raises(ValueError):
        await running().sock_recvfrom(ours, -1)
    with pytest.raises(ValueError):
        await running().sock_recvfrom_into(ours, bytearray(3), 4)
    with pytest.raises(TypeError):
        await running().sock_recvfrom_into(ours, b"constant", 4)
    with pytest.raises(TypeError):
        await running().sock_sendto(ours, "text", ("127.0.0.1", 9))
    with pytest.raises(TypeError):
        await running().sock_sendto(ours, b"x", "127.0.0.1")
    with ssl.create_default_context().wrap_socket(socket.socket(), server_hostname="x") as tls:
        for call in (
            running().sock_recvfrom(tls, 1),
            running().sock_recvfrom_into(tls, bytearray(1)),
            running().sock_sendto(tls, b"x", ("127.0.0.1", 9)),
        ):
            with pytest.raises(TypeError):
                await call


async def test_debug_mode_wants_non_blocking_sockets(pair: Pair) -> None:
    _, blocking = pair
    running().set_debug(True)
    try:
        for call in (
            running().sock_recvfrom(blocking, 1),
            running().sock_recvfrom_into(blocking, bytearray(1)),
            running().sock_sendto(blocking, b"x", ("127.0.0.1", 9)),
        ):
            with pytest.raises(ValueError):
                await call
    finally:
        running().set_debug(False)


async def test_a_closed_socket(pair: Pair) -> None:
    ours, other = pair
    ours.close()
    for call in (
        running().sock_recvfrom(ours, 1),
        running().sock_recvfrom_into(ours, bytearray(1)),
        running().sock_sendto(ours, b"x", other.getsockname()),
    ):
        with pytest.raises((OSError, ValueError)):
            await call


async def test_send(pair: Pair) -> None:
    ours, other = pair
    for data in (b"one", bytearray(b""), memoryview(b"three")):
        assert await running().sock_sendto(ours, data, other.getsockname()) == len(data)
        assert other.recvfrom(100) == (bytes(data), ours.getsockname())
    assert await running().sock_sendto(ours, b"by name", ("localhost", other.getsockname()[1])) == 7
    assert other.recv(100) == b"by name"


async def test_send_fails(pair: Pair) -> None:
    ours, other = pair
    with pytest.raises(OSError):
        await running().sock_sendto(ours, bytes(LARGEST + 1), other.getsockname())
    with pytest.raises(OSError):
        await running().sock_sendto(ours, b"x", ("does.not.exist.invalid", 9))


@pytest.mark.skipif(not linux_only, reason="Linux tells of ICMP errors on connected sockets at once")
@EACH_FORM
async def test_nobody_listens(pair: Pair, into: bool) -> None:
    ours, _ = pair
    ours.connect(("127.0.0.1", unused_port()))
    task = asyncio.create_task(receive(ours, 100, into))
    await turns()
    ours.send(b"anybody?")
    with pytest.raises(ConnectionRefusedError):
        await task


@pytest.mark.skipif(not has_ipv6, reason="no IPv6 here")
@EACH_FORM
async def test_ipv6(into: bool) -> None:
    hosts = [("::1", 0)] + (link_local()[:1] if linux_only else [])
    for number, scope in hosts:
        host = number if ":" in number else socket.inet_ntop(socket.AF_INET6, bytes.fromhex(number))
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as ours, peer("::1") as other:
            try:
                ours.bind((host, 0, 0, scope))
                other = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) if scope else other
                if scope:
                    other.bind((host, 0, 0, scope))
            except OSError:
                other.close()
                continue
            with other:
                ours.setblocking(False)
                task = asyncio.create_task(receive(ours, 100, into))
                await turns()
                other.sendto(b"six", ours.getsockname())
                assert await task == (b"six", other.getsockname())
                assert await running().sock_sendto(ours, b"back", other.getsockname()) == 4
                other.settimeout(5)
                assert other.recv(100) == b"back"


@EACH_FORM
async def test_unix(into: bool) -> None:
    with (
        socket_directory() as directory,
        unix_peer(f"{directory}/s") as ours,
        unix_peer(f"{directory}/c") as other,
    ):
        ours.setblocking(False)
        task = asyncio.create_task(receive(ours, 100, into))
        await turns()
        other.sendto(b"x", f"{directory}/s")
        assert await task == (b"x", f"{directory}/c")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
            task = asyncio.create_task(receive(ours, 100, into))
            await turns()
            nameless.sendto(b"y", f"{directory}/s")
            assert await task == (b"y", None)


@pytest.mark.ours  # stock asyncio forgets the first of two sends
async def test_a_send_that_has_to_wait() -> None:
    """The receiver's queue is full: it goes out when there is room, and in order."""
    with socket_directory() as directory, unix_peer(f"{directory}/s") as other:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.setblocking(False)
            ours.connect(f"{directory}/s")
            count = 0
            try:
                while count < 10_000:
                    ours.sendto(b"%d" % count, f"{directory}/s")
                    count += 1
            except BlockingIOError:
                pass
            task = asyncio.create_task(running().sock_sendto(ours, b"last", f"{directory}/s"))
            await turns()
            assert not task.done()
            cancelled = asyncio.create_task(running().sock_sendto(ours, b"never", f"{directory}/s"))
            await turns()
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert [other.recv(100) for _ in range(count)] == [b"%d" % n for n in range(count)]
            assert await task == 4
            assert other.recv(100) == b"last"
            other.setblocking(False)
            with pytest.raises(BlockingIOError):
                other.recv(100)


@pytest.mark.ours  # stock asyncio spins
async def test_a_receiver_that_is_full_costs_no_time() -> None:
    """A socket that is not connected is said to be writable all the time."""
    with socket_directory() as directory, unix_peer(f"{directory}/s") as other:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
            ours.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    ours.sendto(b"x", f"{directory}/s")
            task = asyncio.create_task(running().sock_sendto(ours, b"last", f"{directory}/s"))
            started, used = time.monotonic(), time.process_time()
            await asyncio.sleep(0.3)
            assert time.process_time() - used < (time.monotonic() - started) / 2
            while (data := await take(other)) != b"last":
                assert data == b"x"
            assert await task == 4


@pytest.mark.ours  # stock asyncio loses what it had received when the task was cancelled
@EACH_FORM
async def test_a_cancelled_receive_loses_no_datagram(pair: Pair, into: bool) -> None:
    """Whenever it is cancelled: before, while, and after the datagram comes."""
    ours, other = pair
    for count in range(12):
        task = asyncio.create_task(receive(ours, 100, into))
        for _ in range(count % 4):
            await asyncio.sleep(0)
        if count % 3 == 1:
            other.sendto(b"%d" % count, ours.getsockname())
        for _ in range(count // 4):
            await asyncio.sleep(0)
        task.cancel()
        if count % 3 != 1:
            other.sendto(b"%d" % count, ours.getsockname())
        try:
            data, _ = await task
        except asyncio.CancelledError:
            async with asyncio.timeout(5):
                data, _ = await receive(ours, 100, into)
        assert data == b"%d" % count


@pytest.mark.ours  # stock asyncio forgets the first of two receives
@EACH_FORM
async def test_receives_wait_in_line(pair: Pair, into: bool) -> None:
    ours, other = pair
    tasks = [asyncio.create_task(receive(ours, 100, into)) for _ in range(6)]
    await turns()
    for n in (0, 3):
        tasks[n].cancel()
        await turns()
    for n in range(4):
        other.sendto(b"%d" % n, ours.getsockname())
    left = [task for n, task in enumerate(tasks) if n not in (0, 3)]
    assert [data for data, _ in await asyncio.gather(*left)] == [b"0", b"1", b"2", b"3"]
    await asyncio.gather(*tasks, return_exceptions=True)
    other.sendto(b"and on", ours.getsockname())
    assert (await receive(ours, 100, into))[0] == b"and on"


@pytest.mark.ours
async def test_two_tasks_that_receive_in_a_loop_take_turns(pair: Pair) -> None:
    ours, other = pair
    got: list[tuple[bool, bytes]] = []

    async def reader(into: bool) -> None:
        while (one := await receive(ours, 100, into))[0] != b"end":
            got.append((into, one[0]))

    tasks = [asyncio.create_task(reader(into)) for into in (False, True)]
    await turns()
    for n in range(10):
        other.sendto(b"%d" % n, ours.getsockname())
        while len(got) <= n:
            await asyncio.sleep(0)
    for _ in tasks:
        other.sendto(b"end", ours.getsockname())
    await asyncio.gather(*tasks)
    assert got == [(bool(n % 2), b"%d" % n) for n in range(10)]


@pytest.mark.ours  # stock asyncio loses what a cancelled receive has brought
async def test_a_datagram_of_a_cancelled_receive_stays_a_datagram(pair: Pair) -> None:
    """Whatever receives it then; also an empty one, and what does not fit is gone."""
    ours, other = pair
    ours.connect(other.getsockname())

    async def cancelled(data: bytes) -> None:
        receive = running().sock_recv(ours, 100)
        future = receive.send(None)
        other.sendto(data, ours.getsockname())
        while not future.done():
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            receive.throw(asyncio.CancelledError())

    await cancelled(b"hello")
    assert await running().sock_recv(ours, 3) == b"hel"
    await cancelled(b"")
    other.sendto(b"next", ours.getsockname())
    assert await running().sock_recv_into(ours, bytearray(10)) == 0
    assert (await running().sock_recvfrom(ours, 100))[0] == b"next"
    await cancelled(b"last")
    assert (await running().sock_recvfrom(ours, 100))[0] == b"last"


@pytest.mark.ours  # stock asyncio looks only where it has to wait
async def test_the_socket_of_a_transport_is_refused(pair: Pair) -> None:
    ours, other = pair
    async with endpoint(sock=ours):
        for call in (
            running().sock_recvfrom(ours, 1),
            running().sock_recvfrom_into(ours, bytearray(1)),
            running().sock_sendto(ours, b"x", other.getsockname()),
        ):
            with pytest.raises(RuntimeError, match="is used by transport"):
                await call


@EACH_FORM
async def test_an_echo_server_of_two_lines(pair: Pair, into: bool) -> None:
    ours, other = pair

    async def serve() -> None:
        while True:
            data, address = await receive(ours, 2000, into)
            await running().sock_sendto(ours, data, address)

    task = asyncio.create_task(serve())
    for n in range(50):
        other.sendto(bytes([n]) * n * 20, ours.getsockname())
        assert await asyncio.to_thread(other.recv, 2000) == bytes([n]) * n * 20
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_closing_the_loop_while_receives_wait(loop: asyncio.AbstractEventLoop) -> None:
    with peer() as ours:
        ours.setblocking(False)

        async def main() -> list[asyncio.Task[Any]]:
            tasks = [asyncio.create_task(receive(ours, 100, bool(n % 2))) for n in range(4)]
            await turns()
            return tasks

        tasks = loop.run_until_complete(main())
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.close()
        assert all(task.cancelled() for task in tasks)


def test_closing_the_loop_without_waiting_for_them(loop: asyncio.AbstractEventLoop) -> None:
    with peer() as ours, peer() as other:
        ours.setblocking(False)

        async def main() -> asyncio.Task[Any]:
            task = asyncio.create_task(receive(ours, 100, True))
            await turns()
            task.cancel()
            return task

        task = loop.run_until_complete(main())
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
        other.sendto(b"x", ours.getsockname())
        assert ours.recv(10) == b"x"
