"""Named pipes, and the pipes of subprocesses, on the iocp driver."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "win32", reason="pipes as Windows has them")

_numbers = itertools.count()


@pytest.fixture
def address() -> str:
    return rf"\\.\pipe\proactorx-test-{os.getpid()}-{next(_numbers)}"


class Echo(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop: Any = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, protocol = await loop.create_pipe_connection(
        lambda: asyncio.StreamReaderProtocol(reader), address
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def need_pipes() -> Any:
    loop: Any = asyncio.get_running_loop()
    if getattr(loop, "backend_info", None) is not None and loop.backend_info().name != "iocp":
        pytest.skip("on the select driver there are none, see below")
    return loop


async def test_echo(address: str) -> None:
    [server] = await need_pipes().start_serving_pipe(Echo, address)
    data = os.urandom(300_000)

    async def client(size: int) -> None:
        reader, writer = await connect(address)
        writer.write(data[:size])
        await writer.drain()
        assert await reader.readexactly(size) == data[:size]
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client(size) for size in (1, 100, 65536, 300_000)))
    server.close()


async def test_nobody_serves_that_name(address: str) -> None:
    with pytest.raises(FileNotFoundError):
        await need_pipes().create_pipe_connection(Echo, address)


async def test_the_end_of_the_other_side(address: str) -> None:
    loop = need_pipes()
    made: asyncio.Future[Echo] = loop.create_future()

    class Server(Echo):
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.lost = loop.create_future()
            made.set_result(self)

        def connection_lost(self, exc: BaseException | None) -> None:
            self.lost.set_result(exc)

    [server] = await loop.start_serving_pipe(Server, address)
    _, writer = await connect(address)
    protocol: Any = await made
    writer.close()
    await writer.wait_closed()
    assert await asyncio.wait_for(protocol.lost, 5) is None
    server.close()


async def test_a_factory_that_raises_does_not_end_the_server(address: str) -> None:
    loop = need_pipes()
    problems: list[Any] = []
    loop.set_exception_handler(lambda _loop, context: problems.append(context["exception"]))
    calls = itertools.count()

    def factory() -> asyncio.Protocol:
        if next(calls) == 0:
            raise ZeroDivisionError
        return Echo()

    if not hasattr(loop, "backend_info"):
        pytest.skip("stock asyncio gives up there")
    [server] = await loop.start_serving_pipe(factory, address)
    reader, writer = await connect(address)
    assert await reader.read() == b""
    writer.close()
    reader, writer = await connect(address)
    writer.write(b"still there")
    assert await reader.readexactly(11) == b"still there"
    writer.close()
    await writer.wait_closed()
    server.close()
    assert [type(exc) for exc in problems] == [ZeroDivisionError]


async def test_a_paused_reader_gets_nothing_and_then_all(address: str) -> None:
    loop = need_pipes()
    [server] = await loop.start_serving_pipe(Echo, address)
    reader, writer = await connect(address)
    writer.transport.pause_reading()
    writer.write(b"x" * 1000)
    await asyncio.sleep(0.05)
    assert not reader._buffer  # type: ignore[attr-defined]
    writer.transport.resume_reading()
    assert await reader.readexactly(1000) == b"x" * 1000
    writer.close()
    await writer.wait_closed()
    server.close()


UPPER = """
import sys
data = sys.stdin.buffer.read()
sys.stdout.buffer.write(data.upper())
sys.stderr.write('e')
sys.exit(3)
"""


async def test_a_child_with_pipes() -> None:
    need_pipes()
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", UPPER, stdin=-1, stdout=-1, stderr=-1)
    assert await child.communicate(b"data " * 50_000) == (b"DATA " * 50_000, b"e")
    assert child.returncode == await child.wait() == 3


async def test_a_child_is_ended() -> None:
    need_pipes()
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(child.wait(), 0.05)
    child.terminate()
    assert await asyncio.wait_for(child.wait(), 10) == 1


async def test_a_shell() -> None:
    need_pipes()
    child = await asyncio.create_subprocess_shell("echo hello&& exit 4", stdout=subprocess.PIPE)
    assert await child.communicate() == (b"hello\r\n", None)
    assert child.returncode == 4


@pytest.mark.ours
async def test_the_select_driver_says_what_it_lacks(address: str) -> None:
    loop: Any = asyncio.get_running_loop()
    if loop.backend_info().name != "select":
        pytest.skip("about the select driver")
    for wanted in (
        loop.create_pipe_connection(Echo, address),
        loop.start_serving_pipe(Echo, address),
        loop.subprocess_exec(asyncio.SubprocessProtocol, sys.executable, "-c", ""),
    ):
        with pytest.raises(NotImplementedError, match="select backend"):
            await wanted


@pytest.mark.ours
async def test_unix_sockets_are_refused_by_name() -> None:
    loop: Any = asyncio.get_running_loop()
    with pytest.raises(NotImplementedError, match=r"create_unix_connection: .* no Unix sockets"):
        await loop.create_unix_connection(asyncio.Protocol, "x")
    with pytest.raises(NotImplementedError, match=r"create_unix_server: .* no Unix sockets"):
        await loop.create_unix_server(asyncio.Protocol, "x")
