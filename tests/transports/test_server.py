"""The Server object: starting, closing, waiting, and what becomes of its connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Any

import pytest

from .support import BIG, LIMIT, Echo, Recorder, dial, eventually, reset, serving, turns

new_in_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
waits_for_connections = pytest.mark.skipif(sys.version_info < (3, 12, 1), reason="since 3.12.1")


async def create(factory: Any = Echo, **options: Any) -> Any:
    return await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, **options)


class Made(list[Recorder]):
    """A protocol factory that remembers what it made."""

    def __call__(self) -> Recorder:
        self.append(Recorder())
        return self[-1]

    async def connected(self, count: int) -> None:
        async with asyncio.timeout(LIMIT):
            while sum("connection_made" in protocol.events for protocol in self) < count:
                await asyncio.sleep(0.001)


async def test_a_running_server() -> None:
    server = await create()
    assert server.is_serving()
    assert server.get_loop() is asyncio.get_running_loop()
    assert isinstance(server, asyncio.AbstractServer)
    assert isinstance(server.sockets, tuple)
    assert server.sockets[0].type == socket.SOCK_STREAM
    assert not hasattr(server.sockets[0], "accept")
    server.close()


async def test_a_closed_server() -> None:
    server = await create()
    address = server.sockets[0].getsockname()
    server.close()
    assert not server.is_serving()
    assert server.sockets == ()
    assert isinstance(server.sockets, tuple)
    assert server.get_loop() is asyncio.get_running_loop()
    with pytest.raises(ConnectionRefusedError):
        dial(address)
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


async def test_repr() -> None:
    server = await create()
    assert str(server.sockets[0].getsockname()[1]) in repr(server)
    server.close()
    assert "Server" in repr(server)


async def test_a_server_that_has_not_started() -> None:
    server = await create(start_serving=False)
    assert not server.is_serving()
    address = server.sockets[0].getsockname()
    with pytest.raises(ConnectionRefusedError):
        dial(address)
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving()
    with dial(address) as client:
        client.sendall(b"ping")
        assert await asyncio.to_thread(client.recv, 4) == b"ping"
    server.close()


async def test_closing_a_server_that_has_not_started() -> None:
    server = await create(start_serving=False)
    server.close()
    assert server.sockets == ()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


async def test_serve_forever_until_cancelled() -> None:
    server = await create(start_serving=False)
    address = server.sockets[0].getsockname()
    task = asyncio.create_task(server.serve_forever())
    await turns()
    assert server.is_serving()
    with dial(address) as client:
        client.sendall(b"ping")
        assert await asyncio.to_thread(client.recv, 4) == b"ping"
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, LIMIT)
    assert not server.is_serving()
    assert server.sockets == ()


async def test_serve_forever_until_closed() -> None:
    server = await create()
    task = asyncio.create_task(server.serve_forever())
    await turns()
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, LIMIT)


async def test_serve_forever_only_once_at_a_time() -> None:
    server = await create()
    task = asyncio.create_task(server.serve_forever())
    await turns()
    with pytest.raises(RuntimeError, match="already being awaited"):
        await server.serve_forever()
    assert server.is_serving()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_serve_forever_on_a_closed_server() -> None:
    server = await create()
    server.close()
    with pytest.raises(RuntimeError, match="is closed"):
        await server.serve_forever()


async def test_async_with() -> None:
    async with await create() as server:
        assert server.is_serving()
        address = server.sockets[0].getsockname()
    assert not server.is_serving()
    with pytest.raises(ConnectionRefusedError):
        dial(address)


async def test_async_with_closes_although_the_body_raises() -> None:
    with pytest.raises(ZeroDivisionError):
        async with await create() as server:
            raise ZeroDivisionError
    assert not server.is_serving()


async def test_connections_outlive_the_server() -> None:
    made = Made()
    server = await create(made)
    with dial(server.sockets[0].getsockname()) as client:
        await made.connected(1)
        server.close()
        client.sendall(b"still here")
        assert await made[0].until_received(10) == b"still here"
        made[0].transport.write(b"me too")
        assert await asyncio.to_thread(client.recv, 6) == b"me too"
        assert not made[0].transport.is_closing()
    await made[0].until_lost()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="before 3.12")
async def test_wait_closed_does_not_wait_for_connections() -> None:
    made = Made()
    server = await create(made)
    with dial(server.sockets[0].getsockname()):
        await made.connected(1)
        server.close()
        await asyncio.wait_for(server.wait_closed(), LIMIT)
        assert "connection_lost" not in made[0].events
    await made[0].until_lost()


@waits_for_connections
async def test_wait_closed_waits_for_connections() -> None:
    made = Made()
    server = await create(made)
    waiters = [asyncio.create_task(server.wait_closed()) for _ in range(2)]
    with dial(server.sockets[0].getsockname()), dial(server.sockets[0].getsockname()) as second:
        await made.connected(2)
        server.close()
        second.close()
        await eventually(
            lambda: any("connection_lost" in protocol.events for protocol in made), "one is lost"
        )
        await turns(5)
        assert not any(waiter.done() for waiter in waiters)
    await asyncio.wait_for(asyncio.gather(*waiters), LIMIT)
    assert all("connection_lost" in protocol.events for protocol in made)
    await asyncio.wait_for(server.wait_closed(), LIMIT)


@waits_for_connections
async def test_wait_closed_waits_for_close() -> None:
    server = await create()
    waiter = asyncio.create_task(server.wait_closed())
    await turns(5)
    assert not waiter.done()
    server.close()
    await asyncio.wait_for(waiter, LIMIT)


@waits_for_connections
async def test_wait_closed_can_be_cancelled() -> None:
    server = await create()
    waiter = asyncio.create_task(server.wait_closed())
    await turns()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


@waits_for_connections
@pytest.mark.parametrize("how", ["close", "abort", "peer-closes", "peer-resets"])
async def test_every_way_to_lose_a_connection_counts(how: str) -> None:
    made = Made()
    server = await create(made)
    with dial(server.sockets[0].getsockname()) as client:
        await made.connected(1)
        server.close()
        match how:
            case "close":
                made[0].transport.close()
            case "abort":
                made[0].transport.abort()
            case "peer-closes":
                client.close()
            case "peer-resets":
                reset(client)
        await asyncio.wait_for(server.wait_closed(), LIMIT)
        assert made[0].events[-1] == "connection_lost"


@new_in_3_13
async def test_close_clients() -> None:
    made = Made()
    server = await create(made)
    with dial(server.sockets[0].getsockname()) as one, dial(server.sockets[0].getsockname()) as two:
        await made.connected(2)
        made[0].transport.write(b"x" * BIG)
        server.close()
        server.close_clients()
        assert all(protocol.transport.is_closing() for protocol in made)
        got = [await asyncio.to_thread(_count, peer) for peer in (one, two)]
        assert sorted(got) == [0, BIG], "close flushes"
        await asyncio.wait_for(server.wait_closed(), LIMIT)


def _count(peer: socket.socket) -> int:
    total = 0
    while chunk := peer.recv(1 << 20):
        total += len(chunk)
    return total


@new_in_3_13
async def test_abort_clients() -> None:
    made = Made()
    server = await create(made)
    with dial(server.sockets[0].getsockname()):
        await made.connected(1)
        made[0].transport.write(b"x" * 4 * BIG)
        server.close()
        server.abort_clients()
        await asyncio.wait_for(server.wait_closed(), LIMIT)
        assert made[0].error is None


@new_in_3_13
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
async def test_dropping_clients_of_a_server_that_goes_on(method: str) -> None:
    made = Made()
    async with serving(made) as (server, address):
        with dial(address) as first:
            await made.connected(1)
            getattr(server, method)()
            assert await asyncio.to_thread(first.recv, 1) == b""
        assert server.is_serving()
        with dial(address) as second:
            await made.connected(2)
            second.sendall(b"next")
            assert await made[1].until_received(4) == b"next"
        await made[1].until_lost()


@new_in_3_13
@pytest.mark.parametrize("method", ["close_clients", "abort_clients"])
async def test_dropping_the_clients_of_one_server_of_two(method: str) -> None:
    """Those of the other, and the connections that the loop has made itself, stay."""
    one, two = Made(), Made()
    async with serving(one) as (server, first), serving(two) as (_, second):
        transport, client = await asyncio.get_running_loop().create_connection(Recorder, *second)
        with dial(first) as dropped, dial(first) as ended:
            await one.connected(2)
            await two.connected(1)
            ended.close()
            await eventually(lambda: sum("connection_lost" in each.events for each in one) == 1, "an end")
            getattr(server, method)()
            assert await asyncio.to_thread(dropped.recv, 1) == b""
            for each in one:
                await each.until_lost()
        assert not transport.is_closing()
        assert not two[0].transport.is_closing()
        transport.write(b"still here")
        assert await two[0].until_received(10) == b"still here"
        transport.close()
        await client.until_lost()


@new_in_3_13
async def test_dropping_clients_where_there_are_none() -> None:
    async with serving(Echo) as (server, _):
        server.close_clients()
        server.abort_clients()


async def test_closing_a_server_with_clients_in_its_queue() -> None:
    """Whoever was not accepted yet sees the end, and so does whoever just was."""
    made = Made()
    server = await create(made)
    clients = [dial(server.sockets[0].getsockname()) for _ in range(20)]
    server.close()
    await turns(5)
    for protocol in list(made):
        if protocol.transport is not None:
            protocol.transport.abort()
    for client in clients:
        with client:
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(client.recv, 1) == b""
    await turns(5)


async def test_closing_a_server_in_connection_made() -> None:
    """A server for one connection."""
    made = Made()

    def factory() -> Recorder:
        protocol = made()
        protocol.hooks["connection_made"] = lambda _: server.close()
        return protocol

    server = await create(factory)
    address = server.sockets[0].getsockname()
    with dial(address) as client:
        await made.connected(1)
        client.sendall(b"last one")
        assert await made[0].until_received(8) == b"last one"
        with pytest.raises(ConnectionRefusedError):
            dial(address)
    await made[0].until_lost()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


async def test_a_port_can_be_listened_on_again_and_again() -> None:
    server = await create()
    port = server.sockets[0].getsockname()[1]
    for _ in range(30):
        server.close()
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", port)
        with dial(("127.0.0.1", port)) as client:
            client.sendall(b"ping")
            assert await asyncio.to_thread(client.recv, 4) == b"ping"
    server.close()
    await turns(5)
