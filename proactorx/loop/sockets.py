"""``loop.sock_*``: operations on sockets of the user's, as overlapped ops.

An op that is cancelled may have succeeded all the same.  A receive's bytes are kept for the next receive on that
socket, and an accepted connection is closed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import weakref
from collections.abc import Callable
from typing import Any

from proactorx.port import names
from proactorx.port.constants import ACCEPT_ONE, CONNECT, RECV, RECV_INTO, SEND
from proactorx.port.op import Overlapped
from proactorx.port.port import Port


class Sockets(asyncio.BaseEventLoop):
    """The socket family of ``AbstractEventLoop``."""

    _port: Port

    def _init_sockets(self) -> None:
        # What cancelled receives have brought, and the ends of the receives in flight.
        self._received: weakref.WeakKeyDictionary[socket.socket, bytes] = weakref.WeakKeyDictionary()
        self._receiving: weakref.WeakKeyDictionary[socket.socket, asyncio.Future[None]] = weakref.WeakKeyDictionary()

    def _check_sock(self, sock: socket.socket) -> None:
        if isinstance(sock, ssl.SSLSocket):
            raise TypeError("Socket cannot be of type SSLSocket")
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        if sock.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    async def _run_op(
        self, op: Overlapped, unwanted: Callable[[Any], None], ended: Callable[[], None] | None = None
    ) -> Any:
        """Submit `op` and wait for its result.

        When the wait is cancelled, so is the op; a result that comes all the same goes to `unwanted`.  `ended` is
        called when the kernel has let go of the op, in every case.
        """
        future: asyncio.Future[Any] = self.create_future()

        def finished(op: Overlapped) -> None:
            if ended is not None:
                ended()
            if future.cancelled():
                if not op.error:
                    unwanted(op.kept())
            elif self.is_closed():
                return  # a future of a closed loop has nobody to tell
            elif op.error:
                future.set_exception(OSError(op.error, os.strerror(op.error)))
            else:
                future.set_result(op.result())

        op.owner = finished
        self._port.start(op)
        try:
            return await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._port.stop(op)
            elif future.exception() is None:
                unwanted(op.kept())  # the result was there when the cancellation came
            raise

    async def _receive(self, sock: socket.socket, make: Callable[[], Overlapped]) -> Any:
        """One receive, in line behind those before it; what a cancelled one has brought goes to the next.

        One op at a time and socket: so bytes are never given to one receive while a later one waits in the kernel.
        None: there are bytes that a cancelled receive has brought.
        """
        while (before := self._receiving.get(sock)) is not None:
            await asyncio.shield(before)
        if sock in self._received:
            return None
        turn: asyncio.Future[None] = self.create_future()

        def keep(data: bytes) -> None:
            if data:
                self._received[sock] = self._received.get(sock, b"") + data

        def leave() -> None:
            self._receiving.pop(sock, None)
            turn.set_result(None)

        op = make()
        self._receiving[sock] = turn
        try:
            return await self._run_op(op, keep, leave)
        except BaseException:
            if op.state_name == "NEW":
                leave()  # it could not be submitted
            raise

    def _left_over(self, sock: socket.socket, nbytes: int) -> bytes:
        """At most `nbytes` of what cancelled receives have brought."""
        data = self._received.pop(sock)
        if len(data) > nbytes:
            self._received[sock] = data[nbytes:]
        return data[:nbytes]

    async def sock_recv(self, sock: socket.socket, n: int) -> bytes:
        """Receive at most `n` bytes, b"" at the end of the stream: recv(2)."""
        self._check_sock(sock)
        data: bytes | None = await self._receive(sock, lambda: Overlapped(RECV, sock.fileno(), size=n))
        return self._left_over(sock, n) if data is None else data

    async def sock_recv_into(self, sock: socket.socket, buf: Any) -> int:
        """Receive into `buf`; the number of bytes, 0 at the end of the stream: recv(2)."""
        self._check_sock(sock)
        count: int | None = await self._receive(sock, lambda: Overlapped(RECV_INTO, sock.fileno(), data=buf))
        if count is not None:
            return count
        view = memoryview(buf).cast("B")
        data = self._left_over(sock, len(view))
        view[: len(data)] = data
        return len(data)

    async def sock_sendall(self, sock: socket.socket, data: Any) -> None:
        """Send all of `data`: send(2).  It must not be changed before the call has returned."""
        self._check_sock(sock)
        if memoryview(data).nbytes:
            await self._run_op(Overlapped(SEND, sock.fileno(), data=data), _nothing)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Connect `sock` to `address`: connect(2).

        Raises:
            OSError: the connection failed.
        """
        self._check_sock(sock)
        family = sock.family
        if family in (socket.AF_INET, socket.AF_INET6):
            resolved = await self._ensure_resolved(  # type: ignore[attr-defined]
                address, family=family, type=sock.type, proto=sock.proto, loop=self
            )
            address = resolved[0][4]
        op = Overlapped(CONNECT, sock.fileno(), data=names.pack(family, address))
        try:
            await self._run_op(op, _nothing)
        except OSError as exc:
            raise OSError(exc.errno, f"Connect call failed {address}") from None

    async def sock_accept(self, sock: socket.socket) -> tuple[socket.socket, Any]:
        """Accept one connection: (its non-blocking socket, the peer's address), accept(2)."""
        self._check_sock(sock)
        while True:
            conn = socket.socket(fileno=await self._run_op(Overlapped(ACCEPT_ONE, sock.fileno()), os.close))
            conn.setblocking(False)
            try:
                return conn, conn.getpeername()
            except OSError:
                conn.close()  # reset before it was accepted: accept(2) would have said ECONNABORTED


def _nothing(_: object) -> None:
    """A result of which nothing needs to be kept."""
