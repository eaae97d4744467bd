"""Hundreds of rounds of connecting, echoing, aborting, cancelling and restarting leave nothing behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from serving import environment, running

pytestmark = pytest.mark.programs


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_nothing_grows(driver_name: str) -> None:
    """The first batches may fill caches and pools; the last may add nothing but noise to the second."""
    program = Path(__file__).with_name("soak.py")
    argv = (sys.executable, "-W", "error", program, "--backend", driver_name, "--batches", "5", "--rounds", "60")
    with running(*argv, env=environment()) as soak:
        code = soak.wait(50)
    assert code == 0, soak.printed
    lines = soak.printed.splitlines()
    assert all(line.startswith("{") for line in lines), soak.printed
    _, early, *_, last = held = [json.loads(line) for line in lines]
    assert last["fds"] == early["fds"], held
    assert last["threads"] <= early["threads"], held
    assert last["objects"] - early["objects"] < 500, held
    assert last["rss"] - early["rss"] < 4 << 20, held
