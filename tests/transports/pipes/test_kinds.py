"""Terminals, FIFOs, devices, and the standard streams of a program."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import textwrap
import tty
from collections.abc import Callable
from typing import IO

import pytest
from loop.helpers import prelude, script_environment

from transports.support import LIMIT, MIB, Recorder, turns

from .support import connected


def device(path: str, mode: str) -> IO[bytes]:
    return open(path, mode, buffering=0)


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="as Linux has it")


async def test_lines_of_a_terminal_come_one_by_one() -> None:
    """A terminal that edits lines gives one to each read, however many it has."""
    loop = asyncio.get_running_loop()
    controller, terminal = os.openpty()
    notes = Recorder()
    try:
        transport, _ = await loop.connect_read_pipe(lambda: notes, os.fdopen(terminal, "rb", buffering=0))
        os.write(controller, b"one\ntwo\nthree\nunfinished")
        await notes.until_received(14)
        assert bytes(notes.data) == b"one\ntwo\nthree\n"
        assert notes.events.count("data_received") == 3
        os.write(controller, b" line\n\x04")  # the end of input, as from a keyboard
        assert await notes.until_lost() is None
        assert bytes(notes.data).endswith(b"unfinished line\n")
        transport.close()
        await turns(5)
    finally:
        os.close(controller)


@linux_only
async def test_the_other_side_of_a_terminal_goes() -> None:
    """The controlling side gets EIO, which is no error worth a report."""
    loop = asyncio.get_running_loop()
    controller, terminal = os.openpty()
    notes = Recorder()
    transport, _ = await loop.connect_read_pipe(lambda: notes, os.fdopen(controller, "rb", buffering=0))
    os.write(terminal, b"bye")
    await notes.until_received(3)
    os.close(terminal)
    assert isinstance(await notes.until_lost(), OSError)
    assert notes.order == ["connection_made", "data_received", "connection_lost"]
    transport.close()
    await turns(5)


async def test_both_directions_of_one_terminal() -> None:
    """Two transports on one open file, as on the standard streams of a program in a terminal."""
    loop = asyncio.get_running_loop()
    controller, terminal = os.openpty()
    tty.setraw(terminal)
    incoming, outgoing = Recorder(), Recorder()
    try:
        reader, _ = await loop.connect_read_pipe(
            lambda: incoming, os.fdopen(os.dup(terminal), "rb", buffering=0)
        )
        writer, _ = await loop.connect_write_pipe(lambda: outgoing, os.fdopen(terminal, "wb", buffering=0))
        for n in range(50):
            os.write(controller, b"question %02d" % n)
            await incoming.until_received(11 * (n + 1))
            writer.write(b"answer %02d" % n)
            assert os.read(controller, 100) == b"answer %02d" % n
        reader.close()
        assert await incoming.until_lost() is None
        writer.write(b"still")
        assert os.read(controller, 100) == b"still"
        writer.close()
        assert await outgoing.until_lost() is None
        await turns(5)
    finally:
        os.close(controller)


async def test_both_directions_of_one_descriptor() -> None:
    loop = asyncio.get_running_loop()
    controller, terminal = os.openpty()
    tty.setraw(terminal)
    incoming, outgoing = Recorder(), Recorder()
    try:
        file = os.fdopen(terminal, "r+b", buffering=0)
        reader, _ = await loop.connect_read_pipe(lambda: incoming, file)
        writer, _ = await loop.connect_write_pipe(lambda: outgoing, file)
        os.write(controller, b"in")
        await incoming.until_received(2)
        writer.write(b"out")
        assert os.read(controller, 100) == b"out"
        reader.close()
        writer.close()
        assert await incoming.until_lost() is None
        assert await outgoing.until_lost() is None
        await turns(5)
        assert file.closed
    finally:
        os.close(controller)


@linux_only
async def test_a_fifo_that_is_its_own_reader() -> None:
    """Opened for both, fifo(7), it never ends, and what is written to it can be read from it."""
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="px") as folder:
        os.mkfifo(path := os.path.join(folder, "fifo"))
        notes = Recorder()
        reader, _ = await loop.connect_read_pipe(lambda: notes, device(path, "r+b"))
        for word in (b"one", b"two"):
            with device(path, "wb") as writer:
                writer.write(word)
            await turns(3)
        assert await notes.until_received(6) == b"onetwo"
        assert "eof_received" not in notes.events
        reader.close()
        await notes.until_lost()
        await turns(5)


@linux_only
@pytest.mark.ours  # stock asyncio takes its own writing for the reader's end
async def test_writing_to_a_fifo_that_is_its_own_reader() -> None:
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="px") as folder:
        os.mkfifo(path := os.path.join(folder, "fifo"))
        notes = Recorder()
        file = device(path, "r+b")
        writer, _ = await loop.connect_write_pipe(lambda: notes, file)
        writer.write(b"hello")
        await turns(5)
        assert os.read(file.fileno(), 100) == b"hello"
        writer.close()
        assert await notes.until_lost() is None
        await turns(5)


@linux_only
# epoll refuses such devices, and stock asyncio says so to its exception handler and waits for ever
@pytest.mark.ours
async def test_devices_that_are_always_ready() -> None:
    loop = asyncio.get_running_loop()
    notes = Recorder()
    await loop.connect_read_pipe(lambda: notes, device("/dev/null", "rb"))
    assert await notes.until_lost() is None
    assert notes.events == ["connection_made", "eof_received", "connection_lost"]

    zeros = Recorder(
        data_received=lambda notes, data: len(notes.data) > MIB and notes.transport.pause_reading()
    )
    transport, _ = await loop.connect_read_pipe(lambda: zeros, device("/dev/zero", "rb"))
    await zeros.until_received(MIB + 1)
    seen = len(zeros.data)
    await turns(5)
    assert len(zeros.data) == seen
    zeros.hooks.clear()
    transport.resume_reading()
    await zeros.until_received(seen + 1)
    transport.close()
    assert await zeros.until_lost() is None
    await turns(5)


@linux_only
async def test_devices_that_are_written_to() -> None:
    loop = asyncio.get_running_loop()
    notes = Recorder()
    transport, _ = await loop.connect_write_pipe(lambda: notes, device("/dev/null", "wb"))
    transport.write(b"x" * MIB)
    assert transport.get_write_buffer_size() == 0
    transport.close()
    assert await notes.until_lost() is None

    full = Recorder()
    transport, _ = await loop.connect_write_pipe(lambda: full, device("/dev/full", "wb"))
    transport.write(b"x")
    error = await full.until_lost()
    assert isinstance(error, OSError)
    assert "No space" in str(error)
    await turns(5)


FILTER = """
import sys

class Upper(asyncio.Protocol):
    def __init__(self, writer, done):
        self.writer, self.done = writer, done
    def data_received(self, data):
        self.writer.write(data.upper())
    def connection_lost(self, exc):
        self.done.set_result(None)

class Output(asyncio.BaseProtocol):
    def __init__(self, lost):
        self.lost = lost
    def pause_writing(self):
        reader.pause_reading()
    def resume_writing(self):
        reader.resume_reading()
    def connection_lost(self, exc):
        self.lost.set_result(None)

async def main():
    global reader
    loop = asyncio.get_running_loop()
    done, lost = loop.create_future(), loop.create_future()
    writer, _ = await loop.connect_write_pipe(lambda: Output(lost), sys.stdout)
    reader, _ = await loop.connect_read_pipe(lambda: Upper(writer, done), sys.stdin)
    await done
    writer.close()
    await lost

with asyncio.Runner(loop_factory=new_loop) as runner:
    runner.run(main())
"""


def test_standard_input_and_output_of_a_program(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    data = b"some words " * 200_000
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", prelude(loop_factory) + textwrap.dedent(FILTER)],
        input=data,
        capture_output=True,
        env=script_environment(),
        timeout=2 * LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data.upper()


async def test_a_transport_of_a_socket_pair_meets_another() -> None:
    """One end written by a pipe transport, the other read by a pipe transport, in one loop."""
    loop = asyncio.get_running_loop()
    async with connected("socket", reading=True) as pipe:
        notes = Recorder()
        writer, _ = await loop.connect_write_pipe(
            lambda: notes, os.fdopen(os.dup(pipe.ends.peer), "wb", buffering=0)
        )
        pipe.ends.close_peer()
        writer.write(b"x" * MIB)
        await pipe.protocol.until_received(MIB)
        writer.close()
        assert await notes.until_lost() is None
        assert await pipe.protocol.until_lost() is None
