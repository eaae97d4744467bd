"""Descriptors: none is left, none is closed twice, and none that belongs to somebody else is touched."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import warnings
from typing import Any

import pytest

from .support import (
    LIMIT,
    MIB,
    Echo,
    Recorder,
    dial,
    eventually,
    linked,
    listening,
    open_fds,
    reset,
    serving,
    settled_fds,
    turns,
)


async def _cycle(address: Any, number: int) -> None:
    """One connection of the loop to itself, ended in one of the ways there are."""
    loop = asyncio.get_running_loop()
    if number % 6 == 5:
        task = asyncio.create_task(loop.create_connection(Recorder, *address))
        await turns(number % 4)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            transport, protocol = await task
            transport.abort()
            await protocol.until_lost()
        return
    transport, protocol = await loop.create_connection(Recorder, *address)
    transport.write(b"ping")
    assert await protocol.until_received(4) == b"ping"
    match number % 6:
        case 0:
            transport.abort()
        case 1:
            transport.write(b"x" * 300_000)
            transport.abort()
        case 2:
            transport.write_eof()
        case 3:
            transport.pause_reading()
            transport.close()
        case _:
            transport.close()
    await protocol.until_lost()


async def test_three_hundred_connections_leave_nothing() -> None:
    async with serving(Echo) as (_, address):
        before = len(await settled_fds())
        for number in range(300):
            await _cycle(address, number)
        await eventually(lambda: len(open_fds()) <= before, "all descriptors are closed")


async def test_three_hundred_raw_clients_leave_nothing() -> None:
    def clients(address: Any) -> None:
        for i in range(300):
            client = dial(address)
            client.sendall(b"ping")
            if i % 3 == 0:
                reset(client)
            elif i % 3 == 1:
                client.close()
            else:
                assert client.recv(4) == b"ping"
                client.close()

    async with serving(Echo) as (_, address):
        before = len(await settled_fds())
        await asyncio.to_thread(clients, address)
        await eventually(lambda: len(open_fds()) <= before, "all descriptors are closed")


def test_closing_the_loop_closes_its_connections(loop: asyncio.AbstractEventLoop) -> None:
    """Open connections and servers of a loop that is closed: every peer sees the end, no descriptor stays."""

    async def fill() -> Any:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        transport, _ = await loop.create_connection(Recorder, *listener.getsockname())
        stalled, _ = await loop.create_connection(Recorder, *listener.getsockname())
        stalled.write(b"x" * 8 * MIB)
        transport.pause_reading()
        client = dial(server.sockets[0].getsockname())
        client.sendall(b"ping")
        assert await asyncio.to_thread(client.recv, 4) == b"ping"
        return client

    before = open_fds()
    with listening(backlog=5) as listener, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        client = loop.run_until_complete(fill())
        peers = [listener.accept()[0] for _ in range(2)]
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        gc.collect()
        for peer in [client, *peers]:
            peer.settimeout(LIMIT)
            _expect_end(peer)
            peer.close()
    gc.collect()
    assert {fd: what for fd, what in open_fds().items() if fd not in before} == {}


def _expect_end(peer: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while peer.recv(MIB):
            pass


def test_closing_the_loop_while_connecting_and_accepting(loop: asyncio.AbstractEventLoop) -> None:
    async def start() -> list[Any]:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        with listening() as listener:
            listener.setblocking(False)
            tasks = [loop.create_task(loop.create_connection(Recorder, *other.getsockname()))]
            await turns(1)
        sock.close()
        return tasks

    with listening() as other, warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        tasks = loop.run_until_complete(start())
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        for task in tasks:
            if not task.cancelled():
                transport, protocol = task.result()
                transport.abort()
                loop.run_until_complete(protocol.until_lost())
        loop.close()
        gc.collect()


@contextlib.contextmanager
def innocent(fd: int) -> Any:
    """A pair of sockets, one of which has this descriptor, free until now."""
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            one, two = socket.socketpair()
            stack.enter_context(one)
            stack.enter_context(two)
            if fd in (one.fileno(), two.fileno()):
                yield (one, two) if one.fileno() == fd else (two, one)
                return
        pytest.skip("the descriptor was not given out again")


@pytest.mark.parametrize("how", ["close", "abort", "write"])
async def test_a_socket_closed_behind_the_transport(how: str) -> None:
    """The number may stand for something else by then, which must not be closed, read or written."""
    with listening() as listener:
        client = dial(listener.getsockname())
        peer, _ = listener.accept()
    protocol = Recorder()
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=client)
    await asyncio.sleep(0.005)
    fd = client.fileno()
    client.close()
    with peer, innocent(fd) as (mine, other):
        identity = os.fstat(fd).st_ino
        other.sendall(b"not for the transport")
        if how == "write":
            transport.write(b"not for the other")
            transport.close()
        else:
            getattr(transport, how)()
        await protocol.until_lost()
        await turns(5)
        assert os.fstat(fd).st_ino == identity
        assert protocol.data == b""
        mine.settimeout(LIMIT)
        assert mine.recv(100) == b"not for the transport"
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(100)
    assert protocol.events.count("connection_lost") == 1


async def test_a_listening_socket_closed_behind_the_server() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(Echo, sock=sock)
    await asyncio.sleep(0.005)
    fd = sock.fileno()
    sock.close()
    with innocent(fd) as (mine, other):
        identity = os.fstat(fd).st_ino
        other.sendall(b"x")
        with contextlib.suppress(OSError, ValueError):
            server.close()
        await turns(5)
        assert os.fstat(fd).st_ino == identity
        assert mine.recv(1) == b"x"


async def test_a_descriptor_number_that_is_used_again_at_once() -> None:
    """Each new connection gets its own data, although it has the number of the one before."""
    numbers = set()
    for i in range(60):
        async with linked("tcp") as link:
            numbers.add(link.transport.get_extra_info("socket").fileno())
            link.peer.sendall(b"%04d" % i)
            assert await link.protocol.until_received(4) == b"%04d" % i
            link.peer.sendall(b"left over")
            if i % 2:
                link.transport.abort()
    assert len(numbers) < 60


async def test_a_detached_socket_is_somebody_elses() -> None:
    """After close, the number belongs to whoever gets it next; a second close must not touch it."""
    async with linked("tcp") as link:
        fd = link.transport.get_extra_info("socket").fileno()
        link.transport.close()
        await link.protocol.until_lost()
        await turns()
        with innocent(fd):
            identity = os.fstat(fd).st_ino
            link.transport.close()
            link.transport.abort()
            await turns(5)
            gc.collect()
            assert os.fstat(fd).st_ino == identity
