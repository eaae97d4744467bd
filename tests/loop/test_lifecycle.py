"""Closing a loop, collecting it, and making many of them."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from drivers.contract.support import descriptors

from .helpers import BOUND, Factory, run_script, socket_pair, step

CLOSED = r"^Event loop is closed$"


class Thing:
    """Something a weak reference can watch."""


async def nothing() -> None:
    pass


# close


def test_close_may_be_called_twice(loop: asyncio.AbstractEventLoop) -> None:
    assert not loop.is_closed()
    loop.close()
    assert loop.is_closed()
    loop.close()
    assert loop.is_closed()


def test_a_running_loop_cannot_be_closed(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> str:
        with pytest.raises(RuntimeError, match=r"^Cannot close a running event loop$"):
            loop.close()
        assert not loop.is_closed()
        await asyncio.sleep(0.001)
        return "went on"

    assert loop.run_until_complete(main()) == "went on"


CALLS: dict[str, Callable[[Any], Any]] = {
    "call_soon": lambda loop: loop.call_soon(print),
    "call_soon_threadsafe": lambda loop: loop.call_soon_threadsafe(print),
    "call_later": lambda loop: loop.call_later(1, print),
    "call_later, now": lambda loop: loop.call_later(0, print),
    "call_at": lambda loop: loop.call_at(1, print),
    "run_forever": lambda loop: loop.run_forever(),
    "run_in_executor": lambda loop: loop.run_in_executor(None, print),
    "add_reader": lambda loop: loop.add_reader(0, print),
    "add_writer": lambda loop: loop.add_writer(1, print),
    "add_signal_handler": lambda loop: loop.add_signal_handler(2, print),
}


@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
def test_a_closed_loop_refuses(loop: asyncio.AbstractEventLoop, call: str, debug: bool) -> None:
    loop.set_debug(debug)
    loop.close()
    with pytest.raises(RuntimeError, match=CLOSED):
        CALLS[call](loop)


@pytest.mark.parametrize("method", ["create_task", "run_until_complete"])
def test_a_closed_loop_refuses_coroutines(loop: asyncio.AbstractEventLoop, method: str) -> None:
    loop.close()
    coro = nothing()
    with pytest.raises(RuntimeError, match=CLOSED):
        getattr(loop, method)(coro)
    coro.close()


def test_a_closed_loop_refuses_after_having_run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(nothing())
    loop.run_until_complete(loop.run_in_executor(None, int))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    for call in CALLS.values():
        with pytest.raises(RuntimeError):
            call(loop)


def test_what_a_closed_loop_still_answers(loop: asyncio.AbstractEventLoop) -> None:
    loop.close()
    assert loop.is_closed()
    assert not loop.is_running()
    assert loop.get_debug() is False
    assert loop.time() > 0
    assert loop.get_exception_handler() is None
    assert loop.get_task_factory() is None
    assert "closed=True" in repr(loop)
    loop.stop()


def test_what_is_pending_is_dropped_and_freed(loop: asyncio.AbstractEventLoop) -> None:
    ran: list[object] = []
    things = [Thing() for _ in range(6)]
    watched = [weakref.ref(thing) for thing in things]
    loop.call_soon(ran.append, things[0])
    loop.call_soon_threadsafe(ran.append, things[1])
    loop.call_later(0, ran.append, things[2])
    loop.call_later(1000, ran.append, things[3])
    loop.set_exception_handler(lambda _loop, _context, _thing=things[4]: None)
    loop.call_later(1000, ran.append, things[5]).cancel()
    loop.close()
    loop.set_exception_handler(None)
    things.clear()
    gc.collect()
    assert [ref() for ref in watched] == [None] * 6
    assert ran == []


def test_handles_kept_by_the_program_survive_the_close(loop: asyncio.AbstractEventLoop) -> None:
    kept = [loop.call_soon(print), loop.call_later(1, print), loop.call_later(1000, print)]
    loop.close()
    for handle in kept:
        handle.cancel()


def test_closing_from_within_a_callback_of_another_loop(
    loop: asyncio.AbstractEventLoop, loop_factory: Factory
) -> None:
    other = loop_factory()
    other.call_soon(print)
    loop.call_soon(other.close)
    step(loop)
    assert other.is_closed()


def test_readers_and_writers_are_forgotten(loop: asyncio.AbstractEventLoop) -> None:
    thing = Thing()
    watched = weakref.ref(thing)
    with socket_pair() as (left, right):
        loop.add_reader(left, print, thing)
        loop.add_writer(right, int)
        step(loop)
        loop.close()
        right.send(b"the sockets are still open")
        assert left.recv(100) == b"the sockets are still open"
    del thing
    gc.collect()
    assert watched() is None


def test_closing_with_operations_in_flight(
    loop: asyncio.AbstractEventLoop, errors: list[dict[str, Any]]
) -> None:
    """Those who wait are never woken; the sockets are the program's and stay open."""
    with socket_pair() as (left, right), socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        tasks = [
            loop.create_task(loop.sock_recv(left, 10)),
            loop.create_task(loop.sock_recv_into(right, bytearray(10))),
            loop.create_task(loop.sock_accept(listener)),
        ]
        step(loop, 3)
        loop.close()
        assert [task.done() for task in tasks] == [False] * 3
        right.send(b"still open")
        assert left.recv(10) == b"still open"
        tasks.clear()
        gc.collect()
    assert ["destroyed" in error["message"] for error in errors] == [True] * 3


def test_remove_reader_on_a_closed_loop(loop: asyncio.AbstractEventLoop) -> None:
    with socket_pair() as (left, _):
        loop.add_reader(left, print)
        loop.close()
        assert loop.remove_reader(left) is False
        assert loop.remove_writer(left) is False


# collection


def test_a_loop_can_be_watched_by_a_weak_reference(loop_factory: Factory) -> None:
    loop = loop_factory()
    watched = weakref.ref(loop)
    assert watched() is loop
    loop.run_until_complete(nothing())
    loop.close()
    del loop
    gc.collect()
    assert watched() is None


def test_a_closed_loop_is_collected_with_all_it_held(loop_factory: Factory) -> None:
    """Handles, tasks and futures point back to the loop: these cycles must not keep it."""

    async def main(thing: Thing) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_, loop=loop: None)
        kept = loop.create_future()
        kept.add_done_callback(lambda _, here=loop, thing=thing: None)
        loop.call_later(1000, kept.cancel, thing)
        loop.call_soon(loop.call_soon, kept.cancel, loop)
        loop.any_attribute = kept  # type: ignore[attr-defined]
        await asyncio.to_thread(int)

    loop = loop_factory()
    thing = Thing()
    watched = [weakref.ref(loop), weakref.ref(thing)]
    loop.run_until_complete(main(thing))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    del loop, thing
    gc.collect()
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


# What leaves a loop without a reference to itself on stock asyncio too, and so with the next ones.
Main = Callable[[], Coroutine[Any, Any, object]]
USES: dict[str, Main] = {"nothing": nothing}


def use(main: Main) -> Main:
    USES[main.__name__] = main
    return main


@use
async def tasks() -> None:
    await asyncio.gather(asyncio.sleep(0.001), asyncio.sleep(0.002))
    cancelled = asyncio.create_task(asyncio.sleep(1000))
    cancelled.cancel()
    await asyncio.wait([cancelled])


@use
async def debug_mode() -> None:
    asyncio.get_running_loop().set_debug(True)
    await tasks()


@use
async def timers_left() -> None:
    loop = asyncio.get_running_loop()
    loop.call_later(1000, loop.stop)
    loop.call_soon(loop.time)
    loop.call_soon_threadsafe(loop.time)


@use
async def executors() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(int)
    await loop.getaddrinfo("127.0.0.1", 80)
    async with asyncio.timeout(10):
        await loop.getaddrinfo("localhost", 80)


@use
async def a_reader_left() -> None:
    loop: Any = asyncio.get_running_loop()
    loop.pair = socket.socketpair()
    loop.add_reader(loop.pair[0], loop.stop)
    loop.add_writer(loop.pair[0], int)
    await asyncio.sleep(0.001)


@use
async def user_sockets() -> None:
    loop = asyncio.get_running_loop()
    with socket_pair() as (left, right):
        for _ in range(2):
            receive = asyncio.create_task(loop.sock_recv(left, 1))
            await asyncio.sleep(0.001)
            await loop.sock_sendall(right, b"x")
            assert await receive == b"x"
        receive = asyncio.create_task(loop.sock_recv(left, 1))
        await asyncio.sleep(0.001)
        receive.cancel()
        await asyncio.wait([receive])


@use
async def streams_and_a_server() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(3))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"abc")
        assert await reader.read() == b"abc"
        writer.close()
        await writer.wait_closed()


@use
async def a_server_left() -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)


@use
async def datagrams_left() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    await asyncio.sleep(0.001)


@use
async def an_unfinished_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    kept = numbers()
    assert await anext(kept) == 1
    await asyncio.get_running_loop().shutdown_asyncgens()


if sys.platform != "win32":

    class Child(asyncio.SubprocessProtocol):
        def __init__(self) -> None:
            self.ended = asyncio.Event()

        def connection_lost(self, exc: Exception | None) -> None:
            self.ended.set()

    @use
    async def a_signal_handler_left() -> None:
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, came.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await came.wait()

    @use
    async def pipes() -> None:
        loop, (read, write) = asyncio.get_running_loop(), os.pipe()
        reader, _ = await loop.connect_read_pipe(asyncio.Protocol, os.fdopen(read, "rb"))
        writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(write, "wb"))
        writer.write(b"x")
        writer.close()
        await asyncio.sleep(0.001)
        reader.close()
        await asyncio.sleep(0.001)

    @use
    async def a_child() -> None:
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(Child, "/bin/cat", stderr=None)
        transport.get_pipe_transport(0).close()  # type: ignore[union-attr]
        await protocol.ended.wait()
        transport.close()


def freed(factory: Factory, main: Main) -> bool:
    """Whether the last reference to a closed loop frees it; a thread may have one until its work is done."""
    threads = threading.active_count()
    loop = factory()
    watched = weakref.ref(loop)
    gc.collect()
    gc.disable()
    try:
        loop.run_until_complete(main())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # what is left open
            loop.close()
            del loop
        until = time.monotonic() + BOUND
        while watched() is not None and threading.active_count() > threads and time.monotonic() < until:
            time.sleep(0.001)
        return watched() is None
    finally:
        gc.enable()
        gc.collect()


@pytest.mark.parametrize("use", list(USES))
def test_a_closed_loop_is_freed_without_the_collector(loop_factory: Factory, use: str) -> None:
    assert freed(loop_factory, USES[use])


@pytest.mark.ours
def test_a_closed_loop_is_freed_after_files_and_io_threads(loop_factory: Factory) -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        async with proactorx.files.open(__file__) as file:
            await file.read()
        assert await loop.io_pool.call(loop, int) == 0
        loop.watch(10)
        loop.record(detail=True)
        loop.stats()
        await asyncio.sleep(0)

    import proactorx.files

    assert freed(loop_factory, main)


def test_an_unclosed_loop_is_closed_when_collected(loop_factory: Factory) -> None:
    before = descriptors()
    loop = loop_factory()
    loop.call_later(1000, print, loop)
    loop.run_until_complete(nothing())
    watched = weakref.ref(loop)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del loop
        gc.collect()
    ((category, text),) = [
        (w.category, str(w.message)) for w in caught if "unclosed event loop" in str(w.message)
    ]
    caught.clear()  # each warning holds the loop that it is about
    gc.collect()
    assert watched() is None
    assert category is ResourceWarning
    assert "closed=False" in text
    assert descriptors() == before


def test_an_unclosed_loop_is_collected_with_what_other_threads_have_posted(loop_factory: Factory) -> None:
    before = descriptors()
    loop = loop_factory()
    loop.run_until_complete(nothing())
    for _ in range(3):
        loop.call_soon_threadsafe(print, loop)
    watched = weakref.ref(loop)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del loop
        gc.collect()
    assert watched() is None
    assert descriptors() == before


@pytest.mark.ours
def test_a_loop_is_initialized_once(loop: asyncio.AbstractEventLoop) -> None:
    info = loop.backend_info()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="once"):
        loop.__init__("select")  # type: ignore[misc]
    assert loop.backend_info() == info  # type: ignore[attr-defined]
    loop.run_until_complete(nothing())


def test_a_loop_that_was_never_run_is_closed_when_collected(loop_factory: Factory) -> None:
    before = descriptors()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for _ in range(20):
            loop_factory()
        gc.collect()
    assert descriptors() == before


def test_repr(loop: asyncio.AbstractEventLoop) -> None:
    texts: list[str] = [repr(loop)]
    loop.call_soon(lambda: texts.append(repr(loop)))
    step(loop)
    loop.set_debug(True)
    texts.append(repr(loop))
    loop.close()
    texts.append(repr(loop))
    assert all(type(loop).__name__ in text for text in texts)
    assert ["running=True" in text for text in texts] == [False, True, False, False]
    assert ["debug=True" in text for text in texts] == [False, False, True, True]
    assert ["closed=True" in text for text in texts] == [False, False, False, True]


def test_loops_are_hashable_and_equal_only_to_themselves(
    loop: asyncio.AbstractEventLoop, loop_factory: Factory
) -> None:
    other = loop_factory()
    assert loop == loop
    assert loop != other
    assert len({loop, other}) == 2
    other.close()


# many


def _use(loop: asyncio.AbstractEventLoop, work: bool) -> None:
    async def main() -> None:
        with socket_pair() as (left, right):
            waiting = asyncio.create_task(loop.sock_recv(left, 10))
            await loop.sock_sendall(right, b"x")
            assert await waiting == b"x"

    loop.call_soon(print)
    loop.call_later(100, print)
    if work:
        loop.run_until_complete(main())
    loop.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the descriptors are listed on Linux only")
def test_programs_that_are_started_inherit_no_descriptor(loop_factory: Factory) -> None:
    before = set(os.listdir("/proc/self/fd"))
    loop = loop_factory()
    loop.add_signal_handler(signal.SIGTERM, print)
    loop.run_until_complete(loop.run_in_executor(None, int))
    try:
        new = {
            int(fd)
            for fd in set(os.listdir("/proc/self/fd")) - before
            if os.path.exists(f"/proc/self/fd/{fd}")
        }
        assert new
        assert not any(os.get_inheritable(fd) for fd in new)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def test_200_loops_leave_nothing_behind(loop_factory: Factory) -> None:
    for i in range(4):
        _use(loop_factory(), bool(i % 2))
    gc.collect()
    fds, threads, blocks = descriptors(), threading.active_count(), sys.getallocatedblocks()
    for i in range(200):
        _use(loop_factory(), i % 4 == 0)
    gc.collect()
    assert descriptors() == fds
    assert threading.active_count() == threads
    assert sys.getallocatedblocks() - blocks < 10_000


def test_many_loops_open_at_once(loop_factory: Factory) -> None:
    before = descriptors()
    loops = [loop_factory() for _ in range(20)]
    for loop in loops:
        loop.run_until_complete(asyncio.sleep(0))
    for loop in loops[::2]:
        loop.close()
    for loop in loops[1::2]:
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
    assert descriptors() == before


def test_a_loop_left_open_at_the_end_of_the_program(loop_factory: Factory) -> None:
    """The interpreter's last collection must find nothing to crash on, whatever was still going on."""
    source = """
    import socket

    async def handle(reader, writer):
        await reader.read()

    async def main():
        global server, writer, left, right, pending
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        left, right = socket.socketpair()
        left.setblocking(False)
        loop.add_reader(right, print)
        pending = asyncio.ensure_future(loop.sock_recv(left, 10))
        loop.call_later(1000, print, loop)
        await asyncio.sleep(0.01)

    loop = new_loop()
    loop.run_until_complete(main())
    print("end")
    """
    assert run_script(loop_factory, source) == "end\n"
