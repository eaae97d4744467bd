"""What a loop knows of its users' sockets: the ops of ``sock_*`` in flight on them,
and the results of cancelled ones.

An op that is cancelled may have succeeded all the same.  What a receive has brought is kept for the next
receive on that socket, and an accepted connection for the next accept.

One receive, one accept and one ``sock_sendall`` are in flight on a socket at a time, the others wait in line:
so bytes are never given to one receive while a later one waits in the kernel,
and two tasks that receive in a loop take turns.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset
from proactorx.sys.errnos cimport EAGAIN, EBADF, ECANCELED, EWOULDBLOCK
from proactorx.drivers.driver cimport FD_OPENED
from proactorx.ops.kinds cimport (
    PX_ACCEPTORS, PX_BYTES, PX_COUNT, PX_FD, PX_IN, PX_RECEIVERS, PX_SENDERS, px_kind, px_kinds,
)
from proactorx.ops.op cimport DONE, PACKET_MORE, POLL, RECV_FROM, RawPacket, client_of
from proactorx.sys.atomic cimport load_pointer
from proactorx.transports.base cimport fd_of, holds
from proactorx.transports.sending cimport UNLOCKED_SEND
from proactorx.sys.socket cimport POLLIN, px_accept, px_client, px_close, px_recv, px_send

import socket
import ssl
import sys
import weakref

from proactorx.port import sockaddr
from proactorx.sys.errors import strerror

cdef extern from "Python.h":
    ctypedef struct PyWeakReference:
        void *wr_object

cdef enum:
    # what a receive without a buffer of its own takes at most, PX_SCRATCH_SIZE in sys/socket.h
    NEW_BYTES = 262144

# a receive on a blocking socket need not wait (MSG_DONTWAIT, recv(2))
cdef bint MAY_ASK = sys.platform != "win32"
cdef object Socket = socket.socket
cdef object kind_of = socket.SocketType.type  # without the enumeration that ``socket.socket.type`` makes
cdef object SSLSocket = ssl.SSLSocket
cdef int STREAM = socket.SOCK_STREAM

# The families whose addresses `sockaddr` knows.
cdef tuple FAMILIES = (socket.AF_INET, socket.AF_INET6) + ((socket.AF_UNIX,) if hasattr(socket, "AF_UNIX")
                                                           else ())


cdef class SocketOp(Overlapped):
    """One operation of ``sock_*``, and the future that its task awaits."""

    cdef bint stale(self) except -1:
        return not holds(self.sock, self.fd)

    cdef int on_packet(self, RawPacket *packet) except -1:
        cdef const px_kind *row = &px_kinds[self.kind]
        cdef int res = packet.res
        if packet.flags & PACKET_MORE:
            return 0
        if res < 0:
            self.error = -res
        elif row.brings == PX_FD:
            self.value = res
            self.client = client_of(packet)
        elif row.whole and self.offset < self.size:
            self.error = ECANCELED  # half-way
        elif row.brings == PX_BYTES and self.memory == NULL:
            self.value = PyBytes_FromStringAndSize(packet.data, res)
        elif row.brings == PX_COUNT or row.brings == PX_BYTES:
            self.value = self.offset if row.moves else res
        if res >= 0 and row.line == PX_RECEIVERS and not row.addressed:
            self.table.received_less(self, self.offset if row.moves else res)
        if self.future.done() or self.table.loop.closed:
            self.unwanted()  # (a future of a closed loop is never awaited again)
            self.table.ended(self)
        elif self.error:
            self.future.set_exception(OSError(self.error, strerror(self.error)))
        else:
            self.future.set_result(self.value)
        return 0

    cdef int unwanted(self) except -1:
        """The result is not awaited any more: keep it for the next call."""
        value, self.value = self.value, None
        if value is None:
            return 0
        if px_kinds[self.kind].brings == PX_FD:
            self.table.keep_connection(self.sock, self.fd, <int>value, self.client)
        elif px_kinds[self.kind].line == PX_RECEIVERS:
            if self.memory != NULL:
                value = bytes(self.view.cast("B")[:value])
            self.table.keep(self.sock, value, self.address)
        return 0

    cdef int left(self) except -1:
        """The waiting task was cancelled, or has failed with the op."""
        if self.state != DONE:
            self.future.cancel()
            self.table.port.cancel(self)
            self.orphan()
        else:
            self.unwanted()  # the result was there when the cancellation came
            self.table.ended(self)
        return 0


cdef class Accepted:
    """Connections that cancelled accepts on one listening socket have brought;
    closed with that socket or the loop.
    """

    def __cinit__(self):
        self.waiting = []

    def __dealloc__(self):
        for fd, _ in self.waiting:
            px_close(<int>fd)


cdef class SocketTable:
    """What a loop knows of its users' sockets."""

    def __init__(self, LoopCore loop not None):
        self.loop = loop
        self.port = loop._port
        self.registry = loop._registry
        self.receiving = {}
        self.accepting = {}
        self.sending = {}
        self.accepted = weakref.WeakKeyDictionary()

    def __dealloc__(self):
        cdef int fd
        free(self.scratch)
        for fd in range(self.seen_count):
            Py_XDECREF(<PyObject *>self.seen[fd].reference)
        free(self.seen)

    # Most ops on a socket follow others on it.  Where a number still belongs to the same socket object, it is
    # the same file: it need not be said again to the facility that watches it, and no op waits on it that was
    # for another one.  (A program may give the number to another file behind its socket object's back, by
    # dup2(2): docs/pages/limits.md.)

    cdef bint is_seen(self, int fd, sock) noexcept:
        """Whether `sock` is the one that had the last op on `fd`."""
        # The reference to a socket that is gone refers to None, so no new one at its address is taken for it.
        return (fd < self.seen_count and self.seen[fd].reference != NULL
                and load_pointer(&(<PyWeakReference *>self.seen[fd].reference).wr_object) == <void *>sock)

    cdef int see(self, int fd, sock) except -1:
        """`sock` has an op on `fd` now."""
        cdef int count
        cdef Seen *seen
        cdef object reference
        if fd >= self.seen_count:
            count = max(64, 2 * fd)
            seen = <Seen *>realloc(self.seen, count * sizeof(Seen))
            if seen == NULL:
                raise MemoryError
            memset(&seen[self.seen_count], 0, (count - self.seen_count) * sizeof(Seen))
            self.seen = seen
            self.seen_count = count
        Py_XDECREF(<PyObject *>self.seen[fd].reference)
        self.seen[fd].reference = NULL
        self.seen[fd].drained = 0
        if type(sock) is Socket:  # not a wrapper, which may change what is behind it
            reference = PyWeakref_NewRef(sock, None)
            Py_INCREF(reference)
            self.seen[fd].reference = <void *>reference
            self.seen[fd].stream = kind_of.__get__(sock) == STREAM
        return 0

    cdef int received_less(self, SocketOp op, Py_ssize_t count) except -1:
        """A receive has brought `count` bytes.  Of a stream: fewer than asked for, so that was all."""
        if 0 < count < op.size and op.fd < self.seen_count:
            if self.seen[op.fd].stream and self.is_seen(op.fd, op.sock):
                self.seen[op.fd].drained = self.loop.turns
        return 0

    cdef bint may_look(self, int fd, sock) except -1:
        """Whether a receive on `sock` first looks for what is there.

        Not where another one has just, in this turn, taken all of it: what has come since is found in the
        next turn.  Nor where the look might wait.
        """
        if fd < self.seen_count and self.seen[fd].drained == self.loop.turns and self.is_seen(fd, sock):
            return False
        return MAY_ASK or sock.gettimeout() == 0

    cdef int check(self, sock) except -2:
        cdef int fd
        if type(sock) is not Socket and isinstance(sock, SSLSocket):
            raise TypeError("Socket cannot be of type SSLSocket")
        if self.loop._debug and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        fd = fd_of(sock)
        if fd < 0:
            raise OSError(EBADF, strerror(EBADF))
        if fd < self.registry.owner_count and self.registry.owners[fd] != NULL:
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

    cdef SocketOp start(self, int kind, int fd, sock, Py_ssize_t size, data=None, unsigned int events=0,
                        address=None):
        """Submit an op; await its ``future``."""
        cdef SocketOp op = <SocketOp>SocketOp.__new__(SocketOp), before
        cdef dict ops = self.line_of(kind)
        op.same_file = self.is_seen(fd, sock)
        if not op.same_file:
            self.drop_stale(self.receiving, fd)
            self.drop_stale(self.sending, fd)
            self.drop_stale(self.accepting, fd)
        op.kind = <unsigned char>kind
        op.fd = fd
        op.table = self
        op.sock = sock
        op.size = size
        op.events = events
        if data is not None:
            op.set_buffer(data, px_kinds[kind].direction == PX_IN)
        if px_kinds[kind].addressed:
            op._set_envelope(address)
        op.future = self.loop.new_future()
        self.port.submit(op)
        if op.armed and not op.same_file:
            self.see(fd, sock)  # one that was over or refused at once has not told the driver of the file
        if ops is not None:
            before = ops.get(fd)
            if before is not None:
                op.line = before.line
            ops[fd] = op
        return op

    cdef int drop_stale(self, dict ops, int fd) except -1:
        """End the op of a socket that was closed under it, and whose number is another one's now."""
        cdef SocketOp before
        if not ops:
            return 0
        before = ops.get(fd)
        if before is not None and before.stale():
            self.port.cancel(before)
            del ops[fd]
        return 0

    cdef dict line_of(self, int kind):
        """The ops of which one at a time is in flight on a descriptor, where `kind` is such."""
        cdef unsigned char line = px_kinds[kind].line
        if line == PX_RECEIVERS:
            return self.receiving
        return self.sending if line == PX_SENDERS else self.accepting if line == PX_ACCEPTORS else None

    cdef int ended(self, SocketOp op) except -1:
        """The kernel has let go of `op`, and its result is where it belongs."""
        cdef dict ops = self.line_of(op.kind)
        if ops is None or op.over:
            return 0
        op.over = True  # its task and its packet may both say so: the next in line is woken once
        if op.line is not None and not self.loop.closed:
            self.offer(ops, op)
        elif ops.get(op.fd) is op:
            del ops[op.fd]
        return 0

    async def turn(self, dict ops, sock, int fd):
        """Wait for the ops on `sock` that others have asked for before; then ``start`` one at once,
        or do without.
        """
        cdef SocketOp before
        self.drop_stale(ops, fd)
        before = ops.get(fd)
        if before is None:
            return
        future = self.loop.new_future()
        if before.line is None:
            before.line = []
        before.line.append(future)
        await future
        self.check(sock)

    cdef int offer(self, dict ops, SocketOp op) except -1:
        """`op` has ended: wake the next task in line,
        which has its turn once it has started an op of its own.
        """
        while op.line:
            future = op.line.pop(0)
            if future.done():
                continue
            future.set_result(None)
            if ops.get(op.fd) is op:
                # After that step: callbacks of a future are called in order.
                self.loop.call_soon(self._offer_again, ops, op)
                return 0
        if ops.get(op.fd) is op:
            del ops[op.fd]
        return 0

    def _offer_again(self, dict ops, SocketOp op):
        if ops.get(op.fd) is op:  # it was cancelled, or had no need of it any more
            self.offer(ops, op)

    cdef int keep(self, sock, bytes data, bytes name) except -1:
        if data or sock.type != STREAM:  # a datagram may be empty; the end of a stream comes again
            if self.received is None:
                self.received = weakref.WeakKeyDictionary()
            self.received[sock] = data, name  # the first one: no receive is started while something is kept
        return 0

    cdef int keep_connection(self, sock, int fd, int accepted, bytes client) except -1:
        if self.loop.closed or not holds(sock, fd):
            px_close(accepted)
            return 0
        if sock not in self.accepted:
            self.accepted[sock] = Accepted.__new__(Accepted)
        (<Accepted>self.accepted[sock]).waiting.append((accepted, client))
        return 0

    cdef tuple kept_connection(self, sock):
        """A connection that a cancelled accept has brought: (descriptor, address or None), or None."""
        cdef Accepted kept = self.accepted.get(sock) if self.accepted else None
        return kept.waiting.pop(0) if kept is not None and kept.waiting else None

    cdef bint has_left_over(self, sock) except -1:
        """Whether a cancelled receive on `sock` has brought something."""
        return self.received is not None and sock in self.received

    cdef tuple left_over(self, sock, Py_ssize_t nbytes):
        """At most `nbytes` of what a cancelled receive has brought: (bytes, struct sockaddr)."""
        cdef bytes data, name
        data, name = self.received.pop(sock)
        if len(data) > nbytes and sock.type == STREAM:
            self.received[sock] = data[nbytes:], name  # the rest of a datagram is gone, recv(2)
        if not self.received:
            self.received = None
        return data[:nbytes], name

    cdef Py_ssize_t left_over_into(self, sock, buf) except -1:
        view = memoryview(buf).cast("B")
        if view.readonly:
            raise TypeError("a receive needs a writable buffer")
        cdef bytes data = self.left_over(sock, len(view))[0]
        view[:len(data)] = data
        return len(data)

    async def receive_from(self, sock, Py_ssize_t size, buffer):
        """Wait for a datagram: (bytes, address), or (count, address) where it went into `buffer`."""
        cdef SocketOp op
        cdef int fd = self.check(sock)
        while sock.family not in FAMILIES:
            await self.poll(sock, POLLIN)
            try:
                return sock.recvfrom(size) if buffer is None else sock.recvfrom_into(buffer)
            except (BlockingIOError, InterruptedError):
                continue
        if fd in self.receiving:
            await self.turn(self.receiving, sock, fd)
        if self.has_left_over(sock):
            data, name = self.left_over(sock, size)
            if buffer is None:
                return data, sockaddr.parse(name)
            buffer[:len(data)] = data
            return len(data), sockaddr.parse(name)
        own = bytearray(size) if buffer is None and size > NEW_BYTES else buffer
        op = self.start(RECV_FROM, fd, sock, size, own)
        try:
            result = await op.future
        except BaseException:
            op.left()
            raise
        self.ended(op)
        return (bytes(own[:result]) if own is not buffer else result), sockaddr.parse(op.address)

    # What is there is taken in the first step of the call, as on stock asyncio: `async with timeout(0)` asks
    # without waiting, and a socket that is closed after the call has begun still yields what it had.

    cdef bytes receive_now(self, int fd, Py_ssize_t size):
        """What the socket has, at most `size` bytes; None where that must be waited for."""
        cdef ssize_t n
        if not size:
            return b""  # as the socket module does it
        if self.scratch == NULL:
            self.scratch = <char *>malloc(NEW_BYTES)
            if self.scratch == NULL:
                raise MemoryError
        n = px_recv(fd, self.scratch, min(size, NEW_BYTES))
        if n == -EAGAIN or n == -EWOULDBLOCK:
            return None
        if n < 0:
            raise OSError(<int>-n, strerror(<int>-n))
        return PyBytes_FromStringAndSize(self.scratch, n)

    cdef Py_ssize_t receive_into_now(self, int fd, buf) except -2:
        """How many bytes were received into `buf`; -1 where they must be waited for."""
        cdef Py_buffer view
        cdef ssize_t n
        try:
            PyObject_GetBuffer(buf, &view, PyBUF_WRITABLE)
        except BufferError:
            return -1  # the op says what is wrong with it
        # of nothing, as the socket module does it
        n = px_recv(fd, <char *>view.buf, view.len) if view.len else 0
        PyBuffer_Release(&view)
        if n == -EAGAIN or n == -EWOULDBLOCK:
            return -1
        if n < 0:
            raise OSError(<int>-n, strerror(<int>-n))
        return n

    cdef tuple accept_now(self, int fd):
        """A connection, as `kept_connection` has it; None where none waits."""
        cdef px_client client
        cdef int accepted = px_accept(fd, &client)
        if accepted == -EAGAIN or accepted == -EWOULDBLOCK:
            return None
        if accepted < 0:
            raise OSError(-accepted, strerror(-accepted))
        self.port.driver.note(accepted, FD_OPENED)
        return accepted, (<char *>&client.name)[:min(client.size, sizeof(client.name))]

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
            raise OSError(<int>-n, strerror(<int>-n))
        return n
