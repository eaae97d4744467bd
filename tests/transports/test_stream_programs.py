"""The streams of our servers do what asyncio's do: the same random programs run on both.

A program feeds a reader, reads and drains in tasks, cancels them, ends, fails, pauses.  What each step and
each task comes to, and when in relation to the others, is written down on both sides and compared.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import proactorx
from proactorx.transports import streams

CHUNK = 500
CHUNKS = 200  # 100,000 programs
STEPS = 25

STOCK = (asyncio.StreamReader, asyncio.StreamReaderProtocol, asyncio.StreamWriter)
COMPILED = (streams.CompiledReader, streams.CompiledProtocol, streams.CompiledWriter)
CONVERTED = (*STOCK[:2], streams.CompiledWriter)  # the reader and the protocol become others, see Program


class Transport:
    """Takes notes of what the reader and the writer ask."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.closing = False

    def pause_reading(self) -> None:
        self.log.append("pause")

    def resume_reading(self) -> None:
        self.log.append("resume")

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def outcome(task: asyncio.Task[Any]) -> Any:
    if task.cancelled():
        return "cancelled"
    exc = task.exception()
    if exc is None:
        return type(task.result()).__name__, task.result()
    cause = [type(error).__name__ for error in (exc.__cause__, exc.__context__)]
    return type(exc).__name__, exc.args, getattr(exc, "partial", None), getattr(exc, "consumed", None), cause


class Program:
    """One random program, on readers and writers of three classes."""

    def __init__(self, seed: int, classes: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.random = random.Random(seed)
        self.transport = Transport()
        reader, protocol, writer = classes
        self.limit = self.random.choice([1, 3, 8, 20])
        self.reader = reader(self.limit, loop)
        self.protocol = protocol(self.reader, loop=loop)
        if classes is CONVERTED:
            streams.convert(self.protocol)
        self.reader.set_transport(self.transport)
        self.writer = writer(self.transport, self.protocol, self.reader, loop)
        self.log: list[Any] = []
        self.tasks: list[asyncio.Task[Any]] = []
        weights = {
            self.feed: 8,
            self.read: 8,
            self.turns: 6,
            self.cancel: 2,
            self.drain: 2,
            self.pause: 1,
            self.look: 1,
            self.change: 1,
            self.finish: 1,
        }
        self.steps = self.random.choices(list(weights), list(weights.values()), k=STEPS)

    async def play(self) -> list[Any]:
        try:
            return await self._play()
        finally:
            self.transport.close()  # else the writer complains
            # The protocol's finalizer does that too, and the garbage collector may take the future first.
            closed = self.protocol._closed
            if closed.done() and not closed.cancelled():
                closed.exception()

    async def _play(self) -> list[Any]:
        for step in self.steps:
            try:
                await step()
            except Exception as exc:
                self.log.append((step.__name__, type(exc).__name__, exc.args))
            self.snapshot(step.__name__)
        self.reader._eof or self.reader.feed_eof()
        self.protocol.connection_lost(None)
        await asyncio.sleep(0)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.snapshot("end")
        self.log.append(bytes(self.reader._buffer))
        return self.log

    def snapshot(self, name: str) -> None:
        reader = self.reader
        self.log.append(
            (
                name,
                *self.transport.log,
                reader._paused,
                reader._eof,
                reader._waiter is None,
                reader.at_eof(),
                type(reader.exception()).__name__,
            )
        )

    def start(self, name: str, coroutine: Any) -> None:
        number = len(self.tasks)
        task = asyncio.create_task(coroutine)
        task.add_done_callback(lambda task: self.log.append((number, name, outcome(task))))
        self.tasks.append(task)

    def size(self) -> int:
        return self.random.randrange(2 * self.limit + 2)

    async def feed(self) -> None:
        size = self.random.choice([self.size(), 4 * self.limit])
        data: Any = bytes(self.random.choices(b"ab\n;", k=size))
        if self.random.random() < 0.1:
            data = bytearray(data)
        if self.random.random() < 0.5:
            self.protocol.data_received(data)
            return
        self.reader.feed_data(data)

    async def read(self) -> None:
        reader, size = self.reader, self.size()
        separators = [b"\n", b";", b"ab", b"\n;a", bytearray(b";"), b"", "x"]
        if sys.version_info >= (3, 13):
            separators += [(b";", b"ab"), (), (b"ab\n", b"\n")]
        separator = self.random.choice(separators)
        name, coroutine = self.random.choice(
            [
                ("read", lambda: reader.read(size)),
                ("read all", lambda: reader.read(-self.random.randrange(3))),
                ("read most", lambda: reader.read(self.random.choice([2**70, -(2**70), True, None, 2.5]))),
                ("readexactly", lambda: reader.readexactly(size - 1)),
                ("readexactly", lambda: reader.readexactly(size)),
                ("readuntil", lambda: reader.readuntil(separator)),
                ("readline", reader.readline),
                ("readline", reader.readline),
                ("next", reader.__anext__),
            ]
        )
        self.start(name, coroutine())

    async def turns(self) -> None:
        for _ in range(self.random.randrange(1, 4)):
            await asyncio.sleep(0)

    async def cancel(self) -> None:
        live = [task for task in self.tasks if not task.done()]
        if live:
            self.random.choice(live).cancel(*self.random.choice([(), ("why",)]))

    async def drain(self) -> None:
        self.start("drain", self.writer.drain())

    async def pause(self) -> None:
        if self.protocol._paused:
            self.protocol.resume_writing()
        else:
            self.protocol.pause_writing()

    async def look(self) -> None:
        self.log.append(bytes(self.reader._buffer))
        if self.random.random() < 0.3:
            del self.reader._buffer[: self.random.randrange(3)]

    async def change(self) -> None:
        what = self.random.randrange(5)
        if what == 0:
            self.reader._limit = self.random.choice([2, 10])
        elif what == 1:
            self.transport.closing = True
        elif what == 2:
            repr(self.reader)
        elif what == 3:
            with memoryview(self.reader._buffer):
                self.start("exported", self.reader.read(2))
                await asyncio.sleep(0)
        else:
            self.log.append((self.reader._limit, len(self.reader._buffer)))

    async def finish(self) -> None:
        what = self.random.randrange(4)
        if what == 0:
            self.reader.feed_eof()
        elif what == 1:
            self.reader.set_exception(self.random.choice([ValueError("bad"), ConnectionResetError("gone")]))
        elif what == 2:
            self.protocol.connection_lost(self.random.choice([None, OSError(5, "lost")]))
        else:
            self.protocol.eof_received()


@pytest.fixture(scope="module")
def one_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = proactorx.new_event_loop(backend="select")
    yield loop
    loop.close()


@pytest.mark.skipif(streams.MODE != "compiled", reason="this Python's streams are asyncio's own")
@pytest.mark.parametrize(
    "chunk", [0, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in range(1, CHUNKS))]
)
def test_programs_do_the_same_on_both(chunk: int, one_loop: asyncio.AbstractEventLoop) -> None:
    for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
        ours = CONVERTED if seed % 3 == 0 and streams._CONVERTS else COMPILED
        stock = one_loop.run_until_complete(Program(seed, STOCK, one_loop).play())
        compiled = one_loop.run_until_complete(Program(seed, ours, one_loop).play())
        assert compiled == stock, f"program {seed}"
