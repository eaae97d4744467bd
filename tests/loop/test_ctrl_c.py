"""Ctrl-C, inside a test's own process and as a real signal to a real program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .helpers import Factory, finish, prelude, start_script

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def _python_handles_it() -> Iterator[None]:
    """Whoever runs these tests may have SIGINT ignored."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, old)


def test_runner_turns_it_into_a_cancellation_first(loop_factory: Factory) -> None:
    seen: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().call_soon(interrupt)
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        with pytest.raises(KeyboardInterrupt):
            runner.run(main())
        assert seen == ["cancelled", "cleaned up"]
        assert runner.run(asyncio.sleep(0, "runs again")) == "runs again"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_runner_and_a_main_that_survives_the_cancellation(loop_factory: Factory) -> None:
    async def main() -> str:
        asyncio.get_running_loop().call_soon(interrupt)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)
        return "survived"

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(main()) == "survived"


def test_runner_and_a_second_one(loop_factory: Factory) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(interrupt)
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            interrupt()
            await asyncio.sleep(1000)

    with pytest.raises(KeyboardInterrupt):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())


def test_without_runner_it_leaves_the_loop_at_once(loop: asyncio.AbstractEventLoop) -> None:
    seen: list[str] = []
    task = loop.create_task(asyncio.sleep(0.01, "slept"))
    loop.call_soon(interrupt)
    loop.call_soon(seen.append, "next callback")
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert loop.run_until_complete(task) == "slept"
    assert seen == ["next callback"]


HEAD = """
import functools, signal
signal.signal(signal.SIGINT, signal.default_int_handler)

def told(word):
    print(word, flush=True)
"""

IDLE_RUNNER = """
async def main():
    told("ready")
    try:
        await asyncio.sleep(1000)
    finally:
        told("finally")

try:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    told("KeyboardInterrupt")
"""

SERVING = """
async def main():
    server = await asyncio.start_server(print, "127.0.0.1", 0)
    async with server:
        told("ready")
        try:
            await server.serve_forever()
        finally:
            told("finally")

try:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    told("KeyboardInterrupt")
"""

BUSY_TURNS = """
async def main():
    told("ready")
    try:
        while True:
            await asyncio.sleep(0)
    finally:
        told("finally")

try:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    told("KeyboardInterrupt")
"""

IDLE_FOREVER = """
loop = new_loop()
task = loop.create_task(asyncio.sleep(0.3))
task.add_done_callback(lambda _: told("finally"))
loop.call_soon(told, "ready")
try:
    loop.run_until_complete(loop.create_future())
except KeyboardInterrupt:
    loop.run_until_complete(task)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    told("KeyboardInterrupt")
"""

# A callback that calls itself again without a line of Python in between.
BUSY_WITHOUT_PYTHON = """
loop = new_loop()
spin = functools.partial(loop.call_soon)
spin.__setstate__((loop.call_soon, (spin,), {}, {}))
loop.call_soon(told, "ready")
loop.call_soon(spin)
try:
    loop.run_forever()
except KeyboardInterrupt:
    told("finally")
    loop.close()
    told("KeyboardInterrupt")
"""

SCRIPTS = {
    "idle": IDLE_RUNNER,
    "serving": SERVING,
    "busy": BUSY_TURNS,
    "idle, run_forever": IDLE_FOREVER,
    "busy, no Python": BUSY_WITHOUT_PYTHON,
}


def wait_until_asleep(pid: int) -> None:
    """Until the process waits in the kernel (on Linux; elsewhere a moment must do)."""
    deadline = time.monotonic() + 5
    stat = Path(f"/proc/{pid}/stat")
    time.sleep(0.05)
    while stat.exists() and time.monotonic() < deadline:
        if stat.read_text().rpartition(")")[2].split()[0] == "S":
            return
        time.sleep(0.01)


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_ctrl_c_ends_a_program(loop_factory: Factory, name: str) -> None:
    process = start_script(prelude(loop_factory) + HEAD + SCRIPTS[name])
    assert process.stdout is not None
    first = process.stdout.readline()
    if "busy" not in name:
        wait_until_asleep(process.pid)
    process.send_signal(signal.SIGINT)
    out, err = finish(process)
    assert first == "ready\n"
    assert out == "finally\nKeyboardInterrupt\n", err
    assert process.returncode == 0


def test_ctrl_c_twice_ends_a_program_that_never_yields(loop_factory: Factory) -> None:
    source = """
async def main():
    told("ready")
    task = asyncio.current_task()
    while not task.cancelling():
        pass
    told("asked")
    while True:
        pass

try:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    told("KeyboardInterrupt")
"""
    process = start_script(prelude(loop_factory) + HEAD + source)
    assert process.stdout is not None
    for word in ("ready", "asked"):
        assert process.stdout.readline() == f"{word}\n"
        process.send_signal(signal.SIGINT)
    out, err = finish(process)
    assert out == "KeyboardInterrupt\n", err
    assert process.returncode == 0


def test_ctrl_c_that_nobody_catches_ends_the_process_by_the_signal(loop_factory: Factory) -> None:
    source = """
async def main():
    told("ready")
    await asyncio.sleep(1000)

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""
    process = start_script(prelude(loop_factory) + HEAD + source)
    assert process.stdout is not None
    process.stdout.readline()
    wait_until_asleep(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = finish(process)
    assert process.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
