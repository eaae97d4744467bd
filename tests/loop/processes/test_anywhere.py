"""Children that are Pythons, so that the same tests run on Windows too,
which has neither the shell nor its tools.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import random
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from pathlib import Path
from typing import Any

import pytest
from transports.support import LIMIT, MIB, collect_errors, turns

from .support import PYTHON, Log, gone, start

PATIENCE = 6 * LIMIT  # a Python takes its time to begin, under Wine a second
CAT = "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer, 1 << 16)"
#: How a child ends that was killed: by a signal, or TerminateProcess,
#: which subprocess gives 1 for an exit code.
KILLED = 1 if sys.platform == "win32" else -signal.SIGKILL
TERMINATED = 1 if sys.platform == "win32" else -signal.SIGTERM


async def python(code: str, *args: str, **options: Any) -> Process:
    return await start(*PYTHON, code, *args, **options)


async def ready(process: Process) -> None:
    """Wait for the first line that it prints."""
    assert process.stdout is not None
    assert (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).strip() == b"ready"


async def test_input_output_and_exit_code() -> None:
    code = "import sys; data = sys.stdin.buffer.read(); sys.stderr.write('err'); "
    code += "print(data[::-1].decode()); sys.exit(7)"
    process = await python(code, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate(b"olleh")
    assert (out.strip(), err) == (b"hello", b"err")
    assert process.returncode == 7
    assert process.pid > 0


async def test_a_shell() -> None:
    process = await asyncio.create_subprocess_shell("echo out&& exit 3", stdout=PIPE)
    out, _ = await process.communicate()
    assert (out.strip(), process.returncode) == (b"out", 3)


async def test_much_in_both_directions() -> None:
    data = random.Random(1).randbytes(2 * MIB)
    process = await python(CAT, stdin=PIPE, stdout=PIPE)
    out, _ = await asyncio.wait_for(process.communicate(data), PATIENCE)
    assert out == data
    assert process.returncode == 0


async def test_a_reader_that_is_slow_pauses_the_child() -> None:
    """Streams with a small limit: nothing is lost, and nothing is held in between."""
    process = await python(CAT, stdin=PIPE, stdout=PIPE, limit=1000)
    lines = [b"line %d\n" % n for n in range(20_000)]
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    async def feed() -> None:
        for n in range(0, len(lines), 1000):
            stdin.write(b"".join(lines[n : n + 1000]))
            await stdin.drain()
        stdin.close()
        await stdin.wait_closed()

    feeding = asyncio.create_task(feed())
    assert [line async for line in stdout] == lines
    await feeding
    assert await process.wait() == 0


async def test_errors_among_the_output() -> None:
    code = "import os; os.write(1, b'one'); os.write(2, b'two'); os.write(1, b'three')"
    process = await python(code, stdout=PIPE, stderr=STDOUT)
    assert await process.communicate() == (b"onetwothree", None)


async def test_without_pipes() -> None:
    process = await python("raise SystemExit(5)", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    assert await process.wait() == 5
    assert await process.wait() == 5
    assert (process.stdin, process.stdout, process.stderr) == (None, None, None)


async def test_a_file_as_input_and_output(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"contents")
    with source.open("rb") as stdin, target.open("wb") as stdout:
        process = await python(CAT, stdin=stdin, stdout=stdout)
        assert await process.wait() == 0
    assert target.read_bytes() == b"contents"


async def test_directory_and_environment(tmp_path: Path) -> None:
    folder = os.path.realpath(tmp_path)  # noqa: ASYNC240
    code = "import os; print(os.getcwd()); print(os.environ['WORD'])"
    process = await python(code, stdout=PIPE, cwd=folder, env={**os.environ, "WORD": "word"})
    out, _ = await process.communicate()
    assert out.decode().split() == [folder, "word"]


@pytest.mark.parametrize(("method", "status"), [("kill", KILLED), ("terminate", TERMINATED)])
async def test_it_is_ended(method: str, status: int) -> None:
    """Several wait for it, one of them in vain."""
    process = await python("print('ready', flush=True); input()", stdin=PIPE, stdout=PIPE)
    await ready(process)
    tasks = [asyncio.create_task(process.wait()) for _ in range(4)]
    await turns()
    tasks[0].cancel()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.01)
    assert process.returncode is None
    getattr(process, method)()
    assert await asyncio.gather(*tasks[1:]) == [status] * 3
    assert tasks[0].cancelled()
    await gone(process)
    for send in (process.kill, process.terminate, lambda: process.send_signal(signal.SIGTERM)):
        with pytest.raises(ProcessLookupError):
            send()


async def test_it_does_not_read_its_input() -> None:
    code = "import os; os.close(0); print('ready', flush=True)"
    process = await python(code, stdin=PIPE, stdout=PIPE)
    out, _ = await asyncio.wait_for(process.communicate(b"x" * MIB), PATIENCE)
    assert out.strip() == b"ready"
    assert await process.wait() == 0


async def test_it_closes_its_output_early() -> None:
    process = await python("import os; os.close(1); input(); os._exit(4)", stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.read(), PATIENCE) == b""
    assert process.returncode is None
    process.stdin.write(b"line\n")
    assert await process.wait() == 4


async def test_output_is_read_after_the_end() -> None:
    process = await python("print('late')", stdout=PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while process.returncode is None:
            await asyncio.sleep(0.001)
    assert (await process.stdout.read()).strip() == b"late"
    assert await process.wait() == 0


async def test_a_read_is_cancelled_and_loses_nothing() -> None:
    process = await python(CAT, stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for n in range(20):
        reading = asyncio.create_task(process.stdout.readline())
        await turns()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        process.stdin.write(b"%d\n" % n)
    process.stdin.close()
    assert await asyncio.wait_for(process.stdout.read(), PATIENCE) == b"".join(b"%d\n" % n for n in range(20))
    assert await process.wait() == 0


async def test_what_a_protocol_is_told() -> None:
    code = "import os; os.write(1, b'out'); os.write(2, b'err'); input(); os._exit(6)"
    transport, log = await asyncio.get_running_loop().subprocess_exec(Log, *PYTHON, code)
    assert transport.get_returncode() is None
    await log.until(lambda: log.pipes == {1: b"out", 2: b"err"})
    stdin = transport.get_pipe_transport(0)
    assert isinstance(stdin, asyncio.WriteTransport)
    stdin.write(b"go\n")
    assert await log.until_lost() is None
    assert transport.get_returncode() == 6
    assert (log.events[0], log.events[-1]) == ("connection_made", "connection_lost")
    assert sorted(log.events[1:-1]) == ["data", "data", "lost 0", "lost 1", "lost 2", "process_exited"]
    transport.close()


async def test_a_transport_is_closed_twice() -> None:
    """Closing kills, and the protocol hears of the end all the same."""
    transport, log = await asyncio.get_running_loop().subprocess_exec(Log, *PYTHON, "input()")
    transport.close()
    transport.close()
    assert await log.until_lost() is None
    assert transport.get_returncode() == KILLED
    assert log.events.count("process_exited") == log.events.count("connection_lost") == 1


async def test_a_callback_that_raises_is_reported() -> None:
    def fail(_log: Log, *_: Any) -> None:
        raise ZeroDivisionError("on purpose")

    errors = collect_errors()
    log = Log(process_exited=fail)
    transport, _ = await asyncio.get_running_loop().subprocess_exec(lambda: log, *PYTHON, "print('out')")
    assert await log.until_lost() is None
    assert [type(context["exception"]) for context in errors] == [ZeroDivisionError]
    assert transport.get_returncode() == 0
    transport.close()


async def test_what_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    for _ in range(5):
        with pytest.raises(FileNotFoundError):
            await start(str(tmp_path / "nowhere"), stdin=PIPE, stdout=PIPE, stderr=PIPE)


async def test_starting_is_cancelled() -> None:
    task = asyncio.create_task(python("input()", stdin=PIPE, stdout=PIPE))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_many_at_once() -> None:
    async def one(n: int) -> tuple[bytes, int | None]:
        process = await python(f"print(input()); raise SystemExit({n})", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(b"%d\n" % n)
        return out.strip(), process.returncode

    assert await asyncio.gather(*[one(n) for n in range(12)]) == [(b"%d" % n, n) for n in range(12)]


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")


async def test_every_callback_runs_in_the_context_of_the_call() -> None:
    """Whoever hears of the child's end, and whatever the caller has become by then."""
    seen: list[tuple[str, str]] = []

    def note(name: str) -> Any:
        return lambda *_: seen.append((name, variable.get()))

    names = ("connection_made", "data", "lost 1", "process_exited", "connection_lost")
    log = Log(**{name: note(name) for name in names})
    loop = asyncio.get_running_loop()
    variable.set("call")
    code = "import sys; sys.stdin.read(); print('hello')"
    transport, _ = await loop.subprocess_exec(
        lambda: log, *PYTHON, code, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    variable.set("later")
    stdin: Any = transport.get_pipe_transport(0)
    stdin.close()
    async with asyncio.timeout(PATIENCE):
        await log.until_event("connection_lost")
    transport.close()
    assert {name for name, _ in seen} == set(names)
    assert {context for _, context in seen} == {"call"}
