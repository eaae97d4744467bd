"""READ, WRITE and FSYNC on the drivers that have them; the others say that they have not."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proactorx.ops.constants import FSYNC, READ, WRITE
from proactorx.ops.op import Overlapped
from proactorx.port.loop_port import LoopPort

from .support import Owner, done, error_of, in_thread, perform, until

STEP = 1 << 20  # what the driver moves at a time


@pytest.fixture
def native(port: LoopPort) -> LoopPort:
    """The port, where its driver has file ops."""
    if not port.driver.native_files or sys.platform == "win32":
        pytest.skip("the blocking body of these ops runs on IO threads")
    return port


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A file for reading and writing, with the bytes 0 to 255 in it."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)))
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def test_a_driver_without_file_ops_says_so(port: LoopPort, fd: int) -> None:
    if port.driver.native_files:
        pytest.skip("this one has them")
    for op in (Overlapped(READ, fd, size=1), Overlapped(WRITE, fd, data=b"x"), Overlapped(FSYNC, fd)):
        with pytest.raises(NotImplementedError, match="has no file operations"):
            port.start(op)
        assert op.state_name == "NEW"


def test_read_at_a_position(native: LoopPort, fd: int) -> None:
    assert perform(native, Overlapped(READ, fd, size=4, position=10)) == bytes(range(10, 14))
    assert perform(native, Overlapped(READ, fd, size=10, position=250)) == bytes(range(250, 256))
    assert perform(native, Overlapped(READ, fd, size=10, position=256)) == b""
    assert perform(native, Overlapped(READ, fd, size=0, position=0)) == b""
    assert os.lseek(fd, 0, os.SEEK_CUR) == 0


def test_read_into_a_buffer(native: LoopPort, fd: int) -> None:
    buffer = bytearray(8)
    assert perform(native, Overlapped(READ, fd, data=buffer, position=3)) == 8
    assert buffer == bytes(range(3, 11))
    with pytest.raises(TypeError, match="writable"):
        Overlapped(READ, fd, data=b"12345678")


def test_a_file_that_has_positions_needs_one(native: LoopPort, fd: int) -> None:
    for op in (Overlapped(READ, fd, size=1), Overlapped(WRITE, fd, data=b"x")):
        with pytest.raises(ValueError, match="has positions"):
            native.start(op)


def test_a_file_without_positions(native: LoopPort) -> None:
    reader, writer = os.pipe()
    op = native.start(Overlapped(READ, reader, size=100))
    native.run(0)
    assert perform(native, Overlapped(WRITE, writer, data=b"hello")) == 5
    done(native, op)
    assert op.result() == b"hello"
    os.close(reader)
    os.close(writer)


def test_a_short_write_goes_on_where_it_stopped(native: LoopPort, tmp_path: Path) -> None:
    """A pipe takes what it has room for."""
    reader, writer = os.pipe()
    data = os.urandom(300_000)
    op = native.start(Overlapped(WRITE, writer, data=data))
    got = b""
    while len(got) < len(data):
        native.run(0.01)
        got += os.read(reader, 65536)
    done(native, op)
    assert got == data
    assert op.result() == len(data)
    os.close(reader)
    os.close(writer)


def test_write_and_sync(native: LoopPort, fd: int) -> None:
    assert perform(native, Overlapped(WRITE, fd, data=bytearray(b"hello"), position=300)) == 5
    assert perform(native, Overlapped(FSYNC, fd)) == 0
    assert perform(native, Overlapped(FSYNC, fd, datasync=True)) == 0
    assert os.pread(fd, 100, 254) == b"\xfe\xff" + bytes(44) + b"hello"


def test_more_than_one_step(native: LoopPort, fd: int) -> None:
    data = os.urandom(2 * STEP + 12345)
    assert perform(native, Overlapped(WRITE, fd, data=data, position=7)) == len(data)
    assert perform(native, Overlapped(READ, fd, size=len(data) + 100, position=7)) == data


def test_many_at_once_on_one_file(native: LoopPort, fd: int) -> None:
    ops = [native.start(Overlapped(READ, fd, size=1, position=i)) for i in range(256)]
    done(native, *ops)
    assert [op.result() for op in ops] == [bytes((i,)) for i in range(256)]
    ops = [native.start(Overlapped(WRITE, fd, data=bytes((255 - i,)), position=i)) for i in range(256)]
    done(native, *ops)
    assert os.pread(fd, 256, 0) == bytes(range(255, -1, -1))


def test_the_disk_is_given_work_before_the_turn_ends(native: LoopPort, fd: int) -> None:
    ops = [native.start(Overlapped(WRITE, fd, data=b"x", position=i)) for i in range(16)]
    deadline = time.monotonic() + 10
    while os.pread(fd, 8, 0) != b"x" * 8:  # and nobody runs the port
        assert time.monotonic() < deadline
        time.sleep(0.001)
    done(native, *ops)
    assert os.pread(fd, 17, 0) == b"x" * 16 + b"\x10"


def test_errors_are_those_of_the_system_calls(native: LoopPort, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    reader = os.open(os.devnull, os.O_RDONLY)
    writer = os.open(tmp_path / "w", os.O_WRONLY | os.O_CREAT)
    found = []
    for op in (
        Overlapped(READ, folder, size=1, position=0),
        Overlapped(WRITE, reader, data=b"x", position=0),
        Overlapped(READ, writer, size=1, position=0),
    ):
        native.start(op)
        done(native, op)
        found.append(error_of(op))
    for fd in (folder, reader, writer):
        os.close(fd)
    op = native.start(Overlapped(FSYNC, writer))
    done(native, op)
    assert [*found, error_of(op)] == ["EISDIR", "EBADF", "EBADF", "EBADF"]


def test_a_full_device(native: LoopPort) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    op = native.start(Overlapped(WRITE, fd, data=b"x", position=0))
    done(native, op)
    os.close(fd)
    assert error_of(op) == "ENOSPC"
    assert op.nbytes == 0


def test_the_end_of_a_file_that_is_cut_meanwhile(native: LoopPort, fd: int) -> None:
    os.ftruncate(fd, 2 * STEP)
    owner = Owner()
    op = native.start(Overlapped(READ, fd, size=2 * STEP, position=0, on_done=owner))
    os.ftruncate(fd, STEP)
    done(native, op)
    assert len(op.result()) in (STEP, 2 * STEP)
    assert owner.times == 1


@pytest.mark.parametrize("kind", [READ, WRITE, FSYNC])
def test_cancel_ends_in_success_or_in_ecanceled(native: LoopPort, fd: int, kind: int) -> None:
    for _ in range(20):
        owner = Owner()
        data = bytes(3 * STEP) if kind == WRITE else None
        op = native.start(Overlapped(kind, fd, size=3 * STEP, data=data, position=0, on_done=owner))
        native.stop(op)
        done(native, op)
        assert owner.times == 1
        assert op.error in (0, errno.ECANCELED)
        if kind == WRITE and not op.error:
            assert op.nbytes == 3 * STEP
    assert native.driver.inflight == []


def test_the_buffer_is_the_ops_until_the_last_packet(native: LoopPort, fd: int) -> None:
    buffer = bytearray(1000)
    op = native.start(Overlapped(READ, fd, data=buffer, position=0))
    native.stop(op)
    if not op.done:
        with pytest.raises(BufferError):
            buffer.clear()
    done(native, op)
    buffer.clear()


def test_ops_in_flight_end_before_another_thread_drives_the_port(native: LoopPort, fd: int) -> None:
    data = os.urandom(STEP)
    owner = Owner()

    def begin() -> list[Overlapped]:
        native.attach_thread()
        ops = [
            native.start(Overlapped(WRITE, fd, data=data, position=i * STEP, on_done=owner)) for i in range(4)
        ]
        ops += [native.start(Overlapped(FSYNC, fd, on_done=owner))]
        native.run(0)
        native.detach_thread()
        return ops

    ops = in_thread(begin)
    native.attach_thread()
    until(native, lambda: owner.times == 5)
    native.detach_thread()
    assert [op.error for op in ops] == [0] * 5
    assert os.fstat(fd).st_size == 4 * STEP


def test_closing_the_port_ends_them(new_port: Callable[[], LoopPort], fd: int) -> None:
    port = new_port()
    if not port.driver.native_files or sys.platform == "win32":
        pytest.skip("the blocking body of these ops runs on IO threads")
    owner = Owner()
    for i in range(8):
        port.start(Overlapped(WRITE, fd, data=bytes(1000), position=1000 * i, on_done=owner))
    port.close()
    assert owner.times == 8
