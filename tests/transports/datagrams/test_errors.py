"""Errors are told, and the endpoint lives on."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket

import pytest

from .support import (
    LARGEST,
    Recorder,
    collect_errors,
    endpoint,
    has_broadcast,
    linux_only,
    peer,
    running,
    socket_directory,
    take,
    turns,
    unix_peer,
    unused_port,
)

on_linux = pytest.mark.skipif(
    not linux_only, reason="Linux tells of ICMP errors on connected sockets at once"
)


@on_linux
async def test_nobody_listens_and_then_somebody_does() -> None:
    port = unused_port()
    async with endpoint(remote_addr=("127.0.0.1", port)) as (transport, protocol):
        for count in range(1, 4):
            transport.sendto(b"anybody?")
            await protocol.until(lambda count=count: len(protocol.errors) >= count)
        assert {type(error) for error in protocol.errors} == {ConnectionRefusedError}
        assert not transport.is_closing()
        with peer(port=port) as other:
            transport.sendto(b"hello")
            assert await take(other) == b"hello"
            other.sendto(b"back", transport.get_extra_info("sockname"))
            assert await protocol.until_count(1) == [b"back"]


@on_linux
async def test_an_error_among_datagrams_hides_none_of_them() -> None:
    """The error is in front of datagrams that are there already."""
    with peer() as other:
        async with endpoint(remote_addr=other.getsockname()) as (transport, protocol):
            address, port = transport.get_extra_info("sockname"), other.getsockname()[1]
            other.close()
            with socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as raw:
                raw.send(b"x")
            with peer(port=port) as again:
                for n in range(20):
                    again.sendto(b"%d" % n, address)
                assert await protocol.until_count(20) == [b"%d" % n for n in range(20)]
            await protocol.until_event("error_received")
            assert len(protocol.errors) == 1


async def test_too_large() -> None:
    with peer() as other:
        async with endpoint() as (transport, protocol):
            transport.sendto(bytes(LARGEST + 1), other.getsockname())
            await protocol.until_event("error_received")
            assert protocol.errors[0].errno == errno.EMSGSIZE
            transport.sendto(b"x", other.getsockname())
            assert await take(other) == b"x"


async def test_one_that_cannot_be_sent_holds_up_no_other() -> None:
    with peer() as other:
        async with endpoint() as (transport, protocol):
            for n in range(40):
                transport.sendto(bytes(LARGEST + 1) if n % 10 == 3 else b"%d" % n, other.getsockname())
            expected = [b"%d" % n for n in range(40) if n % 10 != 3]
            assert [await take(other) for _ in expected] == expected
            await protocol.until(lambda: len(protocol.errors) == 4)
            assert {error.errno for error in protocol.errors} == {errno.EMSGSIZE}


@pytest.mark.skipif(not has_broadcast, reason="no broadcast on loopback here")
async def test_broadcast_without_leave() -> None:
    async with endpoint() as (transport, protocol):
        transport.sendto(b"x", ("127.255.255.255", 9))
        await protocol.until_event("error_received")
        assert isinstance(protocol.errors[0], PermissionError)
        assert not transport.is_closing()


async def test_a_name_that_does_not_exist() -> None:
    async with endpoint() as (transport, protocol):
        transport.sendto(b"x", ("does.not.exist.invalid", 9))  # RFC 6761 section 6.4
        await protocol.until_event("error_received")
        assert isinstance(protocol.errors[0], socket.gaierror)
        assert not transport.is_closing()


async def test_a_unix_socket_that_is_gone() -> None:
    with socket_directory() as directory:
        async with endpoint(family=socket.AF_UNIX, local_addr=f"{directory}/s") as (transport, protocol):
            transport.sendto(b"x", f"{directory}/nobody")
            await protocol.until_event("error_received")
            assert isinstance(protocol.errors[0], FileNotFoundError)
            with unix_peer(f"{directory}/c") as other:
                transport.sendto(b"y", f"{directory}/c")
                assert await take(other) == b"y"


@on_linux
async def test_error_received_may_raise() -> None:
    def fail(protocol: Recorder, exc: Exception) -> None:
        raise ZeroDivisionError

    errors = collect_errors()
    async with endpoint(Recorder(error_received=fail), remote_addr=("127.0.0.1", unused_port())) as (
        transport,
        p,
    ):
        transport.sendto(b"x")
        await p.until_event("error_received")
        await turns()
        assert not transport.is_closing()
    assert [type(context["exception"]) for context in errors] == [ZeroDivisionError]


@pytest.mark.parametrize("ending", ["close", "abort"])
@on_linux
async def test_error_received_may_end_the_endpoint(ending: str) -> None:
    protocol = Recorder(error_received=lambda p, _: getattr(p.transport, ending)())
    async with endpoint(protocol, remote_addr=("127.0.0.1", unused_port())) as (transport, _):
        transport.sendto(b"x")
        assert await protocol.until_lost() is None
    assert protocol.events == ["connection_made", "error_received", "connection_lost"]


@pytest.mark.ours  # stock asyncio calls back from inside sendto(), until Python gives up
async def test_error_received_may_try_again() -> None:
    """For ever, and the loop still turns."""

    def again(protocol: Recorder, exc: Exception) -> None:
        protocol.transport.sendto(bytes(LARGEST + 1), ("127.0.0.1", 9))

    async with endpoint(Recorder(error_received=again), local_addr=("127.0.0.1", 0)) as (transport, protocol):
        transport.sendto(bytes(LARGEST + 1), ("127.0.0.1", 9))
        await protocol.until(lambda: len(protocol.errors) >= 50)
        await asyncio.sleep(0.01)
        assert not transport.is_closing()


@pytest.mark.ours  # stock asyncio stops at the error, with what is queued behind it
async def test_an_error_while_waiting_loses_no_wake_up() -> None:
    """The receiver goes away while its queue is full: each datagram is refused,
    and the next receiver gets its own.
    """
    with socket_directory() as directory:
        path = f"{directory}/s"
        with unix_peer(path) as other:
            mine = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            mine.connect(path)
            async with endpoint(sock=mine) as (transport, protocol):
                for n in range(1000):
                    transport.sendto(b"%d" % n)
                left = transport.get_write_buffer_size()
                assert left > 0
                other.close()
                await protocol.until(lambda: transport.get_write_buffer_size() == 0)
                assert len(protocol.errors) > 100
                assert not transport.is_closing()
                transport.sendto(b"x")
                count = len(protocol.errors)
                await protocol.until(lambda: len(protocol.errors) > count)
                assert isinstance(protocol.errors[-1], OSError)


async def test_the_socket_is_closed_behind_the_transport() -> None:
    """A mistake of the program's: no other file is touched, and the loop goes on."""
    errors = collect_errors()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    protocol = Recorder()
    transport, _ = await running().create_datagram_endpoint(lambda: protocol, sock=sock)
    sock.close()
    with peer() as other, peer() as third:
        third.setblocking(False)
        transport.sendto(b"x", other.getsockname())
        await turns(5)
        transport.abort()
        await protocol.until_lost()
        with pytest.raises(BlockingIOError):
            third.recv(10)
        assert third.fileno() >= 0
        third.sendto(b"still mine", other.getsockname())
        assert await take(other) == b"still mine"
    del errors[:]


class Name(str):
    """A host of an enumeration of strings, or of a library's own class."""


@pytest.mark.skipif(not has_broadcast, reason="no broadcast address")
async def test_a_fixed_address_whose_host_is_no_plain_string() -> None:
    with peer() as other:
        port = other.getsockname()[1]
        options = {"remote_addr": (Name("127.0.0.1"), port), "allow_broadcast": True}
        async with endpoint(**options) as (transport, protocol):
            for _ in range(3):
                transport.sendto(b"hello")
                assert await take(other) == b"hello"
            assert protocol.errors == []


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Python has no Unix sockets here")
@pytest.mark.parametrize("length", [99, 101, 104, 107])
async def test_a_fixed_address_that_is_a_long_path(length: int) -> None:
    with socket_directory() as directory:
        path = f"{directory}/".ljust(length, "p")
        with unix_peer(path) as other:
            options = {"remote_addr": path, "allow_broadcast": True, "family": socket.AF_UNIX}
            async with endpoint(**options) as (transport, protocol):
                transport.sendto(b"hello")
                assert await take(other) == b"hello"
                assert protocol.errors == []


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Python has no Unix sockets here")
@pytest.mark.parametrize("path", ["/" + "p" * 200, "/" + "\N{SNOWMAN}" * 60])
async def test_a_path_that_is_too_long_is_an_error_of_the_datagrams(path: str) -> None:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    async with endpoint(sock=sock) as (transport, protocol):
        transport.sendto(b"nowhere", path)
        await protocol.until_event("error_received")
        assert not transport.is_closing()


@pytest.mark.parametrize("host", ["\ud800", "127.0.0.1\0", "127.0.0.1\0.example", "\0"])
async def test_a_host_that_no_name_can_be_ends_the_endpoint(host: str) -> None:
    """Nothing is sent to what stands before a null, and the error is the socket module's."""
    reports = collect_errors()
    with peer() as other:
        async with endpoint() as (transport, protocol):
            transport.sendto(b"secret", (host, other.getsockname()[1]))
            error = await protocol.until_lost()
            assert isinstance(error, TypeError | ValueError)
            assert [report["exception"] for report in reports] == [error]
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(10)


@pytest.mark.parametrize("connected", [False, True])
async def test_seventy_thousand_datagrams_after_the_end(
    connected: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """No counter wraps: the endpoint stays dead, and its protocol hears nothing more."""
    with peer() as other:
        options = {"remote_addr": other.getsockname()} if connected else {"local_addr": ("127.0.0.1", 0)}
        async with endpoint(**options) as (transport, protocol):
            transport.abort()
            await protocol.until_lost()
            told = list(protocol.events)
            if not connected and type(transport).__module__.startswith("asyncio."):
                return  # stock asyncio counts for connected endpoints only
            address = None if connected else other.getsockname()
            with caplog.at_level(logging.ERROR, "asyncio"):  # each but a few is a warning
                for _ in range(70_000):
                    transport.sendto(b"x", address)
            await turns(5)
            assert protocol.events == told
            assert repr(transport)
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(10)
