"""Rows of the table of behaviours: how they are written down, and what they share."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

Loop = asyncio.AbstractEventLoop
Make = Callable[[], Loop]
Row = Callable[[Make], Any]

#: Topic and question of each row, with the function that answers it.
ROWS: dict[tuple[str, str], Row] = {}


def row(topic: str, question: str) -> Callable[[Row], Row]:
    """Register a function that is given a maker of loops and answers with a few words."""

    def register(answer: Row) -> Row:
        assert (topic, question) not in ROWS
        ROWS[topic, question] = answer
        return answer

    return register


def arow(topic: str, question: str) -> Callable[[Callable[[Loop], Awaitable[Any]]], object]:
    """The same for a coroutine, which is run on a loop of its own."""

    def register(answer: Callable[[Loop], Awaitable[Any]]) -> object:
        def run(make: Make) -> Any:
            with running(make) as loop:
                return loop.run_until_complete(asyncio.wait_for(answer(loop), 4))

        return row(topic, question)(run)

    return register


@contextlib.contextmanager
def running(make: Make) -> Iterator[asyncio.AbstractEventLoop]:
    """A loop, closed afterwards."""
    loop = make()
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def raised(call: Callable[[], Any], *, otherwise: str = "accepted") -> str:
    """The name of the exception that a call raises."""
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return otherwise


async def error_of(call: Any, *, otherwise: str = "accepted") -> str:
    """The name of the exception that something awaited raises."""
    try:
        await asyncio.wait_for(call, 1)
    except Exception as error:
        return type(error).__name__
    return otherwise


def yes(found: object) -> str:
    """Words for a truth."""
    return "yes" if found else "no"


class Recorder(asyncio.Protocol):
    """Notes which of its methods are called."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.data = b""
        self.error: BaseException | None = None
        self.made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")
        self.made.set_result(transport)

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return True

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")
        self.error = exc
        if not self.lost.done():
            self.lost.set_result(None)


@contextlib.asynccontextmanager
async def connection(loop: asyncio.AbstractEventLoop) -> Any:
    """A transport over TCP with its protocol, and the other end as a plain socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, protocol = await loop.create_connection(Recorder, *listener.getsockname())
        peer, _ = listener.accept()
    with peer:
        peer.settimeout(3)
        try:
            yield transport, protocol, peer
        finally:
            transport.abort()
            await protocol.lost
