"""What leaves in one turn arrives as single calls would have sent it, in trains or not."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .support import LARGEST, Recorder, endpoint, has_ipv6, linux_only, peer, running, take

SOL_UDP, UDP_CORK, UDP_SEGMENT, UDP_GRO = 17, 1, 103, 104
SO_NO_CHECK = 11

HOSTS = ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6, reason="no IPv6"))]

TRAINS = {
    "equal": [1200] * 32,
    "the last one shorter": [1200] * 20 + [7],
    "a shorter one between": [500] * 5 + [20] + [500] * 5,
    "growing": list(range(1, 40)),
    "falling": list(range(40, 0, -1)),
    "with empty ones": [0, 0, 100, 100, 0, 100, 0],
    "more than a train": [10] * 200,
    "more bytes than a train": [1400] * 100,
    "large ones": [20_000] * 7,
    "of one byte": [1] * 130,
    "random": [random.Random(7).choice([0, 1, 99, 100, 100, 100, 1400]) for _ in range(150)],
}


def contents(sizes: list[int]) -> list[bytes]:
    """Datagrams that differ from each other where their sizes allow it."""
    return [(n.to_bytes(4, "big") * (size // 4 + 1))[:size] for n, size in enumerate(sizes)]


def features() -> tuple[str, ...]:
    """What the loop under test does; stock asyncio nothing."""
    ask = getattr(running(), "backend_info", None)
    return () if ask is None else ask().datagrams


@contextlib.contextmanager
def roomy(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A peer that holds a whole test's datagrams."""
    with peer(host) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        yield sock


def sending(what: Callable[[Any], None]) -> Recorder:
    """A protocol that sends from inside a callback, where datagrams are put off."""
    return Recorder(datagram_received=lambda self, data, addr: what(self.transport))


async def trigger(transport: Any, protocol: Recorder) -> None:
    """Have `transport` receive something."""
    with socket.socket(transport.get_extra_info("socket").family, socket.SOCK_DGRAM) as sock:
        name = transport.get_extra_info("sockname")
        sock.sendto(b"go", name)
        await protocol.until_count(1)


async def taken(sock: socket.socket, count: int) -> list[bytes]:
    return [await take(sock) for _ in range(count)]


def nothing_more(sock: socket.socket) -> None:
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(1)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("sizes", TRAINS.values(), ids=[name.replace(" ", "-") for name in TRAINS])
async def test_to_one_peer(sizes: list[int], host: str) -> None:
    datagrams = contents(sizes)
    with roomy(host) as other:

        def send(transport: Any) -> None:
            for data in datagrams:
                transport.sendto(data, other.getsockname())

        async with endpoint(sending(send), local_addr=(host, 0)) as (transport, protocol):
            await trigger(transport, protocol)
            if sys.version_info < (3, 13) and not hasattr(running(), "backend_info"):
                datagrams = [data for data in datagrams if data]  # stock asyncio sends no empty ones
            assert await taken(other, len(datagrams)) == datagrams
            nothing_more(other)
            assert protocol.errors == []


async def test_of_a_connected_endpoint() -> None:
    datagrams = contents([300] * 40 + [1, 300, 300])
    with roomy() as other:
        async with endpoint(remote_addr=other.getsockname()) as (transport, _):
            for data in datagrams:
                transport.sendto(data)
            assert await taken(other, len(datagrams)) == datagrams
            nothing_more(other)


async def test_to_two_peers_in_turns() -> None:
    with roomy() as one, roomy() as other:

        def send(transport: Any) -> None:
            for n in range(60):
                transport.sendto(bytes([n]) * 100, (one if n % 3 else other).getsockname())

        async with endpoint(sending(send)) as (transport, protocol):
            await trigger(transport, protocol)
            assert await taken(one, 40) == [bytes([n]) * 100 for n in range(60) if n % 3]
            assert await taken(other, 20) == [bytes([n]) * 100 for n in range(0, 60, 3)]


async def test_one_that_is_too_large_is_reported_and_the_others_arrive() -> None:
    datagrams = contents([1200] * 3 + [LARGEST + 1] + [1200] * 4)
    with roomy() as other:
        async with endpoint(remote_addr=other.getsockname()) as (transport, protocol):
            for data in datagrams:
                transport.sendto(data)
            small = [data for data in datagrams if len(data) == 1200]
            assert await taken(other, 7) == small
            await protocol.until(lambda: protocol.errors)
            assert [error.errno for error in protocol.errors] == [errno.EMSGSIZE]


@pytest.mark.skipif(not linux_only, reason="Linux tells of ICMP errors on connected sockets at once")
async def test_nobody_listens() -> None:
    with peer() as other:
        name = other.getsockname()
        other.close()
        async with endpoint(remote_addr=name) as (transport, protocol):
            for _ in range(3):
                for _ in range(32):
                    transport.sendto(bytes(1000))
                await protocol.until(lambda: protocol.errors)
            assert {type(error) for error in protocol.errors} == {ConnectionRefusedError}
            assert not transport.is_closing()
            await asyncio.sleep(0.01)  # the last ones are sent, and told of
            with peer(port=name[1]) as again:
                for _ in range(2):  # the first one may find an error that is not told of yet
                    transport.sendto(b"hello")
                    await asyncio.sleep(0.01)
                assert await take(again) == b"hello"


async def test_to_no_port_at_all() -> None:
    """An address that the system refuses with the error that trains are refused with."""
    with roomy() as other:

        def send(transport: Any) -> None:
            for n in range(8):
                transport.sendto(bytes([n]) * 100, ("127.0.0.1", 0))
            for n in range(8):
                transport.sendto(bytes([n]) * 100, other.getsockname())

        async with endpoint(sending(send)) as (transport, protocol):
            await trigger(transport, protocol)
            assert await taken(other, 8) == [bytes([n]) * 100 for n in range(8)]
            await protocol.until(lambda: len(protocol.errors) >= 8)
            assert len(protocol.errors) == 8
            assert {type(error) for error in protocol.errors} == {OSError}


# ------------------------------------------------------------------------------------ that there are trains


@contextlib.contextmanager
def merging() -> Iterator[socket.socket]:
    """A peer that is given trains as they come."""
    with roomy() as sock:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        yield sock


needs_trains = pytest.mark.skipif(not linux_only, reason="UDP_SEGMENT is Linux's")


@needs_trains
async def test_they_leave_in_one_piece() -> None:
    if "gso" not in features():
        pytest.skip("no trains here")
    datagrams = contents([1200] * 31 + [70])
    with merging() as other:
        async with endpoint(remote_addr=other.getsockname()) as (transport, _):
            for data in datagrams:
                transport.sendto(data)
            data, told, _, _ = await asyncio.to_thread(other.recvmsg, 70_000, 100)
            assert data == b"".join(datagrams)
            sizes = [int.from_bytes(value[:2], sys.byteorder) for *_, value in told]
            assert sizes == [1200]
            # Nothing stays set.
            sock = transport.get_extra_info("socket")
            assert sock.getsockopt(SOL_UDP, UDP_SEGMENT) == 0


@needs_trains
async def test_refused_trains_leave_one_by_one() -> None:
    """A socket without checksums takes datagrams, and no trains: EINVAL."""
    datagrams = contents([1200] * 30)
    with roomy() as other:
        async with endpoint(remote_addr=other.getsockname()) as (transport, protocol):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
            for _ in range(2):
                for data in datagrams:
                    transport.sendto(data)
                assert await taken(other, 30) == datagrams
            nothing_more(other)
            assert protocol.errors == []


@needs_trains
async def test_a_corked_socket_still_makes_one_datagram() -> None:
    with roomy() as other:
        async with endpoint(remote_addr=other.getsockname()) as (transport, _):
            sock = transport.get_extra_info("socket")
            sock.setsockopt(SOL_UDP, UDP_CORK, 1)
            for n in range(5):
                transport.sendto(bytes([n]) * 100)
            await asyncio.sleep(0.01)
            sock.setsockopt(SOL_UDP, UDP_CORK, 0)
            assert await take(other) == b"".join(bytes([n]) * 100 for n in range(5))
            nothing_more(other)


@needs_trains
@pytest.mark.parametrize("lent", [False, True])
async def test_a_size_that_the_user_has_set_is_kept(lent: bool) -> None:
    with roomy() as other, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
        mine.setblocking(False)
        mine.connect(other.getsockname())
        options: Any = {"sock": mine} if lent else {"remote_addr": other.getsockname()}
        async with endpoint(**options) as (transport, _):
            sock = transport.get_extra_info("socket")
            sock.setsockopt(SOL_UDP, UDP_SEGMENT, 100)
            for n in range(4):
                transport.sendto(bytes([n]) * 250)
            pieces = [bytes([n]) * size for n in range(4) for size in (100, 100, 50)]
            assert await taken(other, len(pieces)) == pieces
            assert sock.getsockopt(SOL_UDP, UDP_SEGMENT) == 100


@needs_trains
async def test_a_socket_of_the_users_keeps_its_options() -> None:
    datagrams = contents([900] * 50)
    with roomy() as other, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
        mine.setblocking(False)
        mine.bind(("127.0.0.1", 0))
        async with endpoint(sock=mine) as (transport, _):
            for data in datagrams:
                transport.sendto(data, other.getsockname())
            assert await taken(other, 50) == datagrams
            assert mine.getsockopt(SOL_UDP, UDP_SEGMENT) == 0
            assert mine.getsockopt(SOL_UDP, UDP_GRO) == 0


SWITCHED = """
import asyncio, socket, sys, proactorx
SOL_UDP, UDP_GRO = 17, 104
async def main():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(SOL_UDP, UDP_GRO, 1)
        other.bind(("127.0.0.1", 0))
        other.settimeout(10)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=other.getsockname(), gro=True)
        for _ in range(10):
            transport.sendto(bytes(100))
        sizes = []
        while sum(sizes) < 1000:
            sizes.append(len(await asyncio.to_thread(other.recv, 2000)))
            await asyncio.sleep(0)
        own = transport.get_extra_info("socket").getsockopt(SOL_UDP, UDP_GRO)
        print(",".join(loop.backend_info().datagrams), max(sizes), own)
        transport.close()
        await asyncio.sleep(0)
proactorx.run(main())
"""


@needs_trains
@pytest.mark.parametrize(
    ("words", "left"), [("gso,gro", ""), ("gso", "gro"), (" gro ", "gso"), ("", "gso,gro")]
)
async def test_switched_off(words: str, left: str) -> None:
    if "gso" not in features() or "gro" not in features():
        pytest.skip("no trains here")
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", SWITCHED],
        env={**os.environ, "PROACTORX_UDP_DISABLE": words},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    found, largest, own = done.stdout.rstrip("\n").split(" ")
    assert found == left
    assert largest == ("1000" if "gso" in left else "100")
    assert own == ("1" if "gro" in left else "0")


async def test_an_unknown_word(monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(running(), "backend_info"):
        pytest.skip("ours only")
    monkeypatch.setenv("PROACTORX_UDP_DISABLE", "gso,nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        running().backend_info()
    with pytest.raises(ValueError, match="PROACTORX_UDP_DISABLE"):
        await running().create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0))
