"""Children that behave, and what is asked of them."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from pathlib import Path

import pytest
from transports.support import LIMIT, MIB, turns

from .support import PYTHON, Log, children, gone, sh, start, waiting


async def test_input_and_output() -> None:
    process = await start("cat", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(b"some data") == (b"some data", None)
    assert process.returncode == 0
    assert process.pid > 0


async def test_no_input() -> None:
    process = await start("cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert await process.communicate(b"") == (b"", b"")
    assert process.returncode == 0


async def test_a_shell_and_its_exit_code() -> None:
    process = await asyncio.create_subprocess_shell(
        "echo out; echo err >&2; exit 3", stdout=PIPE, stderr=PIPE
    )
    assert await process.communicate() == (b"out\n", b"err\n")
    assert process.returncode == 3


async def test_without_pipes() -> None:
    process = await sh("exit 5")
    assert await process.wait() == 5
    assert await process.wait() == 5
    assert (process.stdin, process.stdout, process.stderr) == (None, None, None)


async def test_much_in_both_directions() -> None:
    data = random.Random(1).randbytes(2 * MIB)
    process = await start("cat", stdin=PIPE, stdout=PIPE)
    out, _ = await asyncio.wait_for(process.communicate(data), LIMIT)
    assert out == data


async def test_much_by_streams_with_a_small_limit() -> None:
    """The reader's limit pauses the child's output, and the full pipe pauses its input."""
    data = b"".join(b"line %d\n" % n for n in range(100_000))
    process = await start("cat", stdin=PIPE, stdout=PIPE, limit=1000)
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    async def feed() -> None:
        for n in range(0, len(data), 10_000):
            stdin.write(data[n : n + 10_000])
            await stdin.drain()
        stdin.close()
        await stdin.wait_closed()

    feeding = asyncio.create_task(feed())
    assert [line async for line in stdout] == data.splitlines(keepends=True)
    await feeding
    assert await process.wait() == 0


async def test_errors_among_the_output() -> None:
    process = await sh("echo one; echo two >&2; echo three", stdout=PIPE, stderr=STDOUT)
    assert await process.communicate() == (b"one\ntwo\nthree\n", None)


async def test_nothing_in_and_nothing_out() -> None:
    process = await start("cat", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    assert await process.wait() == 0


async def test_directory_and_environment(tmp_path: Path) -> None:
    folder = os.path.realpath(tmp_path)  # noqa: ASYNC240
    process = await sh(
        "pwd; echo $WORD", stdout=PIPE, cwd=folder, env={"WORD": "word", "PATH": os.environ["PATH"]}
    )
    assert await process.communicate() == (f"{folder}\nword\n".encode(), None)


async def test_descriptors_that_are_passed_on() -> None:
    r, w = os.pipe()
    try:
        process = await start(*PYTHON, f"import os; os.write({w}, b'through')", pass_fds=[w])
        assert await process.wait() == 0
        assert os.read(r, 100) == b"through"
        process = await start(*PYTHON, f"import os; os.fstat({w})", stderr=DEVNULL)
        assert await process.wait() == 1
    finally:
        os.close(r)
        os.close(w)


async def test_a_file_as_input_and_output(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"contents")
    with source.open("rb") as stdin, target.open("wb") as stdout:
        process = await start("cat", stdin=stdin, stdout=stdout)
        assert await process.wait() == 0
    assert target.read_bytes() == b"contents"


async def test_a_terminal_for_the_child() -> None:
    controller, terminal = os.openpty()
    try:
        process = await sh("test -t 0 && test -t 1 && echo yes", stdin=terminal, stdout=terminal)
        assert await process.wait() == 0
        assert os.read(controller, 100) == b"yes\r\n"
    finally:
        os.close(controller)
        os.close(terminal)


@pytest.mark.parametrize(
    ("method", "number"),
    [("kill", signal.SIGKILL), ("terminate", signal.SIGTERM), ("send_signal", signal.SIGHUP)],
)
async def test_signals_that_end_it(method: str, number: signal.Signals) -> None:
    async with waiting() as process:
        getattr(process, method)(*([number] if method == "send_signal" else []))
        assert await process.wait() == -number


async def test_a_signal_that_it_handles() -> None:
    process = await sh("trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done", stdout=PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    assert await process.wait() == 7
    assert await process.stdout.read() == b""


async def test_no_signal_for_one_that_has_ended() -> None:
    process = await sh("exit 0")
    await process.wait()
    await gone(process)
    for send in (process.kill, process.terminate, lambda: process.send_signal(signal.SIGUSR1)):
        with pytest.raises(ProcessLookupError):
            send()


async def test_waiting_is_cancelled() -> None:
    async with waiting() as process:
        task = asyncio.create_task(process.wait())
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.01)
        assert process.returncode is None
        process.kill()
        assert await process.wait() == -signal.SIGKILL


async def test_several_wait() -> None:
    async with waiting() as process:
        tasks = [asyncio.create_task(process.wait()) for _ in range(5)]
        await turns()
        process.terminate()
        assert await asyncio.gather(*tasks) == [-signal.SIGTERM] * 5


async def test_it_closes_its_output_early() -> None:
    process = await sh("exec >&-; read line; exit 4", stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.read() == b""
    assert process.returncode is None
    process.stdin.write(b"line\n")
    assert await process.wait() == 4


async def test_it_does_not_read_its_input() -> None:
    process = await sh("exec <&-; exit 0", stdin=PIPE)
    assert process.stdin is not None
    process.stdin.write(b"x" * MIB)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        while True:
            await process.stdin.drain()
            await asyncio.sleep(0)
    assert await process.wait() == 0


async def test_communicate_with_one_that_does_not_read() -> None:
    process = await sh("exec <&-; echo done", stdin=PIPE, stdout=PIPE)
    out, _ = await asyncio.wait_for(process.communicate(b"x" * MIB), LIMIT)
    assert out == b"done\n"
    assert await process.wait() == 0


async def test_output_is_read_after_the_end() -> None:
    process = await sh("echo late", stdout=PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT):
        while process.returncode is None:
            await asyncio.sleep(0)
    assert await process.stdout.read() == b"late\n"
    assert await process.wait() == 0


async def test_what_a_protocol_is_told() -> None:
    loop = asyncio.get_running_loop()
    transport, log = await loop.subprocess_shell(Log, "echo out; echo err >&2; read x; exit 6")
    assert transport.get_pid() > 0
    assert transport.get_returncode() is None
    assert isinstance(transport, asyncio.SubprocessTransport)
    stdin, stdout = transport.get_pipe_transport(0), transport.get_pipe_transport(1)
    assert isinstance(stdin, asyncio.WriteTransport)
    assert isinstance(stdout, asyncio.ReadTransport)
    await log.until(lambda: log.pipes == {1: b"out\n", 2: b"err\n"})
    stdin.write(b"go\n")
    assert await log.until_lost() is None
    assert transport.get_returncode() == 6
    assert log.events[0] == "connection_made"
    assert log.events[-1] == "connection_lost"
    assert sorted(log.events[1:-1]) == ["data", "data", "lost 0", "lost 1", "lost 2", "process_exited"]
    transport.close()


async def test_a_transport_is_closed_twice() -> None:
    """Closing kills, and the protocol hears of the end all the same."""
    loop = asyncio.get_running_loop()
    transport, log = await loop.subprocess_exec(Log, "cat")
    transport.close()
    transport.close()
    assert transport.is_closing()
    assert await log.until_lost() is None
    assert transport.get_returncode() == -signal.SIGKILL
    assert log.events.count("process_exited") == log.events.count("connection_lost") == 1
    transport.close()


async def test_in_debug_mode() -> None:
    asyncio.get_running_loop().set_debug(True)
    process = await start("cat", stdin=PIPE, stdout=PIPE)
    assert await process.communicate(b"data") == (b"data", None)


async def test_many_at_once() -> None:
    count = 200

    async def one(n: int) -> tuple[bytes, int | None]:
        process = await sh(f"read word; echo $word; exit {n % 100}", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(b"%d\n" % n)
        return out, process.returncode

    found = await asyncio.gather(*[one(n) for n in range(count)])
    assert found == [(b"%d\n" % n, n % 100) for n in range(count)]


async def test_five_hundred_alive_at_once() -> None:
    """They end in one moment, when the pipe that all of them read is closed."""
    count = 500
    read, write = os.pipe()
    try:
        processes = await asyncio.gather(
            *[sh(f"read word; exit {n % 100}", stdin=read) for n in range(count)]
        )
        assert all(process.returncode is None for process in processes)
        assert len(children()) >= count
    finally:
        os.close(read)
        os.close(write)
    assert await asyncio.gather(*[process.wait() for process in processes]) == [n % 100 for n in range(count)]


async def test_a_python_child_with_arguments() -> None:
    code = "import sys; sys.stdout.write(sys.argv[1]); sys.stdout.flush(); sys.exit(int(sys.argv[2]))"
    process = await start(*PYTHON, code, "word", "9", stdout=PIPE)
    assert await process.communicate() == (b"word", None)
    assert process.returncode == 9


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
async def test_it_inherits_nothing_of_the_loop() -> None:
    """Neither the descriptors of the driver nor those of other children's pipes."""
    async with waiting(stdout=PIPE):
        process = await sh("ls /proc/self/fd", stdout=PIPE)
        out, _ = await process.communicate()
        assert out.split() == [b"0", b"1", b"2", b"3"]  # 3 is ls's own
