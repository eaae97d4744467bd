"""The driver that the threads of a completion port share, one at a time, under a lock.

There is no thread of the port's own.  A thread that submits or cancels takes the lock, which no sleeping
thread holds, so the operation begins at once; a thread that waits in the driver (the leader, see
``scheduler_posix.h``) sleeps there without the lock.

The lock is never taken twice by one thread: what a finalizer or signal handler submits while its thread is in
the driver is deferred until it leaves.
"""

from cpython.pythread cimport (
    NOWAIT_LOCK, PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_get_thread_ident,
    PyThread_release_lock, WAIT_LOCK,
)
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t
from proactorx.drivers.driver cimport ASK_ANYWAY, Driver
from proactorx.sys.errnos cimport ECANCELED, ENOMEM
from proactorx.ops.op cimport IN_FLIGHT
from proactorx.port.operations cimport Operations, Overlapped, concurrency_limit
from proactorx.sys.atomic cimport load_relaxed_ulong, store_relaxed_ulong, store_release

from proactorx.drivers import Choice
from proactorx.port.packet import PortClosed

cdef extern from "scheduler_posix.h":
    px_shared *px_shared_new(int concurrency) nogil
    void px_shared_release(px_shared *port) nogil
    void px_begun(px_shared *port, int notices) nogil
    void px_asked(px_shared *port) nogil
    void px_end(px_shared *port, px_packet packet, int driven) nogil


cdef px_packet new_packet(object key, object overlapped, int64_t nbytes, int error) noexcept:
    """A packet with references of its own."""
    cdef px_packet packet
    Py_INCREF(key)
    Py_INCREF(overlapped)
    packet.key = <void *>key
    packet.overlapped = <void *>overlapped
    packet.nbytes = nbytes
    packet.error = error
    return packet


cdef void drop(px_packet *packet) noexcept:
    Py_DECREF(<object>packet.key)
    Py_DECREF(<object>packet.overlapped)


cdef int wake_driver(void *driver) noexcept nogil:
    # Borrowed, and not counted: it may be called by a thread that has no interpreter any more.
    return (<Driver>driver).wake()


cdef class SharedDriver(Operations):
    """A driver, the lock that guards it, and the operations on it."""

    def __cinit__(self, *args, **kwargs):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError
        self.deferred = []

    cdef int open_port(self, concurrency, backend, bint restrict) except -1:
        """Make the port: what ``__init__`` does."""
        cdef int limit = concurrency_limit(concurrency)
        if self.core != NULL:
            raise RuntimeError("a port is initialized once")
        self.choice = Choice(backend, shared=True, restrict=restrict)
        self.inner = LoopPort(self.choice.driver, self.choice.fall_back)
        self.concurrency = limit
        self.core = px_shared_new(self.concurrency)
        if self.core == NULL:
            raise MemoryError
        self.core.wake = wake_driver
        return 0

    def __dealloc__(self):
        cdef px_packet packet
        if self.core != NULL and not self.forked:
            while px_take_left(self.core, &packet):
                drop(&packet)
            px_shared_release(self.core)
        if self.lock != NULL:
            PyThread_free_lock(self.lock)

    # --------------------------------------------------------------------------------------------- the driver

    cdef int _enter_driver(self) except -1:
        """Take the lock.  0: this thread has it already."""
        cdef unsigned long me = PyThread_get_thread_ident()
        if load_relaxed_ulong(&self.holder) == me:
            return 0
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            with nogil:
                PyThread_acquire_lock(self.lock, WAIT_LOCK)
        store_relaxed_ulong(&self.holder, me)
        return 1

    cdef int _leave_driver(self) except -1:
        cdef Overlapped op
        try:
            while self.deferred:
                op, begins = self.deferred.pop(0)
                if begins:
                    self._begin_deferred(op)
                else:
                    self.inner.cancel(op)
                self._drain()
        finally:
            px_asked(self.core)
            store_relaxed_ulong(&self.holder, 0)
            PyThread_release_lock(self.lock)
        return 0

    cdef int _drain(self) except -1:
        """Queue all packets there are."""
        while self.inner.queued():
            self.inner.dispatch(self.inner.queued())
        return 0

    cdef int _ask_driver(self) except -1:
        """Queue the packets of what has been done."""
        if not self._enter_driver():
            return 0
        try:
            if self.inner.driver.opened and not self.inner.driver.closed:
                self.inner.driver.wait(0, ASK_ANYWAY)
                self._drain()
        finally:
            self._leave_driver()
        return 0

    cdef int submit(self, Overlapped op) except -1:
        """Start `op`.  Its packet will come, unless this raises."""
        cdef int error
        if self.forked or self.core == NULL:
            self.refuse()
        if not self._enter_driver():
            error = px_begin(self.core, True)
            if error:
                self.refuse(error)
            self.deferred.append((op, True))
            return 0
        try:
            error = px_begin(self.core, True)
            if error:
                self.refuse(error)
            try:
                self.inner.submit(op)
            except BaseException:
                px_undo(self.core, True)
                raise
            store_release(&self.ready, 1)
            try:
                self._drain()
            finally:
                px_begun(self.core, self.inner.driver.hears_changes)
        finally:
            self._leave_driver()
        return 0

    cdef int _begin_deferred(self, Overlapped op) except -1:
        """Start an operation whose ``submit`` has returned: an exception becomes the error of its packet."""
        try:
            self.inner.submit(op)
        except OSError as exc:
            op.error = exc.errno or ECANCELED
        except Exception:
            op.error = ECANCELED
        if op.error and op.slot < 0:
            self.finish(op, True)
        return 0

    cdef bint has_native_files(self) except -1:
        """Whether the driver has operations on files: the one that it gives way to if it cannot be opened."""
        if not self.inner.driver.native_files or not self._enter_driver():
            return self.inner.driver.native_files != 0
        try:
            if not self.inner.driver.opened and not self.closed:
                self.inner.open()
            return self.inner.driver.native_files != 0
        finally:
            self._leave_driver()

    cdef int stop(self, Overlapped op) except -1:
        """Ask for the end of `op`; 1 if there was something to ask for."""
        cdef int live = 0
        if self.forked:
            self.refuse()
        if not self._enter_driver():
            self.deferred.append((op, False))
            return not op.is_finished()
        try:
            if op.state == IN_FLIGHT and not self.inner.driver.closed:
                live = 1
                self.inner.cancel(op)
                self._drain()
        finally:
            self._leave_driver()
        return live

    cdef int stop_on(self, int fd) except -1:
        """Ask for the end of what is in flight on a descriptor whose file was closed:
        another file has the number.
        """
        if not self._enter_driver():
            return 0
        try:
            if self.inner.driver.opened and not self.inner.driver.closed:
                for op in list(self.inner.driver.inflight):
                    if (<Overlapped>op).fd == fd and (<Overlapped>op).state == IN_FLIGHT:
                        self.inner.cancel(op)
                self._drain()
        finally:
            self._leave_driver()
        return 0

    cdef int finish(self, Overlapped op, bint driven) except -1:
        """The last packet of `op`."""
        cdef px_packet packet = new_packet(op.binding.key, op, op.offset, op.error)
        op.file = None
        store_release(&op.finished, 1)
        px_end(self.core, packet, driven)
        return 0

    cdef int refuse_unusable(self) except -1:
        if self.forked or self.core == NULL or self.closed:
            self.refuse()
        return 0

    cdef int refuse(self, int error=0) except -1:
        """Say why nothing can be done with this port; `error`: what its core has answered."""
        if error == -ENOMEM:
            raise MemoryError
        if self.core == NULL:
            raise RuntimeError("the port has not been initialized")
        if self.forked:
            raise RuntimeError("the port belongs to the parent process")
        raise PortClosed("the port is closed")

    def refuse_forked(self):
        """Raises RuntimeError in a forked child, where the port cannot be used."""
        if self.forked or self.core == NULL:
            self.refuse()
