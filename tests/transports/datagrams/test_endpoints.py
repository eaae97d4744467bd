"""create_datagram_endpoint in all its forms."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from transports.support import open_fds

from .support import (
    Echo,
    Recorder,
    endpoint,
    has_broadcast,
    has_ipv6,
    linux_only,
    peer,
    running,
    socket_directory,
    take,
    unix_peer,
)

on_linux = pytest.mark.skipif(not linux_only, reason="Linux only")


def link_local() -> list[tuple[str, int]]:
    """The link-local addresses of this machine, and their scopes."""
    with open("/proc/net/if_inet6") as file:
        found = [line.split() for line in file]
    return [(entry[0], int(entry[1], 16)) for entry in found if entry[0].startswith("fe80")]


async def test_local() -> None:
    with peer() as other:
        async with endpoint(Echo()) as (transport, protocol):
            assert transport.get_extra_info("peername") is None
            address = transport.get_extra_info("sockname")
            other.sendto(b"hello", address)
            assert await take(other) == b"hello"
            assert protocol.received == [(b"hello", other.getsockname())]


async def test_remote() -> None:
    with peer() as other:
        async with endpoint(remote_addr=other.getsockname()) as (transport, protocol):
            assert transport.get_extra_info("peername") == other.getsockname()
            transport.sendto(b"hello")
            data, address = await asyncio.to_thread(other.recvfrom, 100)
            assert data == b"hello"
            assert address == transport.get_extra_info("sockname")
            other.sendto(b"back", address)
            await protocol.until_count(1)
            assert protocol.received == [(b"back", other.getsockname())]


async def test_a_connected_endpoint_hears_nobody_else() -> None:
    with peer() as other, peer() as stranger:
        async with endpoint(remote_addr=other.getsockname()) as (transport, protocol):
            address = transport.get_extra_info("sockname")
            stranger.sendto(b"psst", address)
            other.sendto(b"hello", address)
            assert await protocol.until_count(1) == [b"hello"]


async def test_local_and_remote() -> None:
    with peer() as other:
        options = {"local_addr": ("127.0.0.1", 0), "remote_addr": other.getsockname()}
        async with endpoint(**options) as (transport, _):
            transport.sendto(b"hello")
            data, address = await asyncio.to_thread(other.recvfrom, 100)
            assert (data, address) == (b"hello", transport.get_extra_info("sockname"))


async def test_only_a_family() -> None:
    with peer() as other:
        async with endpoint(family=socket.AF_INET) as (transport, _):
            transport.sendto(b"hello", other.getsockname())
            assert await take(other) == b"hello"


async def test_names_are_resolved() -> None:
    options = {"local_addr": ("localhost", 0), "family": socket.AF_INET}
    async with endpoint(Echo(), **options) as (server, _):
        port = server.get_extra_info("sockname")[1]
        async with endpoint(remote_addr=("localhost", port), family=socket.AF_INET) as (client, protocol):
            client.sendto(b"by name")
            assert await protocol.until_count(1) == [b"by name"]


@pytest.mark.skipif(not has_ipv6, reason="no IPv6 here")
async def test_ipv6() -> None:
    with peer("::1") as other:
        async with endpoint(Echo(), local_addr=("::1", 0)) as (transport, protocol):
            other.sendto(b"six", transport.get_extra_info("sockname"))
            assert await take(other) == b"six"
            assert protocol.received == [(b"six", other.getsockname())]
            for address in (other.getsockname(), other.getsockname()[:2], other.getsockname()[:3]):
                transport.sendto(b"to you", address)
                assert await take(other) == b"to you"


@on_linux
@pytest.mark.skipif(not has_ipv6, reason="no IPv6 here")
async def test_a_link_local_address_is_said_as_the_socket_module_says_it() -> None:
    """With its scope, whatever the interface."""
    links = link_local()
    if not links:
        pytest.skip("no interface with a link-local address")
    host = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(links[0][0]))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other, peer("::1"):
        try:
            other.bind((host, 0, 0, links[0][1]))
        except OSError as exc:
            pytest.skip(f"the interface is down: {exc}")
        other.settimeout(5)
        ours = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        ours.bind((host, 0, 0, links[0][1]))
        async with endpoint(Echo(), sock=ours) as (_, protocol):
            other.sendto(b"link", ours.getsockname())
            data, address = await asyncio.to_thread(other.recvfrom, 100)
            assert data == b"link"
            other.sendto(b"x", address)
            assert protocol.received[0] == (b"link", other.getsockname())


async def test_reuse_port() -> None:
    async with endpoint(local_addr=("127.0.0.1", 0), reuse_port=True) as (first, one):
        address = first.get_extra_info("sockname")
        async with endpoint(local_addr=address, reuse_port=True) as (second, two):
            assert second.get_extra_info("sockname") == address
            with peer() as other:
                other.sendto(b"to one of you", address)
                waits = [asyncio.create_task(each.until_count(1)) for each in (one, two)]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
            assert one.texts + two.texts == [b"to one of you"]


async def test_an_address_in_use() -> None:
    async with endpoint() as (first, _):
        with pytest.raises(OSError):
            await running().create_datagram_endpoint(Recorder, local_addr=first.get_extra_info("sockname"))


@pytest.mark.skipif(not has_broadcast, reason="no broadcast on loopback here")
async def test_broadcast() -> None:
    with peer("127.255.255.255") as other:
        address = other.getsockname()
        async with endpoint(remote_addr=address, allow_broadcast=True) as (transport, protocol):
            transport.sendto(b"to all")
            data, back = await asyncio.to_thread(other.recvfrom, 100)
            assert data == b"to all"
            transport.sendto(b"to all again", address)  # it may be named
            assert await take(other) == b"to all again"
            with pytest.raises(ValueError):
                transport.sendto(b"x", ("127.0.0.1", 9))
            with peer() as answering:
                answering.sendto(b"heard you", ("127.0.0.1", back[1]))  # not connected: all may answer
                assert await protocol.until_count(1) == [b"heard you"]


async def test_unix_by_path() -> None:
    with socket_directory() as directory:
        path = f"{directory}/s"
        async with endpoint(Echo(), family=socket.AF_UNIX, local_addr=path) as (transport, server):
            assert transport.get_extra_info("sockname") == path
            options = {"local_addr": f"{directory}/c", "remote_addr": path}
            async with endpoint(family=socket.AF_UNIX, **options) as (client, protocol):
                client.sendto(b"one")
                client.sendto(b"two", path)
                assert await protocol.until_count(2) == [b"one", b"two"]
                assert {address for _, address in protocol.received} == {path}
                assert {address for _, address in server.received} == {f"{directory}/c"}


async def test_unix_without_a_name() -> None:
    with socket_directory() as directory:
        path = f"{directory}/s"
        async with endpoint(family=socket.AF_UNIX, local_addr=path) as (_, server):
            async with endpoint(family=socket.AF_UNIX, remote_addr=path) as (client, _):
                client.sendto(b"who am I")
                await server.until_count(1)
                assert server.received == [(b"who am I", None)]


async def test_a_stale_unix_socket_is_replaced() -> None:
    with socket_directory() as directory:
        path = f"{directory}/s"
        with unix_peer(path):
            pass
        async with endpoint(family=socket.AF_UNIX, local_addr=path) as (_, server):
            async with endpoint(family=socket.AF_UNIX, remote_addr=path) as (client, _):
                client.sendto(b"new")
                assert await server.until_count(1) == [b"new"]


@on_linux
async def test_abstract_names() -> None:
    name = f"\0proactorx-{os.getpid()}-{os.urandom(4).hex()}"
    async with endpoint(Echo(), family=socket.AF_UNIX, local_addr=name) as (_, server):
        mine = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        mine.bind(f"{name}-client")
        async with endpoint(sock=mine) as (client, protocol):
            client.sendto(b"x", name)
            assert await protocol.until_count(1) == [b"x"]
            assert protocol.received[0][1] == name.encode()
            assert server.received[0][1] == f"{name}-client".encode()
            client.sendto(b"y", name.encode())
            assert await protocol.until_count(2) == [b"x", b"y"]


async def test_a_socket_of_the_users() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    with peer() as other:
        async with endpoint(Echo(), sock=sock) as (transport, _):
            assert not sock.getblocking()
            assert transport.get_extra_info("socket").fileno() == sock.fileno()
            other.sendto(b"x", sock.getsockname())
            assert await take(other) == b"x"
        assert sock.fileno() == -1  # the transport's now, and closed with it


async def test_a_connected_socket_of_the_users() -> None:
    with peer() as other:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(other.getsockname())
        async with endpoint(sock=sock) as (transport, _):
            assert transport.get_extra_info("peername") == other.getsockname()
            transport.sendto(b"x")
            assert await take(other) == b"x"


@pytest.mark.ours  # stock asyncio takes the empty name of the peer for no peer
async def test_one_end_of_a_socket_pair() -> None:
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with other:
        async with endpoint(sock=ours) as (transport, protocol):
            transport.sendto(b"there")
            assert await take(other) == b"there"
            other.send(b"back")
            assert await protocol.until_count(1) == [b"back"]


@on_linux
async def test_a_family_that_only_the_socket_module_knows() -> None:
    """Netlink: a request for the interfaces and its answer, rtnetlink(7)."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)
    except OSError as exc:
        pytest.skip(f"no netlink here: {exc}")
    sock.bind((0, 0))
    request = bytes([20, 0, 0, 0, 18, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])  # RTM_GETLINK, a dump
    async with endpoint(sock=sock) as (transport, protocol):
        transport.sendto(request, (0, 0))
        await protocol.until_count(1)
        data, address = protocol.received[0]
        assert address == (0, 0)
        assert data[4] in (2, 16)  # NLMSG_ERROR, RTM_NEWLINK


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, ValueError),
        ({"local_addr": "127.0.0.1"}, TypeError),
        ({"local_addr": ("127.0.0.1", 0, 0)}, TypeError),
        ({"local_addr": ("127.0.0.1", 0), "remote_addr": ("::1", 9)}, ValueError),
        ({"family": getattr(socket, "AF_UNIX", 1), "local_addr": ("a", 1)}, TypeError),
        (
            {"family": getattr(socket, "AF_UNIX", 1), "remote_addr": "/there/is/no/such/socket"},
            FileNotFoundError,
        ),
    ],
)
async def test_arguments_that_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        await running().create_datagram_endpoint(Recorder, **options)


async def test_sockets_that_are_refused() -> None:
    with socket.socket() as stream:
        with pytest.raises(ValueError):
            await running().create_datagram_endpoint(Recorder, sock=stream)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError):
            await running().create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0), sock=sock)


async def test_a_socket_that_a_transport_has_is_not_given_to_another() -> None:
    async with endpoint() as (transport, _):
        sock = transport.get_extra_info("socket")
        with pytest.raises(RuntimeError):
            running().add_reader(sock.fileno(), lambda: None)
        with pytest.raises(RuntimeError):
            running().remove_writer(sock.fileno())


async def test_a_factory_that_raises() -> None:
    def factory() -> Recorder:
        raise ZeroDivisionError

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(ZeroDivisionError):
            await running().create_datagram_endpoint(factory, sock=sock)
        assert sock.fileno() >= 0  # still the caller's


@pytest.mark.ours  # stock asyncio leaves the socket to the garbage collector, which says so
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, GeneratorExit])
async def test_the_socket_of_a_factory_that_raises_is_closed(error: type[BaseException]) -> None:
    made: list[BaseException] = []

    def factory() -> Recorder:
        made.append(error())
        raise made[0]

    before = open_fds()
    with pytest.raises(error) as caught:
        await running().create_datagram_endpoint(factory, ("127.0.0.1", 0))
    assert caught.value is made[0]
    assert open_fds() == before  # while the traceback, and so the frame that has the socket, is alive


async def test_cancelled_while_it_is_made() -> None:
    """No descriptor is left, whenever it comes (the fixture of this folder looks)."""
    for count in range(4):
        protocol = Recorder()
        task = asyncio.create_task(
            running().create_datagram_endpoint(lambda p=protocol: p, local_addr=("127.0.0.1", 0))
        )
        for _ in range(count):
            await asyncio.sleep(0)
        task.cancel()
        try:
            transport, _ = await task
            transport.close()
        except asyncio.CancelledError:
            if "connection_made" not in protocol.events:
                await asyncio.sleep(0.01)
                continue
        await protocol.until_lost()


@pytest.mark.ours
async def test_a_factory_that_closes_the_socket_it_is_for() -> None:
    """An error (stock asyncio makes a transport that can do nothing)."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def factory() -> Recorder:
        sock.close()
        return Recorder()

    for _ in range(3):
        with pytest.raises(OSError):
            await running().create_datagram_endpoint(factory, sock=sock)
    async with endpoint() as (transport, _):
        assert not transport.is_closing()
