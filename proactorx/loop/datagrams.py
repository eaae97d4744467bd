"""Datagrams: endpoints, and operations on datagram sockets of the user's.

``create_datagram_endpoint`` is ``BaseEventLoop``'s; what is here is the transport that it asks a loop for.

``sock_recvfrom`` and its like try the system call first: where a datagram is there, or there is room for one, nothing
else is needed.  A datagram that a cancelled receive has brought all the same is kept for the next receive.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proactorx.port import names
from proactorx.port.constants import POLL, POLLIN, POLLOUT, RECV_FROM, SEND_TO
from proactorx.port.op import Overlapped
from proactorx.port.port import Port
from proactorx.transports.datagram import DatagramTransport

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_KNOWN_FAMILIES = (socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", socket.AF_INET))
# What a receive without a buffer of its own takes at most, see PX_HOT_SIZE in drivers/sockio.h.
_LARGEST = 256 * 1024


class _Turn:
    """A place in the line of the receives of one socket; to be left once."""

    def __init__(self, line: weakref.WeakKeyDictionary[socket.socket, asyncio.Future[None]], sock: socket.socket):
        self.line = line
        self.sock = sock
        self.before = line.get(sock)
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.handed = False  # the op leaves it
        line[sock] = self.end

    def leave(self, _: object = None) -> None:
        """Let the next one in; where those before are still at it, when they have ended."""
        if self.before is not None and not self.before.done():
            self.before.add_done_callback(self.leave)
            return
        if not self.end.get_loop().is_closed():
            self.end.set_result(None)
        if self.line.get(self.sock) is self.end:
            del self.line[self.sock]


class Datagrams(asyncio.BaseEventLoop):
    """The datagram family of ``AbstractEventLoop``."""

    _port: Port

    def _init_datagrams(self) -> None:
        # What cancelled receives have brought, and the last one in line of each socket.
        self._kept: weakref.WeakKeyDictionary[socket.socket, list[tuple[bytes, Any]]] = weakref.WeakKeyDictionary()
        self._in_line: weakref.WeakKeyDictionary[socket.socket, asyncio.Future[None]] = weakref.WeakKeyDictionary()

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        address: Any = None,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> DatagramTransport:
        self._ensure_fd_no_transport(sock)  # type: ignore[attr-defined]
        transport = DatagramTransport(self, self._port, sock, protocol, address=address, extra=extra)
        transport._start(waiter)
        return transport

    # ----------------------------------------------------------------------------------- sockets of the user's own

    def _check_datagram_sock(self, sock: socket.socket) -> None:
        if isinstance(sock, ssl.SSLSocket):
            raise TypeError("Socket cannot be of type SSLSocket")
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        if sock.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    async def _end_of(
        self, op: Overlapped, keep: Callable[[], None] | None = None, ended: Callable[[], None] | None = None
    ) -> None:
        """Submit `op` and wait for its end.

        `keep` is called when it succeeds although the wait was cancelled, `ended` when the kernel has let go of it, in
        every case.
        """
        future: asyncio.Future[None] = self.create_future()

        def finished(op: Overlapped) -> None:
            if future.cancelled() and keep is not None and not op.error:
                keep()
            if ended is not None:
                ended()
            if not future.done() and not self.is_closed():  # a future of a closed loop has nobody to tell
                future.set_result(None)

        op.owner = finished
        self._port.start(op)
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._port.stop(op)
            elif keep is not None and not op.error:
                keep()  # the result was there when the cancellation came
            raise

    async def _next_datagram(self, sock: socket.socket, size: int, buffer: memoryview | None) -> tuple[Any, Any]:
        """(bytes, address), or (count, address) when it was received into `buffer`; receives are served in line."""
        turn = _Turn(self._in_line, sock)
        try:
            if turn.before is not None:
                # Not the future itself: when this wait is cancelled, those behind still wait for those before.
                await asyncio.shield(turn.before)
            if kept := self._kept.get(sock):
                data, address = kept.pop(0)
                return data[:size], address
            return await self._receive_datagram(sock, size, buffer, turn)
        finally:
            if not turn.handed and not self.is_closed():
                turn.leave()

    async def _receive_datagram(
        self, sock: socket.socket, size: int, buffer: memoryview | None, turn: _Turn
    ) -> tuple[Any, Any]:
        def keep() -> None:
            data = op.kept()
            assert isinstance(data, bytes)
            self._kept.setdefault(sock, []).append((data, names.parse(op.address)))

        while True:
            try:
                return sock.recvfrom(size) if buffer is None else sock.recvfrom_into(buffer, size)
            except (BlockingIOError, InterruptedError):
                pass
            if sock.family in _KNOWN_FAMILIES:
                break
            await self._end_of(Overlapped(POLL, sock.fileno(), events=POLLIN))
        own = bytearray(size) if buffer is None and size > _LARGEST else None
        op = Overlapped(RECV_FROM, sock.fileno(), size=size, data=buffer if own is None else own)
        turn.handed = True  # the op may take a datagram until it has ended
        try:
            await self._end_of(op, keep, turn.leave)
        except BaseException:
            turn.handed = op.state_name != "NEW"
            raise
        result = op.result()
        return (result if own is None else op.kept()), names.parse(op.address)

    async def sock_recvfrom(self, sock: socket.socket, bufsize: int) -> tuple[bytes, Any]:
        """Receive one datagram: (at most `bufsize` bytes of it, its sender's address), recvfrom(2)."""
        self._check_datagram_sock(sock)
        if sock not in self._in_line and not self._kept.get(sock):
            try:
                return sock.recvfrom(bufsize)
            except (BlockingIOError, InterruptedError):
                pass
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        return await self._next_datagram(sock, bufsize, None)

    async def sock_recvfrom_into(self, sock: socket.socket, buf: WriteableBuffer, nbytes: int = 0) -> tuple[int, Any]:
        """Receive one datagram into `buf`: (bytes written, its sender's address), recvfrom(2).

        Args:
            sock: a non-blocking datagram socket.
            buf: a writable buffer; not to be used before the call has returned.
            nbytes: take at most so many bytes; 0: as many as `buf` holds.

        Raises:
            ValueError: `nbytes` is more than `buf` holds, or negative.
        """
        self._check_datagram_sock(sock)
        view = memoryview(buf).cast("B")
        if nbytes < 0:
            raise ValueError("negative buffersize in recvfrom_into")
        if nbytes > len(view):
            raise ValueError("nbytes is greater than the length of the buffer")
        view = view[: nbytes or len(view)]
        data, address = await self._next_datagram(sock, len(view), view)
        if isinstance(data, int):
            return data, address
        view[: len(data)] = data
        return len(data), address

    async def sock_sendto(self, sock: socket.socket, data: ReadableBuffer, address: Any) -> int:
        """Send `data` as one datagram to `address`; its size, sendto(2).

        `data` must not be changed before the call has returned.
        """
        self._check_datagram_sock(sock)
        delay = 0.0
        while True:
            try:
                return sock.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                pass
            # A Unix socket that is not connected is said to be writable while its receiver is full, unix(7) has no
            # event for that: what the poll does not bring, a timer must.
            if delay:
                await asyncio.sleep(delay)
            delay = min(2 * delay or 0.001, 0.03)
            name = self._numeric(sock.family, address)
            if name is not None:
                op = Overlapped(SEND_TO, sock.fileno(), data=data, address=name)
                await self._end_of(op)
                result = op.result()
                assert isinstance(result, int)
                return result
            await self._end_of(Overlapped(POLL, sock.fileno(), events=POLLOUT))

    def _numeric(self, family: int, address: Any) -> bytes | None:
        """The kernel's form of an address; None where only the socket module can tell (a name, another family)."""
        if family not in (socket.AF_INET, socket.AF_INET6):
            return None
        try:
            return names.pack(family, address)
        except (ValueError, OSError, TypeError, IndexError, AttributeError):
            return None
