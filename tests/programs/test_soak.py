"""Hundreds of rounds of connecting, echoing, aborting, cancelling and restarting leave nothing behind.

And hundreds of TLS handshakes, most of which fail.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from serving import environment, running

pytestmark = pytest.mark.programs

FAIL = ("without_the_certificate", "not_trusted", "wrong_version")


def _nothing_grew(*argv: str | Path) -> list[dict[str, Any]]:
    """What the program has printed.  The first batches may fill caches and pools;
    the last may add but noise.
    """
    with running(sys.executable, "-W", "error", *argv, env=environment()) as soak:
        code = soak.wait(50)
    assert code == 0, soak.printed
    lines = soak.printed.splitlines()
    assert all(line.startswith("{") for line in lines), soak.printed
    _, early, *_, last = held = [json.loads(line) for line in lines]
    assert last["fds"] == early["fds"], held
    assert last["threads"] <= early["threads"], held
    assert last["objects"] - early["objects"] < 500, held
    assert last["rss"] - early["rss"] < 1 << 20, held
    return held


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
def test_nothing_grows(driver_name: str) -> None:
    program = Path(__file__).with_name("soak.py")
    _nothing_grew(program, "--backend", driver_name, "--batches", "5", "--rounds", "60")


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
@pytest.mark.exhaustive
def test_nothing_is_left_of_handshakes(driver_name: str, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    options = ("--backend", driver_name, "--certificate", cert, "--key", key)
    program = Path(__file__).with_name("handshakes.py")
    *_, last = _nothing_grew(program, *options, "--batches", "4", "--count", "240")
    ended = last["ended"]
    assert sum(ended.values()) == 960
    assert [ended.get(f"{kind}: done", 0) for kind in ("good", "with_a_certificate", "rude")] == [120] * 3
    assert [how for how in ended if how in {f"{kind}: done" for kind in FAIL}] == []
    assert {how.partition(":")[0] for how in ended} >= {"cancelled", "upgraded", *FAIL}
