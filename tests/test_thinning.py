"""The short run leaves out what it should, and nothing where something is asked for by name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import thinning

TESTS = Path(__file__).parent
FILE = "tests/pool/test_calls.py"
ALL = ("-m", "exhaustive or not exhaustive")

SLOW = pytest.mark.timeout(200)  # each collection is a process


def collected(*arguments: str) -> set[str]:
    """The tests that a run with these arguments would have."""
    command = (sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments)
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(re.findall(r"^tests/\S+::.*", done.stdout, re.MULTILINE))


def test_what_is_listed_exists() -> None:
    for name in [*thinning.KEPT, *thinning.ANY_PYTHON]:
        path, _, function = name.partition("::")
        assert (TESTS / path).exists(), name
        assert not function or f"def {function}(" in (TESTS / path).read_text()


@SLOW
@pytest.mark.exhaustive
def test_a_folder_is_thinned_and_nothing_is_lost() -> None:
    short, everything = collected("tests/pool"), collected("tests/pool", *ALL)
    assert short < everything
    assert {name.split("[")[0] for name in short} == {name.split("[")[0] for name in everything}
    assert any(name.endswith("[asyncio]") for name in short)


@pytest.mark.exhaustive
@SLOW
def test_another_python_is_asked_what_it_can_change() -> None:
    everything = collected("tests/port", "--driver=auto", "--no-stock")
    left = collected("tests/port", "--driver=auto", "--no-stock", "--other-python")
    out = {name for name in everything - left if not re.search(r"\[(.*-)?io_uring-(small|plain)", name)}
    assert {name.partition("::")[0] for name in out} == {"tests/port/test_races.py"}


@pytest.mark.exhaustive
@SLOW
@pytest.mark.parametrize("arguments", [(FILE,), ("tests/pool", "--driver=select", "--no-stock")])
def test_what_is_named_is_run_in_full(arguments: tuple[str, ...]) -> None:
    found = [name for name in collected(*arguments) if name.startswith(FILE)]
    assert any(re.search(r"\[(.*-)?select", name) for name in found)
