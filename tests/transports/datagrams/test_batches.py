"""Protocols that take batches, and what the kernel tells of datagrams."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from transports.support import open_fds

from .support import (
    Recorder,
    collect_errors,
    endpoint,
    eventually,
    has_ipv6,
    linux_only,
    peer,
    running,
    turns,
)

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
ECT0, ECT1, CE = 2, 1, 3

on_linux = pytest.mark.skipif(not linux_only, reason="Linux only")
both_families = pytest.mark.parametrize(
    "host", ["127.0.0.1", pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6, reason="no IPv6"))]
)


@pytest.fixture(autouse=True)
async def _ours() -> None:
    if not hasattr(running(), "backend_info"):
        pytest.skip("an extension of ours")


class Batches(Recorder):
    """A protocol that keeps the batches that it is given."""

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        super().__init__(**hooks)
        self.batches: list[list[tuple[bytes, Any, Any]]] = []

    def datagrams_received(self, batch: list[tuple[bytes, Any, Any]]) -> None:
        self.batches.append(batch)
        self.received += [(data, addr) for data, addr, _ in batch]
        self.note("datagrams_received", batch)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        raise AssertionError("a protocol that takes batches gets nothing else")

    @property
    def infos(self) -> list[Any]:
        return [info for batch in self.batches for _, _, info in batch]


def send_train(sock: socket.socket, data: bytes, size: int, address: Any) -> None:
    sock.sendmsg([data], [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))], 0, address)


async def test_what_is_there_comes_at_once() -> None:
    with peer() as other:
        async with endpoint(Batches()) as (transport, protocol):
            for n in range(10):
                other.sendto(b"%d" % n, transport.get_extra_info("sockname"))
            await protocol.until_count(10)
            assert protocol.texts == [b"%d" % n for n in range(10)]
            assert len(protocol.batches) < 10
            assert {addr for _, addr in protocol.received} == {other.getsockname()}
            assert set(protocol.infos) == {None}


@on_linux
@both_families
@pytest.mark.parametrize("mark", [0, ECT1, ECT0, CE])
async def test_congestion_marks(host: str, mark: int) -> None:
    with peer(host) as other:
        if ":" in host:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, mark)
        else:
            other.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, mark)
        async with endpoint(Batches(), local_addr=(host, 0), ecn=True) as (transport, protocol):
            other.sendto(b"x", transport.get_extra_info("sockname"))
            await protocol.until_count(1)
            assert protocol.infos == [(mark, None, None)]
            assert protocol.infos[0].ecn == mark


@on_linux
@both_families
async def test_where_it_came_to(host: str) -> None:
    everywhere = "::" if ":" in host else "0.0.0.0"
    with peer(host) as other:
        async with endpoint(Batches(), local_addr=(everywhere, 0), pktinfo=True) as (transport, protocol):
            other.sendto(b"x", (host, transport.get_extra_info("sockname")[1]))
            await protocol.until_count(1)
            assert protocol.infos == [(None, host, socket.if_nametoindex("lo"))]


@on_linux
async def test_everything_at_once_and_of_a_mapped_address() -> None:
    if not has_ipv6:
        pytest.skip("no IPv6")
    with peer() as other, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as mine:
        mine.setblocking(False)
        mine.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        mine.bind(("::", 0))
        other.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, CE)
        async with endpoint(Batches(), sock=mine, ecn=True, pktinfo=True, gro=True) as (_, protocol):
            other.sendto(b"x", ("127.0.0.1", mine.getsockname()[1]))
            await protocol.until_count(1)
            assert protocol.infos == [(CE, "::ffff:127.0.0.1", socket.if_nametoindex("lo"))]


@on_linux
async def test_options_that_the_user_has_set() -> None:
    with peer() as other, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
        mine.setblocking(False)
        mine.bind(("127.0.0.1", 0))
        mine.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
        other.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, ECT0)
        async with endpoint(Batches(), sock=mine) as (_, protocol):
            other.sendto(b"x", mine.getsockname())
            await protocol.until_count(1)
            assert protocol.infos == [(ECT0, None, None)]


@on_linux
@pytest.mark.parametrize("kind", [Recorder, Batches])
@pytest.mark.parametrize("lent", [False, True])
async def test_a_train_is_cut(kind: Any, lent: bool) -> None:
    pieces = [bytes([n]) * 100 for n in range(30)] + [b"end"]
    with peer() as other, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mine:
        mine.setblocking(False)
        mine.bind(("127.0.0.1", 0))
        options: Any = {"sock": mine} if lent else {"local_addr": ("127.0.0.1", 0)}
        async with endpoint(kind(), gro=True, **options) as (transport, protocol):
            address = transport.get_extra_info("sockname")
            try:
                send_train(other, b"".join(pieces), 100, address)
            except OSError:
                pytest.skip("no trains here")
            other.sendto(b"single", address)
            await protocol.until_count(32)
            assert protocol.texts == [*pieces, b"single"]
            other.sendto(b"", address)
            await protocol.until_count(33)
            assert protocol.texts[-1] == b""
            if not lent:
                sock = transport.get_extra_info("socket")
                assert sock.getsockopt(SOL_UDP, UDP_GRO) == int("gro" in running().backend_info().datagrams)


@on_linux
@pytest.mark.parametrize("ending", ["pause", "abort", "raise"])
async def test_a_protocol_that_has_enough_in_the_middle_of_a_train(ending: str) -> None:
    def on_data(self: Recorder, data: bytes, addr: Any) -> None:
        if data != b"3" * 10:
            return
        if ending == "pause":
            self.transport.pause_reading()
        elif ending == "abort":
            self.transport.abort()
        else:
            raise RuntimeError("enough")

    errors = collect_errors()
    with peer() as other:
        async with endpoint(Recorder(datagram_received=on_data), gro=True, local_addr=("127.0.0.1", 0)) as (
            transport,
            protocol,
        ):
            train = b"".join(b"%d" % n * 10 for n in range(10))
            try:
                send_train(other, train, 10, transport.get_extra_info("sockname"))
            except OSError:
                pytest.skip("no trains here")
            await protocol.until_count(4)
            await turns(5)
            if ending == "raise":
                await protocol.until_count(10)
                assert [type(error["exception"]) for error in errors] == [RuntimeError]
                return
            assert len(protocol.received) == 4
            if ending == "pause":
                other.sendto(b"later", transport.get_extra_info("sockname"))
                transport.resume_reading()
                await protocol.until_count(11)
                assert b"".join(protocol.texts) == train + b"later"


async def test_paused() -> None:
    with peer() as other:
        async with endpoint(Batches()) as (transport, protocol):
            transport.pause_reading()
            for n in range(5):
                other.sendto(b"%d" % n, transport.get_extra_info("sockname"))
            await turns(5)
            assert protocol.batches == []
            transport.resume_reading()
            await protocol.until_count(5)
            assert protocol.texts == [b"%d" % n for n in range(5)]


async def test_a_callback_that_raises_is_reported() -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("batch")

    errors = collect_errors()
    with peer() as other:
        async with endpoint(Batches(datagrams_received=fail)) as (transport, protocol):
            other.sendto(b"x", transport.get_extra_info("sockname"))
            await protocol.until_count(1)
            await eventually(lambda: errors, "the error is reported")
            assert errors[0]["message"] == "Exception in callback protocol.datagrams_received()"
            protocol.hooks.clear()
            other.sendto(b"y", transport.get_extra_info("sockname"))
            await protocol.until_count(2)


async def test_another_protocol() -> None:
    with peer() as other:
        async with endpoint(Batches()) as (transport, protocol):
            plain = Recorder()
            transport.set_protocol(plain)
            other.sendto(b"x", transport.get_extra_info("sockname"))
            await plain.until_count(1)
            transport.set_protocol(protocol)
            assert transport.get_protocol() is protocol
            other.sendto(b"y", transport.get_extra_info("sockname"))
            await protocol.until_count(1)
            assert protocol.texts == [b"y"]


async def test_answers_from_inside_a_batch() -> None:
    def echo(self: Batches, batch: list[tuple[bytes, Any, Any]]) -> None:
        for data, addr, _ in batch:
            self.transport.sendto(data, addr)

    with peer() as other:
        async with endpoint(Batches(datagrams_received=echo)) as (transport, _):
            for n in range(20):
                other.sendto(b"%d" % n, transport.get_extra_info("sockname"))
            found = [await asyncio.to_thread(other.recv, 100) for _ in range(20)]
            assert found == [b"%d" % n for n in range(20)]


async def test_a_mock_has_every_attribute_and_gets_single_ones() -> None:
    protocol = mock.Mock()
    got = asyncio.Event()
    protocol.datagram_received.side_effect = lambda *_: got.set()
    transport, _ = await running().create_datagram_endpoint(lambda: protocol, local_addr=("127.0.0.1", 0))
    with peer() as other:
        other.sendto(b"x", transport.get_extra_info("sockname"))
        await asyncio.wait_for(got.wait(), 10)
        protocol.datagram_received.assert_called_once_with(b"x", other.getsockname())
        protocol.datagrams_received.assert_not_called()
    transport.close()
    await turns(3)


@on_linux
async def test_asked_of_a_socket_that_cannot_tell() -> None:
    before = open_fds()
    with pytest.raises(ValueError, match="AF_INET"):
        await running().create_datagram_endpoint(Recorder, family=socket.AF_UNIX, ecn=True)
    assert open_fds() == before


@pytest.mark.skipif(linux_only, reason="Linux can tell")
@pytest.mark.parametrize("word", ["ecn", "pktinfo"])
async def test_asked_of_a_system_that_cannot_tell(word: str) -> None:
    with pytest.raises(ValueError, match=word):
        await running().create_datagram_endpoint(Recorder, local_addr=("127.0.0.1", 0), **{word: True})


async def test_the_factory_raises() -> None:
    def fail() -> Recorder:
        raise RuntimeError("factory")

    with pytest.raises(RuntimeError, match="factory"):
        await running().create_datagram_endpoint(fail, local_addr=("127.0.0.1", 0), gro=True)
