"""The context that callbacks run in where Python's version decides, and under TLS."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from typing import Any

import pytest

from .certs import Certificates
from .support import LIMIT, Recorder, dial, serving

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


def noting(log: list[str]) -> Recorder:
    def note(*_: Any) -> None:
        log.append(variable.get())

    return Recorder(connection_made=note, data_received=note, eof_received=note, connection_lost=note)


async def test_a_server_that_starts_later_than_it_was_made() -> None:
    """Its connections live in the context of its making from Python 3.15 on, of its start before."""
    log: list[str] = []
    protocol = noting(log)
    variable.set("made")
    async with serving(lambda: protocol, start_serving=False) as (server, address):
        variable.set("started")
        await server.start_serving()
        variable.set("later")
        with dial(address) as peer:
            peer.sendall(b"x")
            await protocol.until_received(1)
        await protocol.until_lost()
    assert log == ["made" if sys.version_info >= (3, 15) else "started"] * 4


async def test_each_end_of_a_tls_connection_has_its_context(certificates: Certificates) -> None:
    seen_by_server: list[str] = []
    seen_by_client: list[str] = []
    served, client = noting(seen_by_server), noting(seen_by_client)
    loop = asyncio.get_running_loop()
    variable.set("server")
    async with serving(lambda: served, ssl=certificates.server()) as (_, address):
        variable.set("client")
        tls = {"ssl": certificates.client(), "server_hostname": "localhost"}
        transport, _ = await asyncio.wait_for(loop.create_connection(lambda: client, *address, **tls), LIMIT)
        variable.set("later")
        transport.write(b"question")
        await served.until_received(8)
        served.transport.write(b"answer")
        await client.until_received(6)
        transport.close()
        await client.until_lost()
        await served.until_lost()
    assert set(seen_by_server) == {"server"}
    # close() was called in the later context, and connection_lost is called from there.
    assert set(seen_by_client[:2]) == {"client"}


@pytest.mark.skipif(sys.version_info < (3, 15), reason="each callback had a context of its own before")
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_what_a_factory_sets_is_set_in_the_callbacks(certificates: Certificates, secure: bool) -> None:
    log: list[str] = []
    protocol = noting(log)

    def factory() -> Recorder:
        variable.set("factory's")
        return protocol

    options: dict[str, Any] = {"ssl": certificates.server()} if secure else {}
    async with serving(factory, **options) as (_, address):
        tls: dict[str, Any] = {"ssl": certificates.client(), "server_hostname": "localhost"} if secure else {}
        _, writer = await asyncio.wait_for(asyncio.open_connection(*address, **tls), LIMIT)
        writer.write(b"x")
        await protocol.until_received(1)
        writer.close()
        await writer.wait_closed()
        await protocol.until_lost()
    assert log[:2] == ["factory's"] * 2
    assert variable.get() == "nothing"


# Who is told to pause is told in the context of the connection, whoever's write was too much.


def flow_noting(log: list[tuple[str, str]]) -> Recorder:
    def note(name: str) -> Any:
        return lambda *_: log.append((name, variable.get()))

    names = ("connection_made", "data_received", "pause_writing", "resume_writing")
    return Recorder(**{name: note(name) for name in names})


@pytest.mark.ours  # stock asyncio calls pause_writing in the context of whoever writes
@pytest.mark.parametrize("kind", ["tcp", "tls", "tls in tls"])
async def test_flow_control_runs_in_the_context_of_the_connection(
    kind: str, certificates: Certificates
) -> None:
    log: list[tuple[str, str]] = []
    loop = asyncio.get_running_loop()
    served, client = Recorder(connection_made=lambda p: p.transport.pause_reading()), flow_noting(log)
    variable.set("server")
    options: dict[str, Any] = {} if kind == "tcp" else {"ssl": certificates.server()}
    async with serving(lambda: served, **options) as (_, address):
        variable.set("connection")
        tls = {} if kind == "tcp" else {"ssl": certificates.client(), "server_hostname": "localhost"}
        transport, _ = await asyncio.wait_for(loop.create_connection(lambda: client, *address, **tls), LIMIT)
        await served.until_event("connection_made")
        top, upper = served.transport, served
        if kind == "tls in tls":
            top.resume_reading()
            upper = Recorder()
            variable.set("server")
            accepting = asyncio.ensure_future(
                loop.start_tls(top, upper, certificates.server(), server_side=True)
            )
            variable.set("start_tls")
            client_tls = {"server_hostname": "localhost"}
            transport = await asyncio.wait_for(
                loop.start_tls(transport, client, certificates.client(), **client_tls), LIMIT
            )
            top = await asyncio.wait_for(accepting, LIMIT)
            top.pause_reading()
        variable.set("writer")
        transport.set_write_buffer_limits(high=1000)
        while ("pause_writing", "connection") not in log:
            transport.write(bytes(1 << 20))
            await asyncio.sleep(0)
            assert ("pause_writing", "writer") not in log
        top.resume_reading()
        await client.until_event("resume_writing")
        transport.abort()
        await client.until_lost()
        await upper.until_lost()
    assert {context for name, context in log if name != "connection_made"} == {"connection"}


@pytest.mark.ours  # on stock asyncio in the context of whoever resumes
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_data_after_resume_reading(certificates: Certificates, secure: bool) -> None:
    log: list[tuple[str, str]] = []
    client = flow_noting(log)
    loop = asyncio.get_running_loop()
    served = Recorder()
    options: dict[str, Any] = {"ssl": certificates.server()} if secure else {}
    async with serving(lambda: served, **options) as (_, address):
        variable.set("connection")
        tls: dict[str, Any] = {"ssl": certificates.client(), "server_hostname": "localhost"} if secure else {}
        transport, _ = await asyncio.wait_for(loop.create_connection(lambda: client, *address, **tls), LIMIT)
        await served.until_event("connection_made")
        for number in range(3):
            transport.pause_reading()
            served.transport.write(b"data")
            await asyncio.sleep(0.02)
            variable.set("resumer")
            transport.resume_reading()
            await client.until_received(4 * number + 4)
        transport.close()
        await client.until_lost()
    assert {context for name, context in log if name == "data_received"} == {"connection"}
