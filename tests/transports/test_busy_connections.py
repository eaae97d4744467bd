"""Connections whose peers always have sent more by the next turn, and then do something else.

io_uring receives from such a connection without a poll, see ``drivers/io_uring/encode.pxd``: each test makes
some busy first, and asserts that nothing of what follows is lost, early, late or twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from .support import BufferedRecorder, Link, Recorder, linked, reset

BUSY = 6  # connections at the same time
ROUNDS = 40  # messages of each before the test begins

both_kinds = pytest.mark.parametrize("kind", ["tcp", "accepted", "unix"])
both_protocols = pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
Next = Callable[[Link], None]


class Traffic:
    """Connections on which each message brings the next one; after ``ROUNDS`` of them, what a test wants."""

    def __init__(self, then: Next) -> None:
        self.then = then
        self.links: dict[Any, Link] = {}
        self.counts: dict[Any, int] = {}

    def came(self, protocol: Any, *_: Any) -> None:
        self.counts[protocol] += 1
        if self.counts[protocol] < ROUNDS:
            self.links[protocol].peer.sendall(b"message")
        elif self.counts[protocol] == ROUNDS:
            self.then(self.links[protocol])

    @contextlib.asynccontextmanager
    async def on(self, kind: str, make: Any) -> AsyncIterator[list[Link]]:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(BUSY):
                protocol = make(data_received=self.came, buffer_updated=self.came)
                self.counts[protocol] = 0
                self.links[protocol] = await stack.enter_async_context(linked(kind, protocol))
            for link in self.links.values():
                link.peer.sendall(b"message")
            yield list(self.links.values())

    @staticmethod
    async def over(links: list[Link]) -> None:
        for link in links:
            await link.protocol.until_received(ROUNDS * len(b"message"))


def rest(link: Link) -> bytes:
    """What came after the traffic."""
    return bytes(link.protocol.data[ROUNDS * len(b"message") :])


async def rest_is(link: Link, expected: bytes) -> None:
    """This comes after the traffic, and nothing else until then."""
    await link.protocol.until_received(ROUNDS * len(b"message") + len(expected))
    assert rest(link) == expected


@both_kinds
@both_protocols
async def test_then_quiet_and_again(kind: str, make: Any) -> None:
    traffic = Traffic(lambda link: None)
    async with traffic.on(kind, make) as links:
        await traffic.over(links)
        for number in range(5):
            await asyncio.sleep(0.005)
            for link in links:
                link.peer.sendall(b"%d" % number)
        for link in links:
            await rest_is(link, b"01234")


@both_kinds
@both_protocols
async def test_then_the_end(kind: str, make: Any) -> None:
    def end(link: Link) -> None:
        link.peer.sendall(b"last")
        link.peer.shutdown(socket.SHUT_WR)

    traffic = Traffic(end)
    async with traffic.on(kind, make) as links:
        for link in links:
            assert await link.protocol.until_lost() is None
            assert rest(link) == b"last"
            assert link.protocol.order[-2:] == ["eof_received", "connection_lost"]
            assert link.protocol.events.count("eof_received") == 1


@both_kinds
@both_protocols
async def test_then_only_the_end(kind: str, make: Any) -> None:
    traffic = Traffic(lambda link: link.peer.shutdown(socket.SHUT_WR))
    async with traffic.on(kind, make) as links:
        for link in links:
            assert await link.protocol.until_lost() is None
            assert rest(link) == b""


@both_protocols
@pytest.mark.skipif(sys.platform == "win32", reason="under Wine 8 a receive that waits then says the end")
async def test_then_a_reset(make: Any) -> None:
    traffic = Traffic(lambda link: reset(link.peer))
    async with traffic.on("tcp", make) as links:
        for link in links:
            assert isinstance(await link.protocol.until_lost(), ConnectionResetError)
            assert "eof_received" not in link.protocol.events


@both_kinds
@both_protocols
@pytest.mark.parametrize("close", ["close", "abort"])
async def test_then_closed_here(kind: str, make: Any, close: str) -> None:
    def shut(link: Link) -> None:
        link.peer.sendall(b"too late")
        getattr(link.transport, close)()

    traffic = Traffic(shut)
    async with traffic.on(kind, make) as links:
        for link in links:
            assert await link.protocol.until_lost() is None
            assert rest(link) == b""


@both_kinds
@both_protocols
@pytest.mark.skipif(sys.platform == "win32", reason="looks into the socket by a duplicate")
async def test_then_paused(kind: str, make: Any) -> None:
    """The bytes that come from then on stay in the socket."""

    def pause(link: Link) -> None:
        link.transport.pause_reading()
        link.peer.sendall(b"later")

    traffic = Traffic(pause)
    async with traffic.on(kind, make) as links:
        await traffic.over(links)
        for _ in range(5):
            await asyncio.sleep(0.002)
        for link in links:
            sock = link.transport.get_extra_info("socket")
            with socket.socket(fileno=socket.dup(sock.fileno())) as duplicate:
                assert duplicate.recv(100, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"later"
            assert rest(link) == b""
            link.transport.resume_reading()
        for link in links:
            await rest_is(link, b"later")


@both_kinds
@both_protocols
async def test_then_another_protocol(kind: str, make: Any) -> None:
    others: dict[Any, Any] = {}

    def change(link: Link) -> None:
        other = BufferedRecorder() if make is Recorder else Recorder()
        others[link.protocol] = other
        link.transport.set_protocol(other)
        link.peer.sendall(b"for the other")

    traffic = Traffic(change)
    async with traffic.on(kind, make) as links:
        await traffic.over(links)
        for link in links:
            assert await others[link.protocol].until_received(13) == b"for the other"
            assert rest(link) == b""
            link.transport.set_protocol(link.protocol)


@both_protocols
@pytest.mark.skipif(sys.platform == "win32", reason="urgent data ends a read there")
async def test_then_urgent_data(make: Any) -> None:
    """A receive stops at the mark: what is behind it comes too, tcp(7)."""

    def urgent(link: Link) -> None:
        link.peer.sendall(b"before")
        link.peer.send(b"!", socket.MSG_OOB)
        link.peer.sendall(b"after")

    traffic = Traffic(urgent)
    async with traffic.on("tcp", make) as links:
        for link in links:
            await rest_is(link, b"beforeafter")


@both_protocols
@pytest.mark.skipif(sys.platform == "win32", reason="no descriptors are passed there")
async def test_then_passed_descriptors(make: Any) -> None:
    """A receive stops behind them: what follows comes too, unix(7)."""

    def send(link: Link) -> None:
        link.peer.sendall(b"before")
        for _ in range(3):
            socket.send_fds(link.peer, [b"with"], [link.peer.fileno()])
        link.peer.sendall(b"after")

    traffic = Traffic(send)
    async with traffic.on("unix", make) as links:
        for link in links:
            await rest_is(link, b"beforewithwithwithafter")


@both_protocols
async def test_the_others_are_served(make: Any) -> None:
    """While they go on, a message of somebody else, a callback and a timer wait for few of theirs."""
    stop = False
    total = 0
    seen: dict[str, int] = {}

    def more(protocol: Any, *_: Any) -> None:
        nonlocal total
        total += 1
        if not stop:
            traffic.links[protocol].peer.sendall(b"message")

    traffic = Traffic(lambda link: None)
    traffic.came = more  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()
    quiet = Recorder(data_received=lambda *_: seen.setdefault("message", total))
    async with linked("tcp", quiet) as link, traffic.on("tcp", make):
        while total < BUSY * ROUNDS:
            await asyncio.sleep(0)
        begun = total
        link.peer.sendall(b"from outside")
        loop.call_soon_threadsafe(lambda: seen.setdefault("call", total))
        loop.call_later(0, lambda: seen.setdefault("timer", total))
        deadline = time.monotonic() + 10
        while len(seen) < 3 and time.monotonic() < deadline:
            await asyncio.sleep(0)
        stop = True
        assert seen.keys() == {"message", "call", "timer"}
        assert max(seen.values()) - begun <= 6 * BUSY


async def test_idle_afterwards() -> None:
    """A loop that has nothing left to receive sleeps."""
    traffic = Traffic(lambda link: None)
    async with traffic.on("tcp", Recorder) as links:
        await traffic.over(links)
        await asyncio.sleep(0.02)
        before = time.thread_time()
        await asyncio.sleep(0.3)
        assert time.thread_time() - before < 0.1


def test_then_the_run_ends(loop: asyncio.AbstractEventLoop) -> None:
    """What comes between two runs of the loop is told in the second."""

    def last(link: Link) -> None:
        link.peer.sendall(b"between")
        loop.stop()

    traffic = Traffic(last)
    manager = traffic.on("tcp", Recorder)
    links = loop.run_until_complete(manager.__aenter__())
    for _ in range(BUSY):
        if all(traffic.counts[link.protocol] >= ROUNDS for link in links):
            break
        loop.run_forever()
    for link in links:
        loop.run_until_complete(link.protocol.until_received(ROUNDS * len(b"message") + len(b"between")))
    assert [rest(link) for link in links] == [b"between"] * BUSY
    loop.run_until_complete(manager.__aexit__(None, None, None))
