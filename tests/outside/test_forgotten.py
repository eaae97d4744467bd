"""Transports that are paused and that nobody keeps: they are collected,
and the server and the peer hear of it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from outside.support import Inside, descriptors, dial, listening


@pytest.fixture
def unwarned() -> Iterator[None]:
    """Such a transport warns that nobody has closed it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


class Pausing(asyncio.Protocol):
    """Pauses its transport at once, or when the first byte has come,
    and leaves it to the test to forget it.
    """

    def __init__(self, when: str, paused: list[Any]) -> None:
        self.when = when
        self.paused = paused
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        if self.when == "at once":
            self.pause()

    def data_received(self, _: bytes) -> None:
        self.pause()

    def pause(self) -> None:
        transport, self.transport = self.transport, None
        transport.pause_reading()
        self.paused.append(transport)


WHEN = ["at once", "later"]


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="wait_closed() of older Pythons waits for no such connection"
)
@pytest.mark.parametrize("when", WHEN)
@pytest.mark.usefixtures("unwarned")
def test_the_server_hears_of_a_client_that_is_collected(inside: Inside, when: str) -> None:
    paused: list[Any] = []
    sock = listening()
    address = sock.getsockname()

    async def serve() -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(lambda: Pausing(when, paused), sock=sock)

    server = inside.run(serve())
    before = set(descriptors())
    with dial(address) as peer:
        peer.send(b"x")

        async def until_paused() -> None:
            while not paused:
                await asyncio.sleep(0.001)

        inside.run(until_paused())
        inside.call(server.close)
        waiting = inside.start(server.wait_closed())
        inside.turns()
        assert not waiting.done()
        inside.call(paused.clear)
        inside.call(gc.collect)
        waiting.result(10)
        assert peer.told() in ("FIN", "RST")  # the latter where a byte was left unread
        assert len(set(descriptors()) - before) <= 1  # ours
    assert inside.errors == []


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.usefixtures("unwarned")
def test_the_descriptors_of_collected_transports_are_closed(inside: Inside, when: str) -> None:
    paused: list[Any] = []
    sock = listening()

    async def serve() -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(lambda: Pausing(when, paused), sock=sock)

    server = inside.run(serve())
    before = len(descriptors())
    for _ in range(5):
        with dial(sock.getsockname()) as peer:
            peer.send(b"x")

            async def until_paused() -> None:
                while not paused:
                    await asyncio.sleep(0.001)

            inside.run(until_paused())
            inside.turns()
            inside.call(paused.clear)
            inside.call(gc.collect)
            assert peer.told() in ("FIN", "RST")
    assert len(descriptors()) == before
    inside.call(server.close)
    assert inside.errors == []
