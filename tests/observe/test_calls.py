"""What was called, by whom, and for how long: compared with what a program has called."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from pathlib import Path

import pytest
from loop.helpers import Thread

import proactorx
from proactorx.observe.stats import CallStats

pytestmark = pytest.mark.ours

Loop = proactorx.EventLoop


def by_name(loop: Loop) -> dict[str, CallStats]:
    """Without the file, and the names of the scopes around it."""
    found = {}
    for call in loop.calls():
        words = call.name.split()
        found[words[0].rpartition(".")[2] if ":" in words[-1] else call.name] = call
    return found


class Slow(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        time.sleep(0.02)


def test_what_is_not_asked_for(loop: Loop) -> None:
    loop.run_until_complete(asyncio.sleep(0))
    assert loop.calls() == ()


@pytest.mark.parametrize("debug", [False, True])
def test_callbacks_and_tasks(loop: Loop, debug: bool) -> None:
    def often(*_args: object) -> None:
        pass

    class Callable:
        def __call__(self) -> None:
            pass

    class Secret:
        def __getattr__(self, name: str) -> None:
            raise ZeroDivisionError

        def __call__(self) -> None:
            pass

    async def one() -> None:
        await asyncio.sleep(0)
        time.sleep(0.05)
        await asyncio.sleep(0)

    async def main() -> None:
        for _ in range(50):
            loop.call_soon(often)
            loop.call_soon(functools.partial(often, 1))
        loop.call_soon(Callable())
        loop.call_soon(Callable() if debug else Secret())  # debug mode looks for attributes itself
        loop.call_soon(len, ())
        cancelled = loop.call_soon(often)
        cancelled.cancel()
        await asyncio.gather(one(), one())

    loop.set_debug(debug)
    loop.slow_callback_duration = 10
    loop.record(detail=True)
    loop.run_until_complete(main())
    found = by_name(loop)
    assert found["often"].count == 100
    assert found["one"].count == 6
    assert found["one"].total >= 0.1
    assert 0.05 <= found["one"].longest < found["one"].total
    assert loop.calls()[0] == found["one"]
    names = {name.rpartition(".")[2] for name in found}
    assert {"len", "Callable", "main"} <= names
    assert "others" in names or debug
    loop.record(detail=False)
    loop.run_until_complete(asyncio.sleep(0.001))
    assert by_name(loop)["often"] == found["often"]


@pytest.mark.parametrize("debug", [False, True])
def test_protocols(loop: Loop, tmp_path: Path, debug: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        server = await loop.create_server(Slow, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        while not any(name.endswith(" Slow") for name in by_name(loop)):
            await asyncio.sleep(0.002)
        writer.close()
        server.close()
        await server.wait_closed()

    loop.set_debug(debug)
    loop.slow_callback_duration = 0.01
    loop.record(detail=True)
    loop.run_until_complete(main())
    assert ("Executing callbacks of " in caplog.text and "Slow" in caplog.text) == debug
    (name,) = [name for name in by_name(loop) if name.endswith(" Slow") and name.startswith("recv")]
    assert by_name(loop)[name].longest >= 0.02
    loop.record_to(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    (packet,) = [event for event in events if event["name"] == name and event.get("dur", 0) >= 20_000]
    turns = [event for event in events if event["name"] == "turn"]
    assert [
        turn
        for turn in turns
        if turn["ts"] - 1 <= packet["ts"] and packet["ts"] + packet["dur"] <= turn["ts"] + turn["dur"] + 1
    ]


def test_more_calls_and_names_than_are_kept(loop: Loop, tmp_path: Path) -> None:
    async def main() -> None:
        for number in range(5000):
            loop.call_soon(eval(f"lambda: {number}"))  # each has a code of its own
        await asyncio.sleep(0)
        for _ in range(70_000):
            loop.call_soon(int)
        await asyncio.sleep(0)

    loop.record(detail=True)
    loop.run_until_complete(main())
    found = by_name(loop)
    assert len(loop.calls()) <= 4096
    assert found["others"].count >= 5000 - 4096
    assert sum(call.count for call in loop.calls()) >= 75_000


def test_another_thread_switches_it_while_the_loop_runs(loop: Loop) -> None:
    def switch() -> None:
        for _ in range(50):
            loop.record(detail=True)
            time.sleep(0.0005)
            loop.calls()
            loop.record(detail=False)
        loop.call_soon_threadsafe(loop.stop)

    def again() -> None:
        loop.call_soon(again)

    thread = Thread(switch)
    loop.call_soon(again)
    thread.start()
    loop.run_forever()
    thread.finish()
    assert by_name(loop)["again"].count > 50
