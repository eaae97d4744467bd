"""The bytes of one connection never reach another one,
though it has the number of one that its user has closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from .support import Factory, Flood, Peer, descriptors, dial, fill, listening, pair

LIMIT = 5.0
OLD = (
    "sock_recv",
    "sock_recv_into",
    "sock_recvfrom",
    "sock_sendall",
    "add_reader",
    "add_writer",
    "transport",
)
NEW = ("sock_recv", "sock_recv_into", "transport", "accepted", "connected")


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0.002)


async def another_file(first: socket.socket, stack: contextlib.ExitStack, heard: list[bytes]) -> None:
    """Watch `first`, which is then closed while a duplicate lives on, and the socket that gets its number."""
    loop = asyncio.get_running_loop()
    number = first.fileno()
    loop.add_reader(number, heard.append, b"first")
    await settle()
    stack.enter_context(first.dup())
    first.close()
    second, third = pair("unix")
    stack.enter_context(second)
    stack.enter_context(third)
    assert second.fileno() == number
    loop.add_reader(number, heard.append, b"second")
    await settle()


class Taker(asyncio.Protocol):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.data = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data


class Stale:
    """What is left on a socket that its user closes: what it received must never be another's."""

    def __init__(self, way: str, kind: str) -> None:
        self.way = way
        self.sock, other = pair(kind)
        self.peer = Peer(other, LIMIT)
        self.number = self.sock.fileno()
        self.buffer = bytearray(100)
        self.task: asyncio.Future[Any] | None = None
        self.taker: Taker | None = None

    async def begin(self) -> None:
        loop = asyncio.get_running_loop()
        if self.way == "transport":
            self.transport, self.taker = await loop.create_connection(Taker, sock=self.sock)
        elif self.way == "add_reader":
            # it knows a number, and may be called; it is given no byte
            loop.add_reader(self.sock, lambda: None)
        elif self.way == "add_writer":
            fill(self.sock)
            loop.add_writer(self.sock, lambda: None)
        elif self.way == "sock_sendall":
            self.task = asyncio.ensure_future(loop.sock_sendall(self.sock, b"old" * (1 << 22)))
        else:
            call = getattr(loop, self.way)
            self.task = asyncio.ensure_future(
                call(self.sock, self.buffer if self.way.endswith("_into") else 100)
            )
        if self.task is not None:
            self.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        await settle()

    def received(self) -> bytes:
        """All that it was given, by whatever way."""
        out = bytes(self.buffer).rstrip(b"\0")
        if self.taker is not None:
            out += self.taker.data
        if (
            self.task is not None
            and self.task.done()
            and not self.task.cancelled()
            and not self.task.exception()
        ):
            out += repr(self.task.result()).encode()
        return out

    async def end(self) -> None:
        self.peer.close()
        if self.task is not None:
            self.task.cancel()
        if self.way == "transport":
            self.transport.abort()
        await settle()


async def fresh(way: str, kind: str, number: int, stack: contextlib.ExitStack) -> tuple[Peer, Any, Any]:
    """(peer, receive, send) of a new connection that has this number."""
    loop = asyncio.get_running_loop()
    held: list[int] = []

    def at(sock: socket.socket) -> socket.socket:
        """The same socket with that number."""
        if sock.fileno() != number:
            os.dup2(sock.fileno(), number)
            moved = socket.socket(sock.family, sock.type, fileno=number)
            sock.close()
            sock = moved
        sock.setblocking(False)
        return sock

    if way in ("accepted", "connected"):
        taker = Taker()
        listener = stack.enter_context(listening())
        held.append(os.dup(listener.fileno()))  # the number itself, perhaps
        if held[0] == number:
            os.close(held.pop())
        if way == "accepted":
            server = await loop.create_server(lambda: taker, sock=listener)
            stack.callback(server.close)
            peer = stack.enter_context(dial(listener.getsockname()))
            await settle()
        else:
            await loop.create_connection(lambda: taker, *listener.getsockname())
            listener.settimeout(LIMIT)
            peer = stack.enter_context(Peer(listener.accept()[0], LIMIT))
        for fd in held:
            os.close(fd)
        stack.callback(taker.transport.abort)
    else:
        ours, other = pair(kind)
        ours, peer = at(ours), stack.enter_context(Peer(other, LIMIT))
        if way == "transport":
            _, taker = await loop.create_connection(Taker, sock=ours)
            stack.callback(taker.transport.abort)
        else:
            stack.enter_context(ours)

            async def by_call(count: int) -> bytes:
                out = bytearray()
                while len(out) < count:
                    if way == "sock_recv":
                        out += await loop.sock_recv(ours, 100)
                    else:
                        buffer = bytearray(100)
                        out += buffer[: await loop.sock_recv_into(ours, buffer)]
                return bytes(out)

            return peer, by_call, lambda data: loop.sock_sendall(ours, data)

    async def by_transport(count: int) -> bytes:
        while len(taker.data) < count:
            await asyncio.sleep(0.001)
        return bytes(taker.data)

    async def write(data: bytes) -> None:
        taker.transport.write(data)

    return peer, by_transport, write


@pytest.mark.ours
@pytest.mark.parametrize("new", NEW)
@pytest.mark.parametrize("old", OLD)
async def test_no_byte_goes_astray_when_a_closed_sockets_number_is_used_again(old: str, new: str) -> None:
    """On stock asyncio the new connection of this number hears nothing:
    the selector believes that it is watched.
    """
    loop = asyncio.get_running_loop()
    # how a transport's socket is lost is another test's
    loop.set_exception_handler(lambda loop, context: None)
    with contextlib.ExitStack() as stack:
        stale = Stale(old, "tcp")
        await stale.begin()
        stale.sock.close()
        peer, receive, send = await fresh(new, "tcp", stale.number, stack)
        async with asyncio.timeout(LIMIT):
            task = asyncio.ensure_future(receive(6))
            await settle()
            peer.send(b"secret")
            assert await task == b"secret"
            await send(b"answer")
        assert await asyncio.to_thread(peer.take, 6) == b"answer"
        await settle()
        assert peer.silent(0.02)
        assert stale.received() == b""
        await stale.end()


@pytest.mark.ours
@pytest.mark.parametrize("old", ["sock_recv", "sock_sendall", "transport"])
async def test_a_secret_that_lies_there_already_is_the_new_connections(old: str) -> None:
    """The new peer has sent before anybody in this process has looked at the new socket. (Stock asyncio:
    as above.)
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)
    for _ in range(5):
        stale = Stale(old, "tcp")
        await stale.begin()
        stale.sock.close()
        ours, other = pair("tcp")
        with Peer(other, LIMIT) as peer, ours:
            peer.send(b"secret")
            await settle()
            async with asyncio.timeout(LIMIT):
                assert await loop.sock_recv(ours, 100) == b"secret"
                await loop.sock_sendall(ours, b"answer")
            assert peer.take(6) == b"answer"
            await settle()
            assert peer.silent(0.01)
            assert stale.received() == b""
            await stale.end()


@pytest.mark.parametrize("way", ["sock_recv", "sock_recv_into", "sock_recvfrom"])
async def test_a_cancelled_receive_leaves_the_number_alone(way: str) -> None:
    """Cancel, await, close; the next socket with the number receives every byte,
    also while an upload runs.
    """
    loop = asyncio.get_running_loop()
    takers: list[Taker] = []

    def take() -> Taker:
        takers.append(taker := Taker())
        return taker

    server = await loop.create_server(take, "127.0.0.1", 0)
    with Flood(server.sockets[0].getsockname(), size=1 << 16):
        for turns in range(30):
            ours, other = pair("tcp")
            with Peer(other, LIMIT) as peer:
                buffer = bytearray(100)
                call = getattr(loop, way)(ours, buffer if way.endswith("_into") else 100)
                task = asyncio.ensure_future(call)
                for _ in range(turns % 3):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                number = ours.fileno()
                ours.close()
                again, other = pair("tcp")
                assert again.fileno() == number or turns == 0
                with Peer(other, LIMIT) as new, again:
                    new.send(b"secret")
                    async with asyncio.timeout(LIMIT):
                        assert await loop.sock_recv(again, 100) == b"secret"
                    assert buffer == bytes(100)
                    assert peer.told() == "FIN"
    server.close()
    await settle()
    for taker in takers:
        taker.transport.abort()
    await settle()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_who_connects_at_once_hears_of_what_comes_later(kind: str, tmp_path: Path) -> None:
    """A Unix socket connects without waiting: nothing has said by then that its number is another file's."""
    if kind == "unix" and not hasattr(socket, "AF_UNIX"):
        pytest.skip("Unix sockets")
    loop = asyncio.get_running_loop()
    with listening(str(tmp_path / "s") if kind == "unix" else "127.0.0.1") as listener:
        listener.settimeout(LIMIT)
        numbers = []
        for _ in range(5):
            with socket.socket(listener.family) as sock:
                sock.setblocking(False)
                numbers.append(sock.fileno())
                await loop.sock_connect(sock, listener.getsockname())
                other, _ = listener.accept()
                with other:
                    for part in (b"one", b"two"):
                        loop.call_later(0.01, other.sendall, part)
                        assert await asyncio.wait_for(loop.sock_recv(sock, 100), LIMIT) == part
        assert len(set(numbers)) < len(numbers)


async def test_a_call_that_is_refused_is_not_the_first_on_a_number() -> None:
    loop = asyncio.get_running_loop()
    for turn in range(4):
        ours, other = pair("unix" if hasattr(socket, "AF_UNIX") else "tcp")
        with ours, other:
            if turn % 2:
                fixed: Any = b"read-only"
                with pytest.raises((TypeError, BufferError)):
                    await asyncio.wait_for(loop.sock_recv_into(ours, fixed), LIMIT)
            loop.call_later(0.01, other.sendall, b"later")
            assert await asyncio.wait_for(loop.sock_recv(ours, 100), LIMIT) == b"later"


@pytest.mark.parametrize("taken", [False, True], ids=["free", "taken by the loop"])
@pytest.mark.parametrize("end", ["remove", "close"])
def test_waits_end_though_duplicates_of_closed_sockets_live(
    loop_factory: Factory, word: str, end: str, taken: bool
) -> None:
    """epoll(7) goes on reporting a closed descriptor of which a duplicate lives, so a loop may need a new
    set.  Other descriptors have been closed by then, and the new set may have the number of one.
    """
    before = descriptors()
    loop = loop_factory()
    heard: list[bytes] = []

    async def body() -> None:
        spare = os.dup(0)
        (full, far), (first, near) = pair("unix"), pair("unix")
        stack.enter_context(far)
        stack.enter_context(near)
        fill(full)
        loop.add_reader(full, heard.append, b"full")
        loop.add_writer(full, heard.append, b"full")
        await another_file(first, stack, heard)
        heard.clear()
        stack.enter_context(full.dup())
        full.close()
        os.close(spare)
        if taken:
            stack.enter_context(contextlib.closing(socket.socket()))  # it has the number of `spare`
        near.send(b"x")  # to the duplicate of `first`
        await settle()
        assert not {b"first", b"full"} & set(heard)
        if end == "remove" and word != "asyncio":  # which cannot while the other direction is watched
            assert loop.remove_reader(full)
            assert loop.remove_writer(full)

    with contextlib.ExitStack() as stack:
        loop.run_until_complete(body())
        loop.close()
    assert descriptors() == before


async def test_who_has_the_number_of_a_closed_socket_is_not_watched_in_its_place() -> None:
    """Nor when a loop needs a new set, because a duplicate of another closed socket lives on."""
    loop = asyncio.get_running_loop()
    heard: list[bytes] = []
    with contextlib.ExitStack() as stack:
        (old, far), (first, near) = pair("unix"), pair("unix")
        stack.enter_context(far)
        stack.enter_context(near)
        number = first.fileno()
        loop.add_reader(old, heard.append, b"old")
        await another_file(first, stack, heard)
        closed = old.fileno()
        old.close()
        mine, yours = pair("unix")
        stack.enter_context(mine)
        stack.enter_context(yours)
        assert closed in (mine.fileno(), yours.fileno())
        mine.send(b"x")
        yours.send(b"x")
        near.send(b"x")  # to the duplicate of `first`
        await asyncio.sleep(0.05)
        assert b"old" not in heard
        assert loop.remove_reader(number)
        assert loop.remove_reader(old)


@pytest.mark.ours  # stock asyncio raises FileNotFoundError, since its selector watches the closed file still
async def test_who_is_watched_to_read_is_not_watched_to_write_for_a_closed_socket() -> None:
    loop = asyncio.get_running_loop()
    heard: list[bytes] = []
    old, far = pair("unix")
    with far:
        fill(old)
        loop.add_writer(old, heard.append, b"old")
        await settle()
        number = old.fileno()
        old.close()
        new, other = pair("unix")
        with new, other:
            assert new.fileno() == number
            loop.add_reader(number, heard.append, b"new")
            await asyncio.sleep(0.05)
            assert heard == []
            other.send(b"x")
            await settle()
            assert set(heard) == {b"new"}
            assert loop.remove_reader(number)
            loop.remove_writer(number)
