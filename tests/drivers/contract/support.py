"""Sockets to work on, owners that note what they hear, and turns of a port."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

from proactorx.ops.constants import CONNECT
from proactorx.ops.op import Overlapped
from proactorx.port import sockaddr
from proactorx.port.loop_port import LoopPort

NO_DESCRIPTOR = "ENOTSOCK" if sys.platform == "win32" else "EBADF"  # what the system says of a closed one
# seconds: the longest that a test waits for one thing to happen
LIMIT = 20.0 if sys.platform == "win32" else 5.0
HANDLES = 4096  # numbers of handles that are looked at, where none can be listed (Windows)
TCP_BUFFER = 1 << 16
QUIET_TURNS = 3  # so many turns without waiting show that nothing more comes

T = TypeVar("T")


def descriptors() -> set[int]:
    """The descriptors that this process has open."""
    if sys.platform == "win32":
        return {number for number in range(4, HANDLES, 4) if _is_socket(number)}
    # The listing shows its own descriptor too, which is closed by now.
    return {fd for fd in map(int, os.listdir("/dev/fd")) if _is_open(fd)}


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _is_socket(number: int) -> bool:
    import ctypes

    kind, size = ctypes.c_int(), ctypes.c_int(4)
    winsock: Any = ctypes.windll.ws2_32  # type: ignore[attr-defined]
    asked = winsock.getsockopt(
        number, socket.SOL_SOCKET, socket.SO_TYPE, ctypes.byref(kind), ctypes.byref(size)
    )
    return bool(asked == 0)


class Owner:
    """An op's owner that notes its calls: ``ended`` holds ops,
    ``accepted`` the descriptors of a multishot accept.
    """

    def __init__(self, then: Callable[[Overlapped], Any] | None = None) -> None:
        self.ended: list[Overlapped] = []
        self.accepted: list[int] = []
        self.then = then

    def __call__(self, what: Any) -> None:
        if isinstance(what, int):
            self.accepted.append(what)
            return
        self.ended.append(what)
        if self.then is not None:
            self.then(what)

    @property
    def times(self) -> int:
        """How often it was told that its op has ended."""
        return len(self.ended)

    def close_accepted(self) -> None:
        """Close what it was given, once."""
        while self.accepted:
            socket.close(self.accepted.pop())


def until(port: LoopPort, happened: Callable[[], Any], *, limit: float = LIMIT) -> None:
    """Run turns of `port` until `happened`."""
    deadline = time.monotonic() + limit
    while not happened():
        left = deadline - time.monotonic()
        assert left > 0, "it has not happened in time"
        port.run(min(left, 0.2))


def done(port: LoopPort, *ops: Overlapped) -> None:
    """Run turns of `port` until all `ops` have ended."""
    until(port, lambda: all(op.done for op in ops))


def quiet(port: LoopPort) -> None:
    """Give whatever may still be in the kernel the chance to come."""
    for _ in range(QUIET_TURNS):
        port.run(0)


def perform(port: LoopPort, op: Overlapped) -> Any:
    """Start `op`, wait for its end, and return its result."""
    port.start(op)
    done(port, op)
    return op.result()


def error_of(op: Overlapped) -> str:
    """The name of the error of an op that has ended, "" when it succeeded."""
    assert op.done
    return error_name(op.error)


def error_name(number: int | None) -> str:
    """As POSIX has it; "" of 0."""
    return errno.errorcode.get(number, str(number)).removeprefix("WSA") if number else ""


def connect_op(sock: socket.socket, address: Any, **options: Any) -> Overlapped:
    """An op that connects `sock`."""
    return Overlapped(CONNECT, sock.fileno(), data=sockaddr.pack(sock.family, address), **options)


def fill(sock: socket.socket) -> int:
    """Send until the socket takes no more; how many bytes that were."""
    total = _fill(sock)
    if sys.platform == "win32":
        # A pair is a TCP connection there: its receiver takes in some more,
        # and acknowledges the last of it late.
        for pause in (0.05, 0.25):
            time.sleep(pause)
            total += _fill(sock)
    return total


def _fill(sock: socket.socket) -> int:
    total, size = 0, 65536
    while size:
        try:
            total += sock.send(bytes(size))
        except BlockingIOError:
            size //= 2
    return total


def drain(sock: socket.socket) -> bytes:
    """All that can be received without waiting."""
    data = bytearray()
    while True:
        try:
            piece = sock.recv(1 << 20)
        except BlockingIOError:
            return bytes(data)
        if not piece:
            return bytes(data)
        data += piece


class NumberedFile:
    """A file and the number that the system knows it by: on Windows,
    ``fileno()`` of a file is the C library's.
    """

    def __init__(self, file: Any) -> None:
        self.file = file

    def fileno(self) -> int:
        number: int = self.file.fileno()
        if sys.platform == "win32":
            import msvcrt

            return msvcrt.get_osfhandle(number)
        return number

    def close(self) -> None:
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def reset(sock: socket.socket) -> None:
    """Close a TCP socket so that its peer sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def in_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread of its own that has ended when this returns."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as exc:
            failure.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()
    if failure:
        raise failure[0]
    return outcome[0]


class Sockets:
    """Makes non-blocking sockets and closes them all at the end."""

    def __init__(self) -> None:
        self.made: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for sock in self.made:
            sock.close()

    def keep(self, sock: socket.socket) -> socket.socket:
        sock.setblocking(False)
        self.made.append(sock)
        return sock

    def new(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        return self.keep(socket.socket(family, kind))

    def pair(self, *, send_buffer: int = 0) -> tuple[socket.socket, socket.socket]:
        """A connected pair of Unix sockets (on Windows: of TCP)."""
        a, b = socket.socketpair()
        if sys.platform == "win32":
            # TCP connections there: buffers of a fixed size, that one that is full stays full.
            send_buffer = send_buffer or TCP_BUFFER
            for sock in (a, b):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TCP_BUFFER)
        if send_buffer:
            a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
            b.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        return self.keep(a), self.keep(b)

    def datagram_pair(self) -> tuple[socket.socket, socket.socket]:
        """A connected pair of Unix datagram sockets."""
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        return self.keep(a), self.keep(b)

    def udp(self) -> socket.socket:
        """A UDP socket with an address of its own."""
        sock = self.new(kind=socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        return sock

    def tcp_pair(self, *, send_buffer: int = 0) -> tuple[socket.socket, socket.socket]:
        """A connected pair of TCP sockets."""
        with self.listener() as listener:
            client = self.new()
            if send_buffer:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, send_buffer)
            client.setblocking(True)
            client.connect(listener.getsockname())
            client.setblocking(False)
            listener.setblocking(True)
            server = self.keep(listener.accept()[0])
        return server, client

    def listener(self, backlog: int = 128) -> socket.socket:
        sock = self.new()
        sock.bind(("127.0.0.1", 0))
        sock.listen(backlog)
        return sock

    def full_listener(self) -> socket.socket:
        """A TCP listener whose queue is full: the next connect waits until one is accepted."""
        listener = self.listener(0)
        self.client(listener)
        return listener

    def client(self, listener: socket.socket) -> socket.socket:
        """A socket connected to `listener`."""
        sock = self.keep(socket.socket(listener.family))
        sock.settimeout(LIMIT)
        sock.connect(listener.getsockname())
        sock.setblocking(False)
        return sock
