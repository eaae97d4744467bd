"""Real gunicorn, whose workers run uvicorn on the loop: a graceful stop."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from outside.support import LIMIT, dial, environment, eventually

pytest.importorskip("gunicorn")
pytest.importorskip("uvicorn")
pytestmark = pytest.mark.programs

WORKER = "support.gunicorn_worker.Worker"


class Gunicorn:
    """gunicorn with this application, and what it has printed so far."""

    def __init__(self, word: str, folder: Path, *options: str) -> None:
        self.gate = folder / "gate"
        self.gate.touch()
        self._log = folder / "log"
        loop = word if word == "asyncio" else f"proactorx.{word}"
        env = environment(word) | {"TESTED_LOOP": loop, "GATE": str(self.gate)}
        tests = str(Path(__file__).parents[1])
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [tests, env.get("PYTHONPATH")]))
        argv = [sys.executable, "-m", "gunicorn", "-k", WORKER, "--bind", "127.0.0.1:0"]
        argv += ["--no-control-socket", "--graceful-timeout", "20", *options, "outside.gunicorn_app:app"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(argv, env=env, cwd=folder, stdout=log, stderr=log)

    @property
    def printed(self) -> str:
        return self._log.read_text(errors="replace")

    def find(self, pattern: str) -> re.Match[str]:
        """The first match in what it prints."""
        eventually(lambda: re.search(pattern, self.printed) or self.process.poll() is not None, pattern)
        found = re.search(pattern, self.printed)
        assert found is not None, self.printed
        return found

    @property
    def address(self) -> tuple[str, int]:
        found = self.find(r"Listening at: http://(.+):(\d+)")
        return found[1], int(found[2])


@contextlib.contextmanager
def gunicorn(word: str, folder: Path, *options: str) -> Iterator[Gunicorn]:
    """Killed at the end, if it runs still."""
    program = Gunicorn(word, folder, *options)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.process.send_signal(signal.SIGQUIT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.process.wait(LIMIT)
            program.process.kill()
            program.process.wait()


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_graceful_stop_answers_the_requests_in_flight(word: str, tmp_path: Path, workers: int) -> None:
    """Each worker ends with 0, and the log has no complaint."""
    with (
        gunicorn(word, tmp_path, "--workers", str(workers), "--log-level", "debug") as server,
        ExitStack() as stack,
    ):
        with dial(server.address) as other:
            other.send(get("/pid"))
            assert other.take_all().startswith(b"HTTP/1.1 200")
        clients = [stack.enter_context(dial(server.address)) for _ in range(4)]
        for client in clients:
            client.send(get("/slow"))
        server.find("(?s)(in flight.*){4}")
        server.process.send_signal(signal.SIGTERM)
        server.find("Handling signal: term")
        assert clients[0].silent(0.5)
        server.gate.unlink()
        for client in clients:
            assert client.take_all().startswith(b"HTTP/1.1 200"), server.printed
        assert server.process.wait(LIMIT) == 0, server.printed
        for complaint in ("exited with code", "Worker exited", "Traceback"):
            assert complaint not in server.printed
        assert "was sent SIG" not in server.printed.replace("was sent SIGTERM", ""), server.printed
