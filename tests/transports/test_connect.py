"""create_connection and connect_accepted_socket: how a connection comes about."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from .support import LIMIT, Recorder, dead_address, dial, linux_only, listening, turns, unused_port

Resolver = Callable[[list[tuple[str, int]]], str]


@pytest.fixture
def resolves_to(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """Gives a host name that resolves to the addresses that are asked for, in that order."""

    def resolve(addresses: list[tuple[str, int]]) -> str:
        def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> list[Any]:
            if host != "several.example":
                return real(host, port, *args, **options)
            return [_info(*address) for address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return "several.example"

    real = socket.getaddrinfo
    return resolve


def _info(host: str, port: int) -> tuple[Any, ...]:
    if ":" in host:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))


async def connect(*args: Any, **options: Any) -> Recorder:
    """A connection that answered; its protocol."""
    protocol = Recorder()
    transport, made = await asyncio.get_running_loop().create_connection(lambda: protocol, *args, **options)
    assert made is protocol
    assert protocol.transport is transport
    return protocol


async def leave(protocol: Recorder) -> None:
    protocol.transport.abort()
    await protocol.until_lost()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_address(host: str) -> None:
    with listening(host) as listener:
        protocol = await connect(host, listener.getsockname()[1])
        with listener.accept()[0] as peer:
            peer.sendall(b"hello")
            assert await protocol.until_received(5) == b"hello"
        assert await protocol.until_lost() is None


async def test_a_name() -> None:
    with listening() as listener:
        protocol = await connect("localhost", listener.getsockname()[1], family=socket.AF_INET)
        assert protocol.transport.get_extra_info("peername") == listener.getsockname()
        await leave(protocol)


@pytest.mark.parametrize("port", ["text", b"bytes"], ids=["text", "bytes"])
async def test_a_port_that_is_not_an_int(port: Any) -> None:
    with listening() as listener:
        number = str(listener.getsockname()[1])
        protocol = await connect("127.0.0.1", number if port == "text" else number.encode())
        await leave(protocol)


async def test_the_first_address_that_answers(resolves_to: Resolver) -> None:
    with listening() as listener:
        name = resolves_to(
            [("127.0.0.1", unused_port()), ("::1", unused_port("::1")), listener.getsockname()]
        )
        protocol = await connect(name, 1)
        assert protocol.transport.get_extra_info("peername") == listener.getsockname()
        await leave(protocol)


async def attempts(*args: Any, **options: Any) -> list[int]:
    """The ports that were tried, all of which refuse, in order."""
    with pytest.raises(OSError) as info:
        await connect(*args, **options)
    text = str(info.value)
    assert text.startswith("Multiple exceptions: ")
    return [int(part.split(",")[1].strip(" )")) for part in text.split("Connect call failed (")[1:]]


async def test_addresses_are_tried_in_order(resolves_to: Resolver) -> None:
    ports = [unused_port("::1"), unused_port("::1"), unused_port()]
    name = resolves_to([("::1", ports[0]), ("::1", ports[1]), ("127.0.0.1", ports[2])])
    assert await attempts(name, 1) == ports


async def test_families_are_interleaved(resolves_to: Resolver) -> None:
    ports = [unused_port("::1"), unused_port("::1"), unused_port("::1"), unused_port()]
    name = resolves_to([*(("::1", port) for port in ports[:3]), ("127.0.0.1", ports[3])])
    assert await attempts(name, 1, interleave=1) == [ports[0], ports[3], ports[1], ports[2]]
    assert await attempts(name, 1, interleave=2) == [ports[0], ports[1], ports[3], ports[2]]


@pytest.mark.skipif(not linux_only, reason="needs a listener whose full queue ignores newcomers")
@pytest.mark.parametrize("dead", ["127.0.0.1", "::1"])
async def test_happy_eyeballs_pass_a_dead_address(resolves_to: Resolver, dead: str) -> None:
    with dead_address(dead) as silent, listening("::1" if dead == "127.0.0.1" else "127.0.0.1") as listener:
        name = resolves_to([silent, listener.getsockname()[:2]])
        began = time.monotonic()
        protocol = await asyncio.wait_for(connect(name, 1, happy_eyeballs_delay=0.05), LIMIT)
        assert 0.04 < time.monotonic() - began < 1
        assert protocol.transport.get_extra_info("peername") == listener.getsockname()
        await leave(protocol)


async def test_happy_eyeballs_do_not_wait_for_an_address_that_refuses(resolves_to: Resolver) -> None:
    with listening() as listener:
        name = resolves_to([("::1", unused_port("::1")), listener.getsockname()])
        protocol = await asyncio.wait_for(connect(name, 1, happy_eyeballs_delay=60), LIMIT)
        await leave(protocol)


async def test_happy_eyeballs_where_all_refuse(resolves_to: Resolver) -> None:
    name = resolves_to([("::1", unused_port("::1")), ("127.0.0.1", unused_port())])
    with pytest.raises(OSError, match="Multiple exceptions"):
        await connect(name, 1, happy_eyeballs_delay=0.01)


async def test_local_address() -> None:
    with listening() as listener:
        port = unused_port()
        protocol = await connect(*listener.getsockname(), local_addr=("127.0.0.1", port))
        assert protocol.transport.get_extra_info("sockname") == ("127.0.0.1", port)
        await leave(protocol)


async def test_a_local_address_of_the_right_family_is_chosen(resolves_to: Resolver) -> None:
    with listening() as listener:
        name = resolves_to([("::1", 0), ("127.0.0.1", 0)])
        protocol = await connect(*listener.getsockname(), local_addr=(name, 0))
        assert protocol.transport.get_extra_info("sockname")[0] == "127.0.0.1"
        await leave(protocol)


async def test_our_own_socket() -> None:
    with listening() as listener:
        client = dial(listener.getsockname())
        client.settimeout(5)
        protocol = await connect(sock=client)
        assert client.gettimeout() == 0
        assert protocol.transport.get_extra_info("socket").fileno() == client.fileno()
        with listener.accept()[0] as peer:
            peer.sendall(b"hello")
            assert await protocol.until_received(5) == b"hello"
        await protocol.until_lost()
        await turns()
        assert client.fileno() == -1


async def test_our_own_unix_socket() -> None:
    ours, peer = socket.socketpair()
    with peer:
        protocol = await connect(sock=ours)
        protocol.transport.write(b"hello")
        assert await asyncio.to_thread(peer.recv, 10) == b"hello"
        await leave(protocol)


async def test_an_accepted_socket() -> None:
    with listening() as listener, dial(listener.getsockname()) as client:
        conn, address = listener.accept()
        protocol = Recorder()
        loop = asyncio.get_running_loop()
        transport, made = await loop.connect_accepted_socket(lambda: protocol, conn)
        assert made is protocol
        assert transport.get_extra_info("peername") == address
        client.sendall(b"hello")
        assert await protocol.until_received(5) == b"hello"
        transport.write(b"world")
        assert await asyncio.to_thread(client.recv, 10) == b"world"
        await leave(protocol)


async def test_an_accepted_socket_with_data_already_there() -> None:
    with listening() as listener, dial(listener.getsockname()) as client:
        client.sendall(b"early")
        client.shutdown(socket.SHUT_WR)
        conn, _ = listener.accept()
        protocol = Recorder()
        await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, conn)
        assert await protocol.until_lost() is None
        assert protocol.order == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert protocol.data == b"early"


async def test_two_hundred_at_once() -> None:
    with listening(backlog=300) as listener:
        protocols = await asyncio.gather(*(connect(*listener.getsockname()) for _ in range(200)))
        assert len({p.transport.get_extra_info("sockname") for p in protocols}) == 200
        for protocol in protocols:
            await leave(protocol)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="new in 3.12")
async def test_all_errors(resolves_to: Resolver) -> None:
    name = resolves_to([("::1", unused_port("::1")), ("127.0.0.1", unused_port())])
    with pytest.raises(ExceptionGroup) as info:
        await connect(name, 1, all_errors=True)
    assert [type(error) for error in info.value.exceptions] == [ConnectionRefusedError] * 2
