"""Two loops receive on one datagram socket: each datagram is delivered by one of them, and none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .support import Child, Factory

COUNT = 10


@pytest.fixture(params=["udp", "unix"])
def sockets(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The one to share, bound, and a peer connected to it."""
    with contextlib.ExitStack() as stack:
        family = socket.AF_INET if request.param == "udp" else socket.AF_UNIX
        ours = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        peer = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        if request.param == "udp":
            ours.bind(("127.0.0.1", 0))
            peer.connect(ours.getsockname())
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="px", dir="/tmp"))
            ours.bind(path := os.path.join(folder, "s"))
            peer.connect(path)
        ours.setblocking(False)
        yield ours, peer


class Taker(asyncio.DatagramProtocol):
    """Keeps what it is given, and does something with the first."""

    def __init__(self, first: Callable[[Any], Any]) -> None:
        self.got: list[bytes] = []
        self.first = first
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.got.append(data)
        if len(self.got) == 1:
            self.first(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


def rest(sock: socket.socket) -> list[bytes]:
    """What still lies in the socket."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(100))
    return found


@pytest.mark.parametrize("ends", ["close", "abort"])
async def test_who_closes_at_the_first_leaves_the_others_in_the_socket(
    sockets: tuple[socket.socket, socket.socket], ends: str
) -> None:
    shared, peer = sockets
    sent = [b"%d" % n for n in range(COUNT)]
    for data in sent:
        peer.send(data)
    _, taker = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Taker(lambda transport: getattr(transport, ends)()), sock=shared.dup()
    )
    async with asyncio.timeout(10):
        while not taker.lost:
            await asyncio.sleep(0.001)
    assert taker.got == sent[:1]
    assert rest(shared) == sent[1:]


def test_two_loops_share_a_socket(
    loop_factory: Factory, sockets: tuple[socket.socket, socket.socket]
) -> None:
    """The first closes after its first datagram, the second takes the others."""
    shared, peer = sockets
    sent = [b"%d" % n for n in range(COUNT)]
    got: list[bytes] = []

    async def take(first: Callable[[Any], Any], until: Callable[[Taker], bool]) -> None:
        loop = asyncio.get_running_loop()
        transport, taker = await loop.create_datagram_endpoint(lambda: Taker(first), sock=shared.dup())
        try:
            async with asyncio.timeout(10):
                while not until(taker):
                    await asyncio.sleep(0.001)
        finally:
            got.extend(taker.got)
            transport.close()

    for data in sent:
        peer.send(data)
    with asyncio.Runner(loop_factory=loop_factory) as one, asyncio.Runner(loop_factory=loop_factory) as other:
        one.run(take(lambda transport: transport.close(), lambda taker: taker.lost))
        other.run(take(lambda transport: None, lambda taker: len(taker.got) + len(got) >= COUNT))
    assert got == sent


RECEIVER = """
FD, NAME = ARGS
class Taker(asyncio.DatagramProtocol):
    def datagram_received(self, data, address):
        say(data.decode())
async def main():
    sock = socket.socket(fileno=FD)
    sock.setblocking(False)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Taker, sock=sock)
    def command(what):
        if what == "block":
            say("blocking")
            time.sleep(60)
    told(command)
    say("ready")
    await forever()
run(main())
"""


def test_a_process_that_is_blocked_keeps_no_datagram(
    sockets: tuple[socket.socket, socket.socket], child: Callable[..., Child]
) -> None:
    shared, peer = sockets
    fd = shared.fileno()
    first, second = (child(RECEIVER, fd, name, pass_fds=[fd]) for name in "AB")
    assert first.hear() == second.hear() == "ready"
    for blocked, other in ((first, second),):
        assert blocked.ask("block") == "blocking"
        for n in range(COUNT):
            peer.send(b"%d" % n)
        assert [other.hear() for _ in range(COUNT)] == [str(n) for n in range(COUNT)]


def test_a_process_that_is_killed_takes_no_datagram_with_it(
    sockets: tuple[socket.socket, socket.socket], child: Callable[..., Child]
) -> None:
    shared, peer = sockets
    fd = shared.fileno()
    first, second = (child(RECEIVER, fd, name, pass_fds=[fd]) for name in "AB")
    assert first.hear() == second.hear() == "ready"
    assert first.ask("block") == "blocking"
    first.kill()
    for n in range(COUNT):
        peer.send(b"%d" % n)
    assert [second.hear() for _ in range(COUNT)] == [str(n) for n in range(COUNT)]


def test_a_loop_that_is_stopped_takes_no_datagram(
    loop_factory: Factory, sockets: tuple[socket.socket, socket.socket]
) -> None:
    shared, peer = sockets
    with asyncio.Runner(loop_factory=loop_factory) as runner:

        async def start() -> tuple[Any, Taker]:
            loop = asyncio.get_running_loop()
            made = await loop.create_datagram_endpoint(lambda: Taker(lambda _: None), sock=shared.dup())
            await asyncio.sleep(0.01)
            return made

        transport, taker = runner.run(start())
        peer.send(b"x")
        assert rest(shared) == [b"x"]
        assert taker.got == []
        transport.close()
        runner.run(asyncio.sleep(0.01))
