"""The clock that turns are measured with, in C: beside the kernel's, which it stands for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from port.test_races import build, run, with_sources

SOURCE = (Path(__file__).parent / "ticks.c").read_text()
PRECISION = 1000
"""ns."""

pytestmark = [with_sources, pytest.mark.skipif(sys.platform == "win32", reason="the C compiler is Linux's")]


def test_on_hardware_that_is_made_up(tmp_path: Path) -> None:
    """A counter that the kernel corrects, interrupted readings, long sleeps, moves to other machines."""
    done = run(build("address,undefined", SOURCE, tmp_path))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert 0 < int(done.stdout) < PRECISION


def test_on_this_machine(tmp_path: Path) -> None:
    done = run(build("address,undefined", "#define REAL\n" + SOURCE, tmp_path))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert int(done.stdout) < PRECISION


def test_an_error_is_found(tmp_path: Path) -> None:
    """... of two parts in a thousand in the length of a tick."""
    header = (Path(__file__).parents[2] / "proactorx" / "sys" / "ticks.h").read_text()
    right = "clock->rate = (double)span /"
    assert header.count(right) == 1
    wrong = header.replace(right, "clock->rate = 1.002 * (double)span /").replace(
        '"clock.h"', '"proactorx/sys/clock.h"'
    )
    (tmp_path / "wrong.h").write_text(wrong)
    done = run(build("address,undefined", SOURCE.replace('"proactorx/sys/ticks.h"', '"wrong.h"'), tmp_path))
    assert done.returncode or int(done.stdout) > PRECISION
