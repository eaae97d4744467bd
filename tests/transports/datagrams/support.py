"""Protocols that take notes, plain sockets as peers, and endpoints that are closed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from support import ports

from transports.support import (
    LIMIT,
    Notes,
    backend_of,
    collect_errors,
    eventually,
    linux_only,
    socket_directory,
    turns,
)

__all__ = [
    "LARGEST",
    "LIMIT",
    "Echo",
    "Recorder",
    "backend_of",
    "collect_errors",
    "endpoint",
    "eventually",
    "has_broadcast",
    "has_ipv6",
    "linux_only",
    "peer",
    "running",
    "socket_directory",
    "stock_sends_empty_ones",
    "take",
    "turns",
    "unix_peer",
    "unused_port",
]

LARGEST = 65507  # over IPv4: 65,535 less two headers, RFC 791 and RFC 768
stock_sends_empty_ones = sys.version_info >= (3, 13)


class Recorder(Notes, asyncio.DatagramProtocol):
    """A protocol that keeps what it is given."""

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        super().__init__(**hooks)
        self.received: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        assert type(data) is bytes
        self.received.append((data, addr))
        self.note("datagram_received", data, addr)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self.note("error_received", exc)

    @property
    def texts(self) -> list[bytes]:
        return [data for data, _ in self.received]

    async def until_count(self, count: int) -> list[bytes]:
        """What has come, once that is `count` datagrams."""
        await self.until(lambda: len(self.received) >= count)
        return self.texts


class Echo(Recorder):
    """Sends back what it is given."""

    def datagram_received(self, data: bytes, addr: Any) -> None:
        super().datagram_received(data, addr)
        self.transport.sendto(data, addr)


def running() -> Any:
    return asyncio.get_running_loop()


@contextlib.asynccontextmanager
async def endpoint(protocol: Any = None, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
    """An endpoint, on a free port of IPv4 loopback unless told otherwise; dropped at the end."""
    if protocol is None:
        protocol = Recorder()
    if not options:
        options = {"local_addr": ("127.0.0.1", 0)}
    transport, made = await running().create_datagram_endpoint(lambda: protocol, **options)
    assert made is protocol
    try:
        yield transport, protocol
    finally:
        if "connection_lost" not in protocol.events:
            transport.abort()
        await protocol.until_lost()


@contextlib.contextmanager
def peer(host: str = "127.0.0.1", **options: Any) -> Iterator[socket.socket]:
    """A plain blocking UDP socket on a free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, options.get("port", 0)))
        sock.settimeout(LIMIT)
        yield sock


@contextlib.contextmanager
def unix_peer(path: str | bytes) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(LIMIT)
        yield sock


async def take(sock: socket.socket) -> bytes:
    """The next datagram of a plain socket, while the loop goes on."""
    return await asyncio.to_thread(sock.recv, 70_000)


def unused_port() -> int:
    """A port at which nobody listens."""
    return ports.unused_port(kind=socket.SOCK_DGRAM)


def _can(what: Callable[[], object]) -> bool:
    try:
        what()
    except OSError:
        return False
    return True


def _ipv6() -> None:
    with peer("::1"):
        pass


def _broadcast() -> None:
    with peer("127.255.255.255"):
        pass


has_ipv6 = socket.has_ipv6 and _can(_ipv6)
has_broadcast = _can(_broadcast)
