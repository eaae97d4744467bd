cimport cython
from cpython.ref cimport Py_INCREF
from libc.stdint cimport int64_t, uint32_t
from proactorx.drivers.convoy cimport px_convoy, px_convoy_woke
from proactorx.ops.op cimport (
    BufferPool, IN_FLIGHT, Op, PACKET_READY, PacketQueue, RawPacket, queue_count, queue_grow,
)
from proactorx.sys.ticks cimport px_quick_clock, px_quick_now

cdef enum:
    MOST_CHECKED = 256  # ops, and packets, that check_counters looks at in one turn
    ASK_ANYWAY = -1     # Driver.wait, `callbacks`

cdef bint has_gil       # there is one lock for all threads, which a thread that computes keeps from others
cdef int64_t pool_calls # that threads of pools are running; counted where there is a GIL, which guards it

cdef enum Closing:
    FOR_THIS_THREAD     # which stops driving the loop; another one may go on
    FOR_GOOD
    IN_FORKED_CHILD     # it is the parent's: tell the kernel nothing on its behalf

cdef enum Change:
    FD_OPENED           # it is the number of a file that was opened a moment ago
    FD_FOR_FILE_OPS     # reads and writes of its file are to be submitted
    FD_CLOSING          # it is about to be closed, and has no op in flight
    CREDENTIALS         # this thread has others now


cdef inline int check_resumed(Op op) except -1:
    """What `submit` may be asked of an op that is not new."""
    if op.state != IN_FLIGHT or op.paused or not (op.suspended or op.pending_ready):
        raise RuntimeError("an operation is submitted once")
    return 0


cdef class Driver:
    cdef PacketQueue queue
    cdef BufferPool buffers          # what packets with PACKET_BUFFER have their bytes in
    cdef char *scratch               # PX_SCRATCH_SIZE bytes, for what one call receives until it is given on
    cdef readonly list inflight      # the driver's references: one for each op that is not done
    cdef bint opened                 # the facility of the operating system has been made
    cdef public bint closed
    cdef public bint forked        # we are a forked child: nothing of this driver may be touched
    cdef public str name
    # a `sleep` notices what another thread submits meanwhile; else it must be woken
    cdef bint hears_changes
    cdef public int64_t spin_ns      # how long a wait may look for packets before it sleeps; 0: not at all
    # a bit for each kind of op on files that it takes; else IO threads do it
    cdef readonly unsigned int native_files
    # ns: when the system call of the wait ended, before the GIL was had; the loop sets it to 0 before a wait
    cdef int64_t woke_at
    cdef int64_t back_at             # ns: when the thread had the GIL again after that
    cdef int64_t turn_began          # ns; 0: no loop has said so
    cdef px_quick_clock clock        # what says so: read by the thread that drives it
    cdef int spin_pause              # how many waits still go without
    cdef int spin_penalty
    cdef px_convoy convoy            # the loop beside threads that compute
    cdef double waited               # seconds that `close` has waited for ops which are in flight still
    cdef object __weakref__

    # What a driver does.  docs/pages/design/drivers.md has the same list.
    cdef int open(self) except -1
    cdef int submit(self, Op op) except -1
    cdef int cancel(self, Op op, bint now) except -1
    cdef int wait(self, int64_t timeout_ns, int callbacks) except -1
    cdef int perform(self, Op op, RawPacket *packet) except -1
    cdef bint note(self, int fd, Change change) except -1
    cdef int sleep(self, int64_t timeout_ns) except -1 nogil
    cdef int wake(self) noexcept nogil
    cdef int close(self, Closing closing) except -1

    # What all drivers share.
    cdef bint may_spin(self) noexcept
    cdef void spun(self, bint hit) noexcept
    cdef int crowded(self) except -1
    cdef int64_t looked(self, bint hit) noexcept
    cdef int64_t look_until(self, int64_t timeout_ns) noexcept
    cdef int push_data(self, Op op, int res, uint32_t flags, char *data) except -1
    cdef int push_next(self, Op op, int res, uint32_t flags) except -1
    cdef int track(self, Op op) except -1
    cdef int untrack(self, Op op) except -1
    cdef int check_counters(self) except -1

    # Here and final, to be compiled into its callers: a call for each packet costs 60 instructions.
    @cython.final
    cdef inline int push(self, Op op, int res, uint32_t flags) except -1:
        """Queue a packet for `op`."""
        cdef PacketQueue *queue = &self.queue
        cdef RawPacket *packet
        if queue_count(queue) > queue.mask:
            queue_grow(queue)
        packet = &queue.items[queue.tail & queue.mask]
        Py_INCREF(op)
        packet.op = <void *>op
        packet.res = res
        packet.flags = flags
        packet.data = NULL
        queue.tail += 1
        if flags & PACKET_READY:
            op.ready = op.ready + 1
        return 0

    @cython.final
    cdef inline int woke(self) except -1:
        """A wait that gave up the GIL ended at `woke_at`, and has it back now: see ``convoy.h``."""
        self.back_at = px_quick_now(&self.clock)
        if px_convoy_woke(&self.convoy, self.woke_at, self.back_at):
            self.crowded()
        return 0
