"""create_connection and its relatives when they fail or are cancelled: the cause, and nothing left open.

That no descriptor is left is checked after every test of this room."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import threading
from typing import Any

import pytest

from .support import (
    LIMIT,
    Recorder,
    dead_address,
    dial,
    linked,
    linux_only,
    listening,
    open_fds,
    settled_fds,
    socket_directory,
    turns,
    unused_port,
)


async def create(*args: Any, **options: Any) -> Any:
    return await asyncio.get_running_loop().create_connection(Recorder, *args, **options)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_refused(host: str) -> None:
    port = unused_port(host)
    with pytest.raises(ConnectionRefusedError) as info:
        await create(host, port)
    assert info.value.errno == errno.ECONNREFUSED
    assert "Connect call failed" in str(info.value)
    assert str(port) in str(info.value)


async def test_refused_by_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = [unused_port(), unused_port()]
    infos = [
        (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port)) for port in ports
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
    with pytest.raises(OSError, match="Multiple exceptions") as info:
        await create("several.example", 1)
    assert all(str(port) in str(info.value) for port in ports)


async def test_the_same_error_from_several_addresses_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    port = unused_port()
    infos = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))] * 3
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
    with pytest.raises(ConnectionRefusedError):
        await create("several.example", 1)


async def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(socket.gaierror):
        await create("nowhere.example", 1)


async def test_a_name_without_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(OSError, match="empty list"):
        await create("empty.example", 1)


async def test_a_local_address_that_is_not_ours() -> None:
    with listening() as listener:
        with pytest.raises(OSError, match="error while attempting to bind on address") as info:
            await create(*listener.getsockname(), local_addr=("203.0.113.77", 0))
        assert info.value.errno == errno.EADDRNOTAVAIL


async def test_a_local_address_of_another_family() -> None:
    with listening() as listener:
        with pytest.raises(OSError, match="no matching local address"):
            await create(*listener.getsockname(), local_addr=("::1", 0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"host": "127.0.0.1", "port": 1, "server_hostname": "x"},
        {"host": "127.0.0.1", "port": 1, "ssl_handshake_timeout": 1},
        {"host": "127.0.0.1", "port": 1, "ssl_shutdown_timeout": 1},
        {"port": 1, "ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)},
    ],
    ids=["nothing", "server_hostname", "ssl_handshake_timeout", "ssl_shutdown_timeout", "no-host-for-ssl"],
)
async def test_arguments_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        await create(**options)


async def test_an_address_and_a_socket() -> None:
    with socket.socket() as sock, pytest.raises(ValueError, match="can not be specified at the same time"):
        await create("127.0.0.1", 1, sock=sock)


async def test_a_datagram_socket() -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError, match="Stream Socket was expected"):
            await create(sock=sock)
        with pytest.raises(ValueError, match="Stream Socket was expected"):
            await loop.connect_accepted_socket(Recorder, sock)
        with pytest.raises(ValueError, match="Stream Socket was expected"):
            await loop.create_server(Recorder, sock=sock)


async def test_an_ssl_socket() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    raw, peer = socket.socketpair()
    with peer, context.wrap_socket(raw, do_handshake_on_connect=False) as sock:
        with pytest.raises(TypeError):
            await create(sock=sock)


async def test_a_descriptor_that_has_a_transport() -> None:
    """Two transports on one descriptor would steal each other's data."""
    async with linked("tcp") as link:
        fd = link.transport.get_extra_info("socket").fileno()
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.add_reader(fd, lambda: None)
        with pytest.raises(RuntimeError, match="is used by transport"):
            loop.remove_writer(fd)


@pytest.mark.ours  # stock asyncio leaves the connected socket to the garbage collector
async def test_a_protocol_factory_that_raises() -> None:
    def fail() -> Any:
        raise ZeroDivisionError

    with listening() as listener:
        with pytest.raises(ZeroDivisionError):
            await asyncio.get_running_loop().create_connection(fail, *listener.getsockname())
        with listener.accept()[0] as peer:
            peer.settimeout(LIMIT)
            assert await asyncio.to_thread(peer.recv, 1) == b""


async def _is_left_open(accepted: bool) -> bool:
    """Whether the user's socket is open after a factory has raised, and still carries data."""

    def fail() -> Any:
        raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    sock, peer = socket.socketpair()
    with sock, peer:
        sock.setblocking(False)
        with pytest.raises(ZeroDivisionError):
            await (
                loop.connect_accepted_socket(fail, sock)
                if accepted
                else loop.create_connection(fail, sock=sock)
            )
        if sock.fileno() < 0:
            return False
        peer.sendall(b"still there")
        return await asyncio.wait_for(loop.sock_recv(sock, 100), LIMIT) == b"still there"


@pytest.mark.parametrize("accepted", [False, True], ids=["create_connection", "connect_accepted_socket"])
async def test_a_protocol_factory_that_raises_and_the_users_socket(accepted: bool) -> None:
    """asyncio's own loop leaves it open, and closes it from 3.14.8 on (gh-153133): this one does the same."""

    def on_stock() -> bool:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(_is_left_open(accepted))

    assert await _is_left_open(accepted) == await asyncio.to_thread(on_stock)


async def cancel(coroutine: Any, *, after_turns: int | None = None) -> None:
    """Start it, cancel it in the middle, and see that it ends so."""
    task = asyncio.create_task(coroutine)
    if after_turns is None:
        await asyncio.sleep(0.01)
    else:
        await turns(after_turns)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, LIMIT)


@pytest.mark.skipif(not linux_only, reason="needs a listener whose full queue ignores newcomers")
@pytest.mark.parametrize("options", [{}, {"happy_eyeballs_delay": 0.001}], ids=["plain", "happy-eyeballs"])
async def test_cancelled_while_connecting(options: dict[str, Any]) -> None:
    with dead_address() as address:
        before = await settled_fds()
        await cancel(create(*address, **options))
        await turns(5)
        assert open_fds().keys() <= before.keys()


@pytest.mark.skipif(not linux_only, reason="needs a listener whose full queue ignores newcomers")
async def test_a_connect_that_times_out() -> None:
    with dead_address() as address:
        before = await settled_fds()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(create(*address), 0.02)
        await turns(5)
        assert open_fds().keys() <= before.keys()


@pytest.mark.skipif(not linux_only, reason="needs a listener whose full queue ignores newcomers")
async def test_happy_eyeballs_close_the_losers(monkeypatch: pytest.MonkeyPatch) -> None:
    with dead_address("::1") as one, dead_address() as two, listening() as listener:
        addresses = [one, two, listener.getsockname()]
        infos = [(_family(a), socket.SOCK_STREAM, socket.IPPROTO_TCP, "", a) for a in addresses]
        with monkeypatch.context() as patched:
            patched.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
            before = await settled_fds()
            transport, protocol = await create("several.example", 1, happy_eyeballs_delay=0.02)
        transport.abort()
        await protocol.until_lost()
        await turns(5)
        assert open_fds().keys() <= before.keys()


def _family(address: tuple[str, int]) -> int:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


async def test_cancelled_while_resolving(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def slow(*_: Any, **__: Any) -> Any:
        go_on.wait(LIMIT)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        await cancel(create("slow.example", 1))
    finally:
        go_on.set()


@pytest.mark.parametrize("count", range(6))
async def test_cancelled_after_any_number_of_turns(count: int) -> None:
    """Wherever the cancellation comes, there is a connection or there is none, and no descriptor is lost."""
    with listening() as listener:
        before = await settled_fds()
        task = asyncio.create_task(create(*listener.getsockname()))
        await turns(count)
        task.cancel()
        try:
            transport, protocol = await task
        except asyncio.CancelledError:
            pass
        else:
            transport.abort()
            await protocol.until_lost()
        await turns(5)
        assert open_fds().keys() <= before.keys()


@pytest.mark.ours  # stock asyncio gives a transport that is not connected
@pytest.mark.skipif(not linux_only, reason="elsewhere a full queue refuses")
async def test_a_unix_listener_whose_queue_is_full() -> None:
    """Waits for room or says that there is none; never a connection that is not one; nothing left of it."""
    with socket_directory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = f"{directory}/s"
        listener.bind(path)
        listener.listen(0)
        with dial(path):
            before = await settled_fds()
            task = asyncio.create_task(asyncio.get_running_loop().create_unix_connection(Recorder, path))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises((asyncio.CancelledError, BlockingIOError)):
                await asyncio.wait_for(task, LIMIT)
            await turns(5)
            assert open_fds().keys() <= before.keys()
