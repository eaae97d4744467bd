"""Frameworks that are given our loop by its factory: asyncio's own Runner, anyio,
and pytest-asyncio in a project.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest
from serving import complaints, environment, running

proactorx = pytest.importorskip("proactorx")
pytestmark = pytest.mark.programs


# asyncio.Runner


async def exchange() -> bytes:
    """One echo between two ends of this process."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    return answer


def test_runner_runs_several_coroutines_on_one_loop(driver_name: str) -> None:
    factory = functools.partial(proactorx.new_event_loop, driver_name)
    with asyncio.Runner(loop_factory=factory) as runner:
        loop = runner.get_loop()
        for _ in range(3):
            assert runner.run(exchange()) == b"hello\n"
            assert runner.get_loop() is loop
    assert loop.is_closed()


def test_runner_turns_ctrl_c_into_keyboard_interrupt(driver_name: str) -> None:
    """The coroutine is cancelled first, and may clean up; the loop is closed afterwards."""
    cleaned = []

    async def interrupted() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(20)
        finally:
            cleaned.append(await exchange())

    with pytest.raises(KeyboardInterrupt):
        with asyncio.Runner(loop_factory=functools.partial(proactorx.new_event_loop, driver_name)) as runner:
            runner.run(interrupted())
    assert cleaned == [b"hello\n"]


UNCAUGHT = """
import asyncio, proactorx
async def main():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    asyncio.get_running_loop().call_later(3600, print)
    async with server:
        raise ValueError("the only complaint")
proactorx.run(main())
"""


def test_an_uncaught_exception_is_all_that_is_printed(driver_name: str) -> None:
    """The traceback keeps the loop until the interpreter ends, and the loop goes then without a word."""
    with running(sys.executable, "-W", "error", "-c", UNCAUGHT, env=environment(driver_name)) as program:
        assert program.wait() == 1
        assert program.printed.startswith("Traceback (most recent call last):\n")
        assert program.printed.endswith("\nValueError: the only complaint\n"), program.printed


# anyio


def anyio_run(driver_name: str, main: Any) -> Any:
    anyio = pytest.importorskip("anyio")
    options = {"loop_factory": functools.partial(proactorx.new_event_loop, driver_name)}
    return anyio.run(main, backend="asyncio", backend_options=options)


def test_anyio_tcp_listener_and_clients(driver_name: str) -> None:
    anyio = pytest.importorskip("anyio")

    async def echo(stream: Any) -> None:
        async with stream:
            async for data in stream:
                await stream.send(data)

    async def talk(port: int, text: bytes, answers: dict[bytes, bytes]) -> None:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(text)
            await stream.send_eof()
            answers[text] = b"".join([data async for data in stream])

    async def main() -> dict[bytes, bytes]:
        answers: dict[bytes, bytes] = {}
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as group,
        ):
            group.start_soon(listener.serve, echo)
            async with anyio.create_task_group() as clients:
                for n in range(20):
                    port = listener.extra(anyio.abc.SocketAttribute.local_port)
                    clients.start_soon(talk, port, b"%d" % n * 10_000, answers)
            group.cancel_scope.cancel()
        return answers

    answers = anyio_run(driver_name, main)
    assert len(answers) == 20
    assert all(text == answer for text, answer in answers.items())


def test_anyio_unix_sockets(driver_name: str, short_path: Path) -> None:
    """anyio receives from and sends to Unix sockets by itself:
    it asks the loop for add_reader and add_writer.
    """
    anyio = pytest.importorskip("anyio")
    path = short_path / f"anyio.{driver_name}"
    text = b"hello" * 200_000

    async def echo(stream: Any) -> None:
        async with stream:
            async for data in stream:
                await stream.send(data)

    async def main() -> bytes:
        async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, echo)
            async with await anyio.connect_unix(path) as stream, anyio.create_task_group() as sender:
                sender.start_soon(stream.send, text)
                answer = b""
                while len(answer) < len(text):
                    answer += await stream.receive()
            group.cancel_scope.cancel()
        return answer

    assert anyio_run(driver_name, main) == text


@pytest.mark.parametrize("kind", ["stream", "datagram"])
def test_anyio_closes_a_unix_socket_under_a_receive(driver_name: str, short_path: Path, kind: str) -> None:
    """anyio closes the socket first, and then has the loop forget it."""
    anyio = pytest.importorskip("anyio")
    path = short_path / f"anyio.{driver_name}.{kind}"

    async def receive(sock: Any, ends: list[type[BaseException]]) -> None:
        try:
            await sock.receive()
        except anyio.ClosedResourceError as exc:
            ends.append(type(exc))

    async def use(sock: Any, ends: list[type[BaseException]]) -> None:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(receive, sock, ends)
                await anyio.wait_all_tasks_blocked()
                await sock.aclose()

    async def main() -> list[type[BaseException]]:
        ends: list[type[BaseException]] = []
        for _ in range(3):  # the numbers of the sockets come again
            if kind == "datagram":
                await use(await anyio.create_unix_datagram_socket(local_path=path), ends)
                path.unlink()
                continue
            async with await anyio.create_unix_listener(path):
                await use(await anyio.connect_unix(path), ends)
            path.unlink(missing_ok=True)
        return ends

    assert anyio_run(driver_name, main) == [anyio.ClosedResourceError] * 3


def test_anyio_scopes_threads_and_signals(driver_name: str) -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> list[str]:
        seen = []
        with anyio.move_on_after(0.05) as scope:
            await anyio.sleep_forever()
        seen.append(f"moved on: {scope.cancelled_caught}")
        with contextlib.suppress(TimeoutError):
            with anyio.fail_after(0.05):
                await anyio.sleep_forever()
            seen.append("not reached")
        seen.append(await anyio.to_thread.run_sync(anyio.from_thread.run_sync, str, "there and back"))
        with anyio.open_signal_receiver(signal.SIGUSR1) as signals:
            os.kill(os.getpid(), signal.SIGUSR1)
            seen.append((await anext(signals)).name)
        return seen

    assert anyio_run(driver_name, main) == ["moved on: True", "there and back", "SIGUSR1"]


# pytest-asyncio, in a project of its own

CONFTEST = """
import functools
import proactorx

FACTORIES = {"proactorx": functools.partial(proactorx.new_event_loop, "DRIVER")}

def pytest_asyncio_loop_factories(config, item):
    return FACTORIES  # the same each time, or no two tests share a loop
"""

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""

TESTS = """
import asyncio
import pytest
import pytest_asyncio
import proactorx

@pytest_asyncio.fixture
async def server():
    async def echo(reader, writer):
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()

async def test_it_is_our_loop():
    assert isinstance(asyncio.get_running_loop(), proactorx.EventLoop)

@pytest.mark.parametrize("text", [b"one\\n", b"two\\n"])
async def test_echo(server, text):
    reader, writer = await asyncio.open_connection(*server)
    writer.write(text)
    assert await reader.read() == text
    writer.close()
    await writer.wait_closed()

@pytest.mark.asyncio(loop_scope="class")
class TestShared:
    loop = None
    async def test_first(self):
        TestShared.loop = asyncio.get_running_loop()
    async def test_second(self):
        assert TestShared.loop is asyncio.get_running_loop()

async def test_that_fails():
    raise ValueError("as it should")
"""


def test_pytest_asyncio_in_a_project_of_its_own(driver_name: str, tmp_path: Path) -> None:
    pytest.importorskip("pytest_asyncio", minversion="1.4")
    (tmp_path / "conftest.py").write_text(CONFTEST.replace("DRIVER", driver_name))
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(INI)
    plugins = ("-p", "pytest_asyncio.plugin", "-p", "no:cacheprovider")
    env = environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    with running(sys.executable, "-m", "pytest", "-q", *plugins, tmp_path, env=env, cwd=tmp_path) as project:
        assert project.wait() == 1, project.printed
        assert "1 failed, 5 passed" in project.printed
        assert [line for line in complaints(project.printed) if "as it should" not in line] == []


# blockbuster


def test_blockbuster_finds_nothing_in_the_loop_itself(driver_name: str, short_path: Path) -> None:
    """It reports calls that may block, whoever makes them while a loop runs: ours are not the user's."""
    blockbuster = pytest.importorskip("blockbuster")
    path = short_path / f"blockbuster.{driver_name}"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()
        await writer.wait_closed()

    async def unix_server() -> None:
        server = await asyncio.start_unix_server(serve, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"hello")
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    async def sendfile(file: Any) -> None:
        loop = asyncio.get_running_loop()
        ours, other = socket.socketpair()
        with ours, other:
            ours.setblocking(False)
            other.setblocking(False)
            assert await asyncio.create_task(loop.sock_sendfile(ours, file, 0, 5)) == 5
            assert await loop.sock_recv(other, 10) == b"hello"
            _, writer = await asyncio.open_connection(sock=ours)
            assert await asyncio.create_task(loop.sendfile(writer.transport, file, 0, 5)) == 5
            assert await loop.sock_recv(other, 10) == b"hello"
            writer.close()
            await writer.wait_closed()

    async def others() -> None:
        loop = asyncio.get_running_loop()
        process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
        assert await process.communicate(b"hello") == (b"hello", None)
        assert await loop.getaddrinfo("127.0.0.1", 80)
        transport, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        transport.sendto(b"hello", transport.get_extra_info("sockname"))
        transport.close()

    async def main() -> None:
        with blockbuster.blockbuster_ctx():
            await unix_server()
            await sendfile(file)
            await others()

    with tempfile.TemporaryFile() as file:
        file.write(b"hello" * 1000)
        file.flush()
        proactorx.run(main(), backend=driver_name)
    assert not path.exists() or sys.version_info < (3, 13)
