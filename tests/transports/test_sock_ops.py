"""loop.sock_connect, sock_accept, sock_recv, sock_recv_into, sock_sendall on the caller's own sockets."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from .support import (
    BIG,
    LIMIT,
    MIB,
    dead_address,
    linux_only,
    listening,
    read_exactly,
    reset,
    turns,
    unused_port,
)


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end, non-blocking, and a blocking peer."""
    if request.param == "unix":
        ours, peer = socket.socketpair()
    else:
        with listening() as listener:
            ours = socket.create_connection(listener.getsockname())
            peer, _ = listener.accept()
    with ours, peer:
        ours.setblocking(False)
        peer.settimeout(LIMIT)
        yield ours, peer


def running() -> Any:
    return asyncio.get_running_loop()


Pair = tuple[socket.socket, socket.socket]


async def test_recv_of_what_is_there(pair: Pair) -> None:
    ours, peer = pair
    peer.sendall(b"hello")
    assert await running().sock_recv(ours, 3) == b"hel"
    assert await running().sock_recv(ours, 100) == b"lo"


async def test_recv_waits(pair: Pair) -> None:
    ours, peer = pair
    task = asyncio.create_task(running().sock_recv(ours, 100))
    await turns()
    assert not task.done()
    peer.sendall(b"later")
    assert await asyncio.wait_for(task, LIMIT) == b"later"


async def test_recv_of_the_end(pair: Pair) -> None:
    ours, peer = pair
    peer.sendall(b"bye")
    peer.close()
    assert await running().sock_recv(ours, 100) == b"bye"
    assert await running().sock_recv(ours, 100) == b""
    assert await running().sock_recv(ours, 100) == b""


async def test_recv_into(pair: Pair) -> None:
    ours, peer = pair
    buffer = bytearray(b"-" * 10)
    task = asyncio.create_task(running().sock_recv_into(ours, buffer))
    await turns()
    peer.sendall(b"into")
    assert await asyncio.wait_for(task, LIMIT) == 4
    assert buffer == b"into------"
    peer.sendall(b"part")
    assert await running().sock_recv_into(ours, memoryview(buffer)[8:]) == 2
    assert buffer == b"into----pa"


async def test_sendall(pair: Pair) -> None:
    ours, peer = pair
    for data in (b"bytes ", bytearray(b"bytearray "), memoryview(b"memoryview")):
        assert await running().sock_sendall(ours, data) is None
    assert read_exactly(peer, 26) == b"bytes bytearray memoryview"


async def test_sendall_of_nothing(pair: Pair) -> None:
    ours, peer = pair
    await running().sock_sendall(ours, b"")
    await running().sock_sendall(ours, b"x")
    assert peer.recv(10) == b"x"


async def test_sendall_waits_for_a_slow_peer(pair: Pair) -> None:
    ours, peer = pair
    data = random.Random(1).randbytes(2 * BIG)
    task = asyncio.create_task(running().sock_sendall(ours, data))
    await asyncio.sleep(0.01)
    assert not task.done()
    assert await asyncio.to_thread(read_exactly, peer, len(data)) == data
    await asyncio.wait_for(task, LIMIT)


async def test_both_directions_at_once(pair: Pair) -> None:
    ours, peer = pair

    def echo() -> None:
        left = 2 * MIB
        while left:
            chunk = peer.recv(100_000)
            peer.sendall(chunk)
            left -= len(chunk)

    data = random.Random(2).randbytes(2 * MIB)
    echoing = asyncio.create_task(asyncio.to_thread(echo))
    sending = asyncio.create_task(running().sock_sendall(ours, data))
    got = bytearray()
    while len(got) < len(data):
        got += await asyncio.wait_for(running().sock_recv(ours, 65536), LIMIT)
    assert got == data
    await sending
    await echoing


async def test_recv_of_a_reset() -> None:
    with listening() as listener:
        ours = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
    with ours:
        ours.setblocking(False)
        task = asyncio.create_task(running().sock_recv(ours, 100))
        await turns()
        reset(peer)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(task, LIMIT)


async def test_sendall_to_a_peer_that_has_gone(pair: Pair) -> None:
    ours, peer = pair
    task = asyncio.create_task(running().sock_sendall(ours, b"x" * 4 * BIG))
    await asyncio.sleep(0.01)
    peer.close()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(task, LIMIT)


@pytest.mark.ours  # stock asyncio loses what has been received when the cancellation comes
@pytest.mark.parametrize("method", ["sock_recv", "sock_recv_into"])
async def test_a_cancelled_receive_loses_no_byte(pair: Pair, method: str) -> None:
    """Cancelled before, while and after the data comes, at every distance in turns."""
    ours, peer = pair
    got = bytearray()
    for i in range(60):
        argument: Any = 100 if method == "sock_recv" else bytearray(100)
        task = asyncio.create_task(getattr(running(), method)(ours, argument))
        await turns(i % 3)
        if i % 2:
            peer.sendall(b"%03d" % i)
        await turns(i // 2 % 6)
        task.cancel()
        try:
            result = await task
        except asyncio.CancelledError:
            continue
        got += result if method == "sock_recv" else argument[:result]
    peer.sendall(b"end")
    while not got.endswith(b"end"):
        got += await asyncio.wait_for(running().sock_recv(ours, 100), LIMIT)
    assert got == b"".join(b"%03d" % i for i in range(60) if i % 2) + b"end"


async def test_a_receive_cancelled_while_it_waits_loses_no_byte(pair: Pair) -> None:
    ours, peer = pair
    for i in range(20):
        task = asyncio.create_task(running().sock_recv(ours, 100))
        await turns(1 + i % 4)
        task.cancel()
        peer.sendall(b"%03d" % i)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.wait_for(running().sock_recv(ours, 100), LIMIT) == b"%03d" % i


async def test_a_receive_that_timed_out_can_be_tried_again(pair: Pair) -> None:
    ours, peer = pair
    for i in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(running().sock_recv(ours, 10), 0.01)
        peer.sendall(b"%d" % i)
        assert await asyncio.wait_for(running().sock_recv(ours, 10), LIMIT) == b"%d" % i


async def test_a_buffer_is_free_after_a_cancelled_receive(pair: Pair) -> None:
    """What comes later does not go into a buffer that its owner has taken back."""
    ours, peer = pair
    buffer = bytearray(10)
    task = asyncio.create_task(running().sock_recv_into(ours, buffer))
    await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.005)
    peer.sendall(b"later")
    assert await asyncio.wait_for(running().sock_recv(ours, 10), LIMIT) == b"later"
    assert buffer == bytes(10)
    buffer.clear()


async def test_connect_and_accept() -> None:
    with listening() as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        accepting = asyncio.create_task(running().sock_accept(listener))
        await turns()
        assert await running().sock_connect(client, listener.getsockname()) is None
        conn, address = await asyncio.wait_for(accepting, LIMIT)
        with conn:
            assert address == client.getsockname()
            assert conn.gettimeout() == 0
            await running().sock_sendall(client, b"hello")
            assert await running().sock_recv(conn, 10) == b"hello"


async def test_accept_of_a_waiting_client() -> None:
    with listening() as listener, socket.create_connection(listener.getsockname()):
        listener.setblocking(False)
        conn, _ = await asyncio.wait_for(running().sock_accept(listener), LIMIT)
        conn.close()


async def test_a_cancelled_accept_leaves_the_client_to_the_next() -> None:
    with listening() as listener:
        listener.setblocking(False)
        for count in range(5):
            task = asyncio.create_task(running().sock_accept(listener))
            await turns(count)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        with socket.create_connection(listener.getsockname()) as client:
            conn, address = await asyncio.wait_for(running().sock_accept(listener), LIMIT)
            assert address == client.getsockname()
            conn.close()


async def cancel_with_a_client(listener: socket.socket, task: asyncio.Task[Any]) -> socket.socket:
    """Cancel an accept in the turn in which its client comes."""
    await turns()
    client = socket.create_connection(listener.getsockname())
    running().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    return client


@pytest.mark.ours  # stock asyncio before 3.13.15 accepts for the cancelled one, and loses the connection
@pytest.mark.parametrize("waits", [False, True])
async def test_a_connection_that_came_with_the_cancellation_goes_to_the_next(waits: bool) -> None:
    with listening() as listener:
        listener.setblocking(False)
        first = asyncio.create_task(running().sock_accept(listener))
        await turns()
        if waits:
            following = asyncio.create_task(running().sock_accept(listener))
        with await cancel_with_a_client(listener, first) as client:
            if not waits:
                following = asyncio.create_task(running().sock_accept(listener))
            conn, address = await asyncio.wait_for(following, LIMIT)
            assert address == client.getsockname()
            client.sendall(b"x")
            assert await running().sock_recv(conn, 1) == b"x"
            conn.close()


@pytest.mark.ours  # stock asyncio before 3.13.15 loses it
def test_a_connection_that_nobody_accepts_any_more_ends_with_the_loop(
    loop: asyncio.AbstractEventLoop,
) -> None:
    async def abandon(listener: socket.socket) -> socket.socket:
        return await cancel_with_a_client(listener, asyncio.create_task(loop.sock_accept(listener)))

    with listening() as listener:
        listener.setblocking(False)
        client = loop.run_until_complete(abandon(listener))
        loop.close()
    with client:
        client.settimeout(LIMIT)
        try:
            assert client.recv(1) == b""
        except ConnectionResetError:
            return  # it never left the listener's backlog


@pytest.mark.ours  # on stock asyncio the last one takes the others' place
async def test_several_accepts_at_once() -> None:
    with listening() as listener, contextlib.ExitStack() as stack:
        listener.setblocking(False)
        tasks = [asyncio.create_task(running().sock_accept(listener)) for _ in range(4)]
        await turns()
        tasks.pop(1).cancel()
        clients = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in tasks]
        found = await asyncio.wait_for(asyncio.gather(*tasks), LIMIT)
        assert sorted(address for _, address in found) == sorted(client.getsockname() for client in clients)
        for conn, _ in found:
            conn.close()


async def test_connect_by_name() -> None:
    with listening() as listener, socket.socket() as client:
        client.setblocking(False)
        await running().sock_connect(client, ("localhost", listener.getsockname()[1]))
        assert client.getpeername() == listener.getsockname()


async def test_connect_refused() -> None:
    with socket.socket() as client:
        client.setblocking(False)
        with pytest.raises(ConnectionRefusedError):
            await running().sock_connect(client, ("127.0.0.1", unused_port()))


@pytest.mark.skipif(not linux_only, reason="needs a listener whose full queue ignores newcomers")
async def test_connect_cancelled() -> None:
    with dead_address() as address, socket.socket() as client:
        client.setblocking(False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(running().sock_connect(client, address), 0.02)


@pytest.mark.parametrize("call", ["recv", "recv_into", "sendall", "accept", "connect"])
async def test_ssl_sockets_are_refused(call: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    arguments: dict[str, tuple[Any, ...]] = {
        "recv": (10,),
        "recv_into": (bytearray(10),),
        "sendall": (b"x",),
        "accept": (),
        "connect": (("127.0.0.1", 1),),
    }
    raw, peer = socket.socketpair()
    with peer, context.wrap_socket(raw, do_handshake_on_connect=False) as sock, pytest.raises(TypeError):
        await asyncio.wait_for(getattr(running(), f"sock_{call}")(sock, *arguments[call]), 1)


async def test_debug_mode_insists_on_non_blocking_sockets(pair: Pair) -> None:
    ours, _ = pair
    ours.setblocking(True)
    running().set_debug(True)
    with pytest.raises(ValueError, match="must be non-blocking"):
        await running().sock_recv(ours, 10)
    with pytest.raises(ValueError, match="must be non-blocking"):
        await running().sock_sendall(ours, b"x")


async def test_short_receives_lose_nothing_that_comes_meanwhile(pair: Pair) -> None:
    # After a receive that brought less than asked for, the next one in the same turn does not look first.
    ours, peer = pair
    got = b""
    for n in range(50):
        task = asyncio.create_task(running().sock_recv(ours, 100))
        await turns()
        peer.sendall(b"%d," % n)
        got += await asyncio.wait_for(task, LIMIT)
        peer.sendall(b"then,")
        got += await asyncio.wait_for(running().sock_recv(ours, 100), LIMIT)
    assert got == b"".join(b"%d,then," % n for n in range(50))


async def test_the_end_behind_a_short_receive(pair: Pair) -> None:
    ours, peer = pair
    task = asyncio.create_task(running().sock_recv(ours, 100))
    await turns()
    peer.sendall(b"bye")
    peer.shutdown(socket.SHUT_WR)
    assert await asyncio.wait_for(task, LIMIT) == b"bye"
    assert await asyncio.wait_for(running().sock_recv(ours, 100), LIMIT) == b""


@pytest.mark.skipif(not linux_only, reason="needs Unix datagrams")
async def test_a_datagram_is_short_and_the_next_one_is_there() -> None:
    ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, peer:
        ours.setblocking(False)
        task = asyncio.create_task(running().sock_recv(ours, 100))
        await turns()
        for datagram in (b"one", b"two", b"three"):
            peer.send(datagram)
        assert await asyncio.wait_for(task, LIMIT) == b"one"
        async with asyncio.timeout(0):
            assert await running().sock_recv(ours, 100) == b"two"
            assert await running().sock_recv(ours, 100) == b"three"


@pytest.mark.skipif(not linux_only, reason="handles are not given out again in order")
async def test_a_socket_that_takes_the_place_of_a_closed_one() -> None:
    # The same number, and often the same address of the object: it must be watched anew.
    number = None
    for n in range(100):
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        number = number or ours.fileno()
        assert ours.fileno() == number
        for _ in range(2):
            task = asyncio.create_task(running().sock_recv(ours, 100))
            await turns()
            peer.send(b"%d" % n)
            assert await asyncio.wait_for(task, LIMIT) == b"%d" % n
        ours.close()
        peer.close()
        del ours, peer
