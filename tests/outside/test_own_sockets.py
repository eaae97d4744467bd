"""Sockets that their user closes, wraps, or closes and forgets, while the loop serves them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from typing import Any

import pytest

from outside.support import Inside, Peer, dial, listening, pair


class Wrapper:
    """A socket with the manners of gunicorn's: every attribute is an error once it is closed."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock: socket.socket | None = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None


class Named(asyncio.Protocol):
    """Greets with a name, and sends back what it is given."""

    def __init__(self, name: bytes = b"hello") -> None:
        self.name = name

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self.name)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def serve(sock: Any, name: bytes = b"hello") -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(lambda: Named(name), sock=sock)


def refused(address: Any) -> bool:
    try:
        dial(address).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_wrapped_listener_that_is_closed_after_its_server(inside: Inside) -> None:
    wrapper = Wrapper(listening())
    address = wrapper.getsockname()
    server = inside.run(serve(wrapper))
    with dial(address) as peer:
        assert peer.take(5) == b"hello"

        def close() -> None:
            server.close()
            wrapper.close()

        inside.call(close)
        assert refused(address)
        peer.send(b"still served")
        assert peer.take(12) == b"still served"
        peer.finish()
        assert peer.told() == "FIN"
    inside.run(server.wait_closed())
    assert inside.errors == []


@pytest.mark.ours  # on stock asyncio Server.close() raises the wrapper's error
def test_a_wrapped_listener_that_is_closed_before_its_server(inside: Inside) -> None:
    wrapper = Wrapper(listening())
    address = wrapper.getsockname()
    server = inside.run(serve(wrapper))

    def close() -> None:
        wrapper.close()
        server.close()

    inside.call(close)
    assert refused(address)
    inside.run(server.wait_closed())
    assert inside.errors == []


@pytest.mark.parametrize("how", ["close", "abort", "write"])
def test_a_wrapped_socket_that_is_closed_under_its_transport(inside: Inside, how: str) -> None:
    """What a transport made with ``sock=`` still asks of it is answered by an error,
    which is nobody's concern.
    """
    ours, other = pair("tcp")
    wrapper = Wrapper(ours)

    async def run() -> BaseException | None:
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[BaseException | None] = loop.create_future()

        class Client(asyncio.Protocol):
            def connection_lost(self, exc: BaseException | None) -> None:
                lost.set_result(exc)

        transport: Any
        transport, _ = await loop.create_connection(Client, sock=wrapper)  # type: ignore[arg-type]
        if how == "write":
            wrapper.close()
            transport.write(b"lost")
        else:
            transport.write(b"last")
            getattr(transport, how)()
            await asyncio.sleep(0)
            wrapper.close()
        try:
            return await asyncio.wait_for(lost, 10)
        finally:
            transport.abort()

    with Peer(other) as peer:
        exc = inside.run(run())
        assert peer.told() == "FIN"
    if how == "write":
        # Stock asyncio asks its own socket object, and the wrapper's error is what it gets.
        assert isinstance(exc, (OSError, AttributeError))
    else:
        assert exc is None


@pytest.mark.ours  # on stock asyncio Server.close() raises ValueError: the number is -1
def test_a_listener_that_is_closed_before_its_server(inside: Inside) -> None:
    sock = listening()
    address = sock.getsockname()
    server = inside.run(serve(sock))

    def close() -> None:
        sock.close()
        server.close()

    inside.call(close)
    assert refused(address)
    with listening(port=address[1]) as again:
        # The old server has nothing to do with the new listener, whatever its number.
        fresh = inside.run(serve(again, b"fresh"))
        for _ in range(3):
            with dial(address) as peer:
                assert peer.take(5) == b"fresh"
        inside.call(fresh.close)
    inside.run(server.wait_closed())
    inside.stop()
    inside.loop.close()
    assert inside.errors == []


@pytest.mark.ours  # the same
def test_a_unix_listener_that_is_closed_before_its_server(inside: Inside, tmp_path: Any) -> None:
    path = os.path.relpath(tmp_path / "socket")

    async def run() -> None:
        server = await asyncio.get_running_loop().create_unix_server(Named, path)
        server.sockets[0]._sock.close()  # type: ignore[attr-defined]
        server.close()
        await server.wait_closed()

    inside.run(run())
    with pytest.raises(ConnectionRefusedError):
        dial(path)
    inside.stop()
    inside.loop.close()
    assert inside.errors == []


# stock asyncio cannot watch the new listener: FileNotFoundError, for its selector has the old one
@pytest.mark.ours
def test_a_listener_with_the_number_of_one_that_was_closed(inside: Inside) -> None:
    """The first is closed behind the back of its server, which goes on to be the server of nothing."""
    sock = listening()
    number = sock.fileno()
    server = inside.run(serve(sock, b"first"))
    with dial(sock.getsockname()) as peer:
        assert peer.take(5) == b"first"

    def again() -> socket.socket:
        sock.close()
        found = listening()
        if found.fileno() != number:
            with found:
                os.dup2(found.fileno(), number)
            found = socket.socket(fileno=number)
        return found

    with inside.call(again) as second:
        other = inside.run(serve(second, b"other"))
        for _ in range(3):
            with dial(second.getsockname()) as peer:
                assert peer.take(5) == b"other"
        inside.call(server.close)
        with dial(second.getsockname()) as peer:
            assert peer.take(5) == b"other"
        inside.call(other.close)
    inside.stop()
    inside.loop.close()
    assert inside.errors == []


# remove_reader and remove_writer, with the object of a socket that was closed


@pytest.mark.parametrize("what", ["reader", "writer"])
@pytest.mark.parametrize("kind", ["tcp", "unix", "datagram"])
async def test_the_watch_of_a_closed_socket_is_removed_by_its_object(what: str, kind: str) -> None:
    loop = asyncio.get_running_loop()
    add, remove = getattr(loop, f"add_{what}"), getattr(loop, f"remove_{what}")
    ours, other = socket.socketpair(type=socket.SOCK_DGRAM) if kind == "datagram" else pair(kind)
    ours.setblocking(False)
    other.setblocking(False)
    with ours, other:
        number = ours.fileno()
        called: list[str] = []
        add(ours, called.append, "old")
        if what == "writer":
            async with asyncio.timeout(10):
                while not called:
                    await asyncio.sleep(0)
        ours.close()
        assert remove(ours) is True
        with pytest.raises(ValueError):
            remove(ours)
        called.clear()
        # The number is another socket's now, which may be watched,
        # and of whose events the old watch hears nothing.
        os.dup2(other.fileno(), number)
        with socket.socket(fileno=number) as new:
            add(new, called.append, "new")
            if what == "reader":
                other.close()
                with contextlib.suppress(OSError):
                    new.shutdown(socket.SHUT_RDWR)
                if kind == "datagram":
                    new.close()
                    assert remove(new) is True
                    return
            async with asyncio.timeout(10):
                while "new" not in called:
                    await asyncio.sleep(0)
            assert remove(new) is True
        assert set(called) == {"new"}


@pytest.mark.parametrize("what", ["reader", "writer"])
async def test_a_closed_socket_that_was_never_watched(what: str) -> None:
    loop = asyncio.get_running_loop()
    ours, other = pair("tcp")
    with other:
        ours.close()
        with pytest.raises(ValueError):
            getattr(loop, f"remove_{what}")(ours)


@pytest.mark.parametrize("what", ["reader", "writer"])
async def test_a_socket_that_is_watched_by_its_number_is_not_known_by_its_object(what: str) -> None:
    loop = asyncio.get_running_loop()
    ours, other = pair("tcp")
    with ours, other:
        number = ours.fileno()
        getattr(loop, f"add_{what}")(number, lambda: None)
        ours.close()
        with pytest.raises(ValueError):
            getattr(loop, f"remove_{what}")(ours)
        assert getattr(loop, f"remove_{what}")(number) is True


@pytest.mark.ours  # stock asyncio removes both, and the first with an OSError (EBADF)
async def test_one_direction_by_object_and_the_other_by_number() -> None:
    loop = asyncio.get_running_loop()
    ours, other = pair("tcp")
    with ours, other:
        loop.add_reader(ours, lambda: None)
        loop.add_writer(ours.fileno(), lambda: None)
        ours.close()
        assert loop.remove_writer(ours) is True
        assert loop.remove_reader(ours) is True
        with pytest.raises(ValueError):
            loop.remove_writer(ours)


async def test_a_closed_socket_after_its_direction_was_removed() -> None:
    loop = asyncio.get_running_loop()
    ours, other = pair("tcp")
    with ours, other:
        loop.add_reader(ours, lambda: None)
        loop.add_writer(ours, lambda: None)
        assert loop.remove_reader(ours) is True
        ours.close()
        assert loop.remove_writer(ours) is True
        with pytest.raises(ValueError):
            loop.remove_reader(ours)


def test_a_closed_socket_and_a_closed_loop(loop: asyncio.AbstractEventLoop) -> None:
    ours, other = pair("tcp")
    with ours, other:
        loop.add_reader(ours, lambda: None)
        loop.close()
        ours.close()
        assert loop.remove_reader(ours) is False


def test_the_peer_of_a_watched_socket_sees_its_end(inside: Inside) -> None:
    """The watch has ended when the socket was closed and removed: nothing keeps the connection open."""
    ours, other = pair("tcp")

    inside.call(lambda: inside.loop.add_reader(ours, lambda: None))

    def end() -> None:
        ours.close()
        inside.loop.remove_reader(ours)

    inside.call(end)
    with Peer(other) as peer:
        assert peer.told() == "FIN"


def test_errno_of_what_was_never_open(loop: asyncio.AbstractEventLoop) -> None:
    with pytest.raises(OSError) as failure:
        loop.add_reader(987_654, lambda: None)
    assert failure.value.errno == errno.EBADF
