"""Many connections that speak and end together: the queue of packets fills, grows and wraps around."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
import sysconfig
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from .support import LIMIT, Echo, Recorder, eventually, listening, serving, turns


@pytest.fixture(autouse=True)
def descriptors() -> None:
    """Both ends of 1,000 connections."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("fewer than 4,096 descriptors are allowed")
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Closed at the end, also of a test that fails: pytest keeps its locals."""
    made: list[socket.socket] = []
    yield made
    for sock in made:
        sock.close()


class Small(asyncio.Protocol):
    """Keeps nothing but its transport."""

    __slots__ = ("transport",)
    made = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        Small.made += 1


@pytest.mark.ours
@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="objects are larger there")
async def test_what_an_idle_connection_keeps() -> None:
    """The transport, what it reads with, a context, the protocol, and a place in each table."""
    loop: Any = asyncio.get_running_loop()
    if loop.backend_info().name not in ("io_uring", "epoll"):
        pytest.skip("Python's selector has objects of its own, and Windows' kernel memory in each op")
    count = 500
    kept = 0
    with contextlib.ExitStack() as stack:
        # The clients come first: their descriptors are this process's too, and make the tables grow.
        one, all_others = (stack.enter_context(listening(backlog=count)) for _ in range(2))
        for address in (one.getsockname(), *[all_others.getsockname()] * count):
            stack.enter_context(socket.create_connection(address))
        for sock, more in ((one, 1), (all_others, count)):
            expected = Small.made + more
            stack.enter_context(contextlib.closing(await loop.create_server(Small, sock=sock)))
            tracemalloc.start()
            await eventually(lambda: Small.made == expected, "a connection for each")  # noqa: B023
            kept = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
    # 480 to 520, and 150 more where a table of descriptors has to grow.
    assert kept / count < 800


@pytest.mark.parametrize(
    "seed", [1, 2, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in range(3, 11))]
)
async def test_each_is_heard_whole_and_once(seed: int, sockets: list[socket.socket]) -> None:
    dice = random.Random(seed)
    count = dice.choice([250, 500, 1000])
    servers: list[Echo] = []

    def made() -> Echo:
        servers.append(Echo())
        return servers[-1]

    async with serving(made, backlog=count) as (_, address):
        clients = sockets
        for _ in range(count):
            clients.append(socket.create_connection(address))
        sent = {client.getsockname()[1]: 0 for client in clients}
        ports: dict[int, Echo] = {}
        async with asyncio.timeout(LIMIT):
            while not sent.keys() <= ports.keys():
                await asyncio.sleep(0.001)
                ports = {server.transport.get_extra_info("peername")[1]: server for server in servers}
        left = dict(zip(sent, clients, strict=True))
        while left:
            # The loop is busy meanwhile, and finds all of it at once.
            speaking, ending = dice.choice([(0.9, 0.02), (0.5, 0.5), (1.0, 1.0), (0.1, 0.3), (0.9, 0.5)])
            for port, client in list(left.items()):
                if dice.random() < speaking:
                    client.sendall(bytes(1000))
                    sent[port] += 1000
                if dice.random() < ending:
                    client.shutdown(socket.SHUT_WR) if dice.random() < 0.5 else client.close()
                    del left[port]
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
        # Not that of a stranger: a test beside this one may have had the port before.
        for port, server in ((port, ports[port]) for port in sent):
            error = await asyncio.wait_for(server.until_lost(), LIMIT)
            # A peer that closes with our answer unread resets the connection.
            assert error is None or isinstance(error, ConnectionError)
            assert error is not None or len(server.data) == sent[port]
            assert server.events.count("connection_lost") == 1


@pytest.mark.parametrize("pending", [40, 100, 190, 200, 250, 440])
async def test_cancelled_operations_beside_connections_that_end(pending: int) -> None:
    """What a driver has queued itself goes behind what is new: nothing may be lost or doubled by that."""
    loop = asyncio.get_running_loop()
    servers: list[Recorder] = []
    waiting: list[asyncio.Task[bytes]] = []
    pairs = [socket.socketpair() for _ in range(pending)]

    def heard(server: Recorder, data: bytes) -> None:
        for task in waiting:
            task.cancel()
        if data == b"x":
            late.sendall(b"new")  # found by the next look at the kernel

    def made() -> Recorder:
        servers.append(Recorder(data_received=heard))
        return servers[-1]

    async with serving(made) as (_, address):
        clients = [socket.create_connection(address) for _ in range(61)]
        *early, late = clients
        async with asyncio.timeout(LIMIT):
            while len(servers) < len(clients):
                await asyncio.sleep(0.001)
        for ours, _ in pairs:
            ours.setblocking(False)
            waiting.append(asyncio.create_task(loop.sock_recv(ours, 10)))
        await turns()
        for client in early:
            client.sendall(b"x")
            client.shutdown(socket.SHUT_WR)
        done = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), LIMIT)
        assert all(isinstance(found, asyncio.CancelledError) for found in done)
        for ours, peer in pairs:
            peer.sendall(b"again")
            assert await asyncio.wait_for(loop.sock_recv(ours, 10), LIMIT) == b"again"
            ours.close()
            peer.close()
        late.shutdown(socket.SHUT_WR)
        for server in servers:
            assert await asyncio.wait_for(server.until_lost(), LIMIT) is None
            assert bytes(server.data).startswith((b"x", b"new"))
            assert server.events.count("connection_lost") == 1
        for client in clients:
            client.close()
