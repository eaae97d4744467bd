"""What the sessions of libraries share: a table of them, a counter of steps, servers of other programs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

Session = Callable[["Steps"], Awaitable[None]]

#: The session of each library, by the name of its package.
SESSIONS: dict[str, Session] = {}


def session(package: str) -> Callable[[Session], Session]:
    """Register the session of a library."""

    def register(run: Session) -> Session:
        SESSIONS[package] = run
        return run

    return register


class NotHere(Exception):
    """The session needs a program that this machine lacks."""


class Steps:
    """Counts the steps that went as they should."""

    def __init__(self) -> None:
        self.passed = 0

    def check(self, found: object, expected: object = True) -> None:
        """One step.

        Raises:
            AssertionError: it went otherwise.
        """
        assert found == expected, f"{found!r} is not {expected!r}"
        self.passed += 1


def free_port() -> int:
    """A TCP port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


async def until_open(port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until somebody listens."""
    for _ in range(800):
        if process is not None and process.poll() is not None:
            break
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return
    raise AssertionError("the server did not start")


def find(*names: str) -> str:
    """A program of the system.

    Raises:
        NotHere: there is none.
    """
    for name in names:
        if found := shutil.which(name):
            return found
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), Path("/usr/sbin")]
    for name in names:
        for folder in folders:
            if (folder / name).exists():
                return str(folder / name)
    raise NotHere(names[0])


@contextlib.asynccontextmanager
async def program(
    *argv: str | Path, port: int, user: str | None = None, env: dict[str, str] | None = None
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A server of another program, until the end of the block."""
    options: dict[str, Any] = {"user": user} if user and os.geteuid() == 0 else {}
    process = subprocess.Popen(  # noqa: ASYNC220
        [str(arg) for arg in argv],
        env=None if env is None else os.environ | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        **options,
    )
    try:
        await until_open(port, process)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def folder(user: str | None = None) -> Iterator[Path]:
    """A folder of its own, which this user may write to."""
    with tempfile.TemporaryDirectory(prefix="px", dir="/tmp") as name:
        if user and os.geteuid() == 0:
            shutil.chown(name, user)
        yield Path(name)


def on_a_ring(pid: int) -> bool:
    """Whether a process or one of its children has a ring; True where this run is not to have any."""
    if os.environ["TESTED_LOOP"] != "proactorx" or new_event_loop_name() != "io_uring":
        return True
    pids = [pid]
    for one in pids:
        pids += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    names = [name for one in pids for name in Path(f"/proc/{one}/fd").iterdir()]
    return any("io_uring" in os.readlink(name) for name in names if os.path.lexists(name))


def new_event_loop_name() -> str:
    """The backend that a loop of ours gets here."""
    import proactorx

    loop = proactorx.new_event_loop()
    loop.close()
    return loop.backend_info().name


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[..., Awaitable[None]],
) -> None:
    """An ASGI application: answers with the body of the request, or greets; echoes web sockets."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message.get("text")})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-test", b"yes")]})
    await send({"type": "http.response.body", "body": body or b"hello"})


async def http(steps: Steps, port: int) -> None:
    """The steps of any HTTP server of ``app``: a connection with three requests, an upload, 20 clients."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(3):
        writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        steps.check(head.startswith(b"HTTP/1.1 200"))
        if b"chunked" in head.lower():
            steps.check(b"hello" in await reader.readuntil(b"0\r\n\r\n"))
        else:
            steps.check(await reader.readexactly(5), b"hello")
    writer.close()

    async def upload(size: int) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
        writer.write(head.encode() + b"x" * size)
        answer = await reader.read()
        writer.close()
        return answer.count(b"x") >= size

    steps.check(await upload(1_000_000))
    steps.check(all(await asyncio.gather(*(upload(1000) for _ in range(20)))))
