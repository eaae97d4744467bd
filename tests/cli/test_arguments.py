from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import proactorx

Cli = Callable[..., CompletedProcess[str]]


def test_no_arguments_shows_the_help(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 2
    assert done.stdout.startswith("usage: python -m proactorx [-h] [--version] COMMAND ...")
    assert {"demo", "probe", "run"} <= set(done.stdout.split())


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout) == (0, f"proactorx {proactorx.__version__}\n")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("demo", ["[{echo,threads}]", "--connections N", "--seconds S", "--backend B", "--size BYTES"]),
        ("probe", ["--json"]),
        ("run", ["--backend B", "-m MODULE", "SCRIPT", "[ARG ...]"]),
    ],
)
def test_help_of_a_command(cli: Cli, command: str, options: list[str]) -> None:
    done = cli(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: python -m proactorx {command} [-h]")
    for option in options:
        assert option in done.stdout


WRONG = [
    (["--bogus", "probe"], "--bogus"),
    (["demo", "--connections", "many"], "argument --connections: 'many' is not a whole number"),
    (["demo", "--size", "1e3"], "argument --size: '1e3' is not a whole number"),
    (["demo", "--seconds", "soon"], "argument --seconds: 'soon' is not a number of seconds"),
    (["demo", "--seconds", "nan"], "argument --seconds: nan is not between"),
    (["demo", "files"], "argument what: invalid choice: 'files'"),
    (["demo", "--sec=1"], "unrecognized arguments: --sec=1"),
    (["run", "--backend"], "argument --backend: expected one argument"),
    (["run", "-m"], "argument -m: expected one argument"),
    (["run", "--"], "one of the arguments -m SCRIPT is required"),
    (["run", "--bogus", "script.py"], "unrecognized arguments: --bogus"),
]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["dance"], "invalid choice: 'dance'"),
        (["demo", "--connections", "0"], "argument --connections: 0 is not between 1 and"),
        (["run"], "one of the arguments -m SCRIPT is required"),
        *(
            pytest.param(words, complaint, marks=pytest.mark.exhaustive)  # the same parser
            for words, complaint in WRONG
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_word_is_named(cli: Cli, words: list[str], complaint: str) -> None:
    done = cli(*words)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", [["demo"], ["run", "script.py"]], ids=["demo", "run"])
def test_an_unknown_backend_is_named(cli: Cli, command: list[str]) -> None:
    done = cli(command[0], "--backend", "abacus", *command[1:])
    assert done.returncode == 2
    assert "argument --backend: invalid choice: 'abacus'" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="iocp starts here")
@pytest.mark.parametrize("command", [["demo"], ["run", "script.py"]], ids=["demo", "run"])
def test_a_backend_that_cannot_start_is_named(cli: Cli, tmp_path: Path, command: list[str]) -> None:
    """In one line, before anything else happens."""
    (tmp_path / "script.py").write_text("print('started')")
    done = cli(command[0], "--backend", "iocp", *command[1:])
    assert (done.returncode, done.stdout) == (1, "")
    assert "iocp" in done.stderr
    assert done.stderr.count("\n") == 1
