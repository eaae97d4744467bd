"""A program that is the first process of its PID namespace, as in a container:
it inherits every orphan there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from transports.support import backend_of

PROGRAM = """
import asyncio, os, signal, sys, warnings
warnings.simplefilter("error")
from asyncio.subprocess import PIPE

async def sh(script, **options):
    return await asyncio.create_subprocess_exec("/bin/sh", "-c", script, **options)

async def main():
    assert os.getpid() == 1
    assert await (await sh("exit 7")).wait() == 7
    process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
    assert (await process.communicate(b"x" * 300_000))[0] == b"x" * 300_000
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = await asyncio.create_subprocess_exec("sleep", "60")
        process.send_signal(number)
        assert await process.wait() == -number
    # Orphans: some that outlive all others, some that end while they are waited for.
    assert await (await sh("(sleep 60 & sleep 60 &) ; exit 3")).wait() == 3
    quick = await sh("(sh -c 'exit 5' & sh -c 'exit 6' &) ; cat", stdin=PIPE)
    codes = [await sh(f"exit {n}") for n in range(30)]
    assert [await one.wait() for one in codes] == list(range(30))
    quick.stdin.close()
    assert await quick.wait() == 0
    # Orphans are nobody's here but the program's own: the loop has reaped none of them.
    assert {os.waitstatus_to_exitcode(os.waitpid(-1, 0)[1]) for _ in range(2)} == {5, 6}
    if sys.argv[1] != "asyncio":  # on older Pythons a thread of stock asyncio's may have it first
        # One that the program reaps before the loop hears of its end.
        process = await asyncio.create_subprocess_exec("sleep", "60")
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED)
        assert await asyncio.wait_for(process.wait(), 10) == 255
    print("well", flush=True)

def loop():
    if sys.argv[1] == "asyncio":
        return asyncio.SelectorEventLoop()
    import proactorx
    return proactorx.new_event_loop(sys.argv[1])

with asyncio.Runner(loop_factory=loop) as runner:
    runner.run(main())
"""


def _unshare() -> list[str]:
    """How to become the first process of a namespace here."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1)")
    for rights in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *rights, "--pid", "--fork", "--kill-child", "--mount-proc"]
        if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
            return command
    pytest.skip("a PID namespace of one's own is not permitted here")


def test_the_first_process(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    ended = subprocess.run(
        [*_unshare(), sys.executable, "-c", PROGRAM, backend_of(loop_factory)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.stdout, ended.returncode) == ("well\n", 0), ended.stderr
