"""Both ends of each kind of pipe: a file object for the loop and a descriptor for the test."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import IO, Any

import pytest

from transports.support import LIMIT, MIB, Notes, Recorder

if sys.platform == "win32":
    import msvcrt
    from asyncio import windows_utils

    READABLE: tuple[str, ...] = ("pipe",)
    BREAKABLE: tuple[str, ...] = ("pipe",)
    WRITABLE: tuple[str, ...] = ("pipe",)

    class Handle(windows_utils.PipeHandle):
        """The end of a pipe for overlapped use, which says whether it is closed as a file does."""

        @property
        def closed(self) -> bool:
            return self.handle is None

else:
    import fcntl
    import tty

    READABLE = ("pipe", "fifo", "socket", "tty", "packets")
    #: Those whose writer is told when the reader goes.
    BREAKABLE = ("pipe", "fifo", "socket")
    WRITABLE = (*BREAKABLE, "tty")


class Ends:
    """The loop's end, a file object, and the test's, a blocking descriptor."""

    def __init__(self, ours: IO[bytes], peer: int) -> None:
        self.ours = ours
        self.peer = peer

    def close_peer(self) -> None:
        peer, self.peer = self.peer, -1
        if peer >= 0:
            os.close(peer)

    def give(self, data: bytes) -> None:
        """Blocking: for small data, or in a thread."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.peer, view) :]

    def take(self, count: int) -> bytes:
        """Blocking: for data known to come, or in a thread."""
        out = bytearray()
        while len(out) < count:
            if sys.platform != "win32":
                assert select.select([self.peer], [], [], LIMIT)[0], f"only {len(out)} of {count} bytes came"
            chunk = os.read(self.peer, min(count - len(out), MIB))
            assert chunk, f"the end came after {len(out)} of {count} bytes"
            out += chunk
        return bytes(out)

    def take_all(self) -> bytes:
        out = bytearray()
        while chunk := os.read(self.peer, MIB):
            out += chunk
        return bytes(out)

    async def given(self, data: bytes) -> None:
        await asyncio.to_thread(self.give, data)

    async def taken(self, count: int) -> bytes:
        return await asyncio.to_thread(self.take, count)

    async def rest(self) -> bytes:
        return await asyncio.to_thread(self.take_all)


def _pair(kind: str, *, reading: bool) -> tuple[int, int]:
    """(ours, the peer's) descriptor."""
    match kind:
        case "pipe":
            r, w = os.pipe()
            return (r, w) if reading else (w, r)
        case "packets":
            if not hasattr(os, "O_DIRECT"):
                pytest.skip("pipes have no packets here")
            return os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
        case "fifo":
            with tempfile.TemporaryDirectory(prefix="px") as folder:
                os.mkfifo(path := os.path.join(folder, "fifo"))
                r = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                w = os.open(path, os.O_WRONLY)
                os.set_blocking(r, True)
                return (r, w) if reading else (w, r)
        case "socket":
            left, right = socket.socketpair()
            return left.detach(), right.detach()
        case "tty":
            controller, terminal = os.openpty()
            tty.setraw(terminal)
            return terminal, controller
    raise ValueError(kind)


def _opened(kind: str, *, reading: bool) -> tuple[Any, int]:
    """The file for the loop, and the peer's descriptor."""
    if sys.platform != "win32":
        ours, peer = _pair(kind, reading=reading)
        return os.fdopen(ours, "rb" if reading else "wb", buffering=0), peer
    # As for a child's input, asyncio.windows_utils.Popen: who writes reads too,
    # to hear that the other side has gone.
    reader, writer = windows_utils.pipe(
        duplex=not reading, overlapped=(reading, not reading), bufsize=1 << 16
    )
    ours, peer = (reader, writer) if reading else (writer, reader)
    return Handle(ours), msvcrt.open_osfhandle(peer, os.O_BINARY)


@contextlib.contextmanager
def ends(kind: str, *, reading: bool) -> Iterator[Ends]:
    opened, peer = _opened(kind, reading=reading)
    with opened as file:
        pair = Ends(file, peer)
        try:
            yield pair
        finally:
            pair.close_peer()


@dataclass
class Piped:
    """One pipe: the loop's transport and protocol, and the test's end."""

    transport: Any
    protocol: Any
    ends: Ends


@contextlib.asynccontextmanager
async def connected(kind: str, protocol: Notes | None = None, *, reading: bool) -> AsyncIterator[Piped]:
    """A pipe with a transport; closed at the end, and the protocol must be told once."""
    notes: Any = Recorder() if protocol is None else protocol
    loop = asyncio.get_running_loop()
    with ends(kind, reading=reading) as pair:
        connect: Any = loop.connect_read_pipe if reading else loop.connect_write_pipe
        transport, made = await connect(lambda: notes, pair.ours)
        assert made is notes
        try:
            yield Piped(transport, notes, pair)
        finally:
            if not reading and "connection_lost" not in notes.events:
                transport.abort()
            transport.close()
        await notes.until_lost()
        assert notes.events.count("connection_lost") == 1
        assert notes.events[-1] == "connection_lost"
        async with asyncio.timeout(LIMIT):
            while not pair.ours.closed:
                await asyncio.sleep(0)


def forget(made: list[Any]) -> None:
    """Drop the last references, also those that only a cycle keeps."""
    made.clear()
    gc.collect()


def capacity(fd: int) -> int:
    """How much a pipe holds (Linux)."""
    return fcntl.fcntl(fd, getattr(fcntl, "F_GETPIPE_SZ", 1032))
