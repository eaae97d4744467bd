"""Programs for the tests of this folder: started as a user would, listened to, stopped,
and judged by their end.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
PATIENCE = 15.0  # seconds: for a step that takes one on a busy machine


def environment(driver: str | None = None) -> dict[str, str]:
    """The environment of a program that uses proactorx: the one under test, on this driver."""
    spec = importlib.util.find_spec("proactorx")
    assert spec is not None
    assert spec.origin is not None
    found = str(Path(spec.origin).parents[1])
    env = {**os.environ, "PYTHONPATH": found, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    if driver is not None:
        env["PROACTORX_BACKEND"] = driver
    return env


class Program:
    """A program that runs, and what it has printed so far (on both of its outputs,
    as a terminal would show them).
    """

    def __init__(self, argv: Sequence[str | Path], env: dict[str, str], cwd: Path = ROOT) -> None:
        self.argv = [str(arg) for arg in argv]
        self.printed = ""
        self.stopped = False
        self._changed = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            self.argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            while data := os.read(stdout.fileno(), 64 * 1024):
                with self._changed:
                    self.printed += data.decode(errors="replace")
                    if sys.platform == "win32":
                        self.printed = self.printed.replace("\r\n", "\n")
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wait_for(self, pattern: str, patience: float = PATIENCE) -> re.Match[str]:
        """The first match of the pattern in what the program prints."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or re.search(pattern, self.printed), patience)
            found = re.search(pattern, self.printed)
        if found is None:
            state = "ended" if self._ended else "runs"
            self.fail(f"has not printed {pattern!r} and {state}")
        return found

    def wait(self, patience: float = PATIENCE) -> int:
        """Its exit code, when it has ended and all that it printed has been read."""
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # the stack of each thread, if it is a Python
            self._reader.join(PATIENCE)
            self.fail("did not end")
        self._reader.join(PATIENCE)
        return code

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code, after this signal (if it has not been stopped before)."""
        if not self.stopped:
            self.stopped = True
            self.process.send_signal(signum)
        return self.wait()

    def open_files(self) -> list[str]:
        """What its descriptors lead to (Linux)."""
        folder = Path(f"/proc/{self.process.pid}/fd")
        names = []
        for link in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                names.append(os.readlink(link))
        return names

    def fail(self, what: str) -> None:
        raise AssertionError(f"{' '.join(self.argv)}: {what}; it printed:\n{self.printed}")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(PATIENCE)


@contextlib.contextmanager
def running(*argv: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT) -> Iterator[Program]:
    """The program, killed at the end if the test has not stopped it."""
    program = Program(argv, environment() if env is None else env, cwd)
    try:
        yield program
    finally:
        program.kill()


class Server(Program):
    """A program that has printed where it listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def connect(self, timeout: float = PATIENCE) -> socket.socket:
        return socket.create_connection(self.address, timeout)

    def find_address(self, pattern: str) -> None:
        found = self.wait_for(pattern)
        self.host, self.port = found[1].strip("[]"), int(found[2])


Start = Callable[..., Server]  # the name of an example, a driver, and arguments of the example's own


@contextlib.contextmanager
def script(path: Path, driver: str, *args: str | Path) -> Iterator[Server]:
    """A script with the command line of the examples; it must end well on SIGTERM without a complaint."""
    argv = [sys.executable, "-W", "error", path, "--port", "0", "--backend", driver, *args]
    server = Server(argv, environment())
    try:
        server.find_address(r"\Alistening on (.+):(\d+)\n")
        yield server
        if not server.stopped and server.process.poll() is not None:
            server.fail(f"has ended by itself, with code {server.process.returncode}")
        if (code := server.stop()) != 0:
            server.fail(f"ended with code {code}")
    finally:
        server.kill()


def complaints(printed: str) -> list[str]:
    """The lines of a program's output that would alarm its user."""
    alarming = re.compile(
        r"Traceback|Warning|\bERROR\b|\bCRITICAL\b|Fatal|Exception|never retrieved|was destroyed"
    )
    return [line for line in printed.splitlines() if alarming.search(line)]


def tool(name: str) -> str:
    """The path of a real program; without it the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs the program {name}")
    return path


def call(name: str, *args: str | Path, stdin: bytes = b"", code: int = 0) -> str:
    """Run a real program to its end, which must be this code; what it printed on its standard output."""
    done = subprocess.run(
        [tool(name), *args], input=stdin, capture_output=True, timeout=3 * PATIENCE, check=False
    )
    assert done.returncode == code, f"{name} {args}: code {done.returncode}\n{done.stdout!r}\n{done.stderr!r}"
    return done.stdout.decode()


def curl(*args: str | Path, stdin: bytes = b"", code: int = 0) -> str:
    """curl without its progress bar and without anybody's proxy or configuration."""
    return call(
        "curl", "--disable", "-sS", "--noproxy", "*", "--max-time", "20", *args, stdin=stdin, code=code
    )


def wrk(url: str, *, connections: int = 50) -> int:
    """One second of wrk without a single error; how many requests were answered."""
    report = call("wrk", "-d", "1s", "-t", "2", "-c", str(connections), url)
    assert "Socket errors" not in report, report
    assert "Non-2xx" not in report, report
    found = re.search(r"(\d+) requests in", report)
    assert found is not None, report
    return int(found[1])
