"""``loop.sock_*``: operations on the user's sockets, as overlapped ops;
``socket_table`` keeps what they share.

Each call first tries the system call, and starts an op only where that would block.
"""

from proactorx.loop.socket_table cimport SocketOp, SocketTable
from proactorx.ops.op cimport ACCEPT_ONE, CONNECT, RECV, RECV_INTO, SEND, SEND_TO
from proactorx.sys.socket cimport POLLOUT

import asyncio
import contextlib
import errno
import socket

from proactorx.port import sockaddr

cdef object Socket = socket.socket
cdef object NON_BLOCKING = getattr(socket, "SOCK_NONBLOCK", 0)
cdef tuple INTERNET = (socket.AF_INET, socket.AF_INET6)


cdef SocketTable table_of(loop):
    """The table of `loop`.

    Raises:
        RuntimeError: the loop is closed.
    """
    table = loop._socket_table
    if table is None:
        loop._check_closed()
    return <SocketTable?>table


class Sockets:
    """The socket family of ``AbstractEventLoop``."""

    def _init_sockets(self):
        self._socket_table = SocketTable(self)

    def _close_sockets(self):
        """After the port's close: close the connections that were accepted for cancelled calls.

        The table refers to the loop.  The loop lets go of it, and is freed with the last reference to it.
        """
        table_of(self).accepted.clear()
        self._socket_table = None

    async def sock_recv(self, sock, n):
        """Receive up to `n` bytes: recv(2).

        If the call is cancelled after bytes were received, the next receive on the socket returns them.

        Args:
            sock: a non-blocking socket, which stays yours.
            n: the number of bytes, at least 0.

        Returns:
            The bytes received; ``b""`` at the end of the stream.

        Raises:
            OSError: the receive failed.
            ValueError: `n` is negative; in debug mode also, `sock` is blocking.
            TypeError: `sock` is an ``ssl.SSLSocket``.
            RuntimeError: a transport uses the socket.
        """
        cdef SocketTable table = table_of(self)
        cdef SocketOp op
        cdef int fd = table.check(sock)
        cdef Py_ssize_t size = n
        if size < 0:
            raise ValueError("negative buffersize in recv")
        if fd in table.receiving:
            await table.turn(table.receiving, sock, fd)
        if table.has_left_over(sock):
            return table.left_over(sock, size)[0]
        if table.may_look(fd, sock):
            result = table.receive_now(fd, size)
            if result is not None:
                return result
        op = table.start(RECV, fd, sock, size)
        try:
            result = await op.future
        except BaseException:
            op.left()
            raise
        # Not before: had this task been cancelled, the bytes would go to the next receive.
        table.ended(op)
        return result

    async def sock_recv_into(self, sock, buf):
        """Receive into `buf`, which must not be resized before the call returns: recv(2).

        Returns:
            The number of bytes received; 0 at the end of the stream.

        Raises:
            TypeError: `buf` is read-only, or `sock` is an ``ssl.SSLSocket``.
            OSError: the receive failed.
        """
        cdef SocketTable table = table_of(self)
        cdef SocketOp op
        cdef int fd = table.check(sock)
        if fd in table.receiving:
            await table.turn(table.receiving, sock, fd)
        if table.has_left_over(sock):
            return table.left_over_into(sock, buf)
        if table.may_look(fd, sock):
            count = table.receive_into_now(fd, buf)
            if count >= 0:
                return count
        op = table.start(RECV_INTO, fd, sock, 0, buf)
        try:
            result = await op.future
        except BaseException:
            op.left()
            raise
        # Not before: had this task been cancelled, the bytes would go to the next receive.
        table.ended(op)
        return result

    async def sock_sendall(self, sock, data):
        """Send all of `data`: send(2).  Do not change `data` before the call returns.

        Raises:
            OSError: the send failed; some of the data may have been sent.
            TypeError: `sock` is an ``ssl.SSLSocket``.
        """
        cdef SocketTable table = table_of(self)
        cdef SocketOp op
        cdef int fd = table.check(sock)
        cdef Py_ssize_t size, sent = 0
        if fd in table.sending:
            await table.turn(table.sending, sock, fd)
        else:
            # What goes at once needs no op and no turn of the loop.
            sent = table.send_now(fd, data, &size)
            if sent == size:
                return
        op = table.start(SEND, fd, sock, 0, memoryview(data).cast("B")[sent:] if sent else data)
        try:
            await op.future
        except BaseException:
            op.left()
            raise
        table.ended(op)

    async def sock_connect(self, sock, address):
        """Connect `sock` to `address`: connect(2).  The name of an Internet host is resolved first.

        Raises:
            OSError: the connection failed; the message names the address.
            socket.gaierror: the name cannot be resolved.
        """
        cdef SocketTable table = table_of(self)
        cdef SocketOp op
        cdef int fd = table.check(sock)
        family = sock.family
        if family in INTERNET:
            resolved = await self._ensure_resolved(address, family=family, type=sock.type, proto=sock.proto,
                                                   loop=self)
            address = resolved[0][4]
            fd = table.check(sock)
        name = _packed(family, address)
        if name is None:
            try:
                return sock.connect(address)
            except (BlockingIOError, InterruptedError):
                return await self._connected(sock, address)
        op = table.start(CONNECT, fd, sock, 0, name)
        waits = op.armed
        try:
            await op.future
        except OSError as exc:
            if exc.errno != errno.EALREADY and waits:
                raise OSError(exc.errno, f"Connect call failed {address}") from None
            if exc.errno != errno.EALREADY:
                raise  # as connect(2) itself has refused it
        except BaseException:
            op.left()
            raise
        else:
            return None
        # An earlier call was given up, or the user has made one: its attempt goes on.
        await self._connected(sock, address)

    async def _connected(self, sock, address):
        """Wait for the outcome of an attempt to connect that goes on in the kernel."""
        await table_of(self).poll(sock, POLLOUT)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, f"Connect call failed {address}")

    async def sock_accept(self, sock):
        """Accept one connection: accept(2).

        Returns:
            (a non-blocking socket, the address of the peer).

        Raises:
            OSError: accepting failed.
        """
        cdef SocketTable table = table_of(self)
        cdef SocketOp op
        cdef int fd = table.check(sock)
        if fd in table.accepting:
            await table.turn(table.accepting, sock, fd)
        kept = table.kept_connection(sock)
        if kept is None:
            fd = table.check(sock)
            if sock.gettimeout() == 0:  # else it might wait
                kept = table.accept_now(fd)
        if kept is None:
            op = table.start(ACCEPT_ONE, table.check(sock), sock, 0)
            try:
                accepted = await op.future
            except BaseException:
                op.left()
                raise
            kept = accepted, op.client
            table.ended(op)
        accepted, client = kept
        if NON_BLOCKING:
            conn = Socket(sock.family, sock.type | NON_BLOCKING, sock.proto, accepted)  # no call to say so
        else:
            conn = Socket(fileno=accepted)
            conn.setblocking(False)
        address = None if client is None else sockaddr.parse(client)
        if address is None:
            # The driver does not know it, or only the socket module can tell what it says.
            with contextlib.suppress(OSError):
                address = conn.getpeername()
        return conn, address

    # ---------------------------------------------------------------------------------------------- datagrams

    async def sock_recvfrom(self, sock, bufsize):
        """Receive one datagram: recvfrom(2).  Bytes beyond `bufsize` are lost.

        Returns:
            (the bytes, the address of the sender).

        Raises:
            OSError: the receive failed.
            ValueError: `bufsize` is negative.
        """
        cdef SocketTable table = table_of(self)
        if table.check(sock) not in table.receiving and not table.has_left_over(sock):
            # A datagram that is there needs no op.
            try:
                return sock.recvfrom(bufsize)
            except (BlockingIOError, InterruptedError):
                pass
        if bufsize < 0:
            raise ValueError("negative buffersize in recvfrom")
        return await table.receive_from(sock, bufsize, None)

    async def sock_recvfrom_into(self, sock, buf, nbytes=0):
        """Receive one datagram into `buf`: (bytes written, its sender's address), recvfrom(2).

        Args:
            sock: a non-blocking datagram socket.
            buf: a writable buffer; not to be used before the call has returned.
            nbytes: take at most so many bytes; 0: as many as `buf` holds.

        Raises:
            ValueError: `nbytes` is more than `buf` holds, or negative.
        """
        cdef SocketTable table = table_of(self)
        cdef int fd = table.check(sock)
        view = memoryview(buf).cast("B")
        if view.readonly:
            raise TypeError("a receive needs a writable buffer")
        if nbytes < 0:
            raise ValueError("negative buffersize in recvfrom_into")
        if nbytes > len(view):
            raise ValueError("nbytes is greater than the length of the buffer")
        view = view[:nbytes or len(view)]
        if fd not in table.receiving and not table.has_left_over(sock):
            try:
                return sock.recvfrom_into(view)
            except (BlockingIOError, InterruptedError):
                pass
        return await table.receive_from(sock, len(view), view)

    async def sock_sendto(self, sock, data, address):
        """Send `data` as one datagram to `address`; its size, sendto(2).

        `data` must not be changed before the call has returned.
        """
        cdef SocketTable table = table_of(self)
        cdef SocketOp op
        cdef int fd
        cdef double delay = 0
        while True:
            fd = table.check(sock)
            try:
                return sock.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                pass
            name = _packed(sock.family, address) if sock.family in INTERNET else None
            if name is None:
                # A Unix socket that is not connected is said to be writable while its receiver is full,
                # unix(7) has no event for that: what the poll does not bring, a timer must.
                if delay:
                    await asyncio.sleep(delay)
                delay = min(2 * delay or 0.001, 0.03)
                await table.poll(sock, POLLOUT)
                continue
            op = table.start(SEND_TO, fd, sock, 0, data, 0, name)
            try:
                return await op.future
            except BaseException:
                op.left()
                raise


cdef bytes _packed(family, address):
    """The kernel's form of an address; None where only the socket module can tell, or has to say what is
    wrong: a name, another family, a port that is none."""
    try:
        return sockaddr.pack(family, address)
    except Exception:
        return None
