"""The user closes the socket that he gave to the loop: the world sees it at once,
and the loop takes nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

from .support import Peer, dial, fill, listening, pair

WAITS = ("sock_recv", "sock_recv_into", "sock_recvfrom", "sock_sendall", "add_reader", "add_writer")


def quiet_end(task: asyncio.Future[Any]) -> None:
    """How the call ends is its own matter: with an error, or never (as on stock asyncio)."""
    task.add_done_callback(lambda task: task.cancelled() or task.exception())


def wait_for(way: str, sock: socket.socket, called: list[bytes]) -> Callable[[], Any]:
    """Let the loop wait for the socket; gives a function that ends the wait, as a careful user does."""
    loop = asyncio.get_running_loop()
    if way == "add_reader":
        loop.add_reader(sock, called.append, b"reader")
        number = sock.fileno()
        return lambda: loop.remove_reader(number)
    if way == "add_writer":
        fill(sock)
        loop.add_writer(sock, called.append, b"writer")
        number = sock.fileno()
        return lambda: loop.remove_writer(number)
    if way == "sock_sendall":
        call = loop.sock_sendall(sock, bytes(1 << 24))
    else:
        call = getattr(loop, way)(sock, bytearray(100) if way.endswith("_into") else 100)
    task = asyncio.ensure_future(call)
    quiet_end(task)
    return task.cancel


def complaints() -> list[dict[str, Any]]:
    """What the loop's exception handler is given from now on."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: seen.append(context))
    return seen


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0.002)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("way", WAITS)
async def test_the_peer_of_a_closed_socket_sees_the_end_at_once(way: str, kind: str) -> None:
    """Also before the loop has had a turn: the peer looks in the very callback that closes."""
    ours, other = pair(kind)
    with Peer(other, 5) as peer:
        called: list[bytes] = []
        end = wait_for(way, ours, called)
        await settle()
        ours.close()
        called.clear()  # what was full may have moved a little before, and a call of it may be under way
        assert peer.told() in ("FIN", "RST" if way in ("sock_sendall", "add_writer") else "FIN")
        await settle()
        assert len(called) <= 1
        with contextlib.suppress(ValueError):
            end()
        await settle()


@pytest.mark.parametrize("way", ["sock_recv", "sock_recv_into", "sock_recvfrom", "add_reader"])
async def test_what_comes_after_the_close_is_the_duplicates(way: str) -> None:
    """The duplicate has the connection now, with every byte of it."""
    ours, other = pair("tcp")
    with Peer(other, 5) as peer, ours.dup() as mine:
        called: list[bytes] = []
        end = wait_for(way, ours, called)
        await settle()
        ours.close()
        peer.send(b"yours")
        await settle()
        mine.settimeout(5)
        assert mine.recv(100) == b"yours"
        with contextlib.suppress(ValueError):
            end()
        await settle()


async def test_a_listener_that_is_closed_under_sock_accept_refuses() -> None:
    loop = asyncio.get_running_loop()
    sock = listening()
    address = sock.getsockname()
    task = asyncio.ensure_future(loop.sock_accept(sock))
    quiet_end(task)
    await settle()
    sock.close()
    with pytest.raises(ConnectionRefusedError):
        dial(address)
    with listening(port=address[1]):  # and the port is free
        task.cancel()
        await settle()


async def test_connections_after_the_close_are_the_duplicates() -> None:
    loop = asyncio.get_running_loop()
    sock = listening()
    with sock.dup() as mine:
        task = asyncio.ensure_future(loop.sock_accept(sock))
        quiet_end(task)
        await settle()
        sock.close()
        with dial(mine.getsockname(), 5) as peer:
            await settle()
            mine.settimeout(5)
            accepted, _ = mine.accept()
            with accepted:
                peer.send(b"x")
                accepted.settimeout(5)
                assert accepted.recv(10) == b"x"
        task.cancel()
        await settle()


async def test_a_listener_with_a_reader_refuses_when_it_is_closed() -> None:
    loop = asyncio.get_running_loop()
    sock = listening()
    number, address = sock.fileno(), sock.getsockname()
    loop.add_reader(sock, lambda: None)
    await settle()
    sock.close()
    with pytest.raises(ConnectionRefusedError):
        dial(address)
    assert loop.remove_reader(number)
    await settle()


# Transports on a socket that the user gave


class Taker(asyncio.Protocol, asyncio.DatagramProtocol):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def datagram_received(self, data: bytes, address: Any) -> None:
        self.data += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_socket_closed_under_its_transport_ends_at_once(kind: str, paused: bool) -> None:
    errors = complaints()
    ours, other = pair(kind)
    with Peer(other, 5) as peer:
        transport, taker = await asyncio.get_running_loop().create_connection(Taker, sock=ours)
        if paused:
            transport.pause_reading()
        await settle()
        ours.close()
        assert peer.told() == "FIN"
        await settle()
        transport.abort()
        async with asyncio.timeout(5):
            await taker.lost
        assert taker.data == b""
        await settle()
    assert [context for context in errors if "Fatal" not in context["message"]] == []


async def test_what_comes_after_the_close_is_the_duplicates_also_under_a_transport() -> None:
    ours, other = pair("tcp")
    with Peer(other, 5) as peer, ours.dup() as mine:
        transport, taker = await asyncio.get_running_loop().create_connection(Taker, sock=ours)
        # how it is lost is another test's
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        await settle()
        ours.close()
        peer.send(b"yours")
        await settle()
        mine.settimeout(5)
        assert mine.recv(100) == b"yours"
        assert taker.data == b""
        transport.abort()
        await settle()


async def test_a_descriptor_that_is_detached_is_the_users() -> None:
    """``detach`` leaves the number open: it is the user's, with every byte that comes from then on."""
    loop = asyncio.get_running_loop()
    ours, other = pair("tcp")
    with Peer(other, 5) as peer:
        transport, taker = await loop.create_connection(Taker, sock=ours)
        loop.set_exception_handler(lambda loop, context: None)  # how the transport is lost is another test's
        await settle()
        with socket.socket(fileno=ours.detach()) as mine:
            peer.send(b"yours")
            await settle()
            mine.settimeout(5)
            assert mine.recv(100) == b"yours"
            assert taker.data == b""
            transport.abort()
            await settle()
            mine.send(b"still open")
            assert peer.take(10) == b"still open"


async def test_the_port_of_an_endpoint_is_free_when_its_socket_is_closed() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    address = sock.getsockname()
    transport, taker = await asyncio.get_running_loop().create_datagram_endpoint(Taker, sock=sock)
    await settle()
    sock.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(address)
        transport.abort()
        async with asyncio.timeout(5):
            await taker.lost


@pytest.mark.parametrize("kind", ["pipe", "socket"])
async def test_a_pipe_closed_under_its_transport_breaks_at_once(kind: str) -> None:
    if kind == "pipe":
        ours, other = os.pipe()
    else:
        ours, other = (sock.detach() for sock in socket.socketpair())
    file = os.fdopen(ours, "rb", buffering=0)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(Taker, file)
    await settle()
    file.close()
    with pytest.raises(BrokenPipeError):
        os.write(other, b"x")
    os.close(other)
    with contextlib.suppress(OSError, ValueError):
        transport.close()
    await settle()


# Servers


async def test_a_server_whose_socket_is_closed_refuses() -> None:
    loop, errors = asyncio.get_running_loop(), complaints()
    sock = listening()
    address = sock.getsockname()
    server = await loop.create_server(Taker, sock=sock)
    await settle()
    sock.close()
    with pytest.raises(ConnectionRefusedError):
        dial(address)
    await settle()
    with listening(port=address[1]):
        await settle()
    with contextlib.suppress(ValueError):  # stock asyncio cannot close it: the number of its socket is -1
        server.close()
    await settle()
    with pytest.raises(ConnectionRefusedError):
        dial(address)
    with listening(port=address[1]):
        await settle()
    assert errors == []


async def test_who_closes_the_server_at_the_first_client_drops_none() -> None:
    """Others came at the same time: each is served by this server,
    or left to a sibling on the same listener.
    """
    loop = asyncio.get_running_loop()
    sock = listening()

    class Closer(Letter):
        def connection_made(self, transport: Any) -> None:
            server.close()
            super().connection_made(transport)

    with sock.dup() as sibling, contextlib.ExitStack() as stack:
        server = await loop.create_server(lambda: Closer(b"A"), sock=sock)
        await settle()
        peers = [stack.enter_context(dial(sibling.getsockname(), 5)) for _ in range(6)]
        await settle()
        sibling.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                accepted, _ = sibling.accept()
                with accepted:
                    accepted.send(b"B")
        answers = [peer.take_all() for peer in peers]
        assert b"A" in answers
        assert set(answers) <= {b"A", b"B"}


class Letter(asyncio.Protocol):
    """Says its letter and closes."""

    def __init__(self, letter: bytes) -> None:
        self.letter = letter

    def connection_made(self, transport: Any) -> None:
        transport.write(self.letter)
        transport.close()


@pytest.mark.ours
@pytest.mark.parametrize("closed", ["before", "never", "after"])
async def test_a_new_server_with_the_number_of_a_closed_socket_is_itself(closed: str) -> None:
    """On stock asyncio the selector believes that it watches the number still,
    so that the new server hears nothing.
    """
    loop, errors = asyncio.get_running_loop(), complaints()
    first = listening()
    number = first.fileno()
    server = await loop.create_server(lambda: Letter(b"A"), sock=first)
    await settle()
    first.close()
    if closed == "before":
        server.close()
    second = listening()
    assert second.fileno() == number
    new = await loop.create_server(lambda: Letter(b"B"), sock=second)
    if closed == "after":
        server.close()  # it has nothing to do with the number any more
    await settle()
    for _ in range(3):
        peer = dial(second.getsockname(), 5)
        with peer:
            assert await asyncio.to_thread(peer.take_all) == b"B"
    new.close()
    await new.wait_closed()
    server.close()
    await settle()
    assert errors == []
