"""``proactorx.CompletionPort``: files bound to a shared port, and overlapped operations on them.

A file is bound to one port at a time, and its key comes back with each of its packets.  It must be closed only when its
operations have ended: cancel them, take their packets, then close.

Operations on files that the driver cannot do run as blocking bodies on IO threads, which ``run_bodies_on`` names.
"""

from libc.errno cimport errno
from libc.stdint cimport int64_t
from posix.types cimport off_t
from posix.unistd cimport SEEK_CUR, close, lseek
from proactorx.port.errnos cimport ECANCELED, EINTR
from proactorx.port.op cimport (
    ACCEPT_ONE, CONNECT, DONE, FILE_STEP, FSYNC, IN_FLIGHT, Packet, READ, RECV, RECV_FROM, RECV_INTO, SEND, SEND_TO,
    WRITE,
)
from proactorx.port.op cimport Overlapped as BaseOverlapped
from proactorx.port.shared cimport SharedOp, SharedPort, px_begin, px_undo

import os
import socket
import stat
import threading
import weakref

from proactorx.port import names

cdef tuple KIND_NAMES = (
    "poll", "", "recv", "recv_into", "send", "accept", "accept", "connect", "", "recvfrom", "sendto", "", "read",
    "write", "fsync",
)

cdef extern from *:
    enum: __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE
    bint __atomic_compare_exchange_n(int *place, int *old, int new, bint weak, int won, int lost) nogil

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *buffer, size_t size)
    ssize_t write(int fd, const void *buffer, size_t size)
    ssize_t pread(int fd, void *buffer, size_t size, off_t offset)
    ssize_t pwrite(int fd, const void *buffer, size_t size, off_t offset)
    int fsync(int fd)

cdef enum Body:
    NO_BODY
    QUEUED
    TAKEN        # by an IO thread, or by who cancelled it

cdef object io_threads = None


def run_bodies_on(pool):
    """Have blocking bodies run by what ``pool()`` returns, with its ``queue(callback)``."""
    global io_threads
    io_threads = pool

cdef dict bound = {}         # descriptor: _Binding; of this process
cdef object bound_lock = threading.RLock()  # a finalizer may come in while its thread has it


cdef class _Binding:
    """A file and its port."""

    cdef object port         # a weak reference
    cdef object file         # likewise, or None where the file was given as a number
    cdef object key
    cdef int fd
    cdef object identity
    cdef object __weakref__

    cdef bint stands(self) except -1:
        """Whether that file is open still, and the port too.  A number may belong to another file by now."""
        cdef SharedPort port = self.port()
        if port is None or port.closed:
            return False
        file = None if self.file is None else self.file()
        try:
            if file is not None:
                return file.fileno() == self.fd
            if self.file is not None and not stat.S_ISSOCK(self.identity[2]):
                return False  # it has gone, and so is closed; a socket may have been detached
            return identity_of(self.fd) == self.identity
        except (OSError, ValueError):
            return False  # closed

    cdef bint is_of(self, object file, SharedPort port) except -1:
        """Whether `file`, which has this number, is bound to `port`."""
        if self.port() is not port:
            return False
        return (self.file is not None and self.file() is file) or self.stands()


cdef object identity_of(int fd):
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, found.st_mode


cdef int descriptor_of(object file) except -1:
    fd = file if isinstance(file, int) else file.fileno()
    if fd < 0:
        raise ValueError(f"the file is closed: {file!r}")
    return fd


cdef _Binding make_binding(object file, int fd, SharedPort port, object key):
    cdef _Binding made = _Binding.__new__(_Binding)
    made.fd = fd
    made.port = weakref.ref(port)
    made.key = key
    made.identity = identity_of(fd)
    if not isinstance(file, int):
        forget = _Forget(made)
        try:
            made.file = weakref.ref(file, forget)
        except TypeError:
            made.file = None  # it has no room for one: told by its number
    return made


cdef int _end_stale(_Binding old) except -1:
    """Cancel what is in flight on a file that was closed meanwhile: it must not take what the next one is sent."""
    cdef CompletionPort port = old.port()
    if port is None or port.closed or port.forked:
        return 0
    port.stop_on(old.fd)
    for op in list(port.bodies):
        if (<Overlapped>op).fd == old.fd:
            op.cancel()
    return 0


class _Forget:
    """A bound file has gone: its key need not be kept."""

    __slots__ = ("binding",)

    def __init__(self, binding):
        self.binding = weakref.ref(binding)

    def __call__(self, ref):
        cdef _Binding binding = self.binding()
        if binding is not None:
            with bound_lock:
                if bound.get(binding.fd) is binding and not binding.stands():
                    del bound[binding.fd]


cdef int family_of(object file, int fd) except -1:
    if isinstance(file, socket.socket):
        return file.family
    with socket.socket(fileno=os.dup(fd)) as same:
        return same.family


cdef bytes packed(object file, int fd, object address):
    try:
        return names.pack(family_of(file, fd), address)
    except (OSError, ValueError, TypeError, LookupError) as exc:
        raise ValueError(f"not a numeric address for this socket: {address!r} ({exc})") from None


cdef class Overlapped(SharedOp):
    """One operation on a bound file, made and started by the methods of ``CompletionPort``.

    It owns its buffer until its packet has been queued.
    """

    def __cinit__(self, *args, **kwargs):
        self.descriptor = -1

    def __init__(self):
        raise TypeError("an Overlapped is made by the operations of a CompletionPort")

    def __dealloc__(self):
        if self.descriptor >= 0:
            close(self.descriptor)  # an accepted connection that nobody has taken

    cdef _descriptor(self, int fd):
        self.descriptor = fd

    def cancel(self):
        """Ask for the end of the operation; from any thread.

        Its packet comes all the same, and may report success, or another error than ECANCELED.

        Returns:
            Whether there was anything to cancel.
        """
        cdef int queued = QUEUED
        if self.port is None:
            return False
        if self.body == NO_BODY:
            return self.port.stop(self) == 1
        self.port.refuse_forked()
        if not __atomic_compare_exchange_n(&self.body, &queued, TAKEN, False, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE):
            return False  # it runs, and no system call of a thread's can be called back
        self.end_body(-ECANCELED)
        return True

    @property
    def done(self):
        """Whether the packet has been queued, so that there is a result."""
        return self.is_finished()

    @property
    def address(self):
        """Of ``recvfrom``: who has sent the datagram; None as long as that is not known."""
        return names.parse(BaseOverlapped.address.__get__(self)) if self.is_finished() and not self.error else None

    def result(self):
        """What the operation brought.

        Bytes (``recv``, ``read``), bytes and an address (``recvfrom``), a connected socket and an address (``accept``),
        a count of bytes (``recv_into``, ``send``, ``sendto``, ``read_into``, ``write``), or None (``connect``,
        ``fsync``).  The address of an accepted connection is None where the peer has gone already.

        Raises:
            OSError: the operation failed; ``errno`` is ECANCELED when it was cancelled in time.
            RuntimeError: it is still in flight.
        """
        if not self.is_finished():
            raise RuntimeError("the operation is still in flight")
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        if self.kind == ACCEPT_ONE:
            return self._connection()
        if self.kind == RECV_FROM:
            return self.value, self.address
        return None if self.kind == CONNECT or self.kind == FSYNC else self.value

    def _connection(self):
        with bound_lock:  # two threads may ask
            if self.connection is None:
                made = socket.socket(fileno=self.descriptor)
                self.descriptor = -1
                made.setblocking(False)
                try:
                    address = made.getpeername()
                except OSError:
                    address = None
                self.connection = made, address
            return self.connection

    cdef int end_body(self, int res) except -1:
        cdef Packet packet
        packet.op = <void *>self
        packet.data = NULL
        packet.res = res
        packet.flags = packet.buffer = 0
        self.state = DONE
        BaseOverlapped.on_packet(self, &packet)
        (<CompletionPort>self.port).bodies.discard(self)
        self.port.finish(self, False)
        return 0

    cdef int run_body(self) except -1:
        """The blocking calls of an operation on a file, in an IO thread."""
        cdef int queued = QUEUED, error = 0
        cdef bint again = True
        cdef char *place
        cdef Py_ssize_t size
        cdef ssize_t n = 0
        if not __atomic_compare_exchange_n(&self.body, &queued, TAKEN, False, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE):
            return 0  # cancelled
        while again:
            place, size = self.buffer(), min(self.want(), FILE_STEP)
            with nogil:
                if self.kind == FSYNC:
                    n = fsync(self.fd)
                elif self.kind == READ and self.position >= 0:
                    n = pread(self.fd, place, size, self.position)
                elif self.kind == READ:
                    n = read(self.fd, place, size)
                elif self.position >= 0:
                    n = pwrite(self.fd, place, size, self.position)
                else:
                    n = write(self.fd, place, size)
                error = errno if n < 0 else 0
            again = error == EINTR or (n > 0 and self.took(n))
        return self.end_body(-error if error else <int>n)

    def _run_body(self):
        self.run_body()

    def __repr__(self):
        name = KIND_NAMES[self.kind]
        state = self.state_name if not self.error else os.strerror(self.error)
        return f"<Overlapped {name} fd={self.fd} {state} nbytes={self.offset}>"


cdef class CompletionPort(SharedPort):
    """A completion port: files, operations on them, posts, and threads that wait for packets.

    Packets are queued first in, first out; waiting threads are released last in, first out; a thread that comes back
    with packets waiting takes the next one without a switch.  A packet is given out only while fewer than
    `concurrency` threads of the port run.  The rules are those of Windows' I/O completion ports (MSDN, "I/O Completion
    Ports").

    Args:
        concurrency: how many threads may run; 0: as many as there are usable CPUs.
        backend: ``auto``, ``io_uring``, ``epoll`` or ``select``; default: ``$PROACTORX_BACKEND``, or ``auto``.

    Raises:
        ValueError: a negative concurrency, or an unknown backend.
        BackendError: the named backend cannot run here; the message says why.
    """

    def __cinit__(self, *args, **kwargs):
        self.bodies = set()

    # ------------------------------------------------------------------------------------------------- binding

    def bind(self, file, key=None):
        """Bind `file` to this port, until it is closed, unbound, or bound to another one by ``rebind``.

        A socket becomes non-blocking.  Duplicates of the descriptor are not bound.

        Args:
            file: a socket, a file object or a descriptor.
            key: any object, for ``Packet.key``.

        Raises:
            ValueError: it is bound already, to this port or another one; or it is closed.
            OSError: it is not open (EBADF).
            PortClosed: the port has been closed.
        """
        cdef int fd = descriptor_of(file)
        cdef _Binding made, other
        self._refuse_closed()
        made = make_binding(file, fd, self, key)
        with bound_lock:
            other = bound.get(fd)
            if other is not None and other.stands():
                whose = "this" if other.port() is self else "another"
                raise ValueError(f"descriptor {fd} is bound already, to {whose} port")
            bound[fd] = made
        if other is not None:
            _end_stale(other)
        if stat.S_ISSOCK(made.identity[2]):
            if isinstance(file, socket.socket):
                file.setblocking(False)
            else:
                os.set_blocking(fd, False)

    def unbind(self, file):
        """The port knows `file` no longer; packets of what is in flight on it still come here.

        Raises:
            ValueError: it is not bound to this port.
        """
        cdef _Binding binding
        self.refuse_forked()
        with bound_lock:
            binding = self._binding(file)
            del bound[binding.fd]

    def rebind(self, file, CompletionPort port not None, key=None):
        """Bind `file` to another port instead, without a moment in between.

        Packets of what is in flight on it still come here.  The counterpart of FileReplaceCompletionInformation.

        Raises:
            ValueError: it is not bound to this port.
            PortClosed: the other port has been closed.
        """
        cdef _Binding binding
        self.refuse_forked()
        port._refuse_closed()
        with bound_lock:
            binding = self._binding(file)
            bound[binding.fd] = make_binding(file, binding.fd, port, key)

    def _binding(self, file):
        cdef int fd = descriptor_of(file)
        cdef _Binding binding = bound.get(fd)
        if binding is None or not binding.is_of(file, self):
            raise ValueError(f"not bound to this port: {file!r}")
        return binding

    def _refuse_closed(self):
        if self.forked or self.core == NULL or self.closed:
            self.refuse()

    def close(self):
        """Close the port, and return the packets that nobody has taken.

        Waiting threads get PortClosed.  What is in flight is cancelled, and waited for: its packets, failed with
        ECANCELED or not, are returned with the others.  Bound files stay open, and can be bound to another port.
        Twice is allowed: the second list is empty.

        Raises:
            RuntimeError: in a forked child, or called by a finalizer that interrupts another call of the port's.
        """
        cdef _Binding binding
        left = self._close(self.bodies)
        with bound_lock:
            for binding in [each for each in bound.values() if (<_Binding>each).port() is self]:
                del bound[binding.fd]
        return left

    # ---------------------------------------------------------------------------------------------- operations

    cdef Overlapped _new(self, int kind, object file):
        cdef _Binding binding
        cdef Overlapped op
        self._refuse_closed()
        binding = self._binding(file)
        op = Overlapped.__new__(Overlapped)
        op.kind = <unsigned char>kind
        op.fd = binding.fd
        op.key = binding.key
        op.file = file
        op.port = self
        return op

    def recv(self, sock, Py_ssize_t n):
        """Receive at most `n` bytes, as soon as there are any; ``b""`` at the end.

        Like every operation: it is submitted when this returns, and owns its buffer until its packet comes.  Operations
        of one direction on one socket are served in the order in which they were submitted.

        Raises:
            ValueError: `sock` is not bound to this port, or `n` is negative.
            PortClosed: the port has been closed.
        """
        cdef Overlapped op = self._new(RECV, sock)
        op.size = _size(n)
        self.submit(op)
        return op

    def recv_into(self, sock, buffer):
        """Receive into `buffer`, which is locked meanwhile; the result is a count.  Errors as ``recv``, and:

        Raises:
            TypeError: the buffer is read-only.
            BufferError: it is not contiguous.
        """
        cdef Overlapped op = self._new(RECV_INTO, sock)
        op.set_buffer(buffer, True)
        self.submit(op)
        return op

    def send(self, sock, data):
        """Send all of `data`; the result is its size.

        Of a send that failed or was cancelled, ``nbytes`` says how much had gone.  Errors as ``recv``.
        """
        cdef Overlapped op = self._new(SEND, sock)
        op.set_buffer(data, False)
        self.submit(op)
        return op

    def recvfrom(self, sock, Py_ssize_t n):
        """Receive one datagram of at most `n` bytes (the rest is lost), and the address of its sender."""
        cdef Overlapped op = self._new(RECV_FROM, sock)
        op.size = _size(n)
        op._set_envelope(None)
        self.submit(op)
        return op

    def sendto(self, sock, data, address):
        """Send one datagram to a numeric address; the result is its size.

        Raises:
            ValueError: not a numeric address of this family; names are looked up elsewhere.
        """
        cdef Overlapped op = self._new(SEND_TO, sock)
        op.set_buffer(data, False)
        op._set_envelope(packed(sock, op.fd, address))
        self.submit(op)
        return op

    def accept(self, listener):
        """Accept one connection.  Its socket is non-blocking and not bound.

        Nobody who does not ask for the result has to close it.
        """
        cdef Overlapped op = self._new(ACCEPT_ONE, listener)
        self.submit(op)
        return op

    def connect(self, sock, address):
        """Connect to a numeric address.

        Raises:
            ValueError: not a numeric address of this family; names are looked up elsewhere.
        """
        cdef Overlapped op = self._new(CONNECT, sock)
        op.set_buffer(packed(sock, op.fd, address), False)
        self.submit(op)
        return op

    # -------------------------------------------------------------------------------------------------- files

    cdef int _start_file(self, Overlapped op) except -1:
        # At "the file's own" position the kernel repeats a short write where it began (seen on 6.18): not for it.
        if self.has_native_files() and (op.kind == FSYNC or op.position >= 0 or lseek(op.fd, 0, SEEK_CUR) < 0):
            return self.submit(op)
        if px_begin(self.core, False):
            self.refuse()
        op.state = IN_FLIGHT
        op.body = QUEUED
        self.bodies.add(op)
        try:
            io_threads().queue(op._run_body)
        except BaseException:
            self.bodies.discard(op)
            op.state = DONE
            px_undo(self.core, False)
            raise
        return 0

    def read(self, file, Py_ssize_t n, offset=None):
        """Read at most `n` bytes of a file, from `offset` on; ``b""`` at its end.

        On io_uring the kernel does it; elsewhere, and of a file that has positions without `offset`, a thread of the
        process's ``IOThreadPool``, where an operation that has begun cannot be cancelled.  Operations on one file may
        be done in any order.

        Args:
            file: a file object's own buffer is neither used nor known: pass one that has none.
            n: how many.
            offset: None: from where the file's own position is, which moves on; the only choice for a pipe.

        Raises:
            ValueError: `file` is not bound to this port, or a number is negative.
            PortClosed: the port has been closed.
        """
        cdef Overlapped op = self._new(READ, file)
        op.size = _size(n)
        op.position = _position(offset)
        op.make_buffer()
        self._start_file(op)
        return op

    def read_into(self, file, buffer, offset=None):
        """Read into `buffer`, locked meanwhile; the result is a count.  Errors as of ``read`` and ``recv_into``."""
        cdef Overlapped op = self._new(READ, file)
        op.set_buffer(buffer, True)
        op.position = _position(offset)
        self._start_file(op)
        return op

    def write(self, file, data, offset=None):
        """Write all of `data`; the result is its size.

        Of a write that failed, ``nbytes`` says how much had been written.  Arguments and errors as of ``read``.
        """
        cdef Overlapped op = self._new(WRITE, file)
        op.set_buffer(data, False)
        op.position = _position(offset)
        self._start_file(op)
        return op

    def fsync(self, file):
        """Have the disk hold what was written before, fsync(2)."""
        cdef Overlapped op = self._new(FSYNC, file)
        self._start_file(op)
        return op


cdef int64_t _position(object offset) except -2:
    cdef int64_t position
    if offset is None:
        return -1
    position = offset
    if position < 0:
        raise ValueError(f"an offset cannot be negative: {offset}")
    return position


cdef Py_ssize_t _size(Py_ssize_t n) except -1:
    if n < 0:
        raise ValueError(f"a size cannot be negative: {n}")
    return n


def _after_fork_in_child():
    # Ports of the parent are of no use here: a file that was inherited may be bound to one of our own.
    global bound_lock
    bound_lock = threading.RLock()
    bound.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
