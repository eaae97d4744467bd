"""A loop that runs in one thread and later in another, with everything it holds still working."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from .helpers import Factory, in_thread, run_until, socket_pair, step


class Conversation:
    """A server and a client of it, both on one loop."""

    async def open(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.reader, self.writer = await self._connect()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.server.sockets[0].getsockname())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.close()
        await writer.wait_closed()

    async def check(self, word: str) -> None:
        """The old connection works, and so does a new one."""
        async with asyncio.timeout(10):
            self.writer.write(word.encode())
            assert await self.reader.readexactly(len(word)) == word.upper().encode()
            reader, writer = await self._connect()
            writer.write(b"new")
            assert await reader.readexactly(3) == b"NEW"
            writer.close()
            await writer.wait_closed()

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()
        self.server.close()
        await self.server.wait_closed()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.001)


@pytest.fixture
def conversation(loop: asyncio.AbstractEventLoop) -> Iterator[Conversation]:
    it = Conversation()
    loop.run_until_complete(it.open())
    yield it
    loop.run_until_complete(it.close())


def test_an_open_server_and_its_connections(
    loop: asyncio.AbstractEventLoop, conversation: Conversation
) -> None:
    """From the main thread to one that ends, to another that ends, and back."""
    loop.run_until_complete(conversation.check("main"))
    for word in ("first", "second", "third"):
        in_thread(lambda word=word: loop.run_until_complete(conversation.check(word)))
    loop.run_until_complete(conversation.check("back"))


def test_between_threads_that_live_on(loop: asyncio.AbstractEventLoop, conversation: Conversation) -> None:
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        for i in range(6):
            thread = (one, other)[i % 2]
            thread.submit(loop.run_until_complete, conversation.check(f"turn {i}")).result(20)


def test_a_loop_made_in_a_thread_that_has_ended(loop_factory: Factory) -> None:
    conversation = Conversation()

    def begin() -> asyncio.AbstractEventLoop:
        loop = loop_factory()
        loop.run_until_complete(conversation.open())
        return loop

    loop = in_thread(begin)
    in_thread(lambda: loop.run_until_complete(conversation.check("another")))
    loop.run_until_complete(conversation.check("main"))
    loop.run_until_complete(conversation.close())
    loop.close()


def test_made_in_one_thread_and_first_run_in_another(loop_factory: Factory) -> None:
    loop = in_thread(loop_factory)
    assert in_thread(lambda: loop.run_until_complete(asyncio.sleep(0, "ran"))) == "ran"
    in_thread(loop.close)
    assert loop.is_closed()


def test_pending_callbacks_and_timers(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[tuple[str, int]] = []

    def note(word: str) -> None:
        seen.append((word, threading.get_ident()))

    def first() -> int:
        loop.call_soon(note, "ran in the first")
        step(loop)
        loop.call_soon(note, "soon")
        loop.call_later(0, note, "due")
        loop.call_later(0.02, note, "later")
        loop.call_later(3600, note, "never")
        return threading.get_ident()

    def second() -> int:
        run_until(loop, lambda: len(seen) == 5)
        return threading.get_ident()

    ident = in_thread(first)
    in_thread(lambda: loop.call_soon_threadsafe(note, "posted while stopped"))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(second).result(20)
    assert seen[0] == ("ran in the first", ident)
    assert {word for word, _ in seen[1:]} == {"soon", "posted while stopped", "due", "later"}
    assert {where for _, where in seen[1:]} == {other}
    assert [word for word, _ in seen if word in ("soon", "posted while stopped")] == [
        "soon",
        "posted while stopped",
    ]


def test_tasks_that_wait(loop: asyncio.AbstractEventLoop) -> None:
    event = asyncio.Event()

    async def wait() -> str:
        await event.wait()
        await asyncio.sleep(0.001)
        return "waited"

    task = loop.create_task(wait())
    in_thread(lambda: step(loop, 3))
    loop.call_soon(event.set)
    assert in_thread(lambda: loop.run_until_complete(task)) == "waited"


# operations in flight while the loop moves


def test_a_receive_in_flight(loop: asyncio.AbstractEventLoop) -> None:
    """The data comes while no thread runs the loop, or after it has moved."""
    with socket_pair() as (left, right):
        for when in ("while it rests", "after the move"):
            task = loop.create_task(loop.sock_recv(left, 100))
            in_thread(lambda: step(loop, 3))
            assert not task.done()
            if when == "while it rests":
                right.send(when.encode())
            else:
                loop.call_later(0.01, right.send, when.encode())
            assert in_thread(lambda task=task: loop.run_until_complete(task)) == when.encode()


def test_an_accept_and_a_connect_in_flight(loop: asyncio.AbstractEventLoop) -> None:
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        client.setblocking(False)
        accepting = loop.create_task(loop.sock_accept(listener))
        in_thread(lambda: step(loop, 3))
        connecting = loop.create_task(loop.sock_connect(client, listener.getsockname()))
        in_thread(lambda: step(loop))
        accepted, _ = in_thread(lambda: loop.run_until_complete(accepting))
        loop.run_until_complete(connecting)
        with accepted:
            client.send(b"connected")
            assert loop.run_until_complete(loop.sock_recv(accepted, 100)) == b"connected"


def test_data_that_came_for_a_stream_while_nobody_ran_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    left, right = socket.socketpair()
    with right:
        reader, writer = in_thread(lambda: loop.run_until_complete(asyncio.open_connection(sock=left)))
        in_thread(lambda: step(loop, 3))
        right.send(b"one ")
        right.send(b"two ")
        task = loop.create_task(reader.readexactly(12))
        in_thread(lambda: step(loop, 2))
        right.send(b"three")
        assert in_thread(lambda: loop.run_until_complete(task)) == b"one two thre"
        assert loop.run_until_complete(reader.readexactly(1)) == b"e"
        writer.write(b"and back")
        loop.run_until_complete(writer.drain())
        assert right.recv(100) == b"and back"
        writer.close()
        loop.run_until_complete(writer.wait_closed())


def test_a_large_write_in_flight(loop: asyncio.AbstractEventLoop) -> None:
    data = bytes(range(256)) * (4 << 12)
    received = hashlib.sha256()
    left, right = socket.socketpair()

    async def begin() -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection(sock=left)
        writer.write(data)
        await asyncio.sleep(0)
        return writer

    async def end(writer: asyncio.StreamWriter) -> None:
        writer.close()
        await writer.wait_closed()

    def receive() -> None:
        while block := right.recv(1 << 16):
            received.update(block)

    with right, ThreadPoolExecutor(1) as pool:
        writer = in_thread(lambda: loop.run_until_complete(begin()))
        receiving = pool.submit(receive)
        in_thread(lambda: step(loop, 20))
        in_thread(lambda: loop.run_until_complete(end(writer)))
        receiving.result(20)
    assert received.digest() == hashlib.sha256(data).digest()


def test_readers_and_writers(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[bytes] = []
    with socket_pair() as (left, right):
        in_thread(lambda: (loop.add_reader(left, lambda: seen.append(left.recv(10))), step(loop, 2)))
        right.send(b"1")
        in_thread(lambda: run_until(loop, lambda: len(seen) == 1))
        right.send(b"2")
        run_until(loop, lambda: len(seen) == 2)
        assert in_thread(lambda: loop.remove_reader(left)) is True
    assert seen == [b"1", b"2"]


def test_an_executors_call_in_flight(loop: asyncio.AbstractEventLoop) -> None:
    released = threading.Event()

    def begin() -> asyncio.Future[bool]:
        future = loop.run_in_executor(None, released.wait, 10)
        step(loop, 2)
        return future

    future = in_thread(begin)
    released.set()
    assert in_thread(lambda: loop.run_until_complete(future)) is True
    loop.run_until_complete(loop.shutdown_default_executor())


def test_other_threads_calls_wake_it_wherever_it_runs(loop: asyncio.AbstractEventLoop) -> None:
    def run() -> None:
        loop.call_soon(running.set)
        loop.run_forever()

    for _ in range(5):
        running = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(run)
            assert running.wait(10)
            time.sleep(0.01)
            loop.call_soon_threadsafe(loop.stop)
            done.result(20)


def test_no_descriptors_at_the_move(loop: asyncio.AbstractEventLoop) -> None:
    """It cannot run there, or can; in either case it goes on later with what it had."""
    with socket_pair() as (left, right):
        task = loop.create_task(loop.sock_recv(left, 10))
        in_thread(lambda: step(loop, 3))
        with no_descriptors(), contextlib.suppress(OSError):
            in_thread(lambda: step(loop))
        assert not loop.is_running()
        in_thread(lambda: step(loop))
        right.send(b"kept")
        assert in_thread(lambda: loop.run_until_complete(task)) == b"kept"
        task = loop.create_task(loop.sock_recv(left, 10))
        loop.call_later(0.01, right.send, b"more")
        assert loop.run_until_complete(task) == b"more"


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Every call that would open one fails with EMFILE."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, limits[1]))  # not one that is closed meanwhile either
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.skipif(
    sys.platform != "linux", reason="the system's number of the next thread can be set on Linux"
)
def test_a_thread_that_gets_the_number_of_the_one_before(loop: asyncio.AbstractEventLoop) -> None:
    """The system gives a thread's number again when it has ended."""
    with socket_pair() as (left, right):
        task = loop.create_task(loop.sock_recv(left, 10))
        before = in_thread(lambda: (step(loop, 3), threading.get_native_id())[1])
        right.send(b"kept")
        for _ in range(100):
            try:
                Path("/proc/sys/kernel/ns_last_pid").write_text(str(before - 1))
            except OSError as exc:
                pytest.skip(f"the number cannot be set: {exc}")
            if in_thread(
                lambda: threading.get_native_id() == before and loop.run_until_complete(task) == b"kept"
            ):
                return
        pytest.skip("others are faster")


def test_cancelling_after_the_move(loop: asyncio.AbstractEventLoop) -> None:
    with socket_pair() as (left, right):
        task = loop.create_task(loop.sock_recv(left, 10))
        in_thread(lambda: step(loop, 3))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            in_thread(lambda: loop.run_until_complete(task))
        right.send(b"next")
        assert loop.run_until_complete(loop.sock_recv(left, 10)) == b"next"


@pytest.mark.parametrize("where", ["the main thread", "a third thread"])
def test_closing_in_another_thread(loop_factory: Factory, where: str) -> None:
    """With nothing closed before, as after an error: the peers see the end of their connections' file."""
    left, right = socket.socketpair()
    kept: list[Any] = []

    async def begin() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(left, print)
        kept.append(asyncio.ensure_future(loop.sock_recv(right, 10)))
        await asyncio.sleep(0.001)
        kept.pop().cancel()
        await asyncio.sleep(0.001)

    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        loop = loop_factory()
        in_thread(lambda: loop.run_until_complete(begin()))
        close: Callable[[], Any] = loop.close
        if where == "the main thread":
            close()
        else:
            in_thread(close)
        assert loop.is_closed()
        left.send(b"x")
        assert right.recv(10) == b"x"
