"""The loop's completion port: ops go in, packets come out, in the order in which they were queued.

Packets are queued by the driver and dispatched here, never from inside the reaper: a callback may submit,
cancel and close whatever it likes.  A dispatch takes at most the packets that were queued when it began, so
that a stream which never stops cannot starve timers and callbacks.
"""

cimport cython
from cpython.ref cimport Py_DECREF
from proactorx.sys.errnos cimport ECANCELED
from libc.stdint cimport int32_t, int64_t, uint32_t
from proactorx.drivers.driver cimport ASK_ANYWAY, CREDENTIALS, Driver, FD_CLOSING, FOR_GOOD, FOR_THIS_THREAD
from proactorx.ops.op cimport (
    DONE, IN_FLIGHT, Op, PACKET_BUFFER, PACKET_MORE, PACKET_READY, PacketQueue, RawPacket, Watch,
    buffer_give_back, queue_count, set_state,
)
from proactorx.sys.atomic cimport load_pointer, store_pointer
from proactorx.sys.raised cimport px_raised

import logging
import time

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() nogil

logger = logging.getLogger("proactorx")
loop_logger = logging.getLogger("asyncio")

# How long close() waits for packets of cancelled ops before it leaks their memory.
CLOSE_DEADLINE = 5.0
CANCEL_DEADLINE = 0.5


# What a port has that was made without its __init__: nothing can be done with it.
cdef Driver closed_driver = Driver()
closed_driver.closed = True


# As C has it: Cython's try statement saves and restores the exception state of the thread, in each turn.
ctypedef int (*Unchecked)(LoopPort port, uint32_t last) noexcept


cdef int tell(LoopPort port, uint32_t last) except -1:
    """Dispatch the packets before the place `last`; ends early where the owner of an op raises."""
    cdef Driver driver = port.driver
    cdef PacketQueue *queue = &driver.queue
    cdef RawPacket packet
    cdef void *op
    cdef bint told
    while <int32_t>(last - queue.head) > 0 and queue_count(queue):
        packet = queue.items[queue.head & queue.mask]
        queue.head += 1
        op = packet.op  # and its reference
        told = False
        try:
            if finish(driver, <Op>op, &packet):
                (<Op>op).on_packet(&packet)
            told = True
        finally:
            if not told:
                port.broken = <Op>op
            if packet.flags & PACKET_BUFFER:
                buffer_give_back(&driver.buffers, packet.data)
            if (<Op>op).edge and (<Op>op).again:
                (<Op>op).again = False
                if (<Op>op).state == IN_FLIGHT and not (<Op>op).ready:
                    driver.push(<Op>op, packet.res, PACKET_READY | PACKET_MORE)
            Py_DECREF(<Op>op)
    return 0


cdef inline bint finish(Driver driver, Op op, RawPacket *packet) except -1:
    """Apply `packet` to the state of `op`.  Returns whether to tell its owner."""
    if packet.flags & PACKET_READY:
        op.ready = op.ready - 1
        if not packet.flags & PACKET_MORE:
            op.armed = False
        if op.state != IN_FLIGHT:
            if op.state == DONE or packet.flags & PACKET_MORE:
                return False
            packet.res = -ECANCELED
            packet.flags = 0
        elif not driver.perform(op, packet):
            return False
    elif not packet.flags & PACKET_MORE and op.state == IN_FLIGHT:
        op.armed = False
        if not driver.perform(op, packet):
            packet.flags |= PACKET_MORE
            return False
    if not packet.flags & PACKET_MORE:
        op.armed = False
        set_state(op, DONE)
        driver.untrack(op)
    return True


@cython.final
cdef class LoopPort:
    """One driver and its queue of packets."""

    def __cinit__(self, *args, **kwargs):
        self.driver = closed_driver
        self.given_up = []
        store_pointer(&self.woken, <void *>closed_driver)

    def __init__(self, Driver driver not None, fallback=None):
        if self.driver is not closed_driver:
            raise RuntimeError("a port is initialized once")
        self.driver = driver
        self.fallback = fallback
        store_pointer(&self.woken, <void *>driver)

    cdef int submit(self, Op op) except -1:
        if self.closing or self.driver.closed or self.driver.forked:
            self._refuse()
        if not self.driver.opened:
            self.open()
        self.changed()
        return self.driver.submit(op)

    def _refuse(self):
        if self.driver is closed_driver:
            raise RuntimeError("no __init__ has given this a port")
        raise RuntimeError("the port belongs to the parent process" if self.driver.forked
                           else "the port is closed")

    cdef int open(self) except -1:
        """Open the driver; if the system refuses,
        go on with the driver that `fallback` returns for the error.
        """
        cdef Driver other
        while True:
            try:
                self.driver.open()
                return 0
            except OSError as exc:
                if self.fallback is None:
                    raise
                other = self.fallback(exc)
            self.given_up.append(self.driver)
            self.driver = other
            store_pointer(&self.woken, <void *>other)

    cdef int wake_driver(self) noexcept nogil:
        """End a `wait` in another thread: 0, or -1 where the wake-up failed.  Any thread,
        also one without the GIL.
        """
        return (<Driver>load_pointer(&self.woken)).wake()

    cdef int changed(self) except -1:
        """Something has been asked of this port, which may not sleep now.

        By a finalizer, or by a signal handler, which came in after the loop had seen that there was nothing
        to do: a driver that runs bytecode between that and its system call gives them the opportunity.
        """
        if self.waits:
            self.driver.wake()
        return 0

    cdef int cancel(self, Op op) except -1:
        if op.state != IN_FLIGHT or self.driver.closed or self.driver.forked:
            return 0
        if isinstance(op, Watch):
            (<Watch>op).callback = None  # also for packets that are queued already
        self.changed()
        return self.driver.cancel(op, False)

    cdef bint end_now(self, Op op) except -1:
        """Cancel `op`, and have the kernel let go of its file at once;
        False where only another thread can.
        """
        if self.driver.closed or self.driver.forked:
            return True
        if self.thread and self.thread != PyThread_get_thread_ident():
            return False
        try:
            self.driver.cancel(op, True)
        except RuntimeError:
            return False  # a ring, which belongs to the thread that drove it last
        return True

    cdef int resume(self, Op op) except -1:
        op.paused = False
        if op.state == IN_FLIGHT and (op.suspended or op.pending_ready):
            self.changed()
            self.driver.submit(op)
        return 0

    cdef int begin_run(self) except -1:
        if self.driver.opened and not self.driver.closed and not self.driver.forked:
            self.driver.open()
        self.thread = PyThread_get_thread_ident()
        return 0

    cdef int end_run(self) except -1:
        """The loop stops turning, perhaps because of an exception."""
        self.thread = 0
        if not self.driver.closed and not self.driver.forked:
            self.driver.close(FOR_THIS_THREAD)
        return 0

    cdef int wait_first(self, int64_t timeout_ns) except -1:
        """A wait before anything was submitted, or after the end."""
        if self.driver.closed or self.driver.forked:
            self._refuse()
        # Without a time-out there is nothing to be done.  A thread that posts while there is nothing to wake
        # has posted before we come back and look: so come back, this once.  (It may also have found the
        # driver that was given up.)
        if timeout_ns != 0:
            self.open()
        return 0

    cdef int dispatch(self, uint32_t budget) except -1:
        # The packets of this turn are counted by their place: `tell` may end early, and is called again then.
        cdef uint32_t last = self.driver.queue.head + budget
        while (<Unchecked>tell)(self, last) < 0:
            self.failed()
        return 0

    cdef int failed(self) except -1:
        """An op's owner has raised what is set now: report it; neither the loop nor the rest of the turn ends
        because of it.
        """
        cdef Op op = self.broken
        self.broken = None
        try:
            px_raised()
        except Exception as exc:
            self._report(op, exc)
        return 0

    def _report(self, Op op, exc):
        if self.report is not None:
            self.report({"message": f"Exception in the owner of an operation: {op!r}", "exception": exc})
        else:
            logger.error("the owner of %r failed", op, exc_info=exc)
        try:
            op.owner_failed(exc)
        except Exception as second:
            logger.error("the owner of %r failed once more", op, exc_info=second)

    cdef int dispatch_timed(self, uint32_t budget, double slow) except -1:
        """Dispatch in the loop's debug mode: log a warning if the callbacks of a protocol took `slow`
        seconds.
        """
        cdef Op op
        while budget and self.queued():
            budget -= 1
            op = <Op>self.driver.queue.items[self.driver.queue.head & self.driver.queue.mask].op
            subject = op.subject()  # while it has one: the last packet leaves none
            protocol = getattr(subject, "_protocol", None)
            before = time.monotonic()
            self.dispatch(1)
            took = time.monotonic() - before
            if took >= slow:
                loop_logger.warning("Executing callbacks of %r for %r took %.3f seconds", subject, protocol,
                                    took)
        return 0

    def close(self):
        """Cancel all operations, dispatch their packets, then free the driver.
        A second call has no effect.
        """
        if not self.driver.closed and not self.driver.forked:
            self._end_all()
            self.driver.close(FOR_GOOD)
        self.report = self.fallback = None  # the loop's own methods: it goes with the last reference to it

    def _end_all(self):
        """Cancel what is in flight and dispatch the packets; an op that does not end in time is leaked."""
        cdef Driver driver = self.driver
        cdef Op op
        if driver.inflight:
            driver.open()
        self.closing = True
        # What has been waited for already is only given the time to be cancelled.
        deadline = time.monotonic() + max(CLOSE_DEADLINE - driver.waited, CANCEL_DEADLINE)
        for op in list(driver.inflight):
            op.paused = False
            driver.cancel(op, False)
        while driver.inflight or self.queued():
            if not self.queued():
                left = deadline - time.monotonic()
                if left <= 0:
                    logger.error("closing %s: %d operations did not end within %.0f s; "
                                 "their memory is leaked", driver.name, len(driver.inflight), CLOSE_DEADLINE)
                    break
                driver.wait(<int64_t>(left * 1e9), ASK_ANYWAY)
            self.dispatch(self.queued())

    # For code that is not compiled: tests, and operations that are started once in a while.

    def start(self, Op op not None):
        """Submit `op` and return it; its owner is told of its packets."""
        self.submit(op)
        return op

    def stop(self, Op op not None):
        """Cancel `op`.  Returns whether it was in flight."""
        cdef bint live = op.state == IN_FLIGHT
        self.cancel(op)
        return live

    def run(self, timeout=0.0):
        """Wait at most `timeout` seconds (None: without limit) for packets and dispatch them;
        how many there were.
        """
        cdef uint32_t count
        if not self.queued():
            self.wait(-1 if timeout is None else <int64_t>(timeout * 1e9), ASK_ANYWAY)
        count = self.queued()
        self.dispatch(count)
        return count

    def wake(self):
        """End a ``run`` in another thread."""
        self.wake_driver()

    def pause(self, Op op not None):
        """Ask a stream for no more packets; what the kernel has already taken still comes."""
        op.paused = True

    def unpause(self, Op op not None):
        """The counterpart of ``pause``."""
        self.resume(op)

    def attach_thread(self):
        """Drive the port from this thread."""
        self.begin_run()

    def detach_thread(self):
        """Stop driving the port from this thread; another one may take over."""
        self.end_run()

    def credentials_changed(self):
        """Have what is in flight act with the credentials that this thread has now."""
        if self.driver.opened and not self.driver.closed and not self.driver.forked:
            self.driver.note(-1, CREDENTIALS)

    def forget(self, int fd):
        """`fd` is about to be closed."""
        self.driver.note(fd, FD_CLOSING)
