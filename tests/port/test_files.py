"""Operations on files: native on io_uring, blocking bodies on IO threads elsewhere;
the same for those who use them.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from proactorx import CompletionPort, Packet
from proactorx.port.operations import run_bodies_on

from .conftest import WINDOWS, NewPort
from .support import LIMIT, Pairs, members

Op = Any


@pytest.fixture
def file(tmp_path: Path, port: CompletionPort) -> Iterator[BinaryIO]:
    """A file without a buffer of its own, bound to the port with the key "file"."""
    with (tmp_path / "file").open("w+b", buffering=0) as made:
        port.bind(made, "file")
        yield made


def result(port: CompletionPort, op: Op) -> Any:
    packet = port.get(LIMIT)
    assert (packet.key, packet.overlapped) == ("file", op)
    return op.result()


def test_write_read_and_sync(port: CompletionPort, file: BinaryIO) -> None:
    assert result(port, port.write(file, b"0123456789", 0)) == 10
    assert result(port, port.write(file, memoryview(b"abc"), 3)) == 3
    assert result(port, port.fsync(file)) is None
    assert result(port, port.read(file, 100, 2)) == b"2abc6789"
    assert result(port, port.read(file, 3, 2)) == b"2ab"
    assert result(port, port.read(file, 10, 10)) == b""
    assert result(port, port.read(file, 0, 0)) == b""
    buffer = bytearray(b"........")
    assert result(port, port.read_into(file, memoryview(buffer)[1:4], 0)) == 3
    assert buffer == b".012...."


def test_without_an_offset_the_position_moves(port: CompletionPort, file: BinaryIO) -> None:
    assert result(port, port.write(file, b"first ")) == 6
    assert result(port, port.write(file, b"second")) == 6
    file.seek(0)
    assert result(port, port.read(file, 6)) == b"first "
    assert result(port, port.read(file, 100)) == b"second"
    assert result(port, port.read(file, 100)) == b""


def test_large_ones_go_whole(port: CompletionPort, file: BinaryIO) -> None:
    data = os.urandom(5 << 20)
    assert result(port, port.write(file, data, 7)) == len(data)
    assert result(port, port.read(file, len(data), 7)) == data


@pytest.mark.skipif(not os.path.exists("/proc/kallsyms"), reason="Linux's /proc")
def test_a_short_read_is_not_the_end(port: CompletionPort) -> None:
    """The kernel gives 4 KiB of such a file at a time."""
    with open("/proc/kallsyms", "rb") as file:
        port.bind(file, "file")
        assert result(port, port.read(file, 100_000, 0)) == file.read(100_000)
        buffer = bytearray(50_000)
        assert result(port, port.read_into(file, buffer, 100_000)) == 50_000
        assert buffer == file.read(50_000)
        size = 100_000 + 50_000 + len(file.read())
        assert len(result(port, port.read(file, 100_000, size - 6000))) == 6000


def test_many_at_once(port: CompletionPort, file: BinaryIO) -> None:
    ops = {port.write(file, bytes([number]) * 1000, 1000 * number): number for number in range(200)}
    for _ in range(200):
        packet = port.get(LIMIT)
        assert packet.nbytes == 1000
        ops.pop(packet.overlapped)
    assert not ops
    reads = {port.read(file, 1000, 1000 * number): number for number in range(200)}
    for _ in range(200):
        op = port.get(LIMIT).overlapped
        assert op.result() == bytes([reads.pop(op)]) * 1000


def test_failures(port: CompletionPort, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(b"x")
    with path.open("rb") as file:
        port.bind(file, "file")
        op = port.write(file, b"data", 0)
        assert port.get(LIMIT) == Packet("file", op, 0, errno.EBADF)
        with pytest.raises(OSError, match="Bad file"):
            op.result()
    if WINDOWS:
        return  # a folder is not opened there
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        port.bind(fd, "folder")
        op = port.read(fd, 10, 0)
        assert port.get(LIMIT) == Packet("folder", op, 0, errno.EISDIR)
        with pytest.raises(IsADirectoryError):
            op.result()
    finally:
        os.close(fd)


def test_wrong_arguments(port: CompletionPort, file: BinaryIO) -> None:
    with pytest.raises(ValueError, match="negative"):
        port.read(file, -1, 0)
    with pytest.raises(ValueError, match="negative"):
        port.read(file, 1, -1)
    with pytest.raises(ValueError, match="negative"):
        port.write(file, b"", -5)
    with pytest.raises(TypeError, match="float"):
        port.read(file, 1, 1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="writable"):
        port.read_into(file, b"read-only", 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not bound"):
        port.fsync(0)
    assert port.in_flight == 0


def test_the_buffer_is_locked_meanwhile(port: CompletionPort, file: BinaryIO) -> None:
    buffer = bytearray(10)
    op = port.write(file, buffer, 0)
    result(port, op)
    buffer.clear()  # free again


def test_a_waiting_thread_is_released(new_port: NewPort, tmp_path: Path) -> None:
    port = new_port(1)
    with (tmp_path / "file").open("w+b", buffering=0) as file, members(port, 1) as (member,):
        port.bind(file, "file")
        member.wait()
        port.write(file, b"data", 0)
        packet = member.outcome()
        assert (packet.key, packet.nbytes) == ("file", 4)


@pytest.mark.skipif(WINDOWS, reason="a number is a handle there, see test_kernel.py")
def test_a_pipe_has_no_positions(port: CompletionPort) -> None:
    reader, writer = os.pipe()
    try:
        port.bind(reader, "file")
        op = port.read(reader, 10)
        os.write(writer, b"data")
        assert result(port, op) == b"data"
    finally:
        os.close(reader)
        os.close(writer)


class Held:
    """IO threads that run nothing until they are told to."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []

    def queue(self, body: Any) -> None:
        self.bodies.append(body)


@pytest.fixture
def held(variant: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    from proactorx.pool import default_pool

    if variant.startswith(("io_uring", "iocp")):
        pytest.skip("this driver has file operations of its own")
    held = Held()
    run_bodies_on(lambda: held)
    yield held
    run_bodies_on(default_pool)


def test_a_body_is_cancelled_before_it_begins(port: CompletionPort, file: BinaryIO, held: Held) -> None:
    buffer = bytearray(10)
    op = port.read_into(file, buffer, 0)
    assert (port.in_flight, op.done) == (1, False)
    with pytest.raises(BufferError):
        buffer.clear()
    assert op.cancel() is True
    assert op.cancel() is False
    assert port.get(0) == Packet("file", op, 0, errno.ECANCELED)
    buffer.clear()
    held.bodies[0]()  # it comes to nothing
    assert port.get_many(1, 0) == []
    assert port.in_flight == 0


def test_close_cancels_what_has_not_begun(port: CompletionPort, file: BinaryIO, held: Held) -> None:
    op = port.write(file, b"data", 0)
    assert port.close() == [Packet("file", op, 0, errno.ECANCELED)]
    held.bodies[0]()
    assert os.fstat(file.fileno()).st_size == 0


@pytest.mark.skipif(WINDOWS, reason="a number is a handle there")
def test_close_waits_for_what_runs(port: CompletionPort) -> None:
    """A read of a pipe, which no thread can be called back from."""
    reader, writer = os.pipe()
    timer = threading.Timer(0.1, lambda: os.write(writer, b"data"))
    try:
        port.bind(reader, "file")
        op = port.read(reader, 10)
        timer.start()
        (packet,) = port.close()
        assert packet.overlapped is op
        assert (packet.error, packet.nbytes) in ((0, 4), (errno.ECANCELED, 0))
    finally:
        timer.join()
        os.close(reader)
        os.close(writer)


def test_a_pool_that_refuses(
    port: CompletionPort, file: BinaryIO, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(body: Any) -> None:
        raise RuntimeError("no threads today")

    monkeypatch.setattr(held, "queue", refuse)
    with pytest.raises(RuntimeError, match="no threads today"):
        port.read(file, 1, 0)
    assert port.in_flight == 0
    assert port.close() == []


def test_files_and_sockets_on_one_port(port: CompletionPort, file: BinaryIO, pairs: Pairs) -> None:
    one, other = pairs.pair()
    port.bind(one, "socket")
    port.recv(one, 10)
    port.write(file, b"x", 0)
    other.send(b"y")
    port.post("post")
    assert {port.get(LIMIT).key for _ in range(3)} == {"file", "socket", "post"}


def test_another_driver_takes_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``auto`` chose io_uring, and there is no memory for the ring when it is needed:
    files are read all the same.
    """
    from proactorx import drivers

    if drivers.Choice(None).info.name != "io_uring":
        pytest.skip("needs io_uring as the first choice")
    from proactorx.drivers.io_uring.driver import UringDriver

    def make_driver(found: object, *, shared: bool = False, restricted: bool = False) -> UringDriver:
        return UringDriver(shared=shared, entries=0)  # the kernel refuses it

    monkeypatch.setattr("proactorx.drivers.io_uring.probe.make_driver", make_driver)
    (tmp_path / "file").write_bytes(b"data")
    with CompletionPort() as port, (tmp_path / "file").open("rb", buffering=0) as file:
        assert port.backend.name == "io_uring"
        port.bind(file, "file")
        assert result(port, port.read(file, 10, 0)) == b"data"
        assert port.backend.name == "epoll"
