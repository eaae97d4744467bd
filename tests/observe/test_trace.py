"""The flight recorder: what it has is compared with the counters, and the file with the format."""

from __future__ import annotations

import asyncio
import itertools
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
from observe.trace_format import check, parse
from proactorx.observe.trace import FIRST_OP, MOST_OPS, TRACKS

pytestmark = pytest.mark.ours

Loop = proactorx.EventLoop


def trace(loop: Loop, path: Path) -> dict[str, list[dict[str, Any]]]:
    """The events of a loop's trace, by track; operations have one each."""
    count = loop.record_to(path)
    content = parse(path.read_text())
    assert len(content["traceEvents"]) == count
    assert {event["pid"] for event in content["traceEvents"]} == {loop._number}
    return by_track(content["traceEvents"])


def by_track(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The events of one loop by the names of the tracks; operations in flight together."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*TRACKS.values(), "operations")}
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    for event in events:
        if event["ph"] != "M":
            in_flight = FIRST_OP <= event["tid"] < FIRST_OP + MOST_OPS
            found.setdefault("operations" if in_flight else names[event["tid"]], []).append(event)
    return found


def counted(turns: list[dict[str, Any]]) -> int:
    """How many turns these spans are of: brief ones that follow each other share one."""
    return sum(turn["args"]["turns"] for turn in turns)


def test_turns_are_recorded(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        await asyncio.sleep(0.03)

    loop.run_until_complete(main())
    stats = loop.stats()
    found = trace(loop, tmp_path / "trace.json")
    turns = found["turns"]
    assert counted(turns) == stats.turn_length.count - 1  # what the first one did is not known
    assert sum(turn["args"]["callbacks"] for turn in turns) <= stats.callbacks
    assert sum(turn["dur"] for turn in turns) <= stats.turn_length.total * 1e6 + 1
    assert 0 < sum(sleep["dur"] for sleep in found["sleeps"]) <= stats.idle * 1e6 + 1
    starts = [turn["ts"] for turn in turns]
    assert starts == sorted(starts)
    assert all(one["ts"] + one["dur"] <= two["ts"] + 0.01 for one, two in itertools.pairwise(turns))


def test_a_run_begins_without_a_wait(loop: Loop, tmp_path: Path) -> None:
    """The last turn of a run may have begun with a sleep: the next run does not begin where that ended."""
    for _ in range(3):
        loop.call_later(0.01, loop.stop)
        loop.run_forever()
        between = time.monotonic_ns() / 1e3
        time.sleep(0.01)
        loop.call_soon(loop.stop)
        loop.run_forever()
        found = trace(loop, tmp_path / "trace.json")
        assert all(event["dur"] >= 0 for event in found["sleeps"])
        assert not any(one["ts"] < between < one["ts"] + one["dur"] for one in found["waits for the GIL"])


@pytest.mark.parametrize("detail", [False, True])
def test_only_the_last_ones_are_kept(loop: Loop, tmp_path: Path, detail: bool) -> None:
    """65,536 turns at least; where details are recorded, each by itself."""

    def again(left: int) -> None:
        if left:
            loop.call_soon(again, left - 1)
        else:
            loop.stop()

    loop.record(detail=detail)
    loop.call_soon(again, 70_000)
    loop.run_forever()
    turns = trace(loop, tmp_path / "trace.json")["turns"]
    assert 65_000 < counted(turns) <= 70_001
    assert len(turns) <= 65_536
    assert not detail or {turn["args"]["turns"] for turn in turns} == {1}
    assert all(turn["args"]["callbacks"] == turn["args"]["turns"] for turn in turns)


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
        async with asyncio.timeout(BOUND):
            while not ended.is_set():
                time.sleep(0.2)  # again: a watchdog that has no processor meanwhile says nothing
                await asyncio.sleep(0.05)

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
        async with asyncio.timeout(BOUND):
            while not os.listdir(tmp_path):
                time.sleep(0.2)  # again: a watchdog that has no processor meanwhile says nothing
                await asyncio.sleep(0.05)

    loop.watch(0.05, report=lambda stall: None, traces=tmp_path)
    loop.run_until_complete(main())


def test_a_folder_that_is_not_there(loop: Loop, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with asyncio.timeout(BOUND):
            while "the report of a stall failed" not in caplog.text:
                time.sleep(0.2)  # again: a watchdog that has no processor meanwhile says nothing
                await asyncio.sleep(0.05)

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
        await asyncio.to_thread(int)
        path = tmp_path / "trace.html"
        loop.record_to(path)  # type: ignore[attr-defined]
        look = (
            "<script>(async () => { const pen = canvas.getContext('2d');"
            "const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;"
            "const seen = new Set();"
            "for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255)"
            " seen.add(`${data[i]},${data[i + 1]},${data[i + 2]}`);"
            "canvas.dispatchEvent(new MouseEvent('click', {offsetX: 0}));"
            "document.body.dataset.colours = [...seen].join(' ');"
            "document.body.dataset.tracks = tracks.map(row => names.get(row)).join(' | ');"
            "document.body.dataset.waits ="
            " rows.get(first_loop + 8).filter(span => span.ended > span.began).length; })()</script></html>"
        )
        path.write_text(path.read_text().replace("</html>", look))

    proactorx.run(main())
    shown = browse(tmp_path / "trace.html", tmp_path)
    found = re.search(r"(\d+) turns in [\d.]+ .?s, the longest [\d.]+ .?s, 0 stalls", shown)
    assert found is not None, shown[-3000:]
    assert int(found[1]) >= 100
    assert "length of a turn: " in shown
    assert "<b>task" not in shown
    assert re.search(
        r'data-tracks="[^"]*turns \| [^"]*hand-over to threads \| [^"]*proactorx-worker-1', shown
    )
    assert 'data-waits="1"' in shown
    colours = re.search(r'data-colours="([^"]*)"', shown)
    assert colours is not None
    assert {"9,105,218", "140,149,159"} <= set(colours[1].split())  # turns and sleeps


# ------------------------------------------------------------------- threads, listeners, operations and tasks


def test_threads_of_both_pools(loop: Loop, tmp_path: Path) -> None:
    """What each has run, where, from when to when, and how long it had waited for a thread."""

    def work() -> None:
        began.append(time.monotonic())
        where.append(threading.current_thread().name)
        time.sleep(0.01)

    async def main() -> dict[str, list[dict[str, Any]]]:
        await asyncio.gather(*[asyncio.to_thread(work) for _ in range(4)])
        await asyncio.gather(*[loop.io_pool.call(loop, work) for _ in range(3)])
        await loop.io_pool.call(loop, os.stat, tmp_path)
        return trace(loop, tmp_path / "trace.json")

    began: list[float] = []
    where: list[str] = []
    found = loop.run_until_complete(main())
    names = [name for name in found if name.startswith(("proactorx-io-", "proactorx-worker-"))]
    jobs = [(name, job) for name in names for job in found[name]]
    ours = [(name, job) for name, job in jobs if job["name"].endswith("<locals>.work")]
    assert sorted(name for name, _ in ours) == sorted(where)
    assert [job["args"]["pool"] for _, job in jobs].count("workers") == 4
    assert [job["name"] for _, job in jobs].count("stat") == 1
    assert all(job["dur"] >= 9_000 and __file__ in job["args"]["code"] for _, job in ours)
    for (_, job), at in zip(sorted(ours, key=lambda each: each[1]["ts"]), sorted(began), strict=True):
        assert 0 <= at * 1e6 - job["ts"] < 1e6 * BOUND
    waits = found["hand-over to threads"]
    assert len(waits) == 2 * len(jobs)
    assert {event["ts"] for event in waits if event["ph"] == "e"} == {job["ts"] for _, job in jobs}
    loop.run_until_complete(loop.shutdown_default_executor())


def test_a_call_that_runs_and_one_that_waits(loop: Loop, tmp_path: Path) -> None:
    """The first is on its thread's track; the second is none of a thread's yet, and is counted."""

    def block() -> None:
        inside.set()
        assert go_on.wait(BOUND)

    async def main() -> dict[str, list[dict[str, Any]]]:
        calls = [loop.run_in_executor(None, block)]
        assert inside.wait(BOUND)
        executor: Any = loop._default_executor
        executor._max_workers = 1
        calls.append(loop.run_in_executor(None, block))
        cancelled = loop.run_in_executor(None, block)
        await asyncio.sleep(0.02)
        found = trace(loop, tmp_path / "trace.json")
        stats = loop.stats().workers
        cancelled.cancel()
        go_on.set()
        await asyncio.gather(*calls)
        assert (stats.active, stats.queued) == (1, 2)
        assert stats.oldest_wait is not None
        assert 0.015 < stats.oldest_wait < BOUND
        return found

    inside, go_on = threading.Event(), threading.Event()
    found = loop.run_until_complete(main())
    (running,) = found["proactorx-worker-1"]
    assert running["args"]["state"] == "running"
    assert running["dur"] >= 15_000
    loop.run_until_complete(loop.shutdown_default_executor())
    assert loop.stats().workers.oldest_wait is None


def test_listeners(loop: Loop, tmp_path: Path) -> None:
    """Each has a track with the connections that it has accepted, and how long each was being made."""

    class Slow(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            time.sleep(0.005)
            transport.close()

    async def main() -> dict[str, list[dict[str, Any]]]:
        for factory, connections in ((Slow, 3), (asyncio.Protocol, 2)):
            server = await loop.create_server(factory, "127.0.0.1", 0)
            servers.append(server)
            address = server.sockets[0].getsockname()
            for _ in range(connections):
                _, writer = await asyncio.open_connection(*address)
                writers.append(writer)
        async with asyncio.timeout(BOUND):
            while len(loop._registry.last_accepts()) < 5:
                await asyncio.sleep(0.001)
        for server in servers:
            address = server.sockets[0].getsockname()
            names.append(f"listener fd {server.sockets[0].fileno()} 127.0.0.1:{address[1]}")
        found = trace(loop, tmp_path / "trace.json")
        for each in (*writers, *servers):
            each.close()
        await asyncio.sleep(0.001)
        return found

    servers: list[asyncio.Server] = []
    writers: list[asyncio.StreamWriter] = []
    names: list[str] = []
    found = loop.run_until_complete(main())
    assert [len(found[name]) for name in names] == [3, 2]
    assert all(accept["dur"] >= 4_900 for accept in found[names[0]])


def test_operations_from_submission_to_completion(loop: Loop, tmp_path: Path) -> None:
    async def main() -> dict[str, list[dict[str, Any]]]:
        left, right = socket.socketpair()
        with left, right:
            left.setblocking(False)
            for _ in range(3):
                loop.call_later(0.02, right.send, b"x")
                await loop.sock_recv(left, 1)
            fds.append(left.fileno())
            return trace(loop, tmp_path / "trace.json")

    fds: list[int] = []
    loop.record(detail=True)
    found = loop.run_until_complete(main())
    events = [event for event in found["operations that have ended"] if event["args"]["fd"] in fds]
    begun = {event["id"]: event["ts"] for event in events if event["ph"] == "b"}
    took = [event["ts"] - begun[event["id"]] for event in events if event["ph"] == "e"]
    assert len(took) == 3
    assert all(15_000 < each < 1e6 * BOUND for each in took)


@pytest.mark.parametrize("debug", [False, True])
def test_tasks_by_name(loop: Loop, tmp_path: Path, debug: bool) -> None:
    async def step() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
            time.sleep(0.001)

    async def main() -> None:
        numbered = asyncio.create_task(step())
        names.append(numbered.get_name())
        await asyncio.gather(numbered, *[asyncio.create_task(step(), name=name) for name in ("a", "Task-x")])

    names: list[str] = []
    loop.set_debug(debug)
    loop.record(detail=True)
    loop.run_until_complete(main())
    found = trace(loop, tmp_path / "trace.json")
    for name in (*names, "a", "Task-x"):
        steps = found[f"task {name}"]
        assert len(steps) == 6
        assert sum(each["dur"] for each in steps) >= 5_000
        assert {each["name"].rpartition(".")[2] for each in steps} == {"step"}
    assert len(found["callbacks"]) >= 18


def test_the_rules_of_the_format() -> None:
    """What the checker refuses, so that it is known to look."""
    names = [
        {"name": kind, "ph": "M", "pid": 1, "tid": 1, "args": {"name": "x"}}
        for kind in ("process_name", "thread_name")
    ]
    span = {"name": "x", "ph": "X", "pid": 1, "tid": 1, "ts": 1.0, "dur": 2.0}
    begin = {"name": "x", "ph": "b", "pid": 1, "tid": 1, "ts": 1.0, "cat": "c", "id": 1}
    end = begin | {"ph": "e", "ts": 2.0}
    check({"traceEvents": [*names, span, span | {"ts": 3.0}, span | {"ts": 1.5, "dur": 1}, begin, end]})
    for wrong in (
        [span | {"ph": "Q"}],
        [span | {"ts": -1.0}],
        [span | {"ts": float("nan")}],
        [span | {"dur": -1}],
        [span | {"pid": "1"}],
        [span | {"colour": "red"}],
        [span | {"tid": 2}],
        [span | {"args": None}],
        [names[1]],
        [span, span | {"ts": 2.0}],
        [begin],
        [end, begin],
        [begin, end | {"ts": 0.5}],
        [begin, end | {"id": 2}],
        [begin, {key: value for key, value in end.items() if key != "cat"}],
        [span | {"ph": "B"}],
    ):
        with pytest.raises((AssertionError, KeyError)):
            check({"traceEvents": [*names, *wrong]})
    with pytest.raises(AssertionError):
        check({"traceEvents": [], "events": []})
    with pytest.raises(AssertionError):
        parse('{"traceEvents": [], "otherData": NaN}')
