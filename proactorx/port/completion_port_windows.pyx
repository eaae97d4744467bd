"""``proactorx.CompletionPort`` on Windows: the kernel's own port.

The kernel keeps the queue, releases threads and counts those that run (CreateIoCompletionPort, "I/O
Completion Ports", Microsoft); this module does none of that.  ``scheduler_windows.h`` keeps what the kernel
does not: Python's references to what was posted, and which threads are the port's.
``kernel_operations`` hands operations to it.
"""

from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc
from proactorx.sys.atomic cimport load_acquire
from proactorx.sys.iocp cimport *
from proactorx.port.binding_windows cimport bind, binding_of, let_go, rebind, unbind
from proactorx.port.kernel_operations cimport KernelOperations, load_calls, px_port
from proactorx.port.operations cimport Binding, Overlapped, concurrency_limit, nanoseconds

import ctypes
import logging
import os
import threading
import time
import warnings

from proactorx.drivers import BackendError, Choice
from proactorx.port.packet import Packet, PortClosed

cdef extern from "scheduler_windows.h":
    ctypedef struct px_post:
        void *key
        void *overlapped
        int64_t nbytes
    enum: PX_LARGEST_GET, PX_POST
    enum: ERROR_ABANDONED_WAIT_0
    uint32_t INFINITE
    uint32_t px_kernel_setup() nogil
    px_port *px_port_new(int concurrency) nogil
    void px_port_release(px_port *port) nogil
    px_port *px_port_of_this_thread() nogil
    void px_associate(px_port *port) nogil
    void px_dissociate() nogil
    uint32_t px_post_it(px_port *port, px_post *post) nogil
    void px_unlink(px_port *port, px_post *post) nogil
    px_post *px_left(px_port *port) nogil
    long px_depth(px_port *port) nogil
    int px_port_close(px_port *port) nogil
    void px_wake_one(px_port *port) nogil
    void px_forget_sigint() nogil
    int px_take(px_port *port, OVERLAPPED_ENTRY *entries, int room, uint32_t limit, int watch) nogil

cdef enum:
    LONGEST_WAIT = 0x7FFFFFFF  # milliseconds
    CLOSE_LOOK_MS = 10         # how often close() wakes waiting threads

# How long close() waits for what cannot be cancelled, in seconds.
CLOSE_DEADLINE = 5.0

logger = logging.getLogger("proactorx")

cdef unsigned long main_thread = threading.main_thread().ident

cdef bint calls_loaded = False


cdef class _Blocking:
    """``with port.blocking()``: one object for all threads."""

    cdef CompletionPort port

    def __enter__(self):
        cdef unsigned long me = PyThread_get_thread_ident()
        if px_port_of_this_thread() == self.port.port:
            self.port.blocked[me] = self.port.blocked.get(me, 0) + 1

    def __exit__(self, *exc):
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef int depth = self.port.blocked.pop(me, 0) - 1
        if depth > 0:
            self.port.blocked[me] = depth


cdef class CompletionPort(KernelOperations):
    """The kernel's completion port: files, operations on them, posts, and threads that wait for packets.

    See the same class on other systems, where it keeps the rules of this one.  Which threads run is the
    kernel's to say: those that block anywhere do not, without having said so.

    Args:
        concurrency: how many threads may run; 0: as many as there are usable CPUs.
        backend: ``auto`` or ``iocp``; default: ``$PROACTORX_BACKEND``, or ``auto``.
        restrict: for io_uring; here there is nothing to restrict.

    Raises:
        ValueError: a negative concurrency, or an unknown backend.
        BackendError: another backend was named.
        OSError: the system has no port to give.
    """

    cdef object info
    cdef set inside          # threads that wait
    cdef dict blocked        # threads in blocking(), and how deep
    cdef list left           # packets of a closed port
    cdef readonly int concurrency
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        self.inside = set()
        self.blocked = {}
        self.left = []

    def __init__(self, concurrency=0, backend=None, *, restrict=False):
        cdef int limit = concurrency_limit(concurrency)
        if self.port != NULL:
            raise RuntimeError("a port is initialized once")
        self.info = Choice(backend, shared=True, restrict=restrict).info
        if self.info.name != "iocp":
            raise BackendError("a completion port on Windows is the kernel's own: "
                               f"backend iocp, not {self.info.name}")
        load_calls()
        self.concurrency = limit
        self.port = px_port_new(self.concurrency)
        if self.port == NULL:
            raise ctypes.WinError(GetLastError())

    def __del__(self):
        if self.port != NULL and not self.closed:
            try:
                warnings.warn(f"unclosed port {self!r}", ResourceWarning, source=self, stacklevel=1)
            finally:
                self.close()  # also where warnings are errors

    def __dealloc__(self):
        if self.port != NULL:
            px_port_release(self.port)

    # -------------------------------------------------------------------------------------------------- posts

    def post(self, key=None, overlapped=None, int64_t nbytes=0):
        """Queue a packet of three free values, which the port does not look at (PostQueuedCompletionStatus).

        Any thread may do this; it never blocks.

        Args:
            key: any object.
            overlapped: any object; it need not be an operation.
            nbytes: any integer of 64 bits.

        Raises:
            PortClosed: the port has been closed.
            OSError: the system has no memory for it.
        """
        cdef px_post *made
        cdef uint32_t error
        self.refuse_unusable()
        made = <px_post *>malloc(sizeof(px_post))
        if made == NULL:
            raise MemoryError
        made.key = <void *>key
        made.overlapped = <void *>overlapped
        made.nbytes = nbytes
        Py_INCREF(key)
        Py_INCREF(overlapped)
        error = px_post_it(self.port, made)
        if error:
            free(made)
            Py_DECREF(key)
            Py_DECREF(overlapped)
            self.refuse_unusable()
            raise ctypes.WinError(error)

    cdef object posted(self, px_post *post):
        """Its packet, which takes over the references."""
        cdef object key = <object>post.key, overlapped = <object>post.overlapped, nbytes = post.nbytes
        free(post)
        Py_DECREF(key)
        Py_DECREF(overlapped)
        return Packet(key, overlapped, nbytes, 0)

    def get(self, timeout=None):
        """Wait for a packet, at most `timeout` seconds (None: without limit).

        The thread becomes one of the port's, until it ends, calls ``dissociate``, or gets from another port.

        Raises:
            TimeoutError: there was no packet for this thread in time.
            PortClosed: the port is, or was meanwhile, closed.
            ValueError: a negative timeout.
            RuntimeError: called inside ``blocking()``.
        """
        cdef list got = self._get(1, timeout)
        if not got:
            raise TimeoutError("no packet in time")
        return got[0]

    def get_many(self, Py_ssize_t n, timeout=None):
        """Up to `n` packets (1,024 at most) in one call, as soon as there is one;
        an empty list when the time is over.

        A failed operation is a packet like any other.  Errors as ``get``, but no TimeoutError.
        """
        if n < 1:
            raise ValueError(f"at least one packet must be asked for, not {n}")
        return self._get(<int>min(n, <Py_ssize_t>PX_LARGEST_GET), timeout)

    cdef list _get(self, int room, object timeout):
        cdef OVERLAPPED_ENTRY entries[PX_LARGEST_GET]
        cdef int64_t limit = nanoseconds(timeout)
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef list packets
        cdef double deadline
        cdef int count
        self.refuse_unusable()
        if me in self.blocked:
            raise RuntimeError("get() inside blocking()")
        if me in self.inside:
            raise RuntimeError("get() by a finalizer or signal handler that interrupts get()")
        deadline = time.monotonic() + limit / 1e9 if limit > 0 else 0
        while True:
            self.inside.add(me)
            try:
                px_associate(self.port)
                count = self.take(entries, room, limit, me == main_thread)
                packets = self.packets(entries, count)
                if self.closed:
                    self.left.extend(packets)  # for the thread in close(), which waits for this one
                    self.refuse_unusable()
            finally:
                self.inside.discard(me)
            if packets:
                return packets
            PyErr_CheckSignals()
            if limit >= 0:
                limit = <int64_t>((deadline - time.monotonic()) * 1e9) if limit else 0
                if limit <= 0:
                    return packets
            self.refuse_unusable()

    cdef int take(self, OVERLAPPED_ENTRY *entries, int room, int64_t limit, bint watch) except -1:
        """Have the kernel give out what it may; wait for it, if there is nothing."""
        cdef uint32_t wait
        cdef int count = px_take(self.port, entries, room, 0, False)
        if not count and limit:
            wait = INFINITE
            if limit >= 0:
                wait = <uint32_t>min((limit + 999_999) // 1_000_000, <int64_t>LONGEST_WAIT)
            if watch:
                px_forget_sigint()
                PyErr_CheckSignals()
            with nogil:
                count = px_take(self.port, entries, room, wait, watch)
        if count < 0 and -count != ERROR_ABANDONED_WAIT_0:
            raise ctypes.WinError(-count)
        return max(count, 0)

    cdef list packets(self, OVERLAPPED_ENTRY *entries, int count):
        """What was taken, as packets.  Fewer where the kernel woke this thread, or an operation goes on."""
        cdef list made = []
        cdef px_post *post
        cdef Overlapped op
        cdef int i
        for i in range(count):
            if entries[i].lpCompletionKey == <size_t>PX_POST:
                post = <px_post *>entries[i].lpOverlapped
                px_unlink(self.port, post)
                made.append(self.posted(post))
            elif entries[i].lpCompletionKey == <size_t>PX_KEY_OP:
                op = <Overlapped>(<px_overlapped *>entries[i].lpOverlapped).op
                if op.is_finished() or self.ended(op, entries[i].dwNumberOfBytesTransferred):
                    (<CompletionPort>op.port).ops.discard(op)
                    made.append(Packet(op.binding.key, op, op.offset, op.error))
                    op.binding = None  # it may hold a handle of ours
        return made

    # -------------------------------------------------------------------------------------------- its threads

    def blocking(self):
        """``with port.blocking():`` this thread is about to block.

        The kernel notices by itself which threads block, and lets others run in their place; so this says
        nothing that it does not know.  It is here for programs that run elsewhere too.
        """
        cdef _Blocking made = _Blocking.__new__(_Blocking)
        made.port = self
        return made

    def dissociate(self):
        """This thread leaves the port; its next ``get`` joins it again.
        Nothing happens if it was not the port's.
        """
        if PyThread_get_thread_ident() in self.inside:
            raise RuntimeError("dissociate() by a finalizer or signal handler that interrupts get()")
        if self.port != NULL and px_port_of_this_thread() == self.port:
            px_dissociate()

    @property
    def associated(self):
        """How many threads are the port's."""
        return 0 if self.port == NULL or self.closed else load_acquire(&self.port.associated)

    @property
    def running(self):
        """How many of them are not in ``get``.  The kernel's own count, without those that block,
        it does not tell.
        """
        return max(self.associated - len(self.inside), 0)

    @property
    def queued(self):
        """How many packets wait (NtQueryIoCompletion)."""
        if self.port == NULL or self.closed:
            return 0
        return max(px_depth(self.port), load_acquire(&self.port.queued))

    @property
    def in_flight(self):
        """How many operations have not queued their packet yet."""
        if self.port == NULL or self.closed:
            return 0
        ended = max(px_depth(self.port) - load_acquire(&self.port.queued), 0)
        return max(len(self.ops | self.bodies) - ended, 0)

    @property
    def backend(self):
        """What runs underneath, and why it was chosen: a ``BackendInfo``."""
        return self.info

    @property
    def forked(self):
        """Whether the port is that of a parent process: never on Windows."""
        return False

    def refuse_forked(self):
        """Nothing: there is no fork on Windows."""

    def __repr__(self):
        state = "closed " if self.closed else ""
        return (f"<CompletionPort {state}backend=iocp concurrency={self.concurrency} "
                f"associated={self.associated} running={self.running} queued={self.queued} "
                f"in_flight={self.in_flight}>")

    # ------------------------------------------------------------------------------------------------ binding

    def bind(self, file, key=None):
        """Bind `file` to this port, until it is closed, unbound, or bound to another one by ``rebind``.

        A socket becomes non-blocking.  Duplicates of a handle, also in other processes, are bound with it.

        Args:
            file: a socket, a file object, another object whose ``fileno()`` is a handle,
            or a handle that was opened
                with FILE_FLAG_OVERLAPPED.
            key: any object, for ``Packet.key``.

        Raises:
            ValueError: it is bound already, was not opened for overlapped use, or is closed.
            OSError: it is not open (EBADF).
            PortClosed: the port has been closed.
        """
        self.refuse_unusable()
        bind(file, self, self.port.handle, key)

    def unbind(self, file):
        """The port knows `file` no longer, which can be bound to another one.

        Raises:
            ValueError: it is not bound to this port.
            NotImplementedError: this Windows cannot do that (it can since 8.1).
        """
        unbind(file, self)

    def rebind(self, file, CompletionPort port not None, key=None):
        """Bind `file` to another port instead, without a moment in between
        (FileReplaceCompletionInformation).

        Packets of what is in flight on it come to either port, as the kernel has it.

        Raises:
            ValueError: it is not bound to this port.
            PortClosed: the other port has been closed.
            NotImplementedError: this Windows cannot do that (it can since 8.1).
        """
        port.refuse_unusable()
        rebind(file, self, port, port.port.handle, key)

    cdef Binding binding_of(self, object file):
        return binding_of(file, self)

    # ------------------------------------------------------------------------------------------------ closing

    def close(self):
        """Close the port, and return the packets that were not taken.

        Waiting threads get PortClosed.  What is in flight is cancelled, and waited for: its packets, failed
        with ECANCELED or not, are returned with the others.  Bound files stay open; since Windows 8.1 they
        can be bound to another port.  Twice is allowed: the second list is empty.

        Raises:
            RuntimeError: called by a finalizer or signal handler that interrupts another call of the port's.
        """
        cdef px_post *post
        if self.port == NULL:
            return []
        if PyThread_get_thread_ident() in self.inside:
            raise RuntimeError("close() by a finalizer or signal handler "
                               "that interrupts another call of the port's")
        if not px_port_close(self.port):
            return []
        self.closed = True
        for op in list(self.bodies):  # what IO threads do for this port, and may not have begun
            op.cancel()
        for op in list(self.ops):
            self.stop(op)
        self.await_ends()
        while True:
            post = px_left(self.port)
            if post == NULL:
                break
            self.left.append(self.posted(post))
        let_go(self)
        CloseHandle(self.port.handle)  # wakes threads that wait all the same
        left, self.left = self.left, []
        return left

    cdef int await_ends(self) except -1:
        """Until no operation is in flight and no thread waits, or the time is over."""
        cdef OVERLAPPED_ENTRY entries[64]
        cdef int count, i
        deadline = time.monotonic() + CLOSE_DEADLINE
        while (self.ops or self.bodies or self.inside) and time.monotonic() < deadline:
            for i in range(len(self.inside)):
                px_wake_one(self.port)
            with nogil:
                count = px_take(self.port, entries, 64, CLOSE_LOOK_MS, False)
            self.left.extend(self.packets(entries, count))
        lost = len(self.ops | self.bodies)
        for op in self.ops:
            Py_INCREF(op)  # the kernel may still write to it
        if lost:
            logger.error("closing %r: %d operations did not end in time; their packets are lost", self, lost)
        return 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


cdef uint32_t setup_error = px_kernel_setup()
if setup_error:
    raise ctypes.WinError(setup_error)
