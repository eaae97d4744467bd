"""How an endpoint ends: once, completely, and whatever is going on."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import warnings
import weakref
from typing import Any

import pytest

from .support import Echo, Recorder, endpoint, eventually, peer, running, take, turns


async def made(protocol: Recorder, **options: Any) -> Any:
    if not options:
        options = {"local_addr": ("127.0.0.1", 0)}
    transport, _ = await running().create_datagram_endpoint(lambda: protocol, **options)
    return transport


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_closing_twice(ending: str) -> None:
    protocol = Recorder()
    transport = await made(protocol)
    fd = transport.get_extra_info("socket").fileno()
    assert not transport.is_closing()
    getattr(transport, ending)()
    assert transport.is_closing()
    assert protocol.events == ["connection_made"]  # never from inside the call
    getattr(transport, ending)()
    transport.close()
    transport.abort()
    assert await protocol.until_lost() is None
    await turns(5)
    transport.close()
    transport.abort()
    await turns(5)
    assert protocol.events == ["connection_made", "connection_lost"]
    assert "closed" in repr(transport) or "closing" in repr(transport)

    def closed() -> bool:
        try:
            os.fstat(fd)
        except OSError:
            return True
        return False

    await eventually(closed, "the descriptor is closed")


@pytest.mark.parametrize("ending", ["close", "abort"])
async def test_what_was_sent_before_the_end_arrives(ending: str) -> None:
    with peer() as other:
        protocol = Recorder()
        transport = await made(protocol)
        for n in range(50):
            transport.sendto(b"%d" % n, other.getsockname())
        getattr(transport, ending)()
        await protocol.until_lost()
        assert [await take(other) for _ in range(50)] == [b"%d" % n for n in range(50)]


async def test_sending_after_the_end_does_nothing() -> None:
    with peer() as other:
        protocol = Recorder()
        transport = await made(protocol, remote_addr=other.getsockname())
        transport.close()
        for _ in range(3):
            transport.sendto(b"x")
        await protocol.until_lost()
        transport.sendto(b"x")
        other.setblocking(False)
        with pytest.raises(BlockingIOError):
            other.recv(10)
    assert protocol.events == ["connection_made", "connection_lost"]


@pytest.mark.parametrize("ending", ["close", "abort"])
@pytest.mark.parametrize("where", ["connection_made", "datagram_received"])
async def test_ended_from_inside_a_callback(where: str, ending: str) -> None:
    protocol = Recorder(**{where: lambda p, *_: getattr(p.transport, ending)()})
    transport = await made(protocol)
    if where == "datagram_received":
        with peer() as other:
            for n in range(5):
                other.sendto(b"%d" % n, transport.get_extra_info("sockname"))
            await protocol.until_lost()
        assert protocol.texts == [b"0"]  # nothing comes after the end
    assert await protocol.until_lost() is None
    await turns(5)
    assert protocol.events.count("connection_lost") == 1
    assert protocol.events[-1] == "connection_lost"


async def test_answering_and_ending_in_one_callback() -> None:
    def answer(protocol: Recorder, data: bytes, addr: Any) -> None:
        protocol.transport.sendto(b"bye", addr)
        protocol.transport.close()

    protocol = Recorder(datagram_received=answer)
    transport = await made(protocol)
    with peer() as other:
        other.sendto(b"x", transport.get_extra_info("sockname"))
        assert await take(other) == b"bye"
    await protocol.until_lost()


async def test_ended_while_paused() -> None:
    protocol = Recorder()
    transport = await made(protocol)
    with peer() as other:
        transport.pause_reading()
        other.sendto(b"x", transport.get_extra_info("sockname"))
        await turns(5)
        transport.close()
        transport.resume_reading()
        await protocol.until_lost()
    assert protocol.received == []


async def test_the_number_of_a_closed_endpoint_is_used_again() -> None:
    """At once, and by another endpoint: neither hears of the other."""
    with peer() as other:
        for _ in range(30):
            protocol = Echo()
            transport = await made(protocol)
            other.sendto(b"x", transport.get_extra_info("sockname"))
            assert await take(other) == b"x"
            other.sendto(b"late", transport.get_extra_info("sockname"))
            transport.close()
            await protocol.until_lost()
            assert protocol.texts[0] == b"x"


async def test_connection_lost_that_raises() -> None:
    errors: list[dict[str, Any]] = []
    running().set_exception_handler(lambda _loop, context: errors.append(context))

    def fail(protocol: Recorder, exc: Any) -> None:
        raise ZeroDivisionError

    protocol = Recorder(connection_lost=fail)
    transport = await made(protocol)
    sock = transport.get_extra_info("socket")
    transport.close()
    await protocol.until_lost()
    await eventually(lambda: sock.fileno() == -1, "it is closed all the same")
    assert [type(context["exception"]) for context in errors] == [ZeroDivisionError]


def test_an_unclosed_transport_warns(loop: asyncio.AbstractEventLoop) -> None:
    transport = loop.run_until_complete(made(Recorder()))
    transport.get_protocol().itself = transport  # a cycle: it goes when the collector comes
    sock = transport.get_extra_info("socket")
    loop.close()
    del transport
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        gc.collect()
    assert sock.fileno() == -1


def test_closing_the_loop_calls_nobody(loop: asyncio.AbstractEventLoop) -> None:
    protocol = Recorder()
    transport = loop.run_until_complete(made(protocol))
    with peer() as other:
        other.sendto(b"x", transport.get_extra_info("sockname"))
    loop.close()
    assert protocol.events == ["connection_made"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        protocol.transport = None
        del transport
        gc.collect()


async def test_nothing_of_it_is_left() -> None:
    protocol = Recorder()
    transport = await made(protocol)
    with peer() as other:
        other.sendto(b"x", transport.get_extra_info("sockname"))
        await protocol.until_count(1)
        transport.sendto(b"y", other.getsockname())
        assert await take(other) == b"y"
    transport.close()
    await protocol.until_lost()
    await turns(5)
    gone = weakref.ref(transport)
    protocol.transport = None
    del transport
    gc.collect()
    assert gone() is None


async def test_three_hundred_endpoints_leave_no_descriptor() -> None:
    with peer() as other:
        for n in range(300):
            protocol = Recorder()
            transport = await made(protocol, remote_addr=other.getsockname())
            transport.sendto(b"%d" % n)
            if n % 3 == 0:
                assert await take(other) == b"%d" % n
                transport.abort()
            else:
                transport.close()
            if n % 2:
                await protocol.until_lost()
            if n % 3:
                assert await take(other) == b"%d" % n
        await turns(5)


async def test_many_at_once() -> None:
    async with endpoint(Echo(), local_addr=("127.0.0.1", 0)) as (server, _):
        address = server.get_extra_info("sockname")

        async def ask(n: int) -> None:
            protocol = Recorder()
            transport = await made(protocol, remote_addr=address)
            transport.sendto(b"%d" % n)
            assert await protocol.until_count(1) == [b"%d" % n]
            transport.close()
            await protocol.until_lost()

        for start in range(0, 200, 50):
            await asyncio.gather(*(ask(start + n) for n in range(50)))


async def test_a_user_closes_its_socket_and_its_number_is_anothers() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    protocol = Recorder()
    transport = await made(protocol, sock=sock)
    sock.close()
    reader, writer = os.pipe()
    try:
        await turns(3)
        transport.abort()
        await protocol.until_lost()
        await turns(3)
        os.write(writer, b"still open")
        assert os.read(reader, 100) == b"still open"
    finally:
        os.close(reader)
        os.close(writer)
