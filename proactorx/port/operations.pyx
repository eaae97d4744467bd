"""The operations of a ``CompletionPort``, as its users see them: the same on every system.

``completion_port_posix`` and ``completion_port_windows`` start, cancel and report them.  Operations that the
system cannot do run as blocking bodies on IO threads, which ``run_bodies_on`` names.
"""

from libc.stdint cimport int64_t
from proactorx.sys.errnos cimport ECANCELED, EINTR, ENOMEM
from proactorx.ops.kinds cimport PX_FD, PX_IN, PX_NOTHING, px_kinds
from proactorx.ops.op cimport (
    ACCEPT_ONE, CONNECT, DISCONNECT, DONE, FSYNC, IN_FLIGHT, PACKET_MORE, READ, RECV, RECV_FROM, RECV_INTO,
    RawPacket, SEND, SEND_TO, WRITE, client_of, set_state,
)
from proactorx.ops.op cimport Overlapped as Op
from proactorx.sys.atomic cimport compare_exchange, load_acquire
from proactorx.sys.socket cimport px_close

import contextlib
import os
import socket
import threading
import weakref
from operator import index

from proactorx.port import sockaddr
from proactorx.sys.errors import strerror

cdef tuple KIND_NAMES = (
    "poll", "", "recv", "recv_into", "send", "accept", "accept", "connect", "", "recvfrom", "sendto",
    "disconnect", "", "read", "write", "fsync",
)

cdef enum Body:
    NO_BODY
    QUEUED
    TAKEN        # by an IO thread, or by cancel()

cdef object io_threads = None
cdef object connection_lock = threading.RLock()  # a finalizer may come in while its thread has it


def run_bodies_on(pool):
    """Have blocking bodies run by what ``pool()`` returns, with its ``queue(callback)``."""
    global io_threads
    io_threads = pool


cdef int64_t nanoseconds(object timeout) except? -7:
    """-1: without limit."""
    cdef double seconds
    if timeout is None:
        return -1
    seconds = timeout
    if not seconds >= 0:
        raise ValueError(f"a timeout cannot be negative: {timeout!r}")
    return <int64_t>(seconds * 1e9) if seconds < 9e9 else -1


def _usable_cpus():
    if hasattr(os, "process_cpu_count"):
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


cdef int concurrency_limit(object concurrency) except -1:
    """How many threads of a port may run."""
    concurrency = index(concurrency)
    if concurrency < 0:
        raise ValueError(f"concurrency cannot be negative: {concurrency}")
    return concurrency or _usable_cpus()


cdef class Binding:
    """A file and its port."""

    cdef int watch(self, object file) except -1:
        """Know the object as long as it lives, and hear when it has gone."""
        if isinstance(file, int):
            return 0
        gone = _Gone(self)
        try:
            self.file = weakref.ref(file, gone)
        except TypeError:
            self.file = None  # it has no room for one: told by its number
        return 0

    cdef int forget(self) except -1:
        """The object has gone: its key need not be kept."""
        raise NotImplementedError("Binding.forget")


class _Gone:
    """What a weak reference calls; it keeps no binding alive."""

    __slots__ = ("binding",)

    def __init__(self, binding):
        self.binding = weakref.ref(binding)

    def __call__(self, ref):
        cdef Binding binding = self.binding()
        if binding is not None:
            binding.forget()


cdef class Overlapped(Op):
    """One operation on a bound file, made and started by the methods of ``CompletionPort``.

    It owns its buffer until its packet has been queued.
    """

    def __cinit__(self, *args, **kwargs):
        self.descriptor = -1

    def __init__(self):
        raise TypeError("an Overlapped is made by the operations of a CompletionPort")

    def __dealloc__(self):
        if self.descriptor >= 0:
            px_close(self.descriptor)  # an accepted connection that result() was never asked for

    cdef int on_packet(self, RawPacket *packet) except -1:
        try:
            if px_kinds[self.kind].brings == PX_FD:
                self.client = client_of(packet)
            Op.on_packet(self, packet)
        except BaseException:  # no memory for the bytes
            self.error = ENOMEM
        if not packet.flags & PACKET_MORE:
            self.port.finish(self, True)
        return 0

    cdef bint is_finished(self) noexcept:
        return load_acquire(&self.finished)

    cdef _descriptor(self, int fd):
        self.descriptor = fd

    def cancel(self):
        """Ask for the end of the operation; from any thread.

        Its packet comes all the same, and may report success, or another error than ECANCELED.

        Returns:
            Whether there was anything to cancel.
        """
        if self.port is None:
            return False
        if self.body == NO_BODY:
            return self.port.stop(self) == 1
        self.port.refuse_forked()
        if not compare_exchange(&self.body, QUEUED, TAKEN):
            return False  # it runs, and no system call of a thread's can be called back
        self.end_body(-ECANCELED)
        return True

    @property
    def done(self):
        """Whether there is a result: the packet has been queued; on Windows, whose port is the kernel's,
        taken.
        """
        return self.is_finished()

    @property
    def address(self):
        """The sender of the datagram, of ``recvfrom``; None while it is not known."""
        return sockaddr.parse(Op.address.__get__(self)) if self.is_finished() and not self.error else None

    def result(self):
        """What the operation brought.

        Bytes (``recv``, ``read``), bytes and an address (``recvfrom``), a connected socket and an address
        (``accept``), a count of bytes (``recv_into``, ``send``, ``sendto``, ``read_into``, ``write``), or
        None (``connect``, ``disconnect``, ``fsync``).  The address of an accepted connection is None where
        the peer has gone already and the driver does not know it.

        Raises:
            OSError: the operation failed; ``errno`` is ECANCELED when it was cancelled in time.
            RuntimeError: it is still in flight.
        """
        if not self.is_finished():
            raise RuntimeError("the operation is still in flight")
        if self.error:
            raise OSError(self.error, strerror(self.error))
        if px_kinds[self.kind].brings == PX_FD:
            return self._connection()
        if px_kinds[self.kind].addressed and px_kinds[self.kind].direction == PX_IN:
            return self.value, self.address
        return None if px_kinds[self.kind].brings == PX_NOTHING else self.value

    def _connection(self):
        with connection_lock:  # two threads may ask
            if self.connection is None:
                made = socket.socket(fileno=self.descriptor)
                self.descriptor = -1
                made.setblocking(False)
                address = None if self.client is None else sockaddr.parse(self.client)
                if address is None:
                    with contextlib.suppress(OSError):
                        address = made.getpeername()
                self.connection = made, address
            return self.connection

    cdef int end_body(self, int res) except -1:
        cdef RawPacket packet
        packet.op = <void *>self
        packet.data = NULL
        packet.res = res
        packet.flags = 0
        set_state(self, DONE)
        Op.on_packet(self, &packet)
        self.port.finish(self, False)
        self.port.bodies.discard(self)
        return 0

    def _run_body(self):
        """The blocking calls of an operation on a file, in an IO thread."""
        cdef bint again = True
        cdef Py_ssize_t n = 0
        if not compare_exchange(&self.body, QUEUED, TAKEN):
            return  # cancelled
        while again:
            n = self.port.blocking_call(self)
            again = n == -EINTR or (n > 0 and self.took(n))
        self.end_body(<int>n)

    def __repr__(self):
        name = KIND_NAMES[self.kind]
        state = self.state_name if not self.error else strerror(self.error)
        return f"<Overlapped {name} fd={self.fd} {state} nbytes={self.offset}>"


cdef class Operations:
    """What a port can be asked to do with its files."""

    def __cinit__(self, *args, **kwargs):
        self.bodies = set()

    # ------------------------------------------------------------------------- the port's own, of each system

    cdef int refuse_unusable(self) except -1:
        """Raise PortClosed or RuntimeError where no operation can be begun."""
        raise NotImplementedError("Operations.refuse_unusable")

    cdef Binding binding_of(self, object file):
        """ValueError: it is not bound to this port."""
        raise NotImplementedError("Operations.binding_of")

    cdef int family_of(self, object file, int fd) except -1:
        """Of the addresses of a socket."""
        raise NotImplementedError("Operations.family_of")

    cdef int submit(self, Overlapped op) except -1:
        """Start `op`.  Its packet will come, unless this raises."""
        raise NotImplementedError("Operations.submit")

    cdef int submit_file(self, Overlapped op) except -1:
        """The same for READ, WRITE and FSYNC."""
        raise NotImplementedError("Operations.submit_file")

    cdef int stop(self, Overlapped op) except -1:
        """Ask for the end of `op`; 1 if there was something to ask for."""
        raise NotImplementedError("Operations.stop")

    cdef int finish(self, Overlapped op, bint driven) except -1:
        """The last packet of `op`; `driven`: the system did it, and not a blocking body."""
        raise NotImplementedError("Operations.finish")

    cdef int begin_body(self) except -1:
        """Count an operation that an IO thread is to do."""
        raise NotImplementedError("Operations.begin_body")

    cdef int undo_body(self) except -1:
        """There is none after all."""
        raise NotImplementedError("Operations.undo_body")

    cdef Py_ssize_t blocking_call(self, Overlapped op) except? -1:
        """One system call of a blocking body: a count, or -errno."""
        raise NotImplementedError("Operations.blocking_call")

    # ------------------------------------------------------------------------------------------------ sockets

    cdef Overlapped new_operation(self, int kind, object file):
        cdef Binding binding
        cdef Overlapped op
        self.refuse_unusable()
        binding = self.binding_of(file)
        op = Overlapped.__new__(Overlapped)
        op.kind = <unsigned char>kind
        op.fd = binding.fd
        op.binding = binding
        op.file = file
        op.port = self
        return op

    def _packed(self, file, int fd, address):
        try:
            return sockaddr.pack(self.family_of(file, fd), address)
        except (OSError, ValueError, TypeError, LookupError) as exc:
            raise ValueError(f"not a numeric address for this socket: {address!r} ({exc})") from None

    def recv(self, sock, Py_ssize_t n):
        """Receive at most `n` bytes, as soon as there are any; ``b""`` at the end.

        Like every operation: it is submitted when this returns, and owns its buffer until its packet comes.
        Operations of one direction on one socket are served in the order in which they were submitted.

        Raises:
            ValueError: `sock` is not bound to this port, or `n` is negative.
            PortClosed: the port has been closed.
        """
        cdef Overlapped op = self.new_operation(RECV, sock)
        op.size = _size(n)
        self.submit(op)
        return op

    def recv_into(self, sock, buffer):
        """Receive into `buffer`, which is locked meanwhile; the result is a count.  Errors as ``recv``, and:

        Raises:
            TypeError: the buffer is read-only.
            BufferError: it is not contiguous.
        """
        cdef Overlapped op = self.new_operation(RECV_INTO, sock)
        op.set_buffer(buffer, True)
        self.submit(op)
        return op

    def send(self, sock, data):
        """Send all of `data`; the result is its size.

        Of a send that failed or was cancelled, ``nbytes`` says how much had gone.  Errors as ``recv``.
        """
        cdef Overlapped op = self.new_operation(SEND, sock)
        op.set_buffer(data, False)
        self.submit(op)
        return op

    def recvfrom(self, sock, Py_ssize_t n):
        """Receive one datagram of at most `n` bytes (the rest is lost), and the address of its sender."""
        cdef Overlapped op = self.new_operation(RECV_FROM, sock)
        op.size = _size(n)
        op._set_envelope(None)
        self.submit(op)
        return op

    def sendto(self, sock, data, address):
        """Send one datagram to a numeric address; the result is its size.

        Raises:
            ValueError: not a numeric address of this family; names are looked up elsewhere.
        """
        cdef Overlapped op = self.new_operation(SEND_TO, sock)
        op.set_buffer(data, False)
        op._set_envelope(self._packed(sock, op.fd, address))
        self.submit(op)
        return op

    def accept(self, listener):
        """Accept one connection.  Its socket is non-blocking and not bound.

        If you never call ``result()``, the connection is closed for you.
        """
        cdef Overlapped op = self.new_operation(ACCEPT_ONE, listener)
        self.submit(op)
        return op

    def connect(self, sock, address):
        """Connect to a numeric address.

        Raises:
            ValueError: not a numeric address of this family; names are looked up elsewhere.
        """
        cdef Overlapped op = self.new_operation(CONNECT, sock)
        op.set_buffer(self._packed(sock, op.fd, address), False)
        self.submit(op)
        return op

    def disconnect(self, sock):
        """End a connection both ways, behind the sends before it (DisconnectEx; shutdown(2)
        with SHUT_RDWR elsewhere).

        The peer gets what was sent, and then the end.  Receives that wait here end too, on Windows perhaps
        not before the peer's end.  What comes from the peer after that is answered by a reset, which may cost
        it what it has not read yet.  The socket stays open, and bound.

        The result is None, or the error ENOTCONN where there is no connection.  Errors as ``recv``.
        """
        cdef Overlapped op = self.new_operation(DISCONNECT, sock)
        self.submit(op)
        return op

    # -------------------------------------------------------------------------------------------------- files

    cdef int queue_body(self, Overlapped op) except -1:
        """Have an IO thread do it."""
        self.begin_body()
        set_state(op, IN_FLIGHT)
        op.body = QUEUED
        self.bodies.add(op)
        try:
            io_threads().queue(op._run_body)
        except BaseException:
            self.bodies.discard(op)
            set_state(op, DONE)
            self.undo_body()
            raise
        return 0

    def read(self, file, Py_ssize_t n, offset=None):
        """Read at most `n` bytes of a file, from `offset` on; ``b""`` at its end.

        On io_uring the kernel does it; elsewhere, of a file that has positions without `offset`, and of one
        that a server answers for (NFS, FUSE), a thread of the process's ``IOThreadPool``, where an operation
        that has begun cannot be cancelled.  Operations on one file may be done in any order.

        Args:
            file: a file object's own buffer is neither used nor known: pass one that has none.
            n: how many.
            offset: None: from where the file's own position is, which moves on; the only choice for a pipe.

        Raises:
            ValueError: `file` is not bound to this port, or a number is negative.
            PortClosed: the port has been closed.
        """
        cdef Overlapped op = self.new_operation(READ, file)
        op.size = _size(n)
        op.position = _position(offset)
        op.make_buffer()
        self.submit_file(op)
        return op

    def read_into(self, file, buffer, offset=None):
        """Read into `buffer`, locked meanwhile; the result is a count.
        Errors as of ``read`` and ``recv_into``.
        """
        cdef Overlapped op = self.new_operation(READ, file)
        op.set_buffer(buffer, True)
        op.position = _position(offset)
        self.submit_file(op)
        return op

    def write(self, file, data, offset=None):
        """Write all of `data`; the result is its size.

        Of a write that failed, ``nbytes`` says how much had been written.
        Arguments and errors as of ``read``.
        """
        cdef Overlapped op = self.new_operation(WRITE, file)
        op.set_buffer(data, False)
        op.position = _position(offset)
        self.submit_file(op)
        return op

    def fsync(self, file):
        """Flush earlier writes of the file to its disk: fsync(2)."""
        cdef Overlapped op = self.new_operation(FSYNC, file)
        self.submit_file(op)
        return op


def _after_fork_in_child():
    global connection_lock
    connection_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


cdef int64_t _position(object offset) except -2:
    cdef int64_t position
    if offset is None:
        return -1
    position = index(offset)
    if position < 0:
        raise ValueError(f"an offset cannot be negative: {offset}")
    return position


cdef Py_ssize_t _size(Py_ssize_t n) except -1:
    if n < 0:
        raise ValueError(f"a size cannot be negative: {n}")
    return n
