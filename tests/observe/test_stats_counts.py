"""``loop.stats()`` of TLS connections and of a ring that is too small, beside counts of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loop.helpers import BOUND
from transports.certs import Certificates, make_certificates
from transports.tls.support import Peer

import proactorx
from proactorx import drivers
from proactorx.observe.flight import buffers_of
from proactorx.observe.stats import RingStats, TransportStats
from proactorx.ops.constants import READ
from proactorx.ops.op import Overlapped

pytestmark = pytest.mark.ours

NONE = TransportStats(0, 0, 0, 0)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory: Path = tmp_path_factory.mktemp("certificates")
    return make_certificates(directory)


class Counting(asyncio.Protocol):
    """Counts what it is told, for all its connections."""

    open = told_to_wait = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        Counting.open += 1
        self.transport: Any = transport

    def connection_lost(self, exc: Exception | None) -> None:
        Counting.open -= 1

    def pause_writing(self) -> None:
        Counting.told_to_wait += 1

    def resume_writing(self) -> None:
        Counting.told_to_wait -= 1


@pytest.fixture(autouse=True)
def nothing_counted() -> None:
    Counting.open = Counting.told_to_wait = 0


def tls() -> TransportStats:
    """What the running loop says of its TLS connections."""
    loop: Any = asyncio.get_running_loop()
    found: TransportStats = loop.stats().transports.get("tls", NONE)
    return found


async def settled(count: int) -> None:
    async with asyncio.timeout(BOUND):
        while Counting.open != count:
            await asyncio.sleep(0.001)


async def test_open_and_paused_tls_connections(certificates: Certificates) -> None:
    loop: Any = asyncio.get_running_loop()
    server = await loop.create_server(Counting, "127.0.0.1", 0, ssl=certificates.server())
    made = []
    for count in range(1, 4):
        _, protocol = await loop.create_connection(
            Counting, *server.sockets[0].getsockname(), ssl=certificates.client(), server_hostname="localhost"
        )
        made.append(protocol)
        await settled(2 * count)
        assert tls() == TransportStats(2 * count, 0, 0, 0)
    for count, protocol in enumerate(made, 1):
        protocol.transport.pause_reading()
        assert tls().paused_reading == count
    made[0].transport.resume_reading()
    assert tls().paused_reading == 2
    assert "stream" not in loop.stats().transports
    for protocol in made:
        protocol.transport.close()
    await settled(0)
    assert tls() == NONE
    server.close()
    await server.wait_closed()


def in_socket(sock: socket.socket) -> int:
    """How many bytes the kernel has for it."""
    try:
        return len(sock.recv(1 << 24, socket.MSG_PEEK))
    except BlockingIOError:
        return 0


async def everything(sock: socket.socket) -> int:
    """How many bytes come until nothing more does."""
    loop, total = asyncio.get_running_loop(), 0
    with contextlib.suppress(TimeoutError):
        while data := await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 0.3):
            total += len(data)
    return total


async def test_bytes_that_a_tls_peer_does_not_take(certificates: Certificates) -> None:
    """What the peer finds on the wire in the end is what it could read before, and what was said to wait."""
    loop: Any = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with right:
        peer = Peer(right, certificates.server(), server_side=True)
        (transport, _), _ = await asyncio.gather(
            loop.create_connection(
                Counting, sock=left, ssl=certificates.client(), server_hostname="localhost"
            ),
            peer.handshake(),
        )
        await asyncio.sleep(0.01)
        for sizes in ([100_000], [400_000], [4_000_000, 1_000_000]):  # the last is kept by the layer
            for size in sizes:
                transport.write(bytes(size))
                assert tls().buffered >= size - in_socket(right)
                await asyncio.sleep(0.01)
            waits, there = tls(), in_socket(right)
            assert waits.buffered >= transport.get_write_buffer_size()
            assert waits.paused_writing == Counting.told_to_wait == len(sizes) - 1
            assert sum(each.size for each in buffers_of(loop)) == waits.buffered
            assert await everything(right) == there + waits.buffered
            assert tls() == TransportStats(1, 0, 0, 0)
        transport.abort()
        await settled(0)


@pytest.fixture
def small_ring(monkeypatch: pytest.MonkeyPatch) -> Iterator[proactorx.EventLoop]:
    """A loop whose ring has 4 entries, and room for 8 completions."""
    if not drivers.probe("io_uring").available:
        pytest.skip("io_uring does not run here")
    from proactorx.drivers.io_uring.driver import UringDriver

    small = UringDriver(entries=4, cq_entries=8)
    monkeypatch.setattr("proactorx.drivers.io_uring.probe.make_driver", lambda *_, **__: small)
    loop = proactorx.new_event_loop("io_uring")
    yield loop
    loop.close()


def ring_of(loop: proactorx.EventLoop) -> RingStats:
    ring = loop.stats().ring
    assert ring is not None
    return ring


@pytest.mark.parametrize("count", [4, 5, 8, 9, 17, 40, 80])
def test_rings_that_are_full(small_ring: proactorx.EventLoop, count: int) -> None:
    """So many operations in one turn, and so many completions at once, are more than the rings hold."""

    async def main() -> None:
        await asyncio.sleep(0.001)  # what came before has been submitted
        ring = ring_of(small_ring)
        assert (ring.in_kernel, ring.starved, ring.overflows) == (0, 0, 0)
        ops = [small_ring._port.start(Overlapped(READ, reader, size=1)) for reader, _ in pipes]
        ring = ring_of(small_ring)
        assert (ring.in_kernel, ring.starved, ring.overflows) == (count, (count - 1) // 4, 0)
        await asyncio.sleep(0.001)
        assert ring_of(small_ring).overflows == 0
        for _, writer in pipes:
            os.write(writer, b"x")
        async with asyncio.timeout(BOUND):
            while not all(op.done for op in ops):
                await asyncio.sleep(0.001)
        # Each full ring of 8 leaves the rest waiting outside, but for the last one.
        ring = ring_of(small_ring)
        assert (ring.in_kernel, ring.overflows) == (0, (count - 1) // 8)

    pipes = [os.pipe() for _ in range(count)]
    small_ring.run_until_complete(main())
    for fd in itertools.chain(*pipes):
        os.close(fd)
