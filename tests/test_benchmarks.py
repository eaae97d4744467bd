"""The program behind the tables of the documentation still runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import proactorx

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="Linux and a C compiler")
def test_loops_measures_a_server_and_a_call(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    rows = "echo, 64 B|HTTP, parsed|UDP, 1 KiB$|`call_soon`|readline"
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "loops.py"), "--loops", "epoll,asyncio,C"]
    short = ["--rounds", "2", "--seconds", "0.05", "--warmup", "0.02", "--rows", rows, "--json", str(out)]
    path = os.pathsep.join([str(Path(proactorx.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([*command, *short], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    samples = json.loads(out.read_text())["samples"]
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
