"""C code that keeps the GIL while it waits, as what ``ctypes.PyDLL`` calls does: who looks needs no GIL."""

from __future__ import annotations

import asyncio
import ctypes
import re
import time
from collections.abc import Callable

import pytest
from loop.helpers import Thread, start_script

from observe.planted import LINUX, Loop, Seen, may_block
from proactorx.observe import witness

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(not witness.begin(), reason="there is no GIL, or nobody can look without it"),
]


def test_what_is_read(seen: Seen) -> None:
    async def main() -> None:
        for _ in range(10):
            await asyncio.sleep(0.05)  # until who looks has begun to
            keep_it()
            if any(stall.dump for stall in seen.stalls):
                return

    def keep_it() -> None:
        ctypes.PyDLL(None).usleep(400_000)

    seen.run(main)
    stall = next(stall for stall in seen.stalls if stall.dump)
    dump = stall.dump
    title, *lines = dump.splitlines()
    assert title == "Stack (most recent call first):"
    assert re.fullmatch(r'  File ".*test_without_gil.py", line \d+ in .*keep_it', lines[0])
    assert re.fullmatch(r'  File ".*test_without_gil.py", line \d+ in .*main', lines[1])
    assert "read without the GIL" in str(stall)
    assert stall.kind in may_block()
    assert stall.keeps_gil
    if LINUX:
        assert "\n  state: S\n" in dump


def test_a_callback_without_python(seen: Seen) -> None:
    """Nothing of it is left when the watchdog has the GIL: only the end is told, with what was read."""

    async def main() -> None:
        for _ in range(10):
            await asyncio.sleep(0.05)  # until who looks has begun to
            seen.loop.call_soon(ctypes.PyDLL(None).usleep, 400_000)
            await asyncio.sleep(0.05)
            if any(stall.dump for stall in seen.stalls):
                return

    seen.run(main)
    dump = next(stall.dump for stall in seen.stalls if stall.dump)
    assert re.search(r" in (EventLoop\.)?run_forever$", dump.splitlines()[1])


def test_while_it_lasts(loop: Loop) -> None:
    """What is logged goes to the standard error output at once: nobody may ever have the GIL again."""
    script = f"""
    import asyncio, ctypes, proactorx

    async def main():
        asyncio.get_running_loop().watch(0.05)
        await asyncio.sleep(0.5)  # until who looks has begun to
        ctypes.PyDLL(None).usleep(30_000_000)

    proactorx.run(main(), backend={loop.backend_info().name!r})
    """
    before = time.monotonic()
    process = start_script(script)
    assert process.stderr is not None
    assert "read without it:" in process.stderr.readline()
    assert process.stderr.readline().startswith("Stack ")
    assert "in main" in process.stderr.readline()
    assert time.monotonic() - before < 30
    process.kill()
    process.communicate()


def test_loops_that_come_and_go(loop_factory: Callable[[], Loop]) -> None:
    """Their threads end while others keep the GIL: nobody is looked at who has gone."""

    def run() -> None:
        for _ in range(5):
            loop = loop_factory()
            loop.watch(0.001, report=lambda stall: None)
            loop.run_until_complete(asyncio.sleep(0.002))
            loop.call_soon(ctypes.PyDLL(None).usleep, 25_000)
            loop.run_until_complete(asyncio.sleep(0.001))
            loop.close()

    threads = [Thread(run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.finish()
