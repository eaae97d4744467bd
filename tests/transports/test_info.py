"""What a transport tells of itself: its socket, addresses, protocol, its kind;
and the context callbacks run in.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import socket
import warnings
from typing import Any

import pytest

from .support import LIMIT, Echo, Recorder, dial, linked, listening, serving, turns

each_kind = pytest.mark.parametrize("kind", ["tcp", "tcp6", "accepted", "unix"])
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


@each_kind
async def test_addresses(kind: str) -> None:
    async with linked(kind) as link:
        assert link.transport.get_extra_info("sockname") == link.peer.getpeername()
        assert link.transport.get_extra_info("peername") == link.peer.getsockname()


@each_kind
async def test_addresses_are_known_after_the_end(kind: str) -> None:
    async with linked(kind) as link:
        before = [link.transport.get_extra_info(name) for name in ("sockname", "peername")]
        link.transport.close()
        await link.protocol.until_lost()
        await turns()
        assert [link.transport.get_extra_info(name) for name in ("sockname", "peername")] == before
        assert link.transport.get_extra_info("socket").fileno() == -1


async def test_addresses_are_known_although_the_peer_has_gone() -> None:
    listener = listening()
    with listener:
        client = dial(listener.getsockname())
        name = client.getsockname()
        client.close()
        conn, _ = listener.accept()
        protocol = Recorder()
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, conn)
        assert transport.get_extra_info("peername") == name
        transport.abort()
        await protocol.until_lost()


async def test_what_is_unknown_has_the_default() -> None:
    async with linked("tcp") as link:
        assert link.transport.get_extra_info("no such thing") is None
        assert link.transport.get_extra_info("no such thing", 5) == 5
        assert link.transport.get_extra_info("sslcontext") is None


@each_kind
async def test_the_socket_can_be_asked_but_not_used(kind: str) -> None:
    async with linked(kind) as link:
        sock = link.transport.get_extra_info("socket")
        assert sock.family == link.peer.family
        assert sock.type == socket.SOCK_STREAM
        assert sock.gettimeout() == 0
        assert sock.fileno() >= 0
        assert sock.getsockname() == link.transport.get_extra_info("sockname")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        with pytest.raises(ValueError):
            sock.setblocking(True)
        for method in ("recv", "send", "close", "accept"):
            assert not hasattr(sock, method)


@each_kind
async def test_the_kind_of_transport(kind: str) -> None:
    async with linked(kind) as link:
        assert isinstance(link.transport, asyncio.Transport)
        assert isinstance(link.transport, asyncio.ReadTransport)
        assert isinstance(link.transport, asyncio.WriteTransport)
        assert not isinstance(link.transport, asyncio.DatagramTransport)
        assert link.transport.can_write_eof() is True


@each_kind
async def test_repr_works_in_every_state(kind: str) -> None:
    async with linked(kind) as link:
        texts = [repr(link.transport)]
        link.transport.pause_reading()
        texts.append(repr(link.transport))
        link.transport.write(b"x" * 1_000_000)
        texts.append(repr(link.transport))
        link.transport.close()
        texts.append(repr(link.transport))
        link.transport.abort()
        await link.protocol.until_lost()
        await turns()
        texts.append(repr(link.transport))
        assert all(text.startswith("<") and text.endswith(">") for text in texts)
        assert "closing" in texts[3]
        assert "closed" in texts[4]


def test_repr_after_the_loop_is_closed(loop: asyncio.AbstractEventLoop) -> None:
    async def make() -> Any:
        async with linked("tcp") as link:
            return link.transport

    transport = loop.run_until_complete(make())
    loop.close()
    assert "closed" in repr(transport)


def nodelay(transport: Any) -> int:
    return int(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "accepted"])
async def test_small_answers_are_not_held_back(kind: str) -> None:
    async with linked(kind) as link:
        assert nodelay(link.transport)


@pytest.mark.ours  # stock asyncio forgets it where sock.proto is 0
async def test_small_answers_are_not_held_back_on_our_own_socket() -> None:
    with listening() as listener, dial(listener.getsockname()) as client:
        assert client.proto == 0
        protocol = Recorder()
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=client)
        assert nodelay(transport)
        conn, _ = listener.accept()
        other = Recorder()
        accepted, _ = await asyncio.get_running_loop().connect_accepted_socket(lambda: other, conn)
        assert nodelay(accepted)
        transport.abort()
        accepted.abort()
        await protocol.until_lost()
        await other.until_lost()


@pytest.mark.ours  # as above
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_small_answers_are_not_held_back_on_our_own_listener(host: str) -> None:
    protocol = Recorder()
    listener = listening(host)
    server = await asyncio.get_running_loop().create_server(lambda: protocol, sock=listener)
    with dial(server.sockets[0].getsockname()[:2]):
        await protocol.until_event("connection_made")
        assert nodelay(protocol.transport)
    await protocol.until_lost()
    server.close()


def seen_in(log: dict[str, str]) -> dict[str, Any]:
    """Hooks that note the variable's value in each callback."""

    def hook(name: str) -> Any:
        def note(*_: Any) -> None:
            log[name] = variable.get()

        return note

    return {name: hook(name) for name in ("connection_made", "data_received", "eof_received")}


async def test_callbacks_run_in_the_context_of_the_connection() -> None:
    """That of create_connection, whatever the program does later."""
    log: dict[str, str] = {}
    variable.set("creator")
    async with linked("tcp", Recorder(**seen_in(log))) as link:
        variable.set("later")
        link.peer.sendall(b"x")
        await link.protocol.until_received(1)
        link.peer.close()
        await link.protocol.until_lost()
    assert log == {"connection_made": "creator", "data_received": "creator", "eof_received": "creator"}


async def test_callbacks_of_a_server_run_in_its_context() -> None:
    log: dict[str, str] = {}
    variable.set("server")
    async with linked("accepted", Recorder(**seen_in(log))) as link:
        variable.set("later")
        link.peer.sendall(b"x")
        await link.protocol.until_received(1)
        link.peer.close()
        await link.protocol.until_lost()
    assert log == {"connection_made": "server", "data_received": "server", "eof_received": "server"}


async def test_accepted_connections_do_not_share_a_context() -> None:
    seen: list[str] = []

    def mark(_protocol: Recorder, data: bytes) -> None:
        seen.append(variable.get())
        variable.set(data.decode())

    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder(data_received=mark))
        return made[-1]

    variable.set("outside")
    async with serving(factory) as (_, address):
        for text in (b"first", b"second"):
            with dial(address) as client:
                client.sendall(text)
                while not made or made[-1].data != text:
                    await asyncio.sleep(0.001)
                protocol = made[-1]
            await protocol.until_lost()
    assert seen == ["outside", "outside"]
    assert variable.get() == "outside"


async def test_a_protocol_keeps_what_it_sets_in_its_context() -> None:
    values: list[str] = []

    def mark(_protocol: Recorder, data: bytes) -> None:
        values.append(variable.get())
        variable.set(data.decode())

    async with linked("tcp", Recorder(data_received=mark)) as link:
        for i, text in enumerate((b"a", b"b", b"c"), 1):
            link.peer.sendall(text)
            await link.protocol.until_received(i)
    assert values == ["nothing", "a", "b"]


def test_an_unclosed_transport_warns_and_its_descriptor_is_closed(loop: asyncio.AbstractEventLoop) -> None:
    """Once the loop is closed and nobody holds the transport."""

    async def make(address: Any) -> int:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, *address)
        return int(transport.get_extra_info("socket").fileno())

    with listening() as listener, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fd = loop.run_until_complete(make(listener.getsockname()))
        peer, _ = listener.accept()
        loop.close()
        gc.collect()
        with pytest.raises(OSError):
            os.fstat(fd)
        with peer:
            peer.settimeout(LIMIT)
            assert peer.recv(1) == b""
    assert any("unclosed transport" in str(warning.message) for warning in caught)
    assert {warning.category for warning in caught} == {ResourceWarning}


async def test_a_transport_that_nobody_holds_goes_on() -> None:
    """The loop keeps it alive while its connection lives."""
    async with serving(Echo) as (_, address):
        with dial(address) as client:
            client.sendall(b"one")
            assert await asyncio.to_thread(client.recv, 10) == b"one"
            gc.collect()
            client.sendall(b"two")
            assert await asyncio.to_thread(client.recv, 10) == b"two"
        await turns(5)


@each_kind
async def test_debug_mode_changes_nothing(kind: str) -> None:
    asyncio.get_running_loop().set_debug(True)
    async with linked(kind, Echo()) as link:
        link.peer.sendall(b"debug")
        assert await link.from_peer(5) == b"debug"
        link.transport.pause_reading()
        link.transport.resume_reading()
        link.peer.shutdown(socket.SHUT_WR)
        assert await link.protocol.until_lost() is None
        assert link.protocol.order == ["connection_made", "data_received", "eof_received", "connection_lost"]


async def test_attributes_of_the_users_own() -> None:
    async with linked("tcp") as link:
        transport = link.transport
        assert not hasattr(transport, "mine")
        transport.mine = 1
        assert transport.mine == vars(transport)["mine"] == 1
        del transport.mine
        assert not hasattr(transport, "mine")
        vars(transport)["mine"] = 2
        assert transport.mine == 2
