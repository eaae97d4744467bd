"""The flight recorder: what it has is compared with the counters, and the file with the format."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from loop.helpers import BOUND, Thread

import proactorx
from observe.planted import FREE_THREADED
from proactorx.observe.trace import TRACKS

pytestmark = pytest.mark.ours

Loop = proactorx.EventLoop


def trace(loop: Loop, path: Path) -> dict[str, list[dict[str, Any]]]:
    """The events of a loop's trace, by track; operations have one each."""
    count = loop.record_to(path)
    content = json.loads(path.read_text())
    assert len(content["traceEvents"]) == count
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*TRACKS.values(), "operations")}
    for event in content["traceEvents"]:
        assert event["ph"] in ("X", "M", "i")
        assert event["pid"] == loop._number
        if event["ph"] == "X":
            assert event["dur"] >= 0
        if event["ph"] != "M":
            found[TRACKS.get(event["tid"], "operations")].append(event)
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
    found = trace(loop, tmp_path / "trace.json")
    assert {name: found[name] for name in TRACKS.values()} == {name: [] for name in TRACKS.values()}


def test_another_thread_writes_it_while_the_loop_runs(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        while not done.is_set():
            await asyncio.sleep(0)

    def write() -> None:
        try:
            for _ in range(2):
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


@pytest.mark.skipif(FREE_THREADED, reason="the owner of an operation may be freed meanwhile")
def test_what_is_there_now(loop: Loop, tmp_path: Path) -> None:
    async def main() -> dict[str, list[dict[str, Any]]]:
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            task = asyncio.create_task(loop.sock_recv(left, 1), name="the receiver")
            await asyncio.sleep(0.01)
            found = trace(loop, tmp_path / "trace.json")
            right.send(b"x")
            await task
            return found

    found = loop.run_until_complete(main())
    (op,) = [event for event in found["operations"] if event["args"]["task"] == "the receiver"]
    (task,) = [event for event in found["tasks"] if event["name"] == "the receiver"]
    assert op["dur"] >= 9_000
    assert task["args"]["state"] == "waiting"


def test_a_page_at_the_end_of_each_stall(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        time.sleep(0.2)
        async with asyncio.timeout(BOUND):
            while not os.listdir(tmp_path):
                await asyncio.sleep(0.002)

    loop.watch(0.05, report=lambda stall: None, traces=tmp_path)
    loop.run_until_complete(main())


def test_a_folder_that_is_not_there(loop: Loop, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        time.sleep(0.2)
        async with asyncio.timeout(BOUND):
            while "the report of a stall failed" not in caplog.text:
                await asyncio.sleep(0.002)

    loop.watch(0.05, report=lambda stall: None, traces=tmp_path / "none")
    loop.run_until_complete(main())


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def browse(page: Path, folder: Path) -> str:
    """What a browser without a network makes of a page, as text."""
    command = [
        *(BROWSER or "", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND"),
        *("--virtual-time-budget=2000", "--dump-dom", page.as_uri()),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=2 * BOUND, check=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium")
def test_a_browser_draws_the_page(tmp_path: Path) -> None:
    """... what its script has worked out is in it, and so is that the canvas has colours."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        asyncio.current_task().set_name("</script><b>task</b>")  # type: ignore[union-attr]
        for _ in range(100):
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        path = tmp_path / "trace.html"
        loop.record_to(path)  # type: ignore[attr-defined]
        look = (
            "<script>(async () => { const pen = canvas.getContext('2d');"
            "const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;"
            "const seen = new Set();"
            "for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255)"
            " seen.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);"
            "canvas.dispatchEvent(new MouseEvent('click', {offsetX: 0}));"
            "document.body.dataset.colours = [...seen].join(' '); })()</script></html>"
        )
        path.write_text(path.read_text().replace("</html>", look))

    proactorx.run(main())
    shown = browse(tmp_path / "trace.html", tmp_path)
    found = re.search(r"(\d+) turns in [\d.]+ .?s, the longest [\d.]+ .?s, 0 stalls", shown)
    assert found is not None, shown[-3000:]
    assert int(found[1]) >= 100
    assert "length of a turn: " in shown
    assert "<b>task" not in shown
    colours = re.search(r'data-colours="([^"]*)"', shown)
    assert colours is not None
    assert {"9,105,218", "140,149,159"} <= set(colours[1].split())  # turns and sleeps
