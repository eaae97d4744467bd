"""``loop.sock_*``: operations on sockets of the user's, as overlapped ops.

An op that is cancelled may have succeeded all the same.  A receive's bytes are kept for the next receive on that
socket, and an accepted connection for the next accept.

One receive or accept is in flight on a socket at a time, the others wait their turn: so bytes are never given to one
receive while a later one waits in the kernel.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from posix.unistd cimport close
from proactorx.loop.core cimport LoopCore
from proactorx.port.errnos cimport EAGAIN, EBADF, ECANCELED, EWOULDBLOCK
from proactorx.port.op cimport (
    ACCEPT_ONE, CONNECT, DONE, Overlapped, PACKET_MORE, POLL, Packet, RECV, RECV_INTO, SEND,
)
from proactorx.port.port cimport Port
from proactorx.transports.sending cimport UNLOCKED_SEND

import asyncio
import os
import socket
import ssl
import weakref

from proactorx.port import names

cdef extern from "../drivers/sockio.h":
    ssize_t px_send(int fd, const char *buffer, size_t size) nogil

cdef object Socket = socket.socket
cdef object SSLSocket = ssl.SSLSocket


cdef class SocketOp(Overlapped):
    """One operation of ``sock_*``, and the future of who waits for it."""

    cdef SocketTable table
    cdef object future
    cdef object sock         # of a receive or accept: where what it brings belongs
    cdef object turn         # what those behind this one wait for

    cdef int on_packet(self, Packet *packet) except -1:
        cdef int res = packet.res, kind = self.kind
        if packet.flags & PACKET_MORE:
            return 0
        if res < 0:
            self.error = -res
        elif kind == RECV:
            self.value = PyBytes_FromStringAndSize(packet.data, res)
        elif kind == SEND and self.offset < self.size:
            self.error = ECANCELED  # half-way
        elif kind == ACCEPT_ONE:
            self.value = res
        elif kind == RECV_INTO:
            self.value = self.offset
        if self.future.done() or self.table.loop._closed:
            self.unwanted()  # (a future of a closed loop has nobody to tell)
            self.table.ended(self)
        elif self.error:
            self.future.set_exception(OSError(self.error, os.strerror(self.error)))
        else:
            self.future.set_result(self.value)
        return 0

    cdef int unwanted(self) except -1:
        """Nobody takes the result: lose nothing by it."""
        if self.kind == RECV_INTO and self.value:
            self.table.keep(self.sock, bytes(self.view.cast("B")[:self.value]))
        elif self.kind == RECV and self.value:
            self.table.keep(self.sock, self.value)
        elif self.kind == ACCEPT_ONE and self.value is not None:
            self.table.keep_connection(self.sock, self.fd, <int>self.value)
        self.value = None
        return 0

    cdef int left(self) except -1:
        """Who waited has been cancelled, or has failed with the op."""
        if self.state != DONE:
            self.future.cancel()
            self.table.port.cancel(self)
        else:
            self.unwanted()  # the result was there when the cancellation came
            self.table.ended(self)
        return 0


cdef class Accepted:
    """Descriptors that cancelled accepts on one listening socket have brought; closed with that socket or the loop."""

    cdef list fds

    def __cinit__(self):
        self.fds = []

    def __dealloc__(self):
        for fd in self.fds:
            close(<int>fd)


cdef class SocketTable:
    """What a loop knows of its users' sockets."""

    cdef LoopCore loop
    cdef Port port
    cdef dict receiving      # descriptor: the receive in flight on it
    cdef dict accepting      # descriptor: the accept in flight on it
    cdef dict sending        # descriptor: the last of the sends in flight on it
    cdef object received     # socket: what cancelled receives have brought
    cdef object accepted     # socket: Accepted

    def __init__(self, LoopCore loop not None):
        self.loop = loop
        self.port = loop._port
        self.receiving = {}
        self.accepting = {}
        self.sending = {}
        self.received = weakref.WeakKeyDictionary()
        self.accepted = weakref.WeakKeyDictionary()

    cdef int check(self, sock) except -2:
        cdef int fd
        if type(sock) is not Socket and isinstance(sock, SSLSocket):
            raise TypeError("Socket cannot be of type SSLSocket")
        if self.loop._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        fd = sock.fileno()
        if fd < 0:
            raise OSError(EBADF, os.strerror(EBADF))
        if fd < self.port.owner_count and self.port.owners[fd] != NULL:
            self.loop._ensure_fd_no_transport(sock)
        return fd

    def checked(self, sock):
        """The descriptor of `sock`, when the program may use it now.

        Raises:
            OSError: it is closed.
            RuntimeError: it is a transport's.
        """
        return self.check(sock)

    async def poll(self, sock, unsigned int events):
        """Wait until `sock` is ready for `events` (poll(2) bits)."""
        cdef SocketOp op = self.start(POLL, self.check(sock), sock, 0, None, events)
        try:
            await op.future
        except BaseException:
            op.left()
            raise

    cdef SocketOp start(self, int kind, int fd, sock, Py_ssize_t size, data=None, unsigned int events=0):
        """Submit an op; await its ``future``."""
        cdef SocketOp op = <SocketOp>SocketOp.__new__(SocketOp)
        op.kind = <unsigned char>kind
        op.fd = fd
        op.table = self
        op.size = size
        op.events = events
        if data is not None:
            op.set_buffer(data, kind == RECV_INTO)
        op.future = self.loop.new_future()
        self.port.submit(op)
        if kind == RECV or kind == RECV_INTO:
            op.sock = sock
            self.receiving[fd] = op
        elif kind == ACCEPT_ONE:
            op.sock = sock
            self.accepting[fd] = op
        elif kind == SEND:
            self.sending[fd] = op
        return op

    cdef int ended(self, SocketOp op) except -1:
        """The kernel has let go of `op`, and its result is where it belongs."""
        cdef dict line
        if op.kind == RECV or op.kind == RECV_INTO or op.kind == ACCEPT_ONE:
            line = self.accepting if op.kind == ACCEPT_ONE else self.receiving
            if line.get(op.fd) is op:
                del line[op.fd]
            if op.turn is not None and not self.loop._closed:
                op.turn.set_result(None)
        elif op.kind == SEND:
            if self.sending.get(op.fd) is op:
                del self.sending[op.fd]
        return 0

    cdef object turn(self, SocketOp before):
        """A future that ends with the op `before`."""
        if before.turn is None:
            before.turn = self.loop.new_future()
        return asyncio.shield(before.turn)

    cdef int keep(self, sock, bytes data) except -1:
        self.received[sock] = self.received.get(sock, b"") + data
        return 0

    cdef int keep_connection(self, sock, int fd, int accepted) except -1:
        if self.loop._closed or sock.fileno() != fd:
            close(accepted)
            return 0
        if sock not in self.accepted:
            self.accepted[sock] = Accepted.__new__(Accepted)
        (<Accepted>self.accepted[sock]).fds.append(accepted)
        return 0

    cdef int kept_connection(self, sock) except -2:
        """The descriptor of a connection that a cancelled accept has brought, or -1."""
        cdef Accepted kept
        if not self.accepted:
            return -1
        kept = self.accepted.get(sock)
        return kept.fds.pop(0) if kept is not None and kept.fds else -1

    cdef bytes left_over(self, sock, Py_ssize_t nbytes):
        """At most `nbytes` of what cancelled receives have brought."""
        cdef bytes data = self.received.pop(sock)
        if len(data) > nbytes:
            self.received[sock] = data[nbytes:]
        return data[:nbytes]

    cdef Py_ssize_t send_now(self, int fd, data, Py_ssize_t *size) except -1:
        """How much of `data` the socket takes at once; `size` is how much there is."""
        cdef Py_buffer view
        cdef ssize_t n
        if type(data) is bytes and PyBytes_GET_SIZE(data) < UNLOCKED_SEND:
            size[0] = PyBytes_GET_SIZE(data)
            n = px_send(fd, PyBytes_AS_STRING(data), size[0]) if size[0] else 0
        else:
            PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
            size[0] = view.len
            with nogil:
                n = px_send(fd, <const char *>view.buf, view.len) if view.len else 0
            PyBuffer_Release(&view)
        if n == -EAGAIN or n == -EWOULDBLOCK:
            return 0
        if n < 0:
            raise OSError(<int>-n, os.strerror(<int>-n))
        return n


class Sockets:
    """The socket family of ``AbstractEventLoop``."""

    def _init_sockets(self):
        self._socket_table = SocketTable(self)

    def _close_sockets(self):
        """After the port's close: let go of the connections that nobody has accepted."""
        (<SocketTable>self._socket_table).accepted.clear()

    async def sock_recv(self, sock, n):
        """Receive at most `n` bytes, b"" at the end of the stream: recv(2)."""
        cdef SocketTable table = self._socket_table
        cdef SocketOp op
        cdef int fd = table.check(sock)
        cdef Py_ssize_t size = n
        if size < 0:
            raise ValueError("negative buffersize in recv")
        while fd in table.receiving:
            await table.turn(table.receiving[fd])
            fd = table.check(sock)
        if table.received and sock in table.received:
            return table.left_over(sock, size)
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
        """Receive into `buf`; the number of bytes, 0 at the end of the stream: recv(2)."""
        cdef SocketTable table = self._socket_table
        cdef SocketOp op
        cdef int fd = table.check(sock)
        while fd in table.receiving:
            await table.turn(table.receiving[fd])
            fd = table.check(sock)
        if table.received and sock in table.received:
            view = memoryview(buf).cast("B")
            data = table.left_over(sock, len(view))
            view[:len(data)] = data
            return len(data)
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
        """Send all of `data`: send(2).  It must not be changed before the call has returned."""
        cdef SocketTable table = self._socket_table
        cdef SocketOp op
        cdef int fd = table.check(sock)
        cdef Py_ssize_t size, sent = 0
        if fd not in table.sending:
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
        """Connect `sock` to `address`: connect(2).

        Raises:
            OSError: the connection failed.
        """
        cdef SocketTable table = self._socket_table
        cdef SocketOp op
        cdef int fd = table.check(sock)
        family = sock.family
        if family in (socket.AF_INET, socket.AF_INET6):
            resolved = await self._ensure_resolved(address, family=family, type=sock.type, proto=sock.proto, loop=self)
            address = resolved[0][4]
            fd = table.check(sock)
        op = table.start(CONNECT, fd, sock, 0, names.pack(family, address))
        try:
            await op.future
        except OSError as exc:
            raise OSError(exc.errno, f"Connect call failed {address}") from None
        except BaseException:
            op.left()
            raise

    async def sock_accept(self, sock):
        """Accept one connection: (its non-blocking socket, the peer's address), accept(2)."""
        cdef SocketTable table = self._socket_table
        cdef SocketOp op
        cdef int fd = table.check(sock), accepted
        while fd in table.accepting:
            await table.turn(table.accepting[fd])
            fd = table.check(sock)
        while True:
            accepted = table.kept_connection(sock)
            if accepted < 0:
                op = table.start(ACCEPT_ONE, table.check(sock), sock, 0)
                try:
                    accepted = await op.future
                except BaseException:
                    op.left()
                    raise
                table.ended(op)
            conn = Socket(fileno=accepted)
            conn.setblocking(False)
            try:
                return conn, conn.getpeername()
            except OSError:
                conn.close()  # reset before it was accepted: accept(2) would have said ECONNABORTED
