"""The program behind the tables of the documentation still runs."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import proactorx

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="Linux and a C compiler"
)

#: A loop that has no timers.
BROKEN = """
import asyncio

class new_event_loop(asyncio.SelectorEventLoop):
    def call_later(self, *args):
        raise ValueError("no timers here")
"""


def _measure(out: Path, loops: str, rows: str, beside: str = "") -> tuple[str, list[dict[str, Any]]]:
    """What the program says of failures, and the samples that it wrote."""
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "loops.py"), "--loops", loops]
    # Longer than the 100 ms for which another real-time process, of another measurement, may have the core.
    short = ["--rounds", "2", "--seconds", "0.25", "--warmup", "0.02", "--rows", rows, "--json", str(out)]
    path = [str(Path(proactorx.__file__).parents[1]), beside, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run([*command, *short], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr, json.loads(out.read_text())["samples"]


def test_loops_measures_a_server_and_a_call(tmp_path: Path) -> None:
    rows = "echo, 64 B|HTTP, parsed|UDP, 1 KiB$|`call_soon`|readline"
    complaints, samples = _measure(tmp_path / "out.json", "epoll,asyncio,C", rows)
    assert complaints == ""
    found = {(one["row"], one["loop"]): one for one in samples}
    echo = "protocol echo, 64 B, 10 connections"
    assert {loop for row, loop in found if row == echo} == {"epoll", "asyncio", "C"}
    assert len({row for row, _ in found}) == 5
    for one in samples:
        assert len(one["rounds"]) == 2
        assert one["cpu"] > 0
        assert one["rate"] > 0
        assert one["ratio"] > 0
    assert found[echo, "asyncio"]["ratio"] == 1


def test_loops_says_what_failed(tmp_path: Path) -> None:
    """And the other loops of the row are measured all the same."""
    (tmp_path / "broken.py").write_text(BROKEN)
    complaints, samples = _measure(tmp_path / "out.json", "asyncio,broken", "call_later", str(tmp_path))
    row = "`call_later`, `cancel`"
    assert complaints.splitlines() == [f"{row}, broken: ValueError: no timers here"] * 2
    measured, failed = samples
    assert (measured["loop"], measured["ratio"]) == ("asyncio", 1)
    assert failed == {"row": row, "loop": "broken", "failed": "ValueError: no timers here"}


def test_a_ratio_is_taken_to_uvloop_on_the_same_python() -> None:
    """To uvloop on another one where this has none, and else to asyncio."""
    sys.path.insert(0, str(ROOT / "tests" / "benchmarks"))
    try:
        base_of = importlib.import_module("loops").base_of
    finally:
        sys.path.pop(0)
    loops = ["asyncio", "epoll", "uvloop", "epoll@python3.14", "uvloop@python3.14", "epoll@python3.12"]
    assert [base_of(one, loops) for one in loops] == [
        *("uvloop", "uvloop", "uvloop"),
        *("uvloop@python3.14", "uvloop@python3.14", "uvloop"),
    ]
    assert base_of("epoll", ["epoll", "asyncio"]) == "asyncio"
