"""What goes in comes out: datagrams of all sizes, their addresses, their order, and the callbacks."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import sys
from typing import Any

import pytest

from .support import (
    LARGEST,
    Echo,
    Recorder,
    collect_errors,
    endpoint,
    peer,
    running,
    socket_directory,
    stock_sends_empty_ones,
    take,
    turns,
    unix_peer,
)

SIZES = [1, 100, 1472, 1473, 16384, 16385, 32768, 65000, LARGEST]


@pytest.mark.parametrize("size", SIZES)
async def test_any_size_there_and_back(size: int) -> None:
    data = (bytes(range(251)) * 262)[:size]
    with peer() as other:
        async with endpoint(Echo()) as (transport, protocol):
            other.sendto(data, transport.get_extra_info("sockname"))
            assert await take(other) == data
            assert protocol.texts == [data]


async def test_an_empty_datagram_is_received() -> None:
    with peer() as other:
        async with endpoint() as (transport, protocol):
            for data in (b"", b"x", b""):
                other.sendto(data, transport.get_extra_info("sockname"))
            assert await protocol.until_count(3) == [b"", b"x", b""]


@pytest.mark.ours if not stock_sends_empty_ones else pytest.mark.filterwarnings("error")
async def test_an_empty_datagram_is_sent() -> None:
    with peer() as other:
        async with endpoint() as (transport, _):
            for data in (b"", bytearray(), memoryview(b""), b"x"):
                transport.sendto(data, other.getsockname())
            assert [await take(other) for _ in range(4)] == [b"", b"", b"", b"x"]


async def test_sizes_mixed_in_one_turn() -> None:
    async with endpoint(Echo()) as (server, _):
        server.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        async with endpoint(remote_addr=server.get_extra_info("sockname")) as (client, protocol):
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            sent = [bytes([n]) * size for n, size in enumerate([5, 30_000, 1, 60_000, 20, 300])]
            for data in sent:
                client.sendto(data)
            assert await protocol.until_count(len(sent)) == sent


@pytest.mark.parametrize("count", [1, 15, 16, 17, 31, 32, 33, 100])
async def test_many_in_one_turn_in_order(count: int) -> None:
    """More than a batch holds, and exactly as many."""
    with peer() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        async with endpoint() as (transport, protocol):
            for n in range(count):
                transport.sendto(b"%d" % n, other.getsockname())
            assert [await take(other) for _ in range(count)] == [b"%d" % n for n in range(count)]
            for n in range(count):
                other.sendto(b"%d" % n, transport.get_extra_info("sockname"))
            assert await protocol.until_count(count) == [b"%d" % n for n in range(count)]


async def test_many_peers_are_told_apart() -> None:
    """More than the transport remembers addresses of."""
    peers = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(200)]
    try:
        async with endpoint(Echo()) as (transport, protocol):
            for turn in range(2):
                for n, sock in enumerate(peers):
                    sock.settimeout(5)
                    sock.sendto(b"%d of %d" % (turn, n), transport.get_extra_info("sockname"))
                    if n % 50 == 49:
                        await protocol.until_count(turn * 200 + n + 1)
                for n, sock in enumerate(peers):
                    assert sock.recv(100) == b"%d of %d" % (turn, n)
            assert {address for _, address in protocol.received} == {
                ("127.0.0.1", sock.getsockname()[1]) for sock in peers
            }
    finally:
        for sock in peers:
            sock.close()


async def test_what_is_mutable_may_be_changed_at_once() -> None:
    with peer() as other:
        async with endpoint() as (transport, _):
            buffer = bytearray(b"first")
            transport.sendto(buffer, other.getsockname())
            buffer[:] = b"other"
            transport.sendto(memoryview(buffer)[1:3], other.getsockname())
            buffer[:] = b"-----"
            assert [await take(other) for _ in range(2)] == [b"first", b"th"]


@pytest.mark.ours  # stock asyncio ends the endpoint over it
async def test_a_view_with_gaps() -> None:
    with peer() as other:
        async with endpoint() as (transport, _):
            transport.sendto(memoryview(bytearray(b"a.b.c."))[::2], other.getsockname())
            assert await take(other) == b"abc"


@pytest.mark.parametrize("data", ["text", 5, None, [b"x"]])
async def test_data_of_another_type(data: Any) -> None:
    async with endpoint() as (transport, _):
        with pytest.raises(TypeError):
            transport.sendto(data, ("127.0.0.1", 9))


async def test_an_address_other_than_the_remote_one() -> None:
    with peer() as other:
        async with endpoint(remote_addr=other.getsockname()) as (transport, _):
            with pytest.raises(ValueError):
                transport.sendto(b"x", ("127.0.0.1", 9))
            transport.sendto(b"y", other.getsockname())
            assert await take(other) == b"y"


async def test_an_address_with_a_name_in_it() -> None:
    with peer() as other:
        async with endpoint() as (transport, _):
            transport.sendto(b"1", other.getsockname())
            transport.sendto(b"2", ("localhost", other.getsockname()[1]))
            transport.sendto(b"3", other.getsockname())
            assert [await take(other) for _ in range(3)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize(
    "address", [None, ("127.0.0.1",), ("127.0.0.1", "80"), "127.0.0.1", 5, ("127.0.0.1", 70_000)]
)
async def test_what_is_no_address_ends_the_endpoint(address: Any) -> None:
    """As stock asyncio has it: the mistake is the program's, and is reported as such."""
    errors = collect_errors()
    async with endpoint() as (transport, protocol):
        transport.sendto(b"x", address)
        error = await protocol.until_lost()
        assert isinstance(error, TypeError | OverflowError)
        assert [context["exception"] for context in errors] == [error]
        assert transport.is_closing()


async def test_what_it_is() -> None:
    async with endpoint() as (transport, protocol):
        assert isinstance(transport, asyncio.Transport)  # as strange as it is
        if sys.version_info >= (3, 12):  # stock asyncio forgot it before
            assert isinstance(transport, asyncio.DatagramTransport)
        assert transport.get_protocol() is protocol
        assert not transport.is_closing()
        assert transport.get_extra_info("socket").type == socket.SOCK_DGRAM
        assert transport.get_extra_info("nothing of the kind", 5) == 5
        assert str(transport.get_extra_info("socket").fileno()) in repr(transport)
        for name, args in (("write", (b"x",)), ("writelines", ([b"x"],)), ("write_eof", ())):
            with pytest.raises((NotImplementedError, AttributeError, TypeError)):
                getattr(transport, name)(*args)


async def test_sending_while_the_connection_is_made() -> None:
    with peer() as other:
        to = other.getsockname()
        protocol = Recorder(connection_made=lambda p: p.transport.sendto(b"at once", to))
        async with endpoint(protocol, local_addr=("127.0.0.1", 0)):
            assert await take(other) == b"at once"


async def test_the_order_of_callbacks() -> None:
    with peer() as other:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        other.sendto(b"early", sock.getsockname())
        async with endpoint(sock=sock) as (transport, protocol):
            assert protocol.events[0] == "connection_made"
            await protocol.until_count(1)
            transport.close()
            await protocol.until_lost()
        assert protocol.events == ["connection_made", "datagram_received", "connection_lost"]


async def test_another_protocol() -> None:
    with peer() as other:
        async with endpoint() as (transport, first):
            other.sendto(b"1", transport.get_extra_info("sockname"))
            await first.until_count(1)
            second = Recorder()
            transport.set_protocol(second)
            assert transport.get_protocol() is second
            other.sendto(b"2", transport.get_extra_info("sockname"))
            assert await second.until_count(1) == [b"2"]
            transport.set_protocol(first)


async def test_callbacks_run_in_the_context_of_the_endpoint() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")
    seen: dict[str, str] = {}

    def note(name: str) -> Any:
        return lambda *_: seen.setdefault(name, variable.get())

    # Not connection_lost: stock asyncio calls it in the context of whoever closes.
    names = ["connection_made", "datagram_received", "error_received"]
    protocol = Recorder(**{name: note(name) for name in names})
    with peer() as other:
        variable.set("the endpoint's")
        transport, _ = await running().create_datagram_endpoint(
            lambda: protocol, remote_addr=other.getsockname()
        )
        variable.set("another's")
        other.sendto(b"x", transport.get_extra_info("sockname"))
        await protocol.until_count(1)
    transport.sendto(b"to nobody")
    await protocol.until_event("error_received")
    transport.close()
    await protocol.until_lost()
    assert seen == dict.fromkeys(names, "the endpoint's")


async def test_a_callback_that_raises_is_reported_and_the_endpoint_goes_on() -> None:
    def fail(protocol: Recorder, data: bytes, addr: Any) -> None:
        if data == b"bad":
            raise ZeroDivisionError

    errors = collect_errors()
    with peer() as other:
        async with endpoint(Recorder(datagram_received=fail), local_addr=("127.0.0.1", 0)) as (
            transport,
            protocol,
        ):
            for data in (b"bad", b"good", b"bad", b"fine"):
                other.sendto(data, transport.get_extra_info("sockname"))
            await protocol.until_count(4)
            await turns()
            assert not transport.is_closing()
    assert [type(context["exception"]) for context in errors] == [ZeroDivisionError, ZeroDivisionError]


async def test_connection_made_that_raises() -> None:
    def fail(protocol: Recorder) -> None:
        raise ZeroDivisionError

    errors = collect_errors()
    with peer() as other:
        async with endpoint(Recorder(connection_made=fail), local_addr=("127.0.0.1", 0)) as (
            transport,
            protocol,
        ):
            other.sendto(b"x", transport.get_extra_info("sockname"))
            assert await protocol.until_count(1) == [b"x"]
    assert [type(context["exception"]) for context in errors] == [ZeroDivisionError]


def test_a_callback_that_ends_the_program_loses_nothing(loop: asyncio.AbstractEventLoop) -> None:
    """What was received together with the datagram whose callback raised comes when the loop runs again."""

    def leave(protocol: Recorder, data: bytes, addr: Any) -> None:
        if data == b"2":
            raise SystemExit(3)

    protocol = Recorder(datagram_received=leave)
    with peer() as other:
        transport, _ = loop.run_until_complete(
            loop.create_datagram_endpoint(lambda: protocol, local_addr=("127.0.0.1", 0))
        )
        for n in range(6):
            other.sendto(b"%d" % n, transport.get_extra_info("sockname"))
        with pytest.raises(SystemExit):
            loop.run_until_complete(protocol.until_count(6))
        assert loop.run_until_complete(protocol.until_count(6)) == [b"%d" % n for n in range(6)]
        transport.close()
        loop.run_until_complete(protocol.until_lost())


def test_the_last_words_of_a_program_are_sent(loop: asyncio.AbstractEventLoop) -> None:
    """Nothing runs after ``sendto``; and before and after the loop runs, too."""

    async def main() -> Any:
        transport, protocol = await loop.create_datagram_endpoint(Recorder, remote_addr=other.getsockname())
        transport.sendto(b"1")
        return transport, protocol

    with peer() as other:
        transport, protocol = loop.run_until_complete(main())
        assert other.recv(10) == b"1"
        transport.sendto(b"2")
        assert other.recv(10) == b"2"
        transport.close()
        loop.run_until_complete(protocol.until_lost())


@pytest.mark.parametrize("kind", ["udp", "unix"])
async def test_pausing(kind: str) -> None:
    """Nothing is lost and nothing comes while it is paused, also of what was received in one go."""

    def pause(protocol: Recorder, data: bytes, addr: Any) -> None:
        if data in (b"2", b"5"):
            protocol.transport.pause_reading()

    with socket_directory() as directory:
        if kind == "unix":
            options: dict[str, Any] = {"family": socket.AF_UNIX, "local_addr": f"{directory}/s"}
        else:
            options = {"local_addr": ("127.0.0.1", 0)}
        other = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET, socket.SOCK_DGRAM)
        with other:
            async with endpoint(Recorder(datagram_received=pause), **options) as (transport, protocol):
                for n in range(8):
                    other.sendto(b"%d" % n, transport.get_extra_info("sockname"))
                for expected in (3, 6):
                    await protocol.until_count(expected)
                    assert not transport.is_reading()
                    await turns(5)
                    await asyncio.sleep(0.01)
                    assert len(protocol.received) == expected
                    transport.pause_reading()  # no effect
                    transport.resume_reading()
                    transport.resume_reading()
                assert await protocol.until_count(8) == [b"%d" % n for n in range(8)]
                assert transport.is_reading()


async def test_paused_from_the_start() -> None:
    protocol = Recorder(connection_made=lambda p: p.transport.pause_reading())
    with peer() as other:
        async with endpoint(protocol, local_addr=("127.0.0.1", 0)) as (transport, _):
            other.sendto(b"x", transport.get_extra_info("sockname"))
            await turns(5)
            await asyncio.sleep(0.01)
            assert protocol.received == []
            transport.resume_reading()
            assert await protocol.until_count(1) == [b"x"]


async def test_a_flood_is_echoed_by_several_endpoints() -> None:
    """Endpoints share the memory that they receive into: what one gets never shows up at another."""
    servers, clients = [], []
    for n in range(4):
        transport, server = await running().create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
        servers.append(server)
        _, client = await running().create_datagram_endpoint(
            Recorder, remote_addr=transport.get_extra_info("sockname")
        )
        clients.append((n, client))
    for turn in range(20):
        for n, client in clients:
            for k in range(5):
                client.transport.sendto(b"%d %d %d " % (n, turn, k) * (1 + 50 * k))
        for n, client in clients:
            expected = [b"%d %d %d " % (n, t, k) * (1 + 50 * k) for t in range(turn + 1) for k in range(5)]
            assert await client.until_count(len(expected)) == expected
    for protocol in [*servers, *(client for _, client in clients)]:
        protocol.transport.close()
        await protocol.until_lost()


async def test_large_unix_datagrams() -> None:
    """They may be larger than those of the Internet."""
    with socket_directory() as directory:
        async with endpoint(family=socket.AF_UNIX, local_addr=f"{directory}/s") as (_, server):
            with unix_peer(f"{directory}/c") as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                for size in (100_000, 3, 150_000):
                    await asyncio.to_thread(other.sendto, bytes([7]) * size, f"{directory}/s")
                await server.until_count(3)
                assert server.received == [
                    (bytes([7]) * size, f"{directory}/c") for size in (100_000, 3, 150_000)
                ]


def test_what_came_before_the_loop_runs_waits_for_what_was_scheduled(loop: asyncio.AbstractEventLoop) -> None:
    """The first step of the task comes first: it may make ready for the datagram."""

    async def main() -> list[bytes]:
        protocol.events.append("the task has begun")
        return await protocol.until_count(1)

    protocol = Recorder()
    with peer() as other:
        transport, _ = loop.run_until_complete(
            loop.create_datagram_endpoint(lambda: protocol, local_addr=("127.0.0.1", 0))
        )
        other.sendto(b"x", transport.get_extra_info("sockname"))
        assert loop.run_until_complete(main()) == [b"x"]
        assert protocol.events == ["connection_made", "the task has begun", "datagram_received"]
        transport.close()
        loop.run_until_complete(protocol.until_lost())
