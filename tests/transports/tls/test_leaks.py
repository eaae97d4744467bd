"""Handshakes that succeed and fail, by the hundred: nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import warnings
import weakref
from typing import Any

import pytest

from transports.certs import Certificates
from transports.support import Recorder, open_fds, serving, settled_fds, turns


async def _one(address: Any, certificates: Certificates, number: int, seen: list[Any]) -> None:
    """One connection, which ends in one of the ways there are."""
    loop = asyncio.get_running_loop()
    context = certificates.stranger() if number % 5 == 4 else certificates.client()
    protocol = Recorder()
    seen += [weakref.ref(context), weakref.ref(protocol)]
    with contextlib.suppress(ssl.SSLError, OSError):
        transport, _ = await loop.create_connection(
            lambda: protocol, *address, ssl=context, server_hostname="localhost"
        )
        seen.append(weakref.ref(transport))
        transport.write(b"ping")
        await protocol.until_received(4)
        match number % 5:
            case 0:
                transport.close()
            case 1:
                transport.abort()
            case 2:
                transport.pause_reading()
                transport.close()
            case _:
                transport.write(b"x" * 200_000)
                transport.abort()
        await protocol.until_lost()


class Answer(Recorder):
    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def test_nothing_is_left_of_connections(certificates: Certificates) -> None:
    seen: list[Any] = []
    before = await settled_fds()
    async with serving(Answer, ssl=certificates.server()) as (_, address):
        for number in range(60):
            await _one(address, certificates, number, seen)
        await turns(5)
    await turns(5)
    gc.collect()
    assert [ref for ref in seen if ref() is not None] == []
    assert open_fds() == before


@pytest.mark.ours
async def test_nothing_waits_for_the_collector(certificates: Certificates) -> None:
    """A connection leaves no cycle: it is gone when its last callback is."""
    seen: list[Any] = []
    gc.collect()
    gc.disable()
    try:
        async with serving(Answer, ssl=certificates.server()) as (_, address):
            for number in range(3):
                await _one(address, certificates, number, seen)
            await turns(5)
        await turns(5)
        assert [ref for ref in seen if ref() is not None] == []
    finally:
        gc.enable()


def test_an_unclosed_transport_warns(loop: asyncio.AbstractEventLoop, certificates: Certificates) -> None:
    server = loop.run_until_complete(loop.create_server(Recorder, "127.0.0.1", 0, ssl=certificates.server()))
    client = Recorder()
    loop.run_until_complete(
        loop.create_connection(
            lambda: client,
            *server.sockets[0].getsockname(),
            ssl=certificates.client(),
            server_hostname="localhost",
        )
    )
    server.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop.close()
        client.transport = None
        del server
        gc.collect()
    assert any(
        "unclosed transport <asyncio._SSLProtocolTransport" in str(warning.message) for warning in caught
    )
