from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

Cli = Callable[..., CompletedProcess[str]]
Terminal = Callable[..., "tuple[subprocess.Popen[bytes], int]"]

SHORT = ("demo", "--seconds", "0.2", "--connections", "20")


def row(text: str, caption: str) -> list[str]:
    """The cells of the table's line that starts with ``caption``."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split("[│|]", line)]
        if len(cells) > 2 and cells[1] == caption:
            return cells[2:-1]
    raise AssertionError(f"no line {caption!r} in:\n{text}")


def number(text: str) -> float:
    return float(re.sub("[^0-9.]", "", text))


def test_piped(cli: Cli, driver_name: str, running: str) -> None:
    """Plain text that holds every figure, on the driver that was asked for."""
    done = cli(*SHORT, "--backend", driver_name)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert re.search(rf"driver +{running}\b", done.stdout)
    assert re.search(r"why +\w", done.stdout)
    assert "20 connections, each sending 1,024 bytes" in done.stdout
    for caption in (
        "requests per second",
        "latency p50",
        "latency p90",
        "latency p99",
        "server CPU per request",
    ):
        ours, theirs, ratio = row(done.stdout, caption)
        assert number(ours) > 0
        assert number(theirs) > 0
        assert re.fullmatch(r"equal|\d+\.\d\d x (better|worse)", ratio)
    assert done.stdout.count("█") > 40
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_where_io_uring_is_refused_it_says_why(cli: Cli, refused: Callable[[str], tuple[str, ...]]) -> None:
    done = cli(*SHORT, python=refused("EPERM"))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"why +io_uring: .*EPERM", done.stdout)
    done = cli(*SHORT, python=refused("SIGSYS"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "SIGSYS" in done.stderr
    assert "--backend epoll" in done.stderr


@pytest.mark.exhaustive
def test_large_requests(cli: Cli) -> None:
    done = cli("demo", "--seconds", "0.2", "--connections", "3", "--size", "3000000")
    assert (done.returncode, done.stderr) == (0, "")
    assert number(row(done.stdout, "requests per second")[0]) > 0


@pytest.mark.exhaustive
def test_a_single_connection_and_byte_in_ascii(cli: Cli) -> None:
    done = cli("demo", "--seconds", "0.2", "--connections", "1", "--size", "1", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "1 connection, each sending 1 byte at a time" in done.stdout


@pytest.mark.exhaustive
def test_warnings_as_errors(cli: Cli) -> None:
    done = cli(*SHORT, PYTHONWARNINGS="error", PYTHONDEVMODE="1")
    # asyncio's debug mode speaks of callbacks that took long, which says something of the machine only.
    said = [
        line
        for line in done.stderr.splitlines()
        if not line.startswith(("Executing <", "proactorx: the demo's"))
    ]
    assert (done.returncode, said) == (0, [])


def test_without_rich_it_names_the_extra(cli: Cli, no_rich: str) -> None:
    done = cli("demo", PYTHONPATH=no_rich)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'proactorx[cli]'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of open files")
@pytest.mark.exhaustive
def test_few_open_files_allowed(cli: Cli) -> None:
    """It makes do with fewer connections and says so."""
    limited = ("sh", "-c", 'ulimit -n 64 && exec "$0" "$@"', sys.executable)
    done = cli("demo", "--seconds", "0.2", python=limited)
    assert (done.returncode, done.stderr) == (0, "")
    cut = re.search(r"Connections cut from 300 to (\d+)", done.stdout)
    assert cut is not None
    assert f"{cut[1]} connections, each sending" in done.stdout


def read_until(terminal: int, wanted: bytes = b"") -> bytes:
    """What appears on the terminal until ``wanted`` does, or until nothing holds its other end any more."""
    seen = b""
    while not wanted or wanted not in seen:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # how Linux says that the last process has gone
            data = b""
        if not data:
            break
        seen += data
    return seen


def test_on_a_terminal(terminal: Terminal) -> None:
    """Colours, and a progress bar that is gone at the end."""
    process, screen = terminal(*SHORT)
    seen = read_until(screen).decode()
    assert process.wait(10) == 0
    assert "round 1 of 1: asyncio" in seen
    assert "\x1b[32m" in seen
    assert "\x1b[2K" in seen  # the bar's line is erased
    assert seen.index("round 1 of 1") < seen.index("proactorx demo")


def test_ctrl_c(terminal: Terminal) -> None:
    """One line, the shell's usual exit code, and no process left behind to hold the terminal."""
    process, screen = terminal("demo", "--seconds", "2.5", "--connections", "5")
    assert b"round 1 of 5: asyncio" in read_until(screen, b"round 1 of 5: asyncio")
    os.write(screen, b"\x03")
    seen = read_until(screen)
    assert process.wait(10) == 130
    assert b"proactorx: interrupted" in seen
    assert b"Traceback" not in seen
