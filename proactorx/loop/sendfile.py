"""``loop.sendfile`` and ``loop.sock_sendfile`` with sendfile(2), which moves the bytes from the page cache to
the socket. On Windows TransmitFile does it, see ``winsendfile.py``.

For TLS, and for files that sendfile(2) refuses, IO threads read the file in blocks: but where the kernel can
encrypt, the first large file makes it do so for that connection, see ``transports/tls_kernel.pyx``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import logging
import os
import socket
import stat
import sys
from collections.abc import Awaitable, Callable
from typing import IO, TYPE_CHECKING, Any

from proactorx.loop.threads import Threads
from proactorx.ops.constants import POLLOUT
from proactorx.transports.tls_transport import TLSTransport

if sys.platform == "win32":
    from proactorx.loop.winsendfile import Transmission

    _sendfile: Any
else:
    # Not os: tools that look for a user's blocking calls put their own functions there (blockbuster).
    from posix import sendfile as _sendfile

if TYPE_CHECKING:
    from proactorx.loop.socket_table import SocketTable
    from proactorx.transports.sending import SendingTransport
    from proactorx.transports.stream import StreamTransport

logger: logging.Logger = logging.getLogger("asyncio")

#: Bytes in one call: the call may read from a disk, and blocks the loop meanwhile.
CHUNK = 1 << 20
#: Bytes that an IO thread reads at a time, as in asyncio.
BLOCK = 1 << 18
#: The same where the kernel encrypts them in the call.
ENCRYPTED_CHUNK = 1 << 18
#: Bytes of a file below which the kernel is not asked to encrypt: that is for good, and small records that it
#: encrypts cost more than OpenSSL's.
KERNEL_TLS = 1 << 16
#: Bytes of the record that shows that the keys are right, the largest of RFC 8446 section 5.1: so that
#: the file goes on at the beginning of a page.
FIRST = 1 << 14


def _regular(file: IO[bytes]) -> int:
    """Return the descriptor of `file`, or raise SendfileNotAvailableError if sendfile(2) cannot read it."""
    if sys.platform != "win32" and not hasattr(os, "sendfile"):
        raise asyncio.SendfileNotAvailableError("os.sendfile() is not available")
    try:
        number = file.fileno()
        os.fstat(number)
    except (AttributeError, io.UnsupportedOperation, OSError):
        raise asyncio.SendfileNotAvailableError("not a regular file") from None
    return number


async def _send(
    source: int,
    offset: int,
    count: int | None,
    target: Callable[[], int],
    room: Callable[[], Awaitable[object]],
    chunk: int = CHUNK,
    seek: Callable[[int], object] | None = None,
) -> int:
    """Send up to `count` bytes of `source` (None: all), `chunk` in a call, and return how many were sent.

    `target` returns the descriptor to send to, before each call; `room` waits until it takes more; `seek`
    sets the file's position behind what was sent (default: the descriptor's, as asyncio does).
    """
    sent = 0
    moved = False  # whether to set the file's position: not if an IO thread continues from where it was
    try:
        while count is None or sent < count:
            size = chunk if count is None else min(chunk, count - sent)
            try:
                step = _sendfile(target(), source, offset + sent, size)
            except (BlockingIOError, InterruptedError):
                await room()
                continue
            except ConnectionError:
                raise
            except OSError as exc:
                if sent == 0:  # what cannot be mapped, sendfile(2): EINVAL and others
                    raise asyncio.SendfileNotAvailableError("os.sendfile call failed") from exc
                if exc.errno == errno.ENOTCONN:
                    raise ConnectionError(errno.ENOTCONN, "socket is not connected") from exc
                raise
            moved = True
            if step == 0:
                break
            sent += step
            if count is None or sent < count:
                await room()
        return sent
    finally:
        if moved and seek is not None:
            seek(offset + sent)
        elif moved:
            os.lseek(source, offset + sent, os.SEEK_SET)


class _StandIn(asyncio.Protocol):
    """Replaces the user's protocol while a file is written to the transport: it reads nothing, and waits for
    room to write.

    It then calls ``pause_writing`` or ``resume_writing`` if the state of the transport has changed meanwhile;
    asyncio's own replacement does not.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: StreamTransport | TLSTransport) -> None:
        self._loop = loop
        self._transport = transport
        self._protocol = transport.get_protocol()
        self._was_reading = transport.is_reading()
        self._told_to_pause = transport._protocol_paused
        self._room = loop.create_future() if self._told_to_pause else None
        transport.pause_reading()
        transport.set_protocol(self)

    async def send(self, block: memoryview) -> None:
        """Write `block` once there is room.

        Raises:
            ConnectionError: the transport is closing.
        """
        if self._room is not None:
            await self._room
        if self._transport.is_closing():
            raise ConnectionError("Connection closed by peer")
        self._transport.write(block)  # which copies what it cannot send at once

    def restore(self) -> None:
        """Give the transport back to the user's protocol."""
        self._transport.set_protocol(self._protocol)
        if self._was_reading:
            self._transport.resume_reading()
        if self._transport._protocol_paused != self._told_to_pause and not self._transport.is_closing():
            (self._protocol.resume_writing if self._told_to_pause else self._protocol.pause_writing)()

    def pause_writing(self) -> None:
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():  # done: cancelled
            room.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self.resume_writing()
        self._protocol.connection_lost(exc)


class Sendfile(Threads):
    """The two ways of ``BaseEventLoop.sendfile`` and ``sock_sendfile``: the system's call, or IO threads."""

    _socket_table: SocketTable | None  # None: the loop is closed
    _check_sendfile_params: Callable[..., None]  # BaseEventLoop's own, which typeshed leaves out

    async def _sock_sendfile_native(
        self, sock: socket.socket, file: IO[bytes], offset: int, count: int | None
    ) -> int:
        source, table = _regular(file), self._socket_table
        if table is None:
            raise RuntimeError("Event loop is closed")
        if sys.platform == "win32":
            return await Transmission(self, source, offset, count).send(lambda: table.checked(sock))
        return await _send(
            source, offset, count, lambda: table.checked(sock), lambda: table.poll(sock, POLLOUT)
        )

    async def _sendfile_native(
        self, transp: SendingTransport | TLSTransport, file: IO[bytes], offset: int, count: int | None
    ) -> int:
        self._check_sendfile_params(transp.get_extra_info("socket"), file, offset, count)
        source = _regular(file)
        if isinstance(transp, TLSTransport):
            return await self._send_encrypted(transp, source, file, offset, count)
        if sys.platform == "win32":
            send = Transmission(self, source, offset, count).send
        else:

            def send(target: Callable[[], int]) -> Awaitable[int]:
                return _send(source, offset, count, target, lambda: transp._room(True))

        transp._begin_sendfile()
        try:
            await transp._room(False)
            return await send(transp._sendfile_fd)
        finally:
            transp._end_sendfile()

    async def _send_encrypted(
        self, transp: TLSTransport, source: int, file: IO[bytes], offset: int, count: int | None
    ) -> int:
        """Send a file with the kernel's TLS; if that fails after the first record, the rest without it.

        Never more is asked for than there is: up to Linux 6.4 the kernel keeps the last record
        for itself where sendfile(2) meets the file's end.  The position is set by the file itself, as IO
        threads would: it may have read ahead.
        """
        if sys.platform == "win32":
            raise asyncio.SendfileNotAvailableError("Windows' kernel encrypts no TLS")
        found = os.fstat(source)
        total = found.st_size - offset if count is None else min(count, found.st_size - offset)
        if not stat.S_ISREG(found.st_mode) or total < KERNEL_TLS:
            raise asyncio.SendfileNotAvailableError("too few bytes for TLS in the kernel, or no regular file")
        seek = file.seek if hasattr(file, "seek") else lambda to: os.lseek(source, to, os.SEEK_SET)
        transp._begin_sendfile()
        sent = 0
        try:
            await self._until_flushed(transp)
            if not transp._in_kernel:
                first = await self.io_pool.call(self, os.pread, source, FIRST, offset)
                if first:
                    transp._prove(first)
                    sent = len(first)
                    seek(offset + sent)
                    await self._until_flushed(transp)
                transp._hand_over()
            target, room = transp._sendfile_fd, lambda: transp._room(True)
            rest = _send(source, offset + sent, total - sent, target, room, ENCRYPTED_CHUNK, seek)
            return sent + await rest
        except asyncio.SendfileNotAvailableError as exc:
            if not sent:
                raise
            logger.debug("%r: the rest of the file is encrypted here: %s", transp, exc)
        finally:
            transp._end_sendfile()
        return sent + await self._sendfile_fallback(transp, file, offset + sent, total - sent)

    async def _until_flushed(self, transp: TLSTransport) -> None:
        while not transp._flushed():
            await transp._room(False)

    async def _sock_sendfile_fallback(
        self, sock: socket.socket, file: IO[bytes], offset: int, count: int | None
    ) -> int:
        return await self._send_blocks(file, offset, count, lambda block: self.sock_sendall(sock, block))

    async def _sendfile_fallback(
        self, transp: StreamTransport | TLSTransport, file: IO[bytes], offset: int, count: int | None
    ) -> int:
        stand_in = _StandIn(self, transp)
        try:
            return await self._send_blocks(file, offset, count, stand_in.send)
        finally:
            stand_in.restore()

    async def _send_blocks(
        self, file: IO[bytes], offset: int, count: int | None, send: Callable[[memoryview], Awaitable[object]]
    ) -> int:
        """Read `file` on IO threads, and await ``send`` for each block."""
        sent = 0
        read = file.readinto  # type: ignore[attr-defined]  # of every binary file

        def set_position() -> None:
            if sent and hasattr(file, "seek"):
                file.seek(offset + sent)

        def orphaned(_: object) -> None:
            # The call was cancelled while a thread read, which moved the position once more.
            with contextlib.suppress(OSError, ValueError):  # the file may be closed by now
                set_position()

        if hasattr(file, "seek"):  # to 0 as well: the file may be elsewhere
            file.seek(offset)
        view = memoryview(bytearray(BLOCK if count is None else min(count, BLOCK)))
        try:
            while count is None or sent < count:
                room = view if count is None else view[: count - sent]
                size = await self.io_pool.call(self, read, room, on_orphan=orphaned)
                if not size:
                    break
                await send(view[:size])
                sent += size
            return sent
        finally:
            set_position()
