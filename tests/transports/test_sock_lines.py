"""Several ``loop.sock_*`` on one socket, and what becomes of a socket's number when it is closed."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .support import LIMIT, MIB, dead_address, listening, turns

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Our end, non-blocking, and a blocking peer."""
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        peer.settimeout(LIMIT)
        yield ours, peer


def running() -> Any:
    return asyncio.get_running_loop()


@pytest.mark.ours  # stock asyncio forgets the first of two receives
async def test_receives_are_served_in_the_order_of_the_calls(pair: Pair) -> None:
    ours, peer = pair
    tasks = [asyncio.create_task(running().sock_recv(ours, 1)) for _ in range(5)]
    await turns(2)
    for byte in b"abcde":
        peer.sendall(bytes([byte]))
        await turns(2)
    assert await asyncio.wait_for(asyncio.gather(*tasks), LIMIT) == [b"a", b"b", b"c", b"d", b"e"]


@pytest.mark.ours
@pytest.mark.parametrize("distance", range(5))
async def test_bytes_of_a_cancelled_receive_come_before_later_ones(pair: Pair, distance: int) -> None:
    ours, peer = pair
    first = asyncio.create_task(running().sock_recv(ours, 100))
    second = asyncio.create_task(running().sock_recv(ours, 100))
    await turns(2)
    peer.sendall(b"early")
    await turns(distance)
    first.cancel()
    await turns(1)
    peer.sendall(b"late")
    got = b"".join(
        one for one in await asyncio.gather(first, return_exceptions=True) if isinstance(one, bytes)
    )
    got += await asyncio.wait_for(second, LIMIT)
    while len(got) < len(b"earlylate"):
        got += await asyncio.wait_for(running().sock_recv(ours, 100), LIMIT)
    assert got == b"earlylate"


@pytest.mark.ours
async def test_one_of_several_waiting_receives_is_cancelled(pair: Pair) -> None:
    ours, peer = pair
    tasks = [asyncio.create_task(running().sock_recv(ours, 1)) for _ in range(4)]
    await turns(2)
    tasks[1].cancel()
    tasks[0].cancel()
    await turns(2)
    peer.sendall(b"xy")
    assert await asyncio.wait_for(asyncio.gather(tasks[2], tasks[3]), LIMIT) == [b"x", b"y"]
    assert tasks[0].cancelled()
    assert tasks[1].cancelled()


@pytest.mark.ours
async def test_two_tasks_that_receive_in_a_loop_take_turns(pair: Pair) -> None:
    ours, peer = pair
    got: list[tuple[str, bytes]] = []

    async def reader(name: str) -> None:
        while data := await running().sock_recv(ours, 1):
            got.append((name, data))

    tasks = [asyncio.create_task(reader(name)) for name in "ab"]
    await turns(2)
    peer.sendall(b"0123456789")
    peer.shutdown(socket.SHUT_WR)
    await asyncio.wait_for(asyncio.gather(*tasks), LIMIT)
    assert got == [("ab"[n % 2], b"%d" % n) for n in range(10)]


@pytest.mark.ours
async def test_two_tasks_that_accept_in_a_loop_take_turns() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        got: list[str] = []

        async def acceptor(name: str) -> None:
            while len(got) < 6:
                conn, _ = await running().sock_accept(listener)
                conn.close()
                got.append(name)

        tasks = [asyncio.create_task(acceptor(name)) for name in "ab"]
        await turns(2)
        for n in range(7):
            socket.create_connection(listener.getsockname()).close()
            while len(got) < min(n + 1, 6):
                await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*tasks), LIMIT)
        assert got[:6] == ["a", "b", "a", "b", "a", "b"]


@pytest.mark.ours
@pytest.mark.parametrize("distance", range(4))
async def test_a_task_that_is_cancelled_when_its_turn_has_come_lets_the_next_one_in(
    pair: Pair, distance: int
) -> None:
    ours, peer = pair
    tasks = [asyncio.create_task(running().sock_recv(ours, 1)) for _ in range(3)]
    await turns(2)
    peer.sendall(b"xyz")
    await tasks[0]
    await turns(distance)
    tasks[1].cancel()
    got = [one for one in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(one, bytes)]
    assert len(got) >= 2
    while len(got) < 3:
        got.append(await asyncio.wait_for(running().sock_recv(ours, 1), LIMIT))
    assert sorted(got) == [b"x", b"y", b"z"]


@pytest.mark.ours
async def test_a_waiting_receive_that_fails_at_its_turn_lets_the_next_one_in(pair: Pair) -> None:
    ours, peer = pair
    first = asyncio.create_task(running().sock_recv(ours, 1))
    bad = asyncio.create_task(running().sock_recv_into(ours, b"constant"))
    last = asyncio.create_task(running().sock_recv(ours, 1))
    await turns(2)
    peer.sendall(b"xy")
    assert await first == b"x"
    with pytest.raises(TypeError):
        await bad
    assert await asyncio.wait_for(last, LIMIT) == b"y"


@pytest.mark.ours  # stock asyncio mixes the bytes of two sends
async def test_sends_do_not_mix(pair: Pair) -> None:
    ours, peer = pair
    sends = [asyncio.create_task(running().sock_sendall(ours, bytes([letter]) * MIB)) for letter in b"abc"]
    got = bytearray()
    while len(got) < 3 * MIB:
        got += await asyncio.to_thread(peer.recv, MIB)
    await asyncio.wait_for(asyncio.gather(*sends), LIMIT)
    assert got == b"a" * MIB + b"b" * MIB + b"c" * MIB


async def test_a_receive_that_nobody_awaits_to_the_end(pair: Pair) -> None:
    """A coroutine that is closed while it waits takes its receive with it."""
    ours, peer = pair
    coroutine = running().sock_recv(ours, 10)
    coroutine.send(None)
    coroutine.close()
    await turns(2)
    peer.sendall(b"next")
    assert await asyncio.wait_for(running().sock_recv(ours, 10), LIMIT) == b"next"


async def test_a_negative_size_is_refused(pair: Pair) -> None:
    ours, peer = pair
    with pytest.raises(ValueError, match="negative"):
        await running().sock_recv(ours, -1)
    peer.sendall(b"x")
    assert await running().sock_recv(ours, 1) == b"x"


async def test_a_number_that_is_used_again() -> None:
    """A descriptor that was closed after a receive, and the next socket with its number."""
    number = -1
    for i in range(5):
        ours, peer = socket.socketpair()
        with ours, peer:
            assert number in (-1, ours.fileno())
            number = ours.fileno()
            ours.setblocking(False)
            task = asyncio.create_task(running().sock_recv(ours, 10))
            await turns(2)
            peer.sendall(b"%d" % i)
            assert await asyncio.wait_for(task, LIMIT) == b"%d" % i


@pytest.mark.ours  # on stock asyncio the first two wait for ever
async def test_a_socket_closed_under_its_receives_and_the_next_one_with_its_number() -> None:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    number = ours.fileno()
    old = [asyncio.create_task(running().sock_recv(ours, 10)) for _ in range(2)]
    await turns(2)
    ours.close()
    ours, other = socket.socketpair()
    with peer, ours, other:
        assert ours.fileno() == number
        ours.setblocking(False)
        new = [asyncio.create_task(running().sock_recv(ours, 1)) for _ in range(2)]
        await turns(2)
        other.sendall(b"xy")
        assert await asyncio.wait_for(asyncio.gather(*new), LIMIT) == [b"x", b"y"]
        for task in old:
            with pytest.raises(OSError):
                await asyncio.wait_for(task, LIMIT)


@pytest.mark.ours  # on stock asyncio the first one waits for ever
async def test_a_socket_closed_under_its_send_and_the_next_one_with_its_number() -> None:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    number = ours.fileno()
    old = [asyncio.create_task(running().sock_sendall(ours, bytes(MIB))) for _ in range(2)]
    await turns(2)
    ours.close()
    ours, other = socket.socketpair()
    with peer, ours, other:
        assert ours.fileno() == number
        ours.setblocking(False)
        await asyncio.wait_for(running().sock_sendall(ours, b"x"), LIMIT)
        assert other.recv(10) == b"x"
        for task in old:
            with pytest.raises(OSError):
                await asyncio.wait_for(task, LIMIT)


async def test_a_socket_closed_while_a_duplicate_is_open(pair: Pair) -> None:
    """What arrives there concerns nobody, and keeps the loop from nothing: it sleeps, and serves others."""
    ours, peer = pair
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        peer.sendall(b"1")
        assert await running().sock_recv(ours, 10) == b"1"
        other = asyncio.create_task(running().sock_recv(left, 10))
        await turns(2)
        duplicate = os.dup(ours.fileno())
        try:
            ours.close()
            peer.sendall(b"2")
            before = time.process_time()
            await asyncio.sleep(0.3)
            assert time.process_time() - before < 0.15  # it does not go round and round
            right.sendall(b"3")
            assert await asyncio.wait_for(other, LIMIT) == b"3"
            assert os.read(duplicate, 10) == b"2"
        finally:
            os.close(duplicate)


@pytest.mark.ours  # stock asyncio looks only where it has to wait
async def test_the_socket_of_a_transport_is_refused() -> None:
    left, right = socket.socketpair()
    with right:
        transport, _ = await running().create_connection(asyncio.Protocol, sock=left)
        for call in (running().sock_recv(left, 1), running().sock_sendall(left, b"x")):
            with pytest.raises(RuntimeError, match="is used by transport"):
                await call
        transport.close()
        await turns(2)


@pytest.mark.ours  # on stock asyncio it waits for ever, unless something else is asked of the selector
async def test_a_connect_beside_that_of_a_closed_socket_with_its_number() -> None:
    """The one that was closed will never end by itself, and keeps nobody waiting."""
    with dead_address() as dead, listening() as listener:
        given_up = socket.socket()
        given_up.setblocking(False)
        pending = asyncio.create_task(running().sock_connect(given_up, dead))
        await turns(3)
        number = given_up.fileno()
        given_up.close()
        with socket.socket() as sock:
            assert sock.fileno() == number
            sock.setblocking(False)
            await asyncio.wait_for(running().sock_connect(sock, listener.getsockname()), LIMIT)
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(LIMIT)
                await running().sock_sendall(sock, b"connected")
                assert accepted.recv(100) == b"connected"
            pending.cancel()
            await asyncio.gather(pending, return_exceptions=True)
