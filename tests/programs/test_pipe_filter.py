"""The filter of examples/, in pipelines: what a shell user does with it, on every driver."""

from __future__ import annotations

import subprocess
import sys

import pytest
from serving import EXAMPLES, PATIENCE, environment

pytestmark = pytest.mark.programs

FILTER = (sys.executable, "-W", "error", str(EXAMPLES / "pipe_filter.py"))


def run(driver: str, *command: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    done = subprocess.run(
        [*FILTER, "--backend", driver, *command],
        input=stdin,
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_lines_are_numbered(driver_name: str) -> None:
    assert run(driver_name, "sort", stdin=b"pear\napple\n") == (0, b"     1  apple\n     2  pear\n", b"")


def test_some_mib_pass_through(driver_name: str) -> None:
    lines = [b"%047d" % n for n in range(50_000)]
    code, out, err = run(driver_name, "cat", stdin=b"\n".join(lines) + b"\n")
    assert (code, err) == (0, b"")
    assert [line[8:] for line in out.splitlines()] == lines


def test_the_command_ends_before_its_input(driver_name: str) -> None:
    code, out, err = run(driver_name, "head", "-n", "1", stdin=b"line\n" * 500_000)
    assert (code, out, err) == (0, b"     1  line\n", b"")


def test_the_exit_code_is_the_commands(driver_name: str) -> None:
    assert run(driver_name, "sh", "-c", "exit 3") == (3, b"", b"")
    assert run(driver_name, "sh", "-c", "kill -9 $$") == (137, b"", b"")


def test_a_command_that_does_not_exist(driver_name: str) -> None:
    code, out, err = run(driver_name, "no-such-command-anywhere")
    assert (code, out) == (1, b"")
    assert err == b"no-such-command-anywhere: No such file or directory\n"


def test_nobody_reads_its_output(driver_name: str) -> None:
    """As in ``... | head``: it ends, and ends the command."""
    process = subprocess.Popen(
        [*FILTER, "--backend", driver_name, "yes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"     1  y\n"
        process.stdout.close()
        assert process.wait(PATIENCE) == 143
        assert process.stderr.read() == b""
