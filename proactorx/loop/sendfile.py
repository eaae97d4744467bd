"""``loop.sendfile`` and ``loop.sock_sendfile`` with sendfile(2): the bytes go from the page cache to the socket.

The fall-backs, for TLS and for what is no regular file, are asyncio's own.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
from collections.abc import Awaitable, Callable
from typing import IO, TYPE_CHECKING

from proactorx.port.constants import POLLOUT

if TYPE_CHECKING:
    from proactorx.loop.sockets import SocketTable
    from proactorx.transports.sending import SendingTransport

#: Bytes in one call: it may have to read from a disk, and the loop stands still meanwhile.
CHUNK = 1 << 20


def _regular(file: IO[bytes]) -> int:
    """The descriptor of `file`, where sendfile(2) can be expected to read from it."""
    if not hasattr(os, "sendfile"):
        raise asyncio.SendfileNotAvailableError("os.sendfile() is not available")
    try:
        number = file.fileno()
        os.fstat(number)
    except (AttributeError, io.UnsupportedOperation, OSError):
        raise asyncio.SendfileNotAvailableError("not a regular file") from None
    return number


async def _send(
    source: int, offset: int, count: int | None, target: Callable[[], int], room: Callable[[], Awaitable[object]]
) -> int:
    """Send up to `count` bytes of `source` (None: all); `target` is asked for the descriptor before each call."""
    sent = 0
    moved = False  # whether the position of the file is ours to set: not where asyncio's fall-back goes on
    try:
        while count is None or sent < count:
            size = CHUNK if count is None else min(CHUNK, count - sent)
            try:
                step = os.sendfile(target(), source, offset + sent, size)
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
        if moved:
            os.lseek(source, offset + sent, os.SEEK_SET)


class Sendfile(asyncio.BaseEventLoop):
    """What ``BaseEventLoop.sendfile`` and ``sock_sendfile`` try first."""

    _socket_table: SocketTable

    async def _sock_sendfile_native(self, sock: socket.socket, file: IO[bytes], offset: int, count: int | None) -> int:
        source = _regular(file)
        return await _send(
            source,
            offset,
            count,
            lambda: self._socket_table.checked(sock),
            lambda: self._socket_table.poll(sock, POLLOUT),
        )

    async def _sendfile_native(self, transp: SendingTransport, file: IO[bytes], offset: int, count: int | None) -> int:
        source = _regular(file)
        transp._begin_sendfile()
        try:
            await transp._room(False)
            return await _send(source, offset, count, transp._sendfile_fd, lambda: transp._room(True))
        finally:
            transp._end_sendfile()
