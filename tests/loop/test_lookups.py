"""loop.getaddrinfo and loop.getnameinfo."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

LIMIT = 10


def running() -> Any:
    return asyncio.get_running_loop()


async def test_a_name_and_back() -> None:
    found = await running().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    assert found == socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
    address = ("127.0.0.1", 80)
    assert await running().getnameinfo(address) == socket.getnameinfo(address, 0)


async def test_numbers_and_flags() -> None:
    found = await running().getaddrinfo("127.0.0.1", 80, family=socket.AF_INET, flags=socket.AI_NUMERICHOST)
    assert {entry[4] for entry in found} == {("127.0.0.1", 80)}
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await running().getnameinfo(("127.0.0.1", 80), flags) == ("127.0.0.1", "80")


async def test_errors() -> None:
    with pytest.raises(socket.gaierror):
        await running().getaddrinfo("name.invalid", 80, flags=socket.AI_NUMERICHOST)
    with pytest.raises(socket.gaierror):
        await running().getnameinfo(("not an address", 80))


async def test_debug_mode() -> None:
    running().set_debug(True)
    assert await running().getaddrinfo("127.0.0.1", 80)


@pytest.mark.ours  # on stock asyncio they share the executor's workers
async def test_a_full_executor_delays_no_look_up() -> None:
    end = threading.Event()
    workers = ThreadPoolExecutor(1)
    running().set_default_executor(workers)
    try:
        blocked = [running().run_in_executor(None, end.wait) for _ in range(20)]
        assert await asyncio.wait_for(running().getaddrinfo("localhost", 80), LIMIT)
        assert await asyncio.wait_for(running().getnameinfo(("127.0.0.1", 80)), LIMIT)
        server = await running().create_server(asyncio.Protocol, "localhost", 0)
        connecting = running().create_connection(
            asyncio.Protocol, "localhost", server.sockets[0].getsockname()[1]
        )
        transport, _ = await asyncio.wait_for(connecting, LIMIT)
        transport.close()
        server.close()
        assert not any(future.done() for future in blocked)
    finally:
        end.set()
        await asyncio.wait_for(asyncio.gather(*blocked), LIMIT)


async def test_many_at_once() -> None:
    found = await asyncio.gather(*(running().getaddrinfo("127.0.0.1", port) for port in range(1, 200)))
    assert [entries[0][4][1] for entries in found] == list(range(1, 200))


@pytest.mark.ours
def test_closing_the_loop_ends_the_threads(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    others = set(threading.enumerate())  # the process may have pools besides

    def ours() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name.startswith("proactorx-io") and t not in others]

    loop = loop_factory()
    loop.run_until_complete(loop.getaddrinfo("localhost", 80))
    assert ours()
    loop.close()
    deadline = time.monotonic() + LIMIT
    while ours() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ours() == []
