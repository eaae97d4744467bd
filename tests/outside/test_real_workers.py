"""uvicorn with several worker processes, and gunicorn: each worker has its share,
and an upload holds up nobody.
"""

from __future__ import annotations

import collections
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .support import LIMIT, Flood, Peer, Thread, dial, environment, eventually, state_of

pytestmark = pytest.mark.programs

APPLICATION = '''
import hashlib, os, time

async def app(scope, receive, send):
    """Says which process it is; works a little for each request; digests what is uploaded;
    blocks when asked to.
    """
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/upload":
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            hashlib.sha256(message.get("body", b"")).digest()
    elif scope["path"] == "/block":
        time.sleep(60)
    else:
        time.sleep(0.003)
    body = b"process %d." % os.getpid()
    await send({"type": "http.response.start", "status": 200, "headers": [
        (b"content-length", b"%d" % len(body)), (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
'''


class Server:
    """A real server, started by its own command line."""

    def __init__(self, word: str, folder: Path, *argv: str) -> None:
        (folder / "application.py").write_text(APPLICATION)
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        env = environment(word)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), env.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", *argv],
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=folder,
            start_new_session=True,
        )

    @property
    def printed(self) -> str:
        return os.pread(self.log.fileno(), 1 << 20, 0).decode(errors="replace")

    def until(self, pattern: str, limit: float = 60) -> re.Match[str]:
        """The first match in what it prints."""

        def there() -> bool:
            assert self.process.poll() is None, f"it has ended:\n{self.printed}"
            return re.search(pattern, self.printed) is not None

        eventually(there, f"{pattern} in:\n{self.printed}", limit)
        found = re.search(pattern, self.printed)
        assert found is not None
        return found

    def get(self, path: str = "/", limit: float = LIMIT) -> str:
        """The number of the process that answered."""
        with self.begin(path, limit) as peer:
            answer = peer.take_all()
        found = re.search(rb"process (\d+)\.", answer)
        assert found is not None, (answer, self.printed)
        return found[1].decode()

    def begin(self, path: str, limit: float = LIMIT) -> Peer:
        peer = dial(self.address, limit)
        peer.send(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
        return peer

    address: tuple[str, int]

    def shares(self, count: int) -> collections.Counter[str]:
        """Who answered so many requests of four clients."""

        def ask() -> collections.Counter[str]:
            return collections.Counter(self.get() for _ in range(count // 4))

        return sum((client.finish(60) for client in [Thread(ask) for _ in range(4)]), collections.Counter())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        self.log.close()

    def kill(self) -> None:
        """... and its workers, which would go on without it."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def uvicorn(word: str, tmp_path: Path) -> Iterator[Server]:
    """uvicorn with two worker processes."""
    pytest.importorskip(
        "uvicorn", minversion="0.36", reason="the first uvicorn whose --loop takes any factory"
    )
    factory = "asyncio:SelectorEventLoop" if word == "asyncio" else "proactorx:new_event_loop"
    server = Server(
        word, tmp_path, "uvicorn", "application:app", "--port", "0", "--workers", "2", "--loop", factory
    )
    try:
        server.address = ("127.0.0.1", int(server.until(r"running on http://127.0.0.1:(\d+)")[1]))
        server.until(r"(?s)Application startup complete.*Application startup complete")
        yield server
    finally:
        server.close()


def test_uvicorns_workers_have_a_share_each(uvicorn: Server) -> None:
    shares = uvicorn.shares(200)
    assert shares.total() == 200
    assert len(shares) == 2, shares
    assert min(shares.values()) >= 5, shares


def test_a_blocked_worker_of_uvicorn_keeps_nobody(uvicorn: Server) -> None:
    with uvicorn.begin("/block") as blocked:
        time.sleep(0.2)
        before = time.monotonic()
        assert len({uvicorn.get() for _ in range(20)}) == 1
        assert time.monotonic() - before < LIMIT
        blocked.close()
    # The one that is blocked will not end by itself.
    uvicorn.kill()


def test_an_endless_upload_makes_nobody_wait(uvicorn: Server) -> None:
    """Two, so that both workers have one."""
    uploads = []
    try:
        for _ in range(4):
            uploads.append(Upload(uvicorn.address))
        time.sleep(0.3)
        before = time.monotonic()
        for _ in range(10):
            uvicorn.get()
        assert time.monotonic() - before < LIMIT
    finally:
        for upload in uploads:
            upload.__exit__()


class Upload(Flood):
    """A request whose body never ends."""

    def __init__(self, address: Any) -> None:
        super().__init__(
            address,
            size=1 << 18,
            head=b"POST /upload HTTP/1.1\r\nHost: here\r\nContent-Length: 9999999999999\r\n\r\n",
        )


# gunicorn, with uvicorn's worker class and our loop


GUNICORN_WORKER = """
import asyncio
from uvicorn.workers import UvicornWorker

class Worker(UvicornWorker):
    CONFIG_KWARGS = {"loop": FACTORY, "http": "auto", "lifespan": "on"}
"""


@pytest.fixture
def gunicorn(word: str, tmp_path: Path) -> Iterator[Server]:
    """gunicorn with two workers, which hand its own wrapper of the listening socket to the loop."""
    pytest.importorskip("gunicorn")
    pytest.importorskip("uvicorn.workers")
    factory = "asyncio:SelectorEventLoop" if word == "asyncio" else "proactorx:new_event_loop"
    (tmp_path / "worker.py").write_text(GUNICORN_WORKER.replace("FACTORY", repr(factory)))
    server = Server(
        word,
        tmp_path,
        *(
            "gunicorn",
            "application:app",
            "--bind",
            "127.0.0.1:0",
            "--workers",
            "2",
            "--worker-class",
            "worker.Worker",
        ),
        *("--graceful-timeout", "10", "--log-level", "debug"),
    )
    try:
        server.address = ("127.0.0.1", int(server.until(r"Listening at: http://127.0.0.1:(\d+)")[1]))
        server.until(r"(?s)Application startup complete.*Application startup complete")
        yield server
    finally:
        server.close()


def test_gunicorns_workers_have_a_share_each(gunicorn: Server) -> None:
    shares = gunicorn.shares(200)
    assert shares.total() == 200
    assert len(shares) == 2, shares
    assert min(shares.values()) >= 5, shares


def test_a_killed_worker_of_gunicorn_takes_nobody_with_it(gunicorn: Server) -> None:
    victim = int(gunicorn.get())
    os.kill(victim, signal.SIGKILL)
    answered = [gunicorn.get() for _ in range(20)]
    assert str(victim) not in answered
    eventually(lambda: len(gunicorn.shares(40)) >= 2, "the master has started another worker", 60)


def test_a_halted_worker_of_gunicorn_keeps_nobody(gunicorn: Server) -> None:
    victim = int(gunicorn.get())
    os.kill(victim, signal.SIGSTOP)
    eventually(lambda: state_of(victim) == "T", "it is halted")
    assert len({gunicorn.get() for _ in range(20)}) == 1
    os.kill(victim, signal.SIGCONT)
    eventually(lambda: len(gunicorn.shares(40)) == 2, "both serve again", 60)
