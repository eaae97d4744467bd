"""A loop beside threads that compute: everything still works, and they still compute."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

LIMIT = 20.0  # seconds
ROUNDS = 300 if os.name != "nt" else 50  # there a wait for the GIL takes 15 ms


class Busy:
    """A thread that computes, and how far it has come."""

    def __init__(self) -> None:
        self.count = 0
        self.stopped = False
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.stopped:
            self.count += 1


@contextlib.contextmanager
def busy(count: int = 1) -> Iterator[list[Busy]]:
    """So many of them."""
    threads = [Busy() for _ in range(count)]
    for one in threads:
        one.thread.start()
    try:
        yield threads
    finally:
        for one in threads:
            one.stopped = True
        for one in threads:
            one.thread.join()


class Echo(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def ask(address: Any, rounds: int) -> bytes:
    """Ask an echo server; what it answered, in one piece.  Run in a thread."""
    answers = bytearray()
    with socket.create_connection(address, timeout=LIMIT) as sock:
        for n in range(rounds):
            sock.sendall(n.to_bytes(4, "big"))
            left = 4
            while left:
                data = sock.recv(left)
                assert data
                answers += data
                left -= len(data)
    return bytes(answers)


@pytest.mark.parametrize("count", [1, 2])
async def test_requests_and_threads_both_go_on(count: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    with busy(count) as threads:
        before = [one.count for one in threads]
        answers = await asyncio.wait_for(asyncio.to_thread(ask, address, ROUNDS), LIMIT)
        assert answers == b"".join(n.to_bytes(4, "big") for n in range(ROUNDS))
        assert all(one.count > seen for one, seen in zip(threads, before, strict=True))
    server.close()
    await server.wait_closed()


async def test_a_loop_without_python_callbacks_gives_way() -> None:
    """Streams between two of the loop's own sockets, whose echo never lets go by itself."""
    loop = asyncio.get_running_loop()
    a, b = socket.socketpair()
    with a, b, busy() as threads:
        a.setblocking(False)
        b.setblocking(False)
        await loop.sock_sendall(a, b"x")
        seen = threads[0].count
        deadline = time.monotonic() + LIMIT
        while threads[0].count < seen + 1000:
            await loop.sock_sendall(b, await loop.sock_recv(b, 10))
            await loop.sock_sendall(a, await loop.sock_recv(a, 10))
            assert time.monotonic() < deadline


async def test_timers_and_calls_from_the_busy_thread() -> None:
    loop = asyncio.get_running_loop()
    called: list[int] = []
    done = asyncio.Event()

    def work() -> None:
        for n in range(2000):
            loop.call_soon_threadsafe(called.append, n)
            sum(range(1000))
        loop.call_soon_threadsafe(done.set)

    thread = threading.Thread(target=work)
    thread.start()
    ticks = 0
    while not done.is_set():
        await asyncio.sleep(0.001)
        ticks += 1
    thread.join()
    assert called == list(range(2000))
    assert ticks


@pytest.mark.skipif(sys.platform == "win32", reason="no signal handlers there")
async def test_signals() -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, arrived.set)
    try:
        with busy():
            for _ in range(5):
                arrived.clear()
                os.kill(os.getpid(), signal.SIGUSR1)
                await asyncio.wait_for(arrived.wait(), LIMIT)
    finally:
        loop.remove_signal_handler(signal.SIGUSR1)
