"""The select driver's own: what it does when its selector reports a descriptor that it does not know any
more.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import proactorx
from proactorx import CompletionPort

LIMIT = 10

pytestmark = pytest.mark.skipif(
    selectors.DefaultSelector.__name__ != "EpollSelector",
    reason="only epoll goes on reporting a closed file",
)


class Ghost:
    """A socket that epoll reports for ever: its number is closed, a duplicate is not, and it is readable."""

    def __init__(self) -> None:
        self.one, self.other = socket.socketpair()
        self.number = self.one.fileno()
        self._duplicate = self.one.dup()

    def appear(self) -> None:
        self.one.close()
        self.other.send(b"x")

    def close(self) -> None:
        for sock in (self.one, self._duplicate, self.other):
            sock.close()


@pytest.fixture
def ghost() -> Iterator[Ghost]:
    made = Ghost()
    yield made
    made.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The time-out of each wait on a selector."""
    seen: list[float | None] = []
    real = selectors.DefaultSelector.select

    def select(self: Any, timeout: float | None = None) -> Any:
        seen.append(timeout)
        return real(self, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", select)
    return seen


async def _watched(sock: socket.socket, other: socket.socket) -> None:
    """What comes is reported."""
    loop = asyncio.get_running_loop()
    came = loop.create_future()
    loop.add_reader(sock, came.set_result, None)
    await asyncio.sleep(0.01)
    assert not came.done()
    other.send(b"y")
    await asyncio.wait_for(came, LIMIT)
    loop.remove_reader(sock)


def test_a_ghost_does_not_make_the_loop_spin(ghost: Ghost, waits: list[float | None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(ghost.number, lambda: None)
        await asyncio.sleep(0.01)
        ghost.appear()
        loop.remove_reader(ghost.number)
        await asyncio.sleep(0.1)  # found out meanwhile
        before = len(waits)
        await asyncio.sleep(0.2)
        assert len(waits) - before <= 4
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            await _watched(one, other)

    proactorx.run(main(), backend="select")


def test_what_was_watched_before_a_ghost_is_watched_after_it(ghost: Ghost, waits: list[float | None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        with one, other:
            one.setblocking(False)
            data = asyncio.ensure_future(loop.sock_recv(one, 10))
            loop.add_reader(ghost.number, lambda: None)
            await asyncio.sleep(0.01)
            ghost.appear()
            loop.remove_reader(ghost.number)
            await asyncio.sleep(0.1)
            before = len(waits)
            loop.call_later(0.1, other.send, b"late")
            assert await asyncio.wait_for(data, LIMIT) == b"late"
            assert len(waits) - before <= 6
            loop.call_soon_threadsafe(lambda: None)  # and so is its waker
            assert await asyncio.wait_for(loop.run_in_executor(None, str, 1), LIMIT) == "1"

    proactorx.run(main(), backend="select")


def test_a_thread_that_sleeps_beside_a_ghost_gets_what_comes(ghost: Ghost) -> None:
    """A port's thread sleeps in the selector itself, which is another one after a ghost."""
    with CompletionPort(backend="select") as port:
        port.bind(ghost.one)
        operation = port.recv(ghost.one, 10)
        assert port.get_many(1, 0) == []
        ghost.appear()
        operation.cancel()
        port.get(LIMIT)
        one, other = socket.socketpair()
        with one, other:
            port.bind(one, "key")
            port.recv(one, 10)
            assert port.get_many(1, 0.2) == []
            other.send(b"late")
            assert port.get(LIMIT).key == "key"
