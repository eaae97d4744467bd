"""Many connections that speak and end together: the queue of packets fills, grows and wraps around."""

from __future__ import annotations

import asyncio
import random
import resource
import socket

import pytest

from .support import LIMIT, Echo, serving


@pytest.fixture(autouse=True)
def descriptors() -> None:
    """Both ends of 1,000 connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("fewer than 4,096 descriptors are allowed")
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))


@pytest.mark.parametrize(
    "seed", [1, 2, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in range(3, 11))]
)
async def test_each_is_heard_whole_and_once(seed: int) -> None:
    dice = random.Random(seed)
    count = dice.choice([250, 500, 1000])
    servers: list[Echo] = []

    def made() -> Echo:
        servers.append(Echo())
        return servers[-1]

    async with serving(made, backlog=count) as (_, address):
        clients = [socket.create_connection(address) for _ in range(count)]
        async with asyncio.timeout(LIMIT):
            while len(servers) < count:
                await asyncio.sleep(0.001)
        ports = {server.transport.get_extra_info("peername")[1]: server for server in servers}
        sent = {client.getsockname()[1]: 0 for client in clients}
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
        for port, server in ports.items():
            error = await asyncio.wait_for(server.until_lost(), LIMIT)
            # A peer that closes with our answer unread resets the connection.
            assert error is None or isinstance(error, ConnectionError)
            assert error is not None or len(server.data) == sent[port]
            assert server.events.count("connection_lost") == 1
        for client in clients:
            client.close()
