"""create_server: which sockets it listens on, with which options, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import sys
from typing import Any

import pytest

from .support import LIMIT, Echo, Recorder, dial, listening, open_fds, serving, settled_fds, unused_port


async def create(*args: Any, **options: Any) -> Any:
    return await asyncio.get_running_loop().create_server(Echo, *args, **options)


async def close(server: Any) -> None:
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


async def check_echo(address: Any) -> None:
    with dial(address) as client:
        client.sendall(b"ping")
        assert await asyncio.to_thread(client.recv, 10) == b"ping"


def addresses(server: Any) -> list[Any]:
    return [sock.getsockname() for sock in server.sockets]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_one_address(host: str) -> None:
    server = await create(host, 0)
    assert len(server.sockets) == 1
    assert addresses(server)[0][0] == host
    assert addresses(server)[0][1] != 0
    await check_echo(addresses(server)[0][:2])
    await close(server)


async def test_several_hosts() -> None:
    server = await create(["127.0.0.1", "::1"], 0)
    assert sorted(address[0] for address in addresses(server)) == ["127.0.0.1", "::1"]
    for address in addresses(server):
        await check_echo(address[:2])
    await close(server)


async def test_several_hosts_with_one_port() -> None:
    """A port that is given is the same on all; IPv6 sockets do not take IPv4's."""
    port = unused_port()
    server = await create(["127.0.0.1", "::1"], port)
    assert [address[1] for address in addresses(server)] == [port, port]
    await close(server)


async def test_a_host_given_twice_is_bound_once() -> None:
    server = await create(["127.0.0.1", "127.0.0.1"], unused_port())
    assert len(server.sockets) == 1
    await close(server)


@pytest.mark.parametrize("host", [None, ""], ids=["None", "empty"])
async def test_every_address_of_the_machine(host: Any) -> None:
    server = await create(host, 0)
    for address in addresses(server):
        local = "::1" if len(address) == 4 else "127.0.0.1"
        assert address[0] in ("::", "0.0.0.0")
        await check_echo((local, address[1]))
    await close(server)


async def test_a_family() -> None:
    server = await create(None, 0, family=socket.AF_INET)
    assert [address[0] for address in addresses(server)] == ["0.0.0.0"]
    await close(server)


async def test_a_name() -> None:
    server = await create("localhost", 0, family=socket.AF_INET)
    assert addresses(server)[0][0] == "127.0.0.1"
    await check_echo(addresses(server)[0])
    await close(server)


async def test_our_own_socket() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    server = await create(sock=sock)
    assert sock.gettimeout() == 0
    await check_echo(sock.getsockname())
    await close(server)
    assert sock.fileno() == -1


async def test_our_own_socket_that_listens_with_clients_waiting() -> None:
    listener = listening()
    with dial(listener.getsockname()) as client:
        client.sendall(b"early")
        server = await create(sock=listener)
        assert await asyncio.to_thread(client.recv, 10) == b"early"
    await close(server)


async def test_an_address_in_use() -> None:
    with listening() as taken:
        address = taken.getsockname()
        before = await settled_fds()
        with pytest.raises(OSError, match="error while attempting to bind on address") as info:
            await create(*address)
        assert info.value.errno == errno.EADDRINUSE
        assert str(address) in str(info.value)
        assert open_fds().keys() <= before.keys()


async def test_one_of_several_addresses_in_use() -> None:
    """Nothing is left of those that could be bound."""
    with listening() as taken:
        port = taken.getsockname()[1]
        before = await settled_fds()
        with pytest.raises(OSError, match="error while attempting to bind on address"):
            await create(["::1", "127.0.0.1"], port)
        assert open_fds().keys() <= before.keys()


async def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(OSError, match=r"attempting to bind|could not bind"):
        await create("203.0.113.77", 0)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
async def test_an_address_that_is_not_ours_beside_one_that_is() -> None:
    server = await create(["203.0.113.77", "127.0.0.1"], 0)
    assert [address[0] for address in addresses(server)] == ["127.0.0.1"]
    await close(server)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"host": "127.0.0.1", "port": 0, "ssl_handshake_timeout": 1},
        {"host": "127.0.0.1", "port": 0, "ssl_shutdown_timeout": 1},
    ],
    ids=["nothing", "ssl_handshake_timeout", "ssl_shutdown_timeout"],
)
async def test_arguments_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        await create(**options)


async def test_an_address_and_a_socket() -> None:
    with socket.socket() as sock, pytest.raises(ValueError, match="can not be specified at the same time"):
        await create("127.0.0.1", 0, sock=sock)


async def test_ssl_is_a_context() -> None:
    with pytest.raises(TypeError):
        await create("127.0.0.1", 0, ssl=True)


async def test_an_ssl_socket() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with socket.socket() as raw:
        raw.bind(("127.0.0.1", 0))
        with context.wrap_socket(raw, server_side=True) as sock, pytest.raises(TypeError):
            await create(sock=sock)


async def test_the_address_may_be_reused_at_once() -> None:
    """Restarting a server whose connections have just been closed works."""
    server = await create("127.0.0.1", 0)
    address = addresses(server)[0]
    assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    await check_echo(address)
    await close(server)
    again = await create(*address)
    await check_echo(address)
    await close(again)


async def test_reuse_address_can_be_refused() -> None:
    server = await create("127.0.0.1", 0, reuse_address=False)
    assert not server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    await close(server)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="not on this system")
async def test_reuse_port() -> None:
    first = await create("127.0.0.1", 0, reuse_port=True)
    second = await create(*addresses(first)[0], reuse_port=True)
    assert addresses(first) == addresses(second)
    for _ in range(20):
        await check_echo(addresses(first)[0])
    await close(first)
    for _ in range(5):
        await check_echo(addresses(second)[0])
    await close(second)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
async def test_keep_alive() -> None:
    server = await create("127.0.0.1", 0, keep_alive=True)
    assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    await close(server)


@pytest.mark.parametrize("backlog", [1, 5, 1000])
async def test_a_backlog(backlog: int) -> None:
    """However short the queue, everyone is served in the end."""
    async with serving(Echo, backlog=backlog) as (_, address):
        await asyncio.gather(*(asyncio.to_thread(_ask, address, i) for i in range(30)))


def _ask(address: Any, number: int) -> None:
    with dial(address) as client:
        client.sendall(b"%03d" % number)
        assert client.recv(10) == b"%03d" % number


async def test_two_servers_in_one_loop() -> None:
    async with serving(Echo) as (_, one), serving(Echo) as (_, two):
        assert one != two
        await check_echo(one)
        await check_echo(two)


async def test_each_connection_has_its_own_protocol() -> None:
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    async with serving(factory) as (_, address):
        with dial(address) as one, dial(address) as two:
            one.sendall(b"one")
            two.sendall(b"two")
            while len(made) < 2:
                await asyncio.sleep(0.001)
            got = {bytes(await protocol.until_received(3)) for protocol in made}
            assert got == {b"one", b"two"}
        for protocol in made:
            await protocol.until_lost()
