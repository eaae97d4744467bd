"""What a listener survives: no descriptors left, clients that leave before they are accepted,
factories that raise.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from .support import (
    LIMIT,
    Echo,
    Recorder,
    backend_of,
    collect_errors,
    dial,
    eventually,
    reset,
    serving,
    turns,
)


def starve(factory: Any) -> dict[str, Any]:
    """Run a server out of descriptors, in a process of its own; what it saw."""
    script = Path(__file__).with_name("starved_server.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, str(script), backend_of(factory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_out_of_descriptors(loop_factory: Any) -> None:
    """It pauses, says so, serves those it has, costs nothing meanwhile, and goes on when it can."""
    seen = starve(loop_factory)
    assert seen["before"]
    assert seen["while starved"]
    assert seen["serving while starved"]
    assert seen["cpu while starved"] < 0.15
    assert seen["reports"] >= 1
    assert set(seen["errno"]) == {errno.EMFILE}
    assert seen["after"]
    assert seen["old after"]


@pytest.mark.ours  # stock asyncio says it once for each place in the backlog
@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_out_of_descriptors_is_said_once(loop_factory: Any) -> None:
    assert starve(loop_factory)["reports"] == 1


async def check_echo(address: Any) -> None:
    with dial(address) as client:
        client.sendall(b"ping")
        assert await asyncio.to_thread(client.recv, 10) == b"ping"


async def test_clients_that_reset_before_they_are_accepted() -> None:
    errors = collect_errors()
    async with serving(Echo) as (_, address):
        for _ in range(5):
            for _ in range(10):
                reset(dial(address))
            await check_echo(address)
    assert errors == []


async def test_clients_that_leave_before_they_are_accepted() -> None:
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    errors = collect_errors()
    async with serving(factory) as (_, address):
        for _ in range(20):
            with dial(address) as client:
                client.sendall(b"bye")
        await eventually(lambda: len(made) == 20, "all are accepted")
        for protocol in made:
            assert await protocol.until_lost() is None
            assert protocol.data == b"bye"
            assert protocol.order == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert errors == []


@pytest.mark.parametrize(
    "failure", [ValueError, OSError, asyncio.CancelledError], ids=lambda kind: kind.__name__
)
async def test_a_factory_that_raises(failure: type[BaseException]) -> None:
    """The client sees the end of its connection; the next is served."""
    count = 0

    def factory() -> Any:
        nonlocal count
        count += 1
        if count % 2:
            raise failure("no protocol today")
        return Echo()

    collect_errors()
    with warnings.catch_warnings():
        # stock asyncio leaves that socket to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        async with serving(factory) as (server, address):
            for _ in range(3):
                with dial(address) as unlucky:
                    assert await asyncio.to_thread(unlucky.recv, 1) == b""
                await check_echo(address)
            assert server.is_serving()


@pytest.mark.ours  # stock asyncio reports it in debug mode only
async def test_a_factory_that_raises_is_reported() -> None:
    def factory() -> Any:
        raise ZeroDivisionError

    errors = collect_errors()
    async with serving(factory) as (_, address):
        with dial(address) as client:
            assert await asyncio.to_thread(client.recv, 1) == b""
    assert [type(error["exception"]) for error in errors] == [ZeroDivisionError]
    assert errors[0]["message"]


async def test_a_thousand_connections_at_once() -> None:
    resource = pytest.importorskip("resource")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 2500:
        pytest.skip("too few descriptors allowed")
    async with serving(Echo, backlog=2000) as (_, address):
        clients = await asyncio.to_thread(lambda: [dial(address) for _ in range(1000)])
        await asyncio.wait_for(asyncio.to_thread(_ask_all, clients), LIMIT)
        await turns()


def _ask_all(clients: list[socket.socket]) -> None:
    for i, client in enumerate(clients):
        client.sendall(b"number %d" % i)
    for i, client in enumerate(clients):
        assert client.recv(100) == b"number %d" % i
    for client in clients:
        client.close()


async def test_a_burst_of_short_connections() -> None:
    async with serving(Echo) as (_, address):
        await asyncio.wait_for(asyncio.gather(*(asyncio.to_thread(_short, address) for _ in range(4))), LIMIT)


def _short(address: Any) -> None:
    for i in range(50):
        with dial(address) as client:
            client.sendall(b"%d" % i)
            assert client.recv(10) == b"%d" % i


async def test_accepting_does_not_starve_the_others() -> None:
    """While clients stream in, a connection that is there is answered."""
    async with serving(Echo) as (_, address):
        with dial(address) as old:

            def stream_in() -> None:
                for _ in range(80):
                    dial(address).close()

            streaming = asyncio.create_task(asyncio.to_thread(stream_in))
            while not streaming.done():
                old.sendall(b"ping")
                assert await asyncio.to_thread(old.recv, 10) == b"ping"
            await streaming
        await turns(5)
