"""The reader and the writer that a server's callback gets: asyncio's in all that can be seen of them."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import os
import pickle
import subprocess
import sys
import unittest.mock
import warnings
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

import proactorx
from proactorx.transports import streams

from .support import LIMIT, turns

Served = tuple[Any, Any, Any, Any]  # the server's reader and writer, the client's


async def connected(**options: Any) -> Served:
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[tuple[Any, Any]] = loop.create_future()
    server = await asyncio.start_server(
        lambda reader, writer: accepted.set_result((reader, writer)), "127.0.0.1", 0, **options
    )
    client = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    reader, writer = await asyncio.wait_for(accepted, LIMIT)
    server.close()
    return reader, writer, *client


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    made = await connected()
    yield made
    for writer in (made[1], made[3]):
        writer.close()
    await turns(5)


def test_this_python_is_known() -> None:
    assert streams._unknown() == ""
    assert streams.MODE == "compiled"


@pytest.mark.ours
async def test_the_loop_says_what_its_streams_are(served: Served) -> None:
    loop: Any = asyncio.get_running_loop()
    assert loop.backend_info().streams == "compiled"
    assert type(served[0]) is streams.CompiledReader
    assert type(served[1]) is streams.CompiledWriter


async def test_the_reader_of_a_client(served: Served) -> None:
    _, writer, reader, other = served
    writer.write(b"line\nand 10 bytes")
    assert await asyncio.wait_for(reader.readline(), LIMIT) == b"line\n"
    assert await asyncio.wait_for(reader.readexactly(3), LIMIT) == b"and"
    assert await asyncio.wait_for(reader.read(100), LIMIT) == b" 10 bytes"
    await asyncio.wait_for(other.drain(), LIMIT)
    assert repr(reader).startswith("<StreamReader transport=<")
    assert isinstance(reader, asyncio.StreamReader)
    fed: list[bytes] = []
    reader.feed_data = fed.append
    writer.write(b"mine")
    async with asyncio.timeout(LIMIT):
        while b"".join(fed) != b"mine":
            await asyncio.sleep(0.001)


@pytest.mark.ours
async def test_what_a_client_is_given(served: Served) -> None:
    assert (type(served[2]) is streams.ConvertedReader) == streams._CONVERTS


async def test_a_reader_that_was_used_before_its_connection() -> None:
    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    reader = asyncio.StreamReader(limit=100)
    kept = reader._buffer  # type: ignore[attr-defined]
    reader.feed_data(b"early ")
    reading = asyncio.create_task(reader.readexactly(9))
    await turns(2)
    transport, _ = await loop.create_connection(
        lambda: asyncio.StreamReaderProtocol(reader), *server.sockets[0].getsockname()[:2]
    )
    assert kept == b"early "
    assert reader._buffer is kept  # type: ignore[attr-defined]
    reader.feed_data(b"and late")
    assert await asyncio.wait_for(reading, LIMIT) == b"early and"
    assert await asyncio.wait_for(reader.read(), LIMIT) == b" late"
    assert reader.at_eof()
    transport.close()
    server.close()
    await turns(5)


@pytest.mark.parametrize(
    ("word", "streams_are"),
    [
        ("stock", "stock: named by $PROACTORX_STREAMS"),
        ("maybe", "stock: $PROACTORX_STREAMS is 'maybe', neither compiled nor stock"),
        ("compiled", "compiled"),
    ],
)
def test_the_environment_chooses(word: str, streams_are: str) -> None:
    script = """
import asyncio, proactorx
async def main():
    found = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(lambda *pair: found.set_result(pair), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    reader, other = await found
    print(type(reader) is asyncio.StreamReader, type(other) is asyncio.StreamWriter)
    for one in (writer, other):
        one.close()
        await one.wait_closed()
    print(asyncio.get_running_loop().backend_info().streams)
    server.close()
proactorx.run(main(), backend="select")
"""
    env = os.environ | {"PROACTORX_STREAMS": word, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    stock = word != "compiled"
    assert done.stdout.splitlines() == [f"{stock} {stock}", streams_are], done.stderr


def test_an_unknown_python_gets_asyncios_own(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(self: Any, n: int = -1) -> bytes:
        return bytes(self.something_new)

    monkeypatch.setattr(asyncio.StreamReader, "read", read)
    assert streams._unknown() == "asyncio.StreamReader.read of this Python is unknown"


async def test_they_look_like_asyncios_own(served: Served) -> None:
    reader, writer, *_ = served
    assert isinstance(reader, asyncio.StreamReader)
    assert isinstance(writer, asyncio.StreamWriter)
    assert repr(type(reader)) == "<class 'asyncio.streams.StreamReader'>"
    assert repr(type(writer)) == "<class 'asyncio.streams.StreamWriter'>"
    assert repr(reader).startswith("<StreamReader transport=<")
    assert repr(writer).startswith("<StreamWriter transport=<")
    for name in ("read", "readline", "readuntil", "readexactly", "at_eof", "feed_data"):
        method, original = getattr(reader, name), getattr(asyncio.StreamReader, name)
        assert method.__qualname__ == original.__qualname__
        assert method.__doc__ == original.__doc__
        assert inspect.iscoroutinefunction(method) == inspect.iscoroutinefunction(original)
        assert list(inspect.signature(method).parameters) == list(inspect.signature(original).parameters)[1:]
    with pytest.raises((TypeError, pickle.PicklingError)):
        pickle.dumps(reader)
    assert vars(copy.copy(reader)).keys() >= {"_limit", "_loop", "_buffer", "_eof", "_transport"}


async def test_their_coroutines_are_coroutines(served: Served) -> None:
    reader, writer, _, other = served
    other.write(b"one\ntwo\nrest")
    coroutine = reader.readline()
    assert asyncio.iscoroutine(coroutine)
    assert inspect.iscoroutine(coroutine)
    assert await asyncio.create_task(coroutine) == b"one\n"
    assert await asyncio.wait_for(reader.readuntil(b"o"), LIMIT) == b"two"[:3]
    assert await asyncio.gather(reader.readexactly(1), writer.drain()) == [b"\n", None]
    assert await asyncio.wait_for(reader.read(100), LIMIT) == b"rest"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        reader.read(1)
        gc.collect()
    assert [str(one.message) for one in seen] == ["coroutine 'StreamReader.read' was never awaited"]


async def test_what_is_there_is_read_without_a_turn(served: Served) -> None:
    reader, writer, _, other = served
    other.write(b"x" * 5 + b"\n" + b"y" * 10)
    while len(reader._buffer) < 16:
        await asyncio.sleep(0.001)
    for coroutine, data in (
        (reader.readline(), b"xxxxx\n"),
        (reader.readexactly(3), b"yyy"),
        (reader.read(4), b"yyyy"),
        (reader.readuntil(b"yy"), b"yy"),
        (reader.read(9), b"y"),
        (writer.drain(), None),
    ):
        with pytest.raises(StopIteration) as ended:
            coroutine.send(None)
        assert ended.value.value == data


async def test_async_iteration(served: Served) -> None:
    reader, _, _, other = served
    other.write(b"a\nb\nc")
    other.write_eof()
    assert [line async for line in reader] == [b"a\n", b"b\n", b"c"]
    assert reader.at_eof()


async def test_a_wait_that_times_out_leaves_nothing(served: Served) -> None:
    reader, _, _, other = served
    for _ in range(3):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(reader.read(10), 0.001)
        assert reader._waiter is None
    other.write(b"data")
    assert await asyncio.wait_for(reader.read(10), LIMIT) == b"data"


async def test_the_waiter_is_a_future(served: Served) -> None:
    reader, _, _, other = served
    task = asyncio.create_task(reader.read(10))
    await turns(1)
    waiter = reader._waiter
    assert asyncio.isfuture(waiter)
    assert isinstance(waiter, asyncio.Future)
    assert waiter.get_loop() is asyncio.get_running_loop()
    assert repr(waiter).startswith("<Future pending")
    assert not waiter.done()
    assert not waiter.cancelled()
    with pytest.raises(asyncio.InvalidStateError):
        waiter.result()
    woken: list[Any] = []
    waiter.add_done_callback(woken.append)
    waiter.add_done_callback(print)
    assert waiter.remove_done_callback(print) == 1
    await asyncio.wait_for(end_of(waiter, other), LIMIT)
    assert await task == b"data"
    assert woken == [waiter]
    assert not waiter.cancel()
    assert waiter.exception() is None
    late: list[Any] = []
    waiter.add_done_callback(late.append)
    await turns(2)
    assert late == [waiter]
    with pytest.raises(asyncio.InvalidStateError):
        waiter.set_result(None)


async def end_of(waiter: Any, other: Any) -> None:
    other.write(b"data")
    while not waiter.done():
        await asyncio.sleep(0.001)
    await turns(1)


async def test_a_wait_ends_with_the_exception_of_the_reader(served: Served) -> None:
    reader = served[0]
    task = asyncio.create_task(reader.readline())
    await turns(1)
    waiter = reader._waiter
    reader.set_exception(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await task
    assert isinstance(waiter.exception(), ValueError)
    with pytest.raises(ValueError, match="broken"):
        await reader.read(1)
    with pytest.raises(ValueError, match="broken"):
        await served[1].drain()


async def test_a_coroutine_that_is_closed_waits_no_more(served: Served) -> None:
    reader, _, _, other = served
    coroutine = reader.readexactly(4)
    coroutine.send(None)
    with pytest.raises(RuntimeError, match="called while another coroutine is already waiting"):
        await reader.read(1)
    coroutine.close()
    other.write(b"data")
    assert await asyncio.wait_for(reader.readexactly(4), LIMIT) == b"data"


# ------------------------------------------------------------------------------------------ what was replaced


async def test_a_method_of_the_class_is_replaced_while_a_connection_is_open(served: Served) -> None:
    reader, _, _, other = served
    with unittest.mock.patch.object(asyncio.StreamReader, "read", return_value=b"mocked") as mock:
        assert await reader.read(5) == b"mocked"
        assert mock.await_count == 1
    with unittest.mock.patch.object(asyncio.StreamReader, "readuntil", side_effect=ValueError("mocked")):
        with pytest.raises(ValueError, match="mocked"):
            await reader.readline()
    other.write(b"real\n")
    assert await asyncio.wait_for(reader.readline(), LIMIT) == b"real\n"


async def test_a_method_of_the_readers_own_class_is_replaced(served: Served) -> None:
    reader = served[0]
    with unittest.mock.patch.object(type(reader), "readline", return_value=b"mocked"):
        assert await reader.readline() == b"mocked"


async def test_a_method_of_one_reader_is_replaced(served: Served) -> None:
    reader, _, _, other = served
    fed: list[bytes] = []
    original = reader.feed_data

    def feed_data(data: bytes) -> None:
        fed.append(data)
        original(data)

    reader.feed_data = feed_data
    other.write(b"line\nmore\n")
    assert await asyncio.wait_for(reader.readline(), LIMIT) == b"line\n"
    assert b"".join(fed) == b"line\nmore\n"

    async def readuntil(separator: bytes = b"\n") -> bytes:
        return b"mine"

    reader.readuntil = readuntil
    assert await reader.readline() == b"mine"
    del reader.readuntil
    assert await asyncio.wait_for(reader.readline(), LIMIT) == b"more\n"


async def test_a_class_that_was_replaced_before_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    original = asyncio.StreamReader.feed_data

    def feed_data(self: asyncio.StreamReader, data: bytes) -> None:
        seen.append(data)
        original(self, data)

    monkeypatch.setattr(asyncio.StreamReader, "feed_data", feed_data)
    reader, writer, _, other = await connected()
    other.write(b"data")
    assert await asyncio.wait_for(reader.readexactly(4), LIMIT) == b"data"
    assert b"".join(seen) == b"data"
    writer.close()
    other.close()
    await turns(5)


def test_a_method_that_is_replaced_while_another_thread_looks_at_the_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The look has found nothing and ends: what was replaced behind its back is seen by the next one."""
    look = streams._look

    def look_and_lose() -> list[Any]:
        found = look()
        monkeypatch.setattr(streams.CompiledReader, "read", asyncio.StreamReader.read)
        return found

    monkeypatch.setattr(streams.CompiledReader, "anything", 1, raising=False)  # so that it is looked at
    monkeypatch.setattr(streams, "_look", look_and_lose)
    streams.read_state.is_intact()
    monkeypatch.setattr(streams, "_look", look)
    assert not streams.read_state.is_intact()
    monkeypatch.undo()
    assert streams.read_state.is_intact()


async def test_the_class_of_readers_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(asyncio.StreamReader):
        pass

    monkeypatch.setattr(asyncio.streams, "StreamReader", Mine)
    reader, writer, _, other = await connected()
    assert type(reader) is Mine
    writer.close()
    other.close()
    await turns(5)


async def test_the_protocol_is_given_another_data_received(served: Served) -> None:
    reader, writer, _, other = served
    protocol = writer.transport.get_protocol()
    seen: list[bytes] = []
    original = protocol.data_received

    def data_received(data: bytes) -> None:
        seen.append(data)
        original(data.upper())

    protocol.data_received = data_received
    other.write(b"data")
    assert await asyncio.wait_for(reader.readexactly(4), LIMIT) == b"DATA"
    assert b"".join(seen) == b"data"
    del protocol.data_received
    other.write(b"more")
    assert await asyncio.wait_for(reader.readexactly(4), LIMIT) == b"more"
    with pytest.raises(AttributeError):
        del protocol.data_received


async def test_the_attributes_are_there(served: Served) -> None:
    reader, _, _, other = served
    other.write(b"data")
    while not reader._buffer:
        await asyncio.sleep(0.001)
    kept = reader._buffer
    assert type(kept) is bytearray
    assert await reader.read(2) == b"da"
    assert kept == b"ta"
    kept += b"!"
    assert await reader.read(9) == b"ta!"
    other.write(b"more")
    while not kept:
        await asyncio.sleep(0.001)
    assert kept == b"more"
    assert reader._buffer is kept
    assert (reader._eof, reader._paused, reader._exception, reader._limit) == (False, False, None, 2**16)
    assert reader._loop is asyncio.get_running_loop()
    reader._limit = 2
    with pytest.raises(ValueError, match="limit"):
        await reader.readline()
    reader._buffer = bytearray(b"put\n")
    reader._limit = 20
    assert await reader.readline() == b"put\n"


async def test_a_limit_that_is_no_integer() -> None:
    reader, writer, _, other = await connected(limit=10.5)
    other.write(b"line\n" + b"x" * 20)
    assert await asyncio.wait_for(reader.readline(), LIMIT) == b"line\n"
    writer.close()
    other.close()
    await turns(5)
    with pytest.raises(ValueError, match="Limit cannot be <= 0"):
        streams.CompiledReader(0, asyncio.get_running_loop())


async def test_the_limit_holds_on_a_connection() -> None:
    reader, writer, _, other = await connected(limit=1000)
    other.write(b"x" * 2001)
    async with asyncio.timeout(LIMIT):
        while writer.transport.is_reading():
            await asyncio.sleep(0.001)
    assert await reader.read(1000) == b"x" * 1000
    assert not writer.transport.is_reading()
    assert await reader.read(1) == b"x"
    assert writer.transport.is_reading()
    assert await reader.readexactly(1000) == b"x" * 1000
    writer.close()
    other.close()
    await turns(5)


async def test_a_reader_that_nobody_keeps_is_freed() -> None:
    reader, writer, _, other = await connected()
    gone = weakref.ref(reader)
    other.write(b"data")
    assert await asyncio.wait_for(reader.read(9), LIMIT) == b"data"
    writer.close()
    other.close()
    await turns(5)
    del reader, writer
    gc.collect()  # the callback of the server knows the future that had them
    assert gone() is None


def test_debug_mode_has_asyncios_own() -> None:
    async def main() -> None:
        made: Any = await connected()
        reader, writer, _, other = made
        assert type(reader) is asyncio.StreamReader
        assert reader._source_traceback
        writer.close()
        other.close()
        await turns(5)

    proactorx.run(main(), backend="select", debug=True)
