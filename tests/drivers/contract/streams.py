"""Streams on a loop: protocols that note what they get, and peers that are plain sockets."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from .support import LIMIT

EACH = pytest.mark.parametrize("buffered", [False, True], ids=["plain", "buffered"])
EACH_PAIR = pytest.mark.parametrize("kind", ["pair", "tcp_pair"])


class Plain(asyncio.Protocol):
    """Collects what it is given."""

    def __init__(self) -> None:
        self.count = 0
        self.hash = hashlib.sha256()
        self.last = b""
        self.eof = False
        self.lost: list[BaseException | None] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def take(self, data: bytes) -> None:
        assert data
        self.count += len(data)
        self.hash.update(data)
        self.last = (self.last + data)[-100:]

    def data_received(self, data: bytes) -> None:
        self.take(data)

    def eof_received(self) -> bool:
        self.eof = True
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.append(exc)


class Buffered(Plain, asyncio.BufferedProtocol):
    """Receives into a buffer of its own, whose size changes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = random.Random(1)
        self.memory = bytearray(70_000)

    def get_buffer(self, _hint: int) -> memoryview:
        return memoryview(self.memory)[: self.sizes.choice((1, 60, 64, 4000, 70_000))]

    def buffer_updated(self, size: int) -> None:
        self.take(bytes(self.memory[:size]))


def run(loop: Any, work: Coroutine[Any, Any, Any], limit: float = LIMIT) -> Any:
    return loop.run_until_complete(asyncio.wait_for(work, limit))


async def until(happened: Callable[[], Any]) -> None:
    while not happened():
        await asyncio.sleep(0.001)


async def connect(sock: socket.socket, protocol: Plain) -> Plain:
    await asyncio.get_running_loop().create_connection(lambda: protocol, sock=sock)
    return protocol


async def end(protocol: Plain) -> None:
    protocol.transport.abort()
    await until(lambda: protocol.lost)
    await asyncio.sleep(0)


async def write(sock: socket.socket, data: bytes) -> None:
    """Send all, waiting as a slow peer would."""
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await asyncio.sleep(0.0005)


def make(buffered: bool) -> Plain:
    return Buffered() if buffered else Plain()
