"""The flight recorder: what it has is compared with the counters, and the file with the format."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from loop.helpers import BOUND, Thread

import proactorx
from proactorx.observe.trace import TRACKS

pytestmark = pytest.mark.ours

Loop = proactorx.EventLoop


def trace(loop: Loop, path: Path) -> dict[str, list[dict[str, Any]]]:
    """The events of a loop's trace, by track."""
    count = loop.record_to(path)
    content = json.loads(path.read_text())
    assert len(content["traceEvents"]) == count
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TRACKS.values()}
    for event in content["traceEvents"]:
        assert event["ph"] in ("X", "M")
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert event["pid"] == loop._number
            found[TRACKS[event["tid"]]].append(event)
    return found


def test_turns_are_recorded(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        await asyncio.sleep(0.03)

    loop.run_until_complete(main())
    stats = loop.stats()
    found = trace(loop, tmp_path / "trace.json")
    turns = found["turns"]
    assert len(turns) == stats.turn_length.count - 1  # what the first one did is not known
    assert sum(turn["args"]["callbacks"] for turn in turns) <= stats.callbacks
    assert sum(turn["dur"] for turn in turns) <= stats.turn_length.total * 1e6 + 1
    assert 0 < sum(sleep["dur"] for sleep in found["sleeps"]) <= stats.idle * 1e6 + 1
    starts = [turn["ts"] for turn in turns]
    assert starts == sorted(starts)
    assert all(one["ts"] + one["dur"] <= two["ts"] + 0.01 for one, two in itertools.pairwise(turns))


def test_only_the_last_ones_are_kept(loop: Loop, tmp_path: Path) -> None:
    def again(left: int) -> None:
        if left:
            loop.call_soon(again, left - 1)
        else:
            loop.stop()

    loop.call_soon(again, 70_000)
    loop.run_forever()
    turns = trace(loop, tmp_path / "trace.json")["turns"]
    assert 65_000 < len(turns) <= 65_536
    assert all(turn["args"]["callbacks"] == 1 for turn in turns)


def test_of_a_loop_that_has_not_run(loop: Loop, tmp_path: Path) -> None:
    assert trace(loop, tmp_path / "trace.json") == {name: [] for name in TRACKS.values()}


def test_another_thread_writes_it_while_the_loop_runs(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        while not done.is_set():
            await asyncio.sleep(0)

    def write() -> None:
        try:
            for _ in range(3):
                time.sleep(0.02)
                turns = trace(loop, tmp_path / "trace.json")["turns"]
                starts = [turn["ts"] for turn in turns]
                assert starts == sorted(starts)
        finally:
            done.set()

    done = threading.Event()
    thread = Thread(write)
    thread.start()
    loop.run_until_complete(main())
    thread.finish()


def test_stalls_are_in_it(loop: Loop, tmp_path: Path) -> None:
    ended = threading.Event()

    async def main() -> None:
        time.sleep(0.2)
        async with asyncio.timeout(BOUND):
            while not ended.is_set():
                await asyncio.sleep(0.002)

    loop.watch(0.05, report=lambda stall: ended.set() if stall.phase == "ends" else None)
    loop.run_until_complete(main())
    stalls = trace(loop, tmp_path / "trace.json")["stalls"]
    assert stalls
    assert "report" in stalls[0]["args"]
