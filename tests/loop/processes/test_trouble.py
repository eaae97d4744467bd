"""Children that cannot be started, are lost, outlive their loop, or are reaped by somebody else."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transports.support import LIMIT, open_fds

from loop.helpers import Thread, in_thread, run_script

from .support import Log, children, gone, needs_waitid, sh, start, waiting, without_wait_child

Factory = Callable[[], asyncio.AbstractEventLoop]


async def test_what_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("not a program")
    pipes = {"stdin": PIPE, "stdout": PIPE, "stderr": PIPE}
    for error, argv, options in (
        (FileNotFoundError, ["/nowhere/at/all"], {}),
        (PermissionError, [str(plain)], {}),
        (FileNotFoundError, ["true"], {"cwd": tmp_path / "nowhere"}),
        (ValueError, ["with\0zero"], {}),
        (TypeError, ["true"], {"no_such_option": 1}),
    ):
        with pytest.raises(error):
            await asyncio.create_subprocess_exec(*argv, **pipes, **options)
    for _ in range(20):
        with pytest.raises(FileNotFoundError):
            await start("/nowhere/at/all", **pipes)


async def test_starting_is_cancelled() -> None:
    process = await sh("exit 0", stdin=PIPE)  # what the loop opens when it is first needed is open now
    await process.wait()
    await gone(process)
    await asyncio.sleep(0.001)
    fds, before = open_fds(), children()
    task = asyncio.create_task(start("sleep", "60", stdin=PIPE, stdout=PIPE))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(LIMIT):
        while open_fds() != fds or children() != before:
            await asyncio.sleep(0.005)


async def test_a_protocol_factory_that_raises() -> None:
    def fail() -> asyncio.SubprocessProtocol:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await asyncio.get_running_loop().subprocess_exec(fail, "true")


@pytest.mark.ours  # stock asyncio's words and watchers differ from version to version
async def test_reaped_by_somebody_else(caplog: pytest.LogCaptureFixture) -> None:
    async with waiting() as process:
        os.kill(process.pid, signal.SIGKILL)
        os.waitpid(process.pid, 0)  # noqa: ASYNC222
        process.send_signal(signal.SIGTERM)  # for nobody
        assert await process.wait() == 255
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        f"child process pid {process.pid} exit status already read:  will report returncode 255"
    ]


@pytest.mark.ours
@needs_waitid
async def test_reaped_by_its_own_popen() -> None:
    """``close`` asks it whether the child runs, and takes the status of one that does not."""
    loop = asyncio.get_running_loop()
    transport, log = await loop.subprocess_shell(Log, "read x; exit 8")
    transport.get_pipe_transport(0).write(b"go\n")
    os.waitid(os.P_PID, transport.get_pid(), os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
    transport.close()
    assert await log.until_lost() is None
    assert transport.get_returncode() == 8


@pytest.mark.ours  # stock asyncio before 3.13.1 waits until the pipes are closed too
async def test_waiting_is_for_the_child_and_not_for_its_children() -> None:
    process = await sh("sleep 60 & echo $!", stdout=PIPE)
    assert process.stdout is not None
    grandchild = int(await process.stdout.readline())
    try:
        assert await asyncio.wait_for(process.wait(), LIMIT) == 0
    finally:
        os.kill(grandchild, signal.SIGKILL)
    assert await process.stdout.read() == b""
    await gone(process)


async def test_closed_while_a_grandchild_keeps_the_pipes() -> None:
    loop = asyncio.get_running_loop()
    transport, log = await loop.subprocess_shell(Log, "sleep 60 & echo $!; wait")
    await log.until(lambda: log.pipes[1].endswith(b"\n"))
    try:
        transport.close()
        assert await log.until_lost() is None
    finally:
        os.kill(int(log.pipes[1]), signal.SIGKILL)


async def test_a_callback_that_raises_is_reported() -> None:
    loop = asyncio.get_running_loop()
    errors: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: errors.append(context))

    def fail(log: Log, *args: Any) -> None:
        raise RuntimeError("on purpose")

    transport, log = await loop.subprocess_shell(lambda: Log(data=fail, process_exited=fail), "echo out")
    assert await log.until_lost() is None
    assert len(errors) == 2
    transport.close()


def test_in_a_loop_of_another_thread(loop_factory: Factory) -> None:
    async def main() -> tuple[bytes, int | None]:
        process = await start("cat", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(b"data")
        return out, process.returncode

    def run() -> tuple[bytes, int | None]:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(main())

    assert in_thread(run) == (b"data", 0)


@pytest.mark.ours  # stock asyncio changes the warning filters, which threads share
def test_a_loop_in_each_of_several_threads(loop_factory: Factory) -> None:
    def run() -> None:
        async def main() -> None:
            codes = await asyncio.gather(*[(await sh(f"exit {n}")).wait() for n in range(10)])
            assert codes == list(range(10))

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    threads = [Thread(run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.finish()


@pytest.mark.ours
def test_a_loop_that_moves_to_another_thread(loop: asyncio.AbstractEventLoop) -> None:
    process = loop.run_until_complete(start("cat", stdin=PIPE, stdout=PIPE))

    def rest() -> tuple[bytes, None]:
        return loop.run_until_complete(process.communicate(b"data"))

    assert in_thread(rest) == (b"data", None)
    assert process.returncode == 0


@pytest.mark.ours
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_loop_is_closed_while_children_run(loop: asyncio.AbstractEventLoop) -> None:
    """They are left alone; their transports warn, and kill them, when they are forgotten."""
    before = open_fds()
    made = [loop.run_until_complete(loop.subprocess_exec(Log, "sleep", "60")) for _ in range(3)]
    logs = [log for _, log in made]
    pids = [transport.get_pid() for transport, _ in made]
    assert children() >= set(pids)
    processes: list[Any] = [transport.get_extra_info("subprocess") for transport, _ in made]
    loop.close()
    for pid in pids:
        os.kill(pid, 0)
    assert {os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in open_fds().keys() - before.keys()} == {
        "pipe"
    }
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        forget(made, logs)
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 3


@pytest.mark.ours
def test_a_transport_is_closed_after_its_loop(loop: asyncio.AbstractEventLoop) -> None:
    transport, log = loop.run_until_complete(loop.subprocess_exec(Log, "sleep", "60"))
    process: Any = transport.get_extra_info("subprocess")
    loop.close()
    for fd in (0, 1, 2):
        pipe = transport.get_pipe_transport(fd)
        assert pipe is not None
        pipe.close()
    transport.close()
    assert process.wait() == -signal.SIGKILL
    assert log.events == ["connection_made"]


@pytest.mark.ours
@needs_waitid
def test_the_loop_is_closed_when_a_child_has_ended(loop: asyncio.AbstractEventLoop) -> None:
    """It is reaped then, because nobody else would."""
    transport, _ = loop.run_until_complete(
        loop.subprocess_shell(Log, "read x; exit 3", stdout=None, stderr=None)
    )
    transport.get_pipe_transport(0).write(b"go\n")
    pid = transport.get_pid()
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    loop.close()
    assert transport.get_returncode() == 3
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    transport.get_pipe_transport(0).close()
    transport.close()


def forget(*made: list[Any]) -> None:
    for each in made:
        each.clear()
    gc.collect()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork(2)")
def test_a_fork_leaves_the_children_to_the_parent(loop_factory: Factory) -> None:
    out = run_script(
        loop_factory,
        """
        import os, warnings
        from asyncio.subprocess import PIPE
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork() where the loop has threads

        async def talk(word):
            process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
            out, _ = await process.communicate(word)
            return out.decode(), process.returncode

        async def main():
            process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE)
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            out, _ = await process.communicate(b"parent")
            print(out.decode(), process.returncode, flush=True)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
            pid = os.fork()
            if pid == 0:
                with asyncio.Runner(loop_factory=new_loop) as other:
                    print(*other.run(talk(b"child")), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
            print(*runner.run(talk(b"parent again")), flush=True)
        """,
    )
    assert out.splitlines() == ["parent 0", "child 0", "parent again 0"]


@pytest.mark.ours
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork(2)")
def test_closing_the_inherited_loop_reaps_nothing(loop_factory: Factory) -> None:
    out = run_script(
        loop_factory,
        """
        import os
        from asyncio.subprocess import PIPE

        loop = new_loop()
        process = loop.run_until_complete(asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE))
        pid = os.fork()
        if pid == 0:
            loop.close()
            left = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if int(n) > 2
                    and os.path.exists(f"/proc/self/fd/{n}")] if os.path.isdir("/proc/self/fd") else []
            print([name for name in left if "pidfd" in name], flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print(loop.run_until_complete(process.communicate(b"unharmed")), process.returncode, flush=True)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        """,
    )
    assert out.splitlines() == ["[]", "(b'unharmed', None) 0"]


@pytest.mark.ours
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_nothing_is_left_of_hundreds(loop: asyncio.AbstractEventLoop) -> None:
    async def several() -> None:
        codes = await asyncio.gather(*[(await sh("exit 1", stdout=PIPE)).wait() for _ in range(20)])
        assert codes == [1] * 20
        await asyncio.sleep(0.001)

    loop.run_until_complete(several())
    before = open_fds()
    for _ in range(5):
        loop.run_until_complete(several())
    assert open_fds() == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.ours  # stock asyncio leaves a child unwatched where the last descriptor was missing
def test_at_the_limit_of_descriptors(loop_factory: Factory) -> None:
    """Whichever descriptor is the first that cannot be had: an error and nothing left,
    or a child like any other.
    """
    out = run_script(
        loop_factory,
        """
        import errno, gc, os, resource
        from asyncio.subprocess import PIPE

        def fds():
            return set(os.listdir("/proc/self/fd"))

        async def one():
            try:
                process = await asyncio.create_subprocess_exec("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
            except OSError as exc:
                assert exc.errno == errno.EMFILE, exc
                return "refused"
            assert await process.communicate(b"data") == (b"data", b"")
            return process.returncode

        async def main():
            await one()
            await asyncio.sleep(0.001)  # the loop has all of its own now
            before = fds()
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            found = []
            for room in range(14):
                resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, before)) + room, hard))
                found.append(await one())
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
                while fds() != before:
                    await asyncio.sleep(0.001)
            print(found[0], found[-1], set(found) - {"refused", 0})
            try:
                os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                print("no child left")

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
        """,
    )
    assert out.splitlines() == ["refused 0 set()", "no child left"]


@pytest.mark.ours
def test_a_descriptor_cannot_be_had_for_the_poll(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(pid: int, flags: int = 0) -> int:
        raise OSError(24, "Too many open files")

    without_wait_child(monkeypatch)
    monkeypatch.setattr(os, "pidfd_open", full, raising=False)
    process = loop.run_until_complete(sh("exit 6"))
    assert loop.run_until_complete(process.wait()) == 6
    loop.run_until_complete(gone(process))


@pytest.mark.ours
def test_no_way_to_hear_of_it(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a descriptor nor a thread: the child does not run unwatched."""

    def refuse(*args: Any) -> Any:
        raise OSError(24, "Too many open files")

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    without_wait_child(monkeypatch)
    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(RuntimeError, match="new thread"):
        loop.run_until_complete(start("sleep", "60", stdin=PIPE))
    monkeypatch.undo()
    loop.run_until_complete(asyncio.sleep(0.01))


def test_stdin_of_a_popen_is_no_business_of_ours(loop_factory: Factory) -> None:
    """A child of ``subprocess`` is not reaped by the loop."""
    with subprocess.Popen(["/bin/sh", "-c", "exit 2"]) as other:

        async def main() -> None:
            process = await sh("exit 1")
            assert await process.wait() == 1

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
        assert other.wait() == 2
