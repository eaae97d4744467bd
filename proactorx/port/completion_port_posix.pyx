"""``proactorx.CompletionPort`` on POSIX: packets, the threads that wait for them,
and files bound to the port.

``scheduler_posix.h`` has the rules for packets and threads, in C; ``shared_driver`` the driver and its
operations; ``binding_posix`` the files.

There is no thread of the port's own.  The thread that waits longest (the leader, see ``scheduler_posix.h``)
waits in the driver: it sleeps there without the lock, then takes the lock and queues the packets there are;
the rules say which thread gets them.  A thread that comes for a packet and finds none asks the driver before
it sleeps.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int64_t, uint32_t
from proactorx.drivers.driver cimport Driver
from proactorx.sys.errnos cimport EINTR, EPIPE, ETIMEDOUT
from proactorx.ops.op cimport FILE_STEP, px_call, px_kinds
from proactorx.port.binding_posix cimport FileBinding, bind, binding_of, let_go, rebind, unbind
from proactorx.port.operations cimport Binding, Overlapped, nanoseconds
from proactorx.port.packet cimport Packet
from proactorx.port.shared_driver cimport (
    SharedDriver, drop, new_packet, px_begin, px_packet, px_shared, px_take_left, px_undo,
)
from proactorx.sys.atomic cimport load_acquire, load_relaxed_ulong
from proactorx.sys.clock cimport px_now_ns
from proactorx.sys.park cimport PX_CLOSED, PX_LEAD, PX_RELEASED, PX_RUNS, px_park, px_signal_of
from proactorx.sys.socket cimport px_has_position

import logging
import os
import socket
import warnings
import weakref

# Which thread is which (`px_self`) is known in this module only: the header has the thread's own variable.
cdef extern from "scheduler_posix.h":
    enum: PX_DRIVE, PX_WATCH
    enum: PX_WAITS, PX_GOT, PX_ASK_DRIVER
    int px_shared_setup() nogil
    px_thread *px_self() nogil
    void px_after_fork_in_child() nogil
    int px_post(px_shared *port, px_packet packet) nogil
    int px_come(px_shared *port, px_thread *me) nogil
    int px_take_more(px_shared *port, px_packet *packets, int room) nogil
    uint32_t px_withdraw(px_shared *port, px_thread *me) nogil
    int px_put_back(px_shared *port, px_thread *me) nogil
    int px_duties(px_shared *port, px_thread *me, void *driver) nogil
    void px_out_of_driver(px_shared *port, px_thread *me) nogil
    void px_watch(px_shared *port) nogil
    void px_leave(px_thread *me) nogil
    void px_block(px_shared *port, px_thread *me) nogil
    void px_unblock(px_shared *port, px_thread *me) nogil
    int px_port_close(px_shared *port) nogil
    void px_await_driver(px_shared *port) nogil
    int px_await_ends(px_shared *port, int64_t timeout_ns) nogil
    px_numbers px_numbers_of(px_shared *port) nogil

cdef extern from *:
    """
    static inline PyObject *px_owned(void *reference) { return (PyObject *)reference; }
    """
    object px_owned(void *reference)  # an object that takes the reference over

cdef enum:
    MOST_AT_ONCE = 1024  # get_many: the packets of one call
    BODIES_DEADLINE_NS = 5_000_000_000  # how long close() waits for threads that it cannot cancel
    INTERRUPTED = -2

logger = logging.getLogger("proactorx")

cdef object _ports = weakref.WeakSet()


cdef inline Packet as_packet(px_packet *packet):
    """The object, which takes over the references."""
    cdef Packet made = Packet.__new__(Packet)
    made.key = px_owned(packet.key)
    made.overlapped = px_owned(packet.overlapped)
    made.nbytes = packet.nbytes
    made.error = packet.error
    return made


cdef class _Blocking:
    """``with port.blocking()``: one object for all threads, as the depth is each thread's own."""

    cdef CompletionPort port

    def __enter__(self):
        self.port.refuse_forked()
        px_block(self.port.core, self.port._me())

    def __exit__(self, *exc):
        if not self.port.forked:
            px_unblock(self.port.core, self.port._me())


cdef int end_stale(FileBinding old) except -1:
    """Cancel what is in flight on a file that was closed meanwhile:
    it must not take what the next one is sent.
    """
    cdef CompletionPort port = old.port()
    if port is None or port.closed or port.forked:
        return 0
    port.stop_on(old.fd)
    for op in list(port.bodies):
        if (<Overlapped>op).fd == old.fd:
            op.cancel()
    return 0


cdef class CompletionPort(SharedDriver):
    """A completion port: files, operations on them, posts, and threads that wait for packets.

    Packets are queued first in, first out; waiting threads are released last in, first out; a thread that
    comes back with packets waiting takes the next one without a switch.  A packet is given out only while
    fewer than `concurrency` threads of the port run.  The rules are those of Windows' I/O completion ports
    (MSDN, "I/O Completion Ports").

    Args:
        concurrency: how many threads may run; 0: as many as there are usable CPUs.
        backend: ``auto``, ``io_uring``, ``epoll`` or ``select``; default: ``$PROACTORX_BACKEND``,
        or ``auto``.
        restrict: on io_uring, the kernel refuses every operation and registration of the ring that the port
            does not use; other backends have nothing to restrict (``port.backend.restriction``).

    Raises:
        ValueError: a negative concurrency, or an unknown backend.
        BackendError: the named backend cannot run here; the message says why.
    """

    def __init__(self, concurrency=0, backend=None, *, restrict=False):
        self.open_port(concurrency, backend, restrict)
        _ports.add(self)

    def __del__(self):
        if self.core != NULL and not self.forked and not self.closed:
            try:
                warnings.warn(f"unclosed port {self!r}", ResourceWarning, source=self, stacklevel=1)
            finally:
                self.close()  # also where warnings are errors

    # ------------------------------------------------------------------------------------------------- posts

    @cython.binding(False)
    @cython.embedsignature(True)
    @cython.embedsignature.format("clinic")
    def post(self, key=None, overlapped=None, int64_t nbytes=0):
        """Queue a packet of three free values, which the port does not look at.

        Any thread may do this; it never blocks.  The counterpart of PostQueuedCompletionStatus.

        Args:
            key: any object.
            overlapped: any object; it need not be an operation.
            nbytes: any integer of 64 bits.

        Raises:
            PortClosed: the port has been closed.
            MemoryError: there is no room for one more packet.
        """
        cdef px_packet packet
        cdef int error
        if self.forked or self.core == NULL:
            self.refuse()
        packet = new_packet(key, overlapped, nbytes, 0)
        error = px_post(self.core, packet)
        if error:
            drop(&packet)
            self.refuse(error)

    @cython.binding(False)
    @cython.embedsignature(True)
    @cython.embedsignature.format("clinic")
    def get(self, timeout=None):
        """Wait for a packet, at most `timeout` seconds (None: without limit).

        The thread becomes one of the port's, until it ends, calls ``dissociate``, or gets from another port.

        Raises:
            TimeoutError: there was no packet for this thread in time.
            PortClosed: the port is, or was meanwhile, closed.
            ValueError: a negative timeout.
            RuntimeError: called inside ``blocking()``, or in a forked child.
        """
        cdef px_thread *me
        if self.forked or self.core == NULL:
            self.refuse()
        me = self._me()
        if not self._get(me, nanoseconds(timeout)):
            raise TimeoutError("no packet in time")
        return as_packet(&me.packet)

    @cython.binding(False)
    @cython.embedsignature(True)
    @cython.embedsignature.format("clinic")
    def get_many(self, Py_ssize_t n, timeout=None):
        """Up to `n` packets (1,024 at most) in one call, as soon as there is one;
        an empty list when the time is over.

        A failed operation is a packet like any other.  Errors as ``get``, but no TimeoutError.
        """
        cdef px_packet packets[MOST_AT_ONCE]
        cdef px_thread *me
        cdef int count, i
        if n < 1:
            raise ValueError(f"at least one packet must be asked for, not {n}")
        if self.forked or self.core == NULL:
            self.refuse()
        me = self._me()
        if not self._get(me, nanoseconds(timeout)):
            return []
        packets[0] = me.packet
        count = 1 + px_take_more(self.core, &packets[1], <int>min(n, MOST_AT_ONCE) - 1)
        return [as_packet(&packets[i]) for i in range(count)]

    # ------------------------------------------------------------------------------------ threads of the port

    def blocking(self):
        """``with port.blocking():`` this thread is about to block, and does not count as running meanwhile.

        So another thread may be released in its place.  Afterwards more threads may run than ``concurrency``
        says, and no thread is released until fewer do.  May be nested;
        has no effect in a thread that is not the port's.
        """
        cdef _Blocking made = _Blocking.__new__(_Blocking)
        made.port = self
        return made

    def dissociate(self):
        """This thread leaves the port; its next ``get`` joins it again.
        Nothing happens if it was not the port's.
        """
        cdef px_thread *me
        self.refuse_forked()
        me = self._me()
        if me.inside:
            raise RuntimeError("dissociate() by a finalizer or signal handler that interrupts get()")
        if me.port == self.core:
            px_leave(me)

    @property
    def associated(self):
        """How many threads are the port's."""
        return self._numbers()[0]

    @property
    def running(self):
        """How many of them count as running: not in ``get``, not in ``blocking()``,
        not found asleep elsewhere.
        """
        return self._numbers()[1]

    @property
    def queued(self):
        """How many packets wait."""
        return self._numbers()[2]

    @property
    def in_flight(self):
        """How many operations have not queued their packet yet."""
        return self._numbers()[3]

    @property
    def backend(self):
        """What runs underneath, and why it was chosen: a ``BackendInfo``."""
        return self.choice.info

    def _numbers(self):
        cdef px_numbers found
        if self.core == NULL:
            return 0, 0, 0, 0
        self.refuse_forked()
        found = px_numbers_of(self.core)
        return found.associated, found.running, found.queued, found.in_flight

    def __repr__(self):
        if self.core == NULL or self.forked:
            return f"<{type(self).__name__} of another process>"
        state = "closed " if self.closed else ""
        associated, running, queued, in_flight = self._numbers()
        return (f"<{type(self).__name__} {state}backend={self.choice.info.name} "
                f"concurrency={self.concurrency} associated={associated} running={running} "
                f"queued={queued} in_flight={in_flight}>")

    # ------------------------------------------------------------------------------------------------ binding

    def bind(self, file, key=None):
        """Bind `file` to this port, until it is closed, unbound, or bound to another one by ``rebind``.

        A socket becomes non-blocking.  Duplicates of the descriptor are not bound.

        Args:
            file: a socket, a file object or a descriptor.
            key: any object, for ``Packet.key``.

        Raises:
            TypeError: it is none of these.
            ValueError: it is bound already, to this port or another one; or it is closed.
            OSError: it is not open (EBADF).
            PortClosed: the port has been closed.
        """
        cdef FileBinding stale
        self.refuse_unusable()
        stale = bind(file, self, key)
        if stale is not None:
            end_stale(stale)

    def unbind(self, file):
        """The port knows `file` no longer; packets of what is in flight on it still come here.

        Raises:
            ValueError: it is not bound to this port.
        """
        self.refuse_forked()
        unbind(file, self)

    def rebind(self, file, CompletionPort port not None, key=None):
        """Bind `file` to another port instead, without a moment in between.

        Packets of what is in flight on it still come here.
        The counterpart of FileReplaceCompletionInformation.

        Raises:
            ValueError: it is not bound to this port.
            PortClosed: the other port has been closed.
        """
        self.refuse_forked()
        port.refuse_unusable()
        rebind(file, self, port, key)

    cdef Binding binding_of(self, object file):
        return binding_of(file, self)

    # --------------------------------------------------------------------------------------------- operations

    cdef int family_of(self, object file, int fd) except -1:
        if isinstance(file, socket.socket):
            return file.family
        with socket.socket(fileno=os.dup(fd)) as same:
            return same.family

    cdef int submit_file(self, Overlapped op) except -1:
        # What a server answers for (FUSE, NFS) waits inside the call that submits it, with the interpreter
        # held. At "the file's own" position the kernel repeats a short write where it began (seen on 6.18):
        # not for it.
        if (<FileBinding>op.binding).at_once and self.has_native_files() and (
                not px_kinds[op.kind].moves or op.position >= 0 or not px_has_position(op.fd)):
            return self.submit(op)
        return self.queue_body(op)

    cdef int begin_body(self) except -1:
        cdef int error = px_begin(self.core, False)
        if error:
            self.refuse(error)
        return 0

    cdef int undo_body(self) except -1:
        px_undo(self.core, False)
        return 0

    cdef Py_ssize_t blocking_call(self, Overlapped op) except? -1:
        cdef px_call call
        cdef ssize_t n
        call.fd = op.fd
        call.events = 0
        op.fill(&call)
        call.size = min(call.size, <size_t>FILE_STEP)
        with nogil:
            n = px_kinds[op.kind].blocking(&call)
        return n

    # -------------------------------------------------------------------------------------------- get, inside

    cdef px_thread *_me(self) except NULL:
        cdef px_thread *me = px_self()
        if me == NULL:
            raise MemoryError
        return me

    cdef int _get(self, px_thread *me, int64_t timeout) except -1:
        """1: ``me.packet`` is a packet.  0: the time is over."""
        cdef int64_t deadline = -1
        cdef int got
        if me.port == self.core and me.blocking:
            raise RuntimeError("get() inside blocking()")
        if me.inside:
            raise RuntimeError("get() by a finalizer or signal handler that interrupts get()")
        got = px_come(self.core, me)
        if got == PX_GOT:
            return 1
        if timeout >= 0:
            deadline = px_now_ns() + timeout
        while True:
            me.inside = 1
            try:
                got = self._get_slowly(me, got, deadline)
            finally:
                me.inside = 0
            if got != INTERRUPTED:
                return got
            PyErr_CheckSignals()
            got = px_come(self.core, me)

    cdef int _get_slowly(self, px_thread *me, int got, int64_t deadline) except -1:
        """As ``_get``, after ``px_come``; or INTERRUPTED."""
        if got == -EPIPE:
            self.refuse()
        if not got & PX_GOT:
            try:
                return self._wait(me, got & PX_ASK_DRIVER, deadline)
            except BaseException:
                if px_withdraw(self.core, me) == PX_RELEASED:
                    self.put_back()
                raise
        if got & PX_ASK_DRIVER:
            try:
                self._ask_driver()
            except BaseException:
                self.put_back()
                raise
        return 1

    cdef int put_back(self) except -1:
        cdef px_thread *me = self._me()
        if px_put_back(self.core, me):
            drop(&me.packet)
            raise MemoryError
        return 0

    cdef int _wait(self, px_thread *me, bint ask, int64_t deadline) except -1:
        """As a waiter.  1: released.  0: the time is over.  INTERRUPTED: a signal came;
        this thread waits no longer.
        """
        cdef int error = 0
        cdef uint32_t signal
        if ask:
            self._ask_driver()
        while True:
            signal = px_signal_of(&me.parking)
            if signal == PX_LEAD and not error:
                error = self._lead(me, deadline)
                signal = px_signal_of(&me.parking)
            elif signal < PX_RELEASED and not error:
                error = self._sleep(me, deadline)
                signal = px_signal_of(&me.parking)
            if error and signal < PX_RELEASED:
                signal = px_withdraw(self.core, me)
                if signal == PX_RUNS:
                    return 0 if error == ETIMEDOUT else INTERRUPTED
            if signal == PX_RELEASED:
                return 1
            if signal == PX_CLOSED:
                px_leave(me)
                self.refuse()

    cdef int _sleep(self, px_thread *me, int64_t deadline) except -1:
        """0, EINTR or ETIMEDOUT."""
        cdef int error
        if deadline >= 0 and px_now_ns() >= deadline:
            return ETIMEDOUT
        with nogil:
            error = -px_park(&me.parking, deadline)
        return error

    cdef int _lead(self, px_thread *me, int64_t deadline) except -1:
        """Do what the leader has to, until there is nothing of it to do.  0, EINTR or ETIMEDOUT."""
        cdef bint ready
        cdef int duties, error = 0
        cdef int64_t limit, now
        while not error and px_signal_of(&me.parking) < PX_RELEASED:
            now = px_now_ns()
            if 0 <= deadline <= now:
                return ETIMEDOUT
            ready = load_acquire(&self.ready)
            duties = px_duties(self.core, me, <void *>self.inner.driver if ready else NULL)
            if not duties:
                return 0
            limit = deadline
            if duties & PX_WATCH:
                px_watch(self.core)
                if limit < 0 or limit > now + self.core.look_ns:
                    limit = now + self.core.look_ns
            if not duties & PX_DRIVE:
                with nogil:
                    error = -px_park(&me.parking, limit)
                if error == ETIMEDOUT:
                    error = 0  # as `deadline` may be later
                continue
            if ready:
                error = self._drive(me, limit)
            if px_signal_of(&me.parking) < PX_RELEASED:
                self._ask_driver()  # also if not ready: the thread that opens it holds the lock
        return error

    cdef int _drive(self, px_thread *me, int64_t limit) except -1:
        """Sleep in the driver.  0 or EINTR."""
        cdef Driver driver = self.inner.driver
        cdef int64_t left
        cdef int error
        left = -1 if limit < 0 else max(limit - px_now_ns(), 0)
        try:
            with nogil:
                error = driver.sleep(left)
                # at once: the next leader need not wait for this thread's GIL
                px_out_of_driver(self.core, me)
        except BaseException:
            px_out_of_driver(self.core, me)
            raise
        if error and error != EINTR:
            raise OSError(error, os.strerror(error))
        return error

    # ------------------------------------------------------------------------------------------------ closing

    def close(self):
        """Close the port, and return the packets that were not taken.

        Waiting threads get PortClosed.  What is in flight is cancelled, and waited for: its packets, failed
        with ECANCELED or not, are returned with the others.  Bound files stay open, and can be bound to
        another port. Twice is allowed: the second list is empty.

        Raises:
            RuntimeError: in a forked child, or called by a finalizer that interrupts another call of the
            port's.
        """
        left = self._close()
        let_go(self)
        return left

    def _close(self):
        cdef px_packet packet
        cdef list left = []
        cdef int lost
        cdef int64_t deadline = px_now_ns() + BODIES_DEADLINE_NS
        self.refuse_forked()
        if self._me().inside or load_relaxed_ulong(&self.holder) == PyThread_get_thread_ident():
            raise RuntimeError("close() by a finalizer or signal handler "
                               "that interrupts another call of the port's")
        if px_port_close(self.core):
            return left
        self.closed = True
        with nogil:
            px_await_driver(self.core)
        self._enter_driver()
        try:
            self.inner.close()
        finally:
            self._leave_driver()
        for op in list(self.bodies):  # what other threads do for this port, and may not have begun
            op.cancel()
        with nogil:
            # Of that time the driver's operations took a part.
            lost = px_await_ends(self.core, max(deadline - px_now_ns(), <int64_t>0))
        if lost:
            logger.error("closing %r: %d operations did not end in time; their packets are lost", self, lost)
        while px_take_left(self.core, &packet):
            left.append(as_packet(&packet))
        return left

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if not self.forked:  # a child that leaves the block ends nothing of the parent's
            self.close()

    def _look_every(self, double seconds):
        """How often the leader looks whether running threads sleep; before the first get, and for tests."""
        if self.core == NULL:
            self.refuse()
        self.core.look_ns = <int64_t>(seconds * 1e9)

    def _after_fork_in_child(self):
        self.forked = True


def _after_fork_in_child():
    px_after_fork_in_child()
    for port in list(_ports):
        port._after_fork_in_child()


if px_shared_setup():
    raise MemoryError
os.register_at_fork(after_in_child=_after_fork_in_child)
