from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from .test_demo import number, read_until, row

Cli = Callable[..., CompletedProcess[str]]
Terminal = Callable[..., "tuple[subprocess.Popen[bytes], int]"]

SHORT = ("demo", "threads", "--seconds", "2")


def charts(text: str) -> dict[str, list[int]]:
    """What stands behind the three lines of each chart."""
    return {
        what: [int(most) for most in re.findall(rf"   {what} .* at most (\d+)\n", text)]
        for what in ("threads", "busy", "queued")
    }


def test_piped(cli: Cli, driver_name: str, running: str) -> None:
    """The whole picture, once: both pools grew and shrank, and neither kept the other waiting."""
    done = cli(*SHORT, "--backend", driver_name)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert f"on the driver {running}." in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stdout.count("0 threads, 0 busy, 0 queued now") == 2
    most = charts(done.stdout)
    assert all(count >= 2 for count in most["threads"])
    assert most["busy"][0] == most["threads"][0]
    assert most["busy"][1] > 2
    assert all(count >= 2 for count in most["queued"])
    assert re.search(r"\d started: packets waited", done.stdout)
    assert re.search(r"\d ended: nothing to do", done.stdout)
    for phase, slow in (("workers saturated", 0), ("IO callbacks block", 1)):
        waits = [number(cell) for cell in row(done.stdout, phase)]
        assert waits[slow] > waits[1 - slow]


@pytest.mark.exhaustive
def test_in_ascii_with_warnings_as_errors(cli: Cli) -> None:
    done = cli(*SHORT, PYTHONIOENCODING="ascii", PYTHONWARNINGS="error")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


def test_a_driver_that_cannot_start(cli: Cli, refused: Callable[[str], tuple[str, ...]]) -> None:
    done = cli(*SHORT, "--backend", "io_uring", python=refused("EPERM"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "EPERM" in done.stderr
    assert done.stderr.startswith("proactorx: ")


def test_without_rich_it_names_the_extra(cli: Cli, no_rich: str) -> None:
    done = cli("demo", "threads", PYTHONPATH=no_rich)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'proactorx[cli]'" in done.stderr


def test_on_a_terminal(terminal: Terminal) -> None:
    """It is drawn again and again while it runs, and at the end once more, whole."""
    process, screen = terminal(*SHORT)
    seen = read_until(screen).decode()
    assert process.wait(10) == 0
    phases = re.findall(r"of 2 s: ([\w ]+\w)", seen)
    assert list(dict.fromkeys(phases)) == ["calm", "workers saturated", "IO callbacks block", "rest"]
    assert len(phases) > 20
    assert "\x1b[2K" in seen
    assert seen.rindex("a short call waited at most") > seen.rindex("of 2 s:")


def test_ctrl_c(terminal: Terminal) -> None:
    process, screen = terminal("demo", "threads", "--seconds", "30")
    assert b"workers saturated" in read_until(screen, b"of 30 s: workers saturated")
    os.write(screen, b"\x03")
    seen = read_until(screen)
    assert process.wait(10) == 130
    assert b"proactorx: interrupted" in seen
    assert b"Traceback" not in seen
