"""The life of an op: each step that it does not have ends a checked build, and says so."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest

from proactorx.ops.op import CHECKED, Op, take_step

STATES = ("NEW", "IN_FLIGHT", "CANCELLING", "ORPHANED", "DONE")
#: Which steps lead to each state from NEW.
WAY = {
    "NEW": (),
    "IN_FLIGHT": ("IN_FLIGHT",),
    "CANCELLING": ("IN_FLIGHT", "CANCELLING"),
    "ORPHANED": ("IN_FLIGHT", "ORPHANED"),
    "DONE": ("DONE",),
}
LEGAL = {
    *(("NEW", "NEW"), ("NEW", "IN_FLIGHT"), ("NEW", "DONE"), ("DONE", "NEW")),
    *(("IN_FLIGHT", "CANCELLING"), ("IN_FLIGHT", "ORPHANED"), ("IN_FLIGHT", "DONE")),
    *(("CANCELLING", "ORPHANED"), ("CANCELLING", "DONE"), ("ORPHANED", "DONE")),
}
ILLEGAL = sorted(set(itertools.product(STATES, STATES)) - LEGAL)
PROGRAM = """
import sys
from proactorx.ops.op import Op, take_step
op = Op()
for state in map(int, sys.argv[1:]):
    take_step(op, state)
"""


@pytest.mark.parametrize("step", sorted(LEGAL), ids="-".join)
def test_a_step_of_its_life(step: tuple[str, str]) -> None:
    before, after = step
    op = Op()
    for state in (*WAY[before], after):
        take_step(op, STATES.index(state))
    assert op.state_name == after


@pytest.mark.skipif(not CHECKED, reason="this build does not check")
@pytest.mark.parametrize("step", ILLEGAL, ids="-".join)
def test_a_step_that_it_does_not_have(step: tuple[str, str]) -> None:
    before, after = step
    steps = [str(STATES.index(state)) for state in (*WAY[before], after)]
    run = subprocess.run(
        [sys.executable, "-X", "faulthandler=0", "-c", PROGRAM, *steps],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONFAULTHANDLER": ""},
    )
    assert run.returncode != 0
    assert "an op took a step that its life does not have" in run.stderr
