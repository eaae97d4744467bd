"""What the kernel's own port on Windows can do besides: handles, named pipes,
and its end with the interpreter's.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proactorx import BackendError, CompletionPort, Packet

from .conftest import WINDOWS, NewPort
from .support import LIMIT, Pairs, keys, members, until

pytestmark = pytest.mark.skipif(not WINDOWS, reason="there the port is the kernel's")

GENERIC_READ, GENERIC_WRITE, OPEN_ALWAYS, FILE_FLAG_OVERLAPPED = 1 << 31, 1 << 30, 4, 1 << 30


@pytest.fixture
def handle(tmp_path: Path) -> Iterator[int]:
    """Of a file, for overlapped use."""
    import _winapi

    access = GENERIC_READ | GENERIC_WRITE
    handle = _winapi.CreateFile(str(tmp_path / "file"), access, 0, 0, OPEN_ALWAYS, FILE_FLAG_OVERLAPPED, 0)
    yield handle
    _winapi.CloseHandle(handle)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The two ends of a pipe, for overlapped use."""
    import _winapi
    from asyncio import windows_utils

    ends = windows_utils.pipe(overlapped=(True, True))
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            _winapi.CloseHandle(end)


def test_a_handle(port: CompletionPort, handle: int) -> None:
    port.bind(handle, "handle")
    wrote = port.write(handle, b"0123456789", 5)
    assert port.get(LIMIT) == Packet("handle", wrote, 10, 0)
    read = port.read(handle, 100, 3)
    assert port.get(LIMIT) == Packet("handle", read, 12, 0)
    assert read.result() == bytes(2) + b"0123456789"
    port.fsync(handle)
    assert port.get(LIMIT).error == 0
    assert port.queued == port.in_flight == 0


def test_a_handle_has_no_position_of_its_own(port: CompletionPort, handle: int) -> None:
    port.bind(handle)
    with pytest.raises(ValueError, match="no position of its own"):
        port.read(handle, 10)
    assert port.in_flight == 0


def test_a_handle_that_is_not_for_overlapped_use(port: CompletionPort, tmp_path: Path) -> None:
    import msvcrt

    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(ValueError, match="overlapped"):
            port.bind(msvcrt.get_osfhandle(file.fileno()))
        port.bind(file)  # this is opened once more
        port.write(file, b"data", 0)
        assert port.get(LIMIT).nbytes == 4


def test_a_handle_twice(new_port: NewPort, handle: int) -> None:
    one, other = new_port(), new_port()
    one.bind(handle)
    for port in (one, other):
        with pytest.raises(ValueError, match="bound already"):
            port.bind(handle)


def test_a_pipe(port: CompletionPort, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    port.bind(reader, "reader")
    port.bind(writer, "writer")
    read = port.read(reader, 100)
    assert not read.done
    port.write(writer, b"through the pipe")
    assert sorted(keys([port.get(LIMIT), port.get(LIMIT)])) == ["reader", "writer"]
    assert read.result() == b"through the pipe"


def test_a_read_of_a_pipe_is_cancelled(port: CompletionPort, pipe: tuple[int, int]) -> None:
    port.bind(pipe[0])
    read = port.read(pipe[0], 100)
    assert read.cancel()
    assert port.get(LIMIT) == Packet(None, read, 0, errno.ECANCELED)


def test_two_handles_of_one_file_object(new_port: NewPort, tmp_path: Path) -> None:
    """One is Python's, which has a position; the other one is the port's."""
    one, other = new_port(), new_port()
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        one.bind(file, "one")
        one.write(file, b"at 10", 10)
        assert one.get(LIMIT).nbytes == 5
        assert file.tell() == 0
        one.write(file, b"at 0")
        assert one.get(LIMIT).nbytes == 4
        assert file.tell() == 4
        one.rebind(file, other, "other")
        read = other.read(file, 20, 10)
        assert other.get(LIMIT).key == "other"
        assert read.result() == b"at 10"
        other.unbind(file)
        one.bind(file)


def test_in_flight_is_what_has_not_been_queued(port: CompletionPort, pairs: Pairs) -> None:
    one, other = pairs.connected()
    port.bind(one)
    port.recv(one, 10)
    assert (port.in_flight, port.queued) == (1, 0)
    port.post()
    assert (port.in_flight, port.queued) == (1, 1)
    other.send(b"x")
    until(lambda: (port.in_flight, port.queued) == (0, 2))
    port.get_many(2, LIMIT)
    assert (port.in_flight, port.queued) == (0, 0)


def test_a_socket_closed_with_operations_in_flight(port: CompletionPort, pairs: Pairs) -> None:
    """Nobody has cancelled them: they fail, but not as cancelled ones do."""
    one, _ = pairs.connected()
    port.bind(one)
    op = port.recv(one, 10)
    one.close()
    packet = port.get(LIMIT)
    assert packet.overlapped is op
    assert packet.error not in (0, errno.ECANCELED)


def test_a_listener_of_several_connections_that_are_gone_again(port: CompletionPort, pairs: Pairs) -> None:
    """A failed accept is a packet like any other, and the next one succeeds."""
    import socket
    import struct

    listener = pairs.listener()
    port.bind(listener)
    for _ in range(5):
        client = socket.create_connection(listener.getsockname())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh", 1, 0))
        client.close()
        op = port.accept(listener)
        if not port.get(LIMIT).error:
            op.result()[0].close()
    client = pairs.keep(socket.create_connection(listener.getsockname()))
    op = port.accept(listener)
    assert port.get(LIMIT).error == 0
    with op.result()[0] as server:
        assert server.getpeername() == client.getsockname()


def test_other_backends_are_refused() -> None:
    with pytest.raises(BackendError, match=r"kernel's own: backend iocp, not select"):
        CompletionPort(backend="select")


def test_a_forgotten_port_ends_its_operations(pairs: Pairs) -> None:
    one, other = pairs.connected()

    def forget() -> None:
        port = CompletionPort()
        port.bind(one)
        port.recv(one, 10)
        del port
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed port"):
        forget()
    other.send(b"not for it")
    one.setblocking(True)
    assert one.recv(10) == b"not for it"


AT_EXIT = """
import proactorx, socket, threading
port = proactorx.CompletionPort()
one, other = socket.socketpair()
port.bind(one)
left = [port.recv_into(one, bytearray(1000)) for _ in range(20)]
threading.Thread(target=port.get, daemon=True).start()
{end}
other.send(b"x" * 5000)
"""


@pytest.mark.parametrize("end", ["", "del port, left", "port.close()"])
def test_operations_in_flight_at_the_end_of_the_interpreter(end: str) -> None:
    """Their memory outlives them: the kernel may still write to it."""
    code = AT_EXIT.format(end=end)
    command: list[Any] = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=45, check=False)
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr


def test_a_close_ends_waits_of_many_threads(new_port: NewPort, pairs: Pairs) -> None:
    port = new_port(8)
    one, _ = pairs.connected()
    port.bind(one, "sock")
    port.recv(one, 10)
    with members(port, 5) as waiters:
        for waiter in waiters:
            waiter.wait()
        assert keys(port.close()) == ["sock"]
