"""Peers that reset, and protocols that raise: one connection ends, with its cause, and no other."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from typing import Any

import pytest

from .certs import Certificates
from .support import (
    BIG,
    BufferedRecorder,
    Recorder,
    collect_errors,
    dial,
    linked,
    open_fds,
    reset,
    serving,
    turns,
)

tcp_kinds = pytest.mark.parametrize("kind", ["tcp", "accepted"])


@tcp_kinds
@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
async def test_reset_while_idle(kind: str, make: Any) -> None:
    async with linked(kind, make()) as link:
        reset(link.peer)
        assert isinstance(await link.protocol.until_lost(), ConnectionResetError)
        assert link.protocol.events == ["connection_made", "connection_lost"]
        assert link.transport.is_closing()


@tcp_kinds
async def test_reset_after_data(kind: str) -> None:
    async with linked(kind) as link:
        link.peer.sendall(b"data")
        await link.protocol.until_received(4)
        reset(link.peer)
        assert isinstance(await link.protocol.until_lost(), ConnectionResetError)
        assert link.protocol.order == ["connection_made", "data_received", "connection_lost"]


@tcp_kinds
async def test_reset_while_writing(kind: str) -> None:
    async with linked(kind) as link:
        link.transport.write(b"w" * BIG)
        await asyncio.sleep(0)
        reset(link.peer)
        assert isinstance(await link.protocol.until_lost(), ConnectionError)
        assert link.protocol.events == ["connection_made", "pause_writing", "connection_lost"]
        assert link.transport.get_write_buffer_size() == 0


@tcp_kinds
async def test_reset_while_reading_is_paused_and_writing(kind: str) -> None:
    async with linked(kind) as link:
        link.transport.pause_reading()
        link.transport.write(b"w" * BIG)
        reset(link.peer)
        assert isinstance(await link.protocol.until_lost(), ConnectionError)


@tcp_kinds
async def test_reset_while_closing(kind: str) -> None:
    async with linked(kind) as link:
        link.transport.write(b"w" * BIG)
        link.transport.close()
        reset(link.peer)
        await link.protocol.until_lost()
        await turns(5)
        assert link.protocol.events.count("connection_lost") == 1


async def test_reset_after_the_end_of_their_data() -> None:
    """Half closed by the peer, kept open by us, then gone: the next writes find out."""
    async with linked("tcp", Recorder(eof_received=lambda _: True)) as link:
        link.peer.shutdown(socket.SHUT_WR)
        await link.protocol.until_event("eof_received")
        reset(link.peer)
        while not link.transport.is_closing():
            link.transport.write(b"anyone there?")
            await asyncio.sleep(0.001)
        assert isinstance(await link.protocol.until_lost(), ConnectionError)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_writing_to_a_peer_that_has_gone(kind: str) -> None:
    async with linked(kind, Recorder(connection_made=lambda p: p.transport.pause_reading())) as link:
        link.peer.close()
        for _ in range(1000):
            link.transport.write(b"hello?" * 100)
            if link.transport.is_closing():
                break
            await asyncio.sleep(0.001)
        assert isinstance(await link.protocol.until_lost(), (BrokenPipeError, ConnectionResetError))
        assert link.protocol.events.count("connection_lost") == 1


async def test_a_broken_connection_is_no_error_of_the_program() -> None:
    """Peers that vanish are everyday life: told to the protocol, not to the exception handler."""
    errors = collect_errors()
    async with linked("tcp") as idle, linked("tcp") as busy:
        busy.transport.write(b"w" * BIG)
        reset(idle.peer)
        reset(busy.peer)
        await idle.protocol.until_lost()
        await busy.protocol.until_lost()
    assert errors == []


async def test_a_reset_harms_no_neighbour() -> None:
    async with linked("tcp") as victim, linked("tcp") as neighbour:
        reset(victim.peer)
        await victim.protocol.until_lost()
        neighbour.peer.sendall(b"still here")
        assert await neighbour.protocol.until_received(10) == b"still here"
        neighbour.transport.write(b"me too")
        assert await neighbour.from_peer(6) == b"me too"


class Broken(Exception):
    """What the protocols below raise."""


def fail(*_: Any) -> None:
    raise Broken


@pytest.mark.parametrize("kind", ["tcp", "accepted", "unix"])
async def test_data_received_that_raises(kind: str) -> None:
    errors = collect_errors()
    async with linked(kind, Recorder(data_received=fail)) as link:
        link.peer.sendall(b"x")
        assert isinstance(await link.protocol.until_lost(), Broken)
        assert link.protocol.events == ["connection_made", "data_received", "connection_lost"]
        assert await link.rest_of_peer() == b""
        assert len(errors) == 1
        assert isinstance(errors[0]["exception"], Broken)
        assert errors[0]["transport"] is link.transport
        assert errors[0]["protocol"] is link.protocol
        assert "data_received" in errors[0]["message"]


async def test_eof_received_that_raises() -> None:
    errors = collect_errors()
    async with linked("tcp", Recorder(eof_received=fail)) as link:
        link.peer.shutdown(socket.SHUT_WR)
        assert isinstance(await link.protocol.until_lost(), Broken)
        assert link.protocol.events == ["connection_made", "eof_received", "connection_lost"]
        assert [type(error["exception"]) for error in errors] == [Broken]
        assert "eof_received" in errors[0]["message"]


@pytest.mark.parametrize("name", ["get_buffer", "buffer_updated"])
async def test_a_buffered_protocol_that_raises(name: str) -> None:
    errors = collect_errors()
    protocol = BufferedRecorder()
    async with linked("tcp", protocol) as link:
        protocol.hooks[name] = fail
        link.peer.sendall(b"x")
        assert isinstance(await link.protocol.until_lost(), Broken)
        assert [type(error["exception"]) for error in errors] == [Broken]
        assert name in errors[0]["message"]


async def test_connection_lost_that_raises_is_reported_and_the_socket_closed() -> None:
    errors = collect_errors()
    async with linked("tcp", Recorder(connection_lost=fail)) as link:
        sock = link.transport.get_extra_info("socket")
        link.transport.close()
        await link.protocol.until_lost()
        await turns()
        assert [type(error["exception"]) for error in errors] == [Broken]
        assert sock.fileno() == -1
        assert await link.rest_of_peer() == b""


@pytest.mark.parametrize("kind", ["accepted", "unix"])
async def test_connection_made_that_raises_is_reported(kind: str) -> None:
    """The loop goes on, and so does the connection, as in stock asyncio."""
    errors = collect_errors()
    async with linked(kind, Recorder(connection_made=fail)) as link:
        await turns()
        assert [type(error["exception"]) for error in errors] == [Broken]
        link.peer.sendall(b"x")
        await link.protocol.until_received(1)


async def test_a_protocol_that_raises_harms_no_neighbour() -> None:
    errors = collect_errors()
    protocols: list[Recorder] = []

    def factory() -> Recorder:
        protocols.append(Recorder(data_received=fail) if not protocols else Recorder())
        return protocols[-1]

    async with serving(factory) as (_, address):
        first = dial(address)
        first.sendall(b"x")
        assert await asyncio.to_thread(first.recv, 1) == b""
        second = dial(address)
        second.sendall(b"fine")
        while len(protocols) < 2:
            await asyncio.sleep(0.001)
        assert await protocols[1].until_received(4) == b"fine"
        first.close()
        second.close()
        await protocols[1].until_lost()
    assert len(errors) == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_exit_raised_by_a_protocol_leaves_the_loop(loop: asyncio.AbstractEventLoop, stop: Any) -> None:
    def leave(*_: Any) -> None:
        raise stop

    async def run() -> None:
        async with linked("tcp", Recorder(data_received=leave)) as link:
            link.peer.sendall(b"x")
            await link.protocol.until_lost()

    task = loop.create_task(run())
    with pytest.raises(stop):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


@pytest.mark.ours
@pytest.mark.parametrize("secure", [False, True])
async def test_a_factory_that_closes_its_server_costs_one_descriptor(
    secure: bool, certificates: Certificates
) -> None:
    """The transport cannot be made any more; its descriptor is closed, and once: not again when it is
    collected, when the number may be that of a file of the program's."""
    kept = collect_errors()

    def factory() -> asyncio.Protocol:
        server.close()
        return asyncio.Protocol()

    server = await asyncio.get_running_loop().create_server(
        factory, "127.0.0.1", 0, ssl=certificates.server() if secure else None
    )
    client = dial(server.sockets[0].getsockname())
    while not kept:
        await asyncio.sleep(0.001)
    assert await asyncio.to_thread(client.recv, 1) == b""
    client.close()
    # The report holds the exception, whose traceback holds what there is of the transport.
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    kept.clear()
    gc.collect()
    for fd in files:
        os.close(fd)  # EBADF: somebody else has done it


@pytest.mark.ours
async def test_a_server_that_cannot_start_leaves_nothing() -> None:
    """The second socket cannot listen: the first is not left listening."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            before = open_fds()
            with pytest.raises(OSError):
                await asyncio.get_running_loop().create_server(Recorder, ["127.0.0.2", "127.0.0.1"], port)
            assert open_fds() == before
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.2", port), 5)
            with pytest.raises(OSError):
                await asyncio.get_running_loop().create_server(Recorder, sock=taken)
            assert taken.fileno() >= 0  # the user's own stays his
