"""What a driver is: the one place where packets are made, on one facility of the operating system.

A driver imports the definition of the op and nothing else of this package.  The port submits and cancels ops,
asks it to ``wait`` (which fills the packet queue and dispatches nothing),
and finishes each packet when its turn comes.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t
from proactorx.drivers.convoy cimport px_convoy_begin, px_convoy_looked, px_convoy_until
from proactorx.sys.clock cimport px_now_ns
from proactorx.sys.errnos cimport ENOSYS
from proactorx.sys.ticks cimport px_quick_begin
from proactorx.ops.checks cimport px_check
from proactorx.ops.op cimport (
    CANCELLING, IN_FLIGHT, ORPHANED, PACKET_READY, buffers_free, queue_count, queue_free, queue_init,
    set_state,
)

import os
import sys
import weakref

cdef extern from "Python.h":
    ctypedef struct PyInterpreterState:
        pass
    ctypedef struct PyThreadState:
        pass
    PyInterpreterState *PyInterpreterState_Get()
    PyThreadState *PyInterpreterState_ThreadHead(PyInterpreterState *interpreter)
    PyThreadState *PyThreadState_Next(PyThreadState *thread)
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
    ctypedef int (*traverseproc)(PyObject *, visitproc, void *) noexcept
    ctypedef struct PyTypeObject:
        traverseproc tp_traverse

cdef object _drivers = weakref.WeakSet()
has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()


cdef class Driver:
    """The interface that a port knows, and what all drivers share."""

    def __cinit__(self, *args, **kwargs):
        queue_init(&self.queue)
        px_quick_begin(&self.clock)
        self.inflight = []
        _drivers.add(self)

    def __dealloc__(self):
        queue_free(&self.queue)
        buffers_free(&self.buffers)

    cdef int open(self) except -1:
        """Make the facility, or take over the one there is: this thread drives it from now on.

        It is made at the first op or the first wait: a loop that never needs I/O costs no descriptor.

        Raises OSError where the system refuses; the port may then go on with another driver.
        """
        self.opened = True
        return 0

    cdef int submit(self, Op op) except -1:
        """Start `op`, or go on with one that was paused.

        Its packets come through the queue, also when it could be done at once.
        """
        raise NotImplementedError("Driver.submit")

    cdef int cancel(self, Op op, bint now) except -1:
        """Ask that `op` end soon.

        Its last packet still comes, and may report success.  `now`: have the kernel let go of its file
        before this returns.
        """
        raise NotImplementedError("Driver.cancel")

    cdef int wait(self, int64_t timeout_ns, int callbacks) except -1:
        """Queue the packets there are, waiting for the first one at most `timeout_ns` (-1: without limit).

        `callbacks`: so many more have run since the last wait, and no system call need be made if none is
        due; ASK_ANYWAY otherwise.
        """
        raise NotImplementedError("Driver.wait")

    cdef int perform(self, Op op, RawPacket *packet) except -1:
        """Finish a packet that is READY, or the last of an op in flight: make the system call, or go on.

        The call fills the packet.  Of a paused op nothing is received, and the driver stops listening for it.
        0: there is nothing to tell the op.
        """
        raise NotImplementedError("Driver.perform")

    cdef bint note(self, int fd, Change change) except -1:
        """Take note of what becomes of `fd`, or of new credentials, so that each op meets its own file with
        them.

        FD_OPENED: ops that still wait on the number end with EBADF.  FD_FOR_FILE_OPS: asked once, before the
        first; False where they cannot be submitted.  CREDENTIALS: what is in flight acts with those that this
        thread has now.
        """
        return True

    cdef int sleep(self, int64_t timeout_ns) except -1 nogil:
        """Wait until `wait(0)` would find something, `wake` was called, or the time is over (-1: no limit).

        It may end early.  For a port that many threads share: only this and `wake` may run while another
        thread is in the driver, so nothing of the driver is changed here.  0 or an errno.
        """
        return ENOSYS

    cdef int wake(self) noexcept nogil:
        """End a `wait` in another thread.

        Any thread may call this; 0, or -1 where the wake-up failed.  Before `open` and after `close` nobody
        waits, and nothing happens.
        """
        return -1

    cdef int close(self, Closing closing) except -1:
        """Let go of the facility: for this thread, for good, or in a forked child.

        For good: free what the driver holds.  Ops must have ended; those that have not are leaked.
        """
        return 0

    cdef bint may_spin(self) noexcept:
        if self.spin_pause:
            self.spin_pause -= 1
            return False
        return True

    cdef void spun(self, bint hit) noexcept:
        # Spinning pays while packets come soon.  After a miss it is left out of ever more waits (up to 64): a
        # fixed spin halves the throughput when the client shares the core.
        if hit:
            self.spin_penalty = 0
        else:
            self.spin_penalty = min(2 * self.spin_penalty + 1, 64)
            self.spin_pause = self.spin_penalty

    cdef int crowded(self) except -1:
        """Taking the GIL back was slow."""
        cdef int64_t hold
        if not has_gil:
            return 0
        hold = <int64_t>(sys.getswitchinterval() * 1e9)
        # Threads of pools have it for a moment each, to bring results; a loop that looks would keep them from
        # it.  One that computes has it for the whole interval.
        if pool_calls > 0 and self.back_at - self.woke_at < hold // 2:
            return 0
        if _has_others():
            px_convoy_begin(&self.convoy, hold, self.back_at)
        return 0

    cdef int64_t looked(self, bint hit) noexcept:
        """A look has ended; what time it is."""
        cdef int64_t now = px_now_ns()
        px_convoy_looked(&self.convoy, hit, now)
        self.back_at = now
        self.woke_at = now if hit else 0  # it goes to sleep now: who looks at that would take it for awake
        return now

    cdef int64_t look_until(self, int64_t timeout_ns) noexcept:
        """Until when to look for packets with the GIL; 0: not at all."""
        cdef int64_t now, until
        if not self.convoy.trust:
            return 0
        now = px_now_ns()
        until = px_convoy_until(&self.convoy, now)
        return min(until, now + timeout_ns) if timeout_ns > 0 else until

    cdef int push_data(self, Op op, int res, uint32_t flags, char *data) except -1:
        self.push(op, res, flags)
        self.queue.items[(self.queue.tail - 1) & self.queue.mask].data = data
        return 0

    cdef int push_next(self, Op op, int res, uint32_t flags) except -1:
        """Queue a packet in front of all others: it is dispatched in this turn."""
        cdef RawPacket packet
        self.push(op, res, flags)
        self.queue.tail -= 1
        packet = self.queue.items[self.queue.tail & self.queue.mask]
        self.queue.head -= 1
        self.queue.items[self.queue.head & self.queue.mask] = packet
        return 0

    cdef int track(self, Op op) except -1:
        op.hold()
        op.slot = <int>len(self.inflight)
        op.since = self.turn_began
        self.inflight.append(op)
        set_state(op, IN_FLIGHT)
        return 0

    cdef int check_counters(self) except -1:
        """Between turns: what is counted agrees with what there is.  In builds with checks;
        see ``ops/checks.h``.
        """
        cdef uint32_t i = self.queue.head, queued = 0
        cdef Op op
        cdef int place = 0
        px_check(queue_count(&self.queue) <= self.queue.mask + 1,
                 "the queue of packets has more than its room")
        if len(self.inflight) > MOST_CHECKED or queue_count(&self.queue) > MOST_CHECKED:
            return 0
        while i != self.queue.tail:
            queued += (self.queue.items[i & self.queue.mask].flags & PACKET_READY) != 0
            i += 1
        for op in self.inflight:
            px_check(op.slot == place, "an op in flight is not at its place in the list")
            px_check(op.state == IN_FLIGHT or op.state == CANCELLING or op.state == ORPHANED,
                     "an op in the list is not in flight")
            px_check(op.ready <= queued, "an op counts more READY packets than are queued")
            place += 1
        return 0

    cdef int untrack(self, Op op) except -1:
        cdef Op last
        if op.slot < 0:
            return 0
        last = <Op>self.inflight.pop()
        if last is not op:
            last.slot = op.slot
            self.inflight[op.slot] = last
        op.slot = -1
        return op.let_go()


cdef bint _has_others() noexcept:
    """Whether there are other threads that run Python code."""
    cdef PyThreadState *first = PyInterpreterState_ThreadHead(PyInterpreterState_Get())
    return first != NULL and PyThreadState_Next(first) != NULL


# The garbage collector must see the ops of queued packets, as in LoopCore:
# a forgotten loop would stay for ever.

cdef traverseproc _traverse_attributes = (<PyTypeObject *>Driver).tp_traverse


cdef int _traverse(Driver self, visitproc visit, void *arg) noexcept:
    cdef uint32_t i = self.queue.head
    cdef int found = _traverse_attributes(<PyObject *>self, visit, arg)
    while i != self.queue.tail and not found:
        found = visit(<PyObject *>self.queue.items[i & self.queue.mask].op, arg)
        i += 1
    return found


(<PyTypeObject *>Driver).tp_traverse = <traverseproc>_traverse


def _after_fork_in_child():
    global pool_calls
    pool_calls = 0  # their threads are the parent's
    cdef Driver driver
    for driver in list(_drivers):
        if driver.opened:  # else nothing of it is shared: a loop that was never used serves parent and child
            driver.forked = True
            driver.close(IN_FORKED_CHILD)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
