cimport cython
from libc.stdint cimport int64_t, uint32_t
from proactorx.drivers.driver cimport ASK_ANYWAY, Driver
from proactorx.ops.op cimport Op, RawPacket, queue_count

@cython.final
cdef class LoopPort:
    cdef readonly Driver driver
    cdef void *woken         # `driver`, as other threads read it
    cdef list given_up       # drivers that could not be opened: another thread may still be about to wake one
    cdef bint waits          # this thread is in the driver's `wait`
    cdef bint closing
    cdef unsigned long thread # that drives it now, or 0
    cdef public object report  # told of exceptions that owners of ops raise; None: they are logged
    cdef object fallback     # makes another driver when this one cannot be opened, or None
    cdef int open(self) except -1
    cdef int wake_driver(self) noexcept nogil
    cdef int changed(self) except -1
    cdef int submit(self, Op op) except -1
    cdef int cancel(self, Op op) except -1
    cdef bint end_now(self, Op op) except -1
    cdef int resume(self, Op op) except -1
    cdef int begin_run(self) except -1
    cdef int end_run(self) except -1
    cdef int wait_first(self, int64_t timeout_ns) except -1
    cdef int dispatch(self, uint32_t budget) except -1
    cdef int dispatch_timed(self, uint32_t budget, double slow) except -1
    cdef int failed(self) except -1
    cdef Op broken           # the op whose owner has raised an exception

    # Here, to be compiled into the turn of the loop.
    cdef inline int wait(self, int64_t timeout_ns, int callbacks) except -1:
        """Queue the packets there are; `callbacks` as for ``Driver.wait``."""
        if self.driver.closed or self.driver.forked:
            return self.wait_first(timeout_ns)
        if not self.driver.opened:
            return self.wait_first(timeout_ns) if timeout_ns else 0
        if timeout_ns == 0:
            return self.driver.wait(0, callbacks)
        self.waits = True
        self.driver.wait(timeout_ns, ASK_ANYWAY)
        self.waits = False
        return 0

    cdef inline uint32_t queued(self) noexcept:
        return queue_count(&self.driver.queue)
