from libc.stdint cimport int64_t, uint32_t
from proactorx.ops.op cimport Op, PacketQueue, RawPacket

cdef enum:
    MOST_CHECKED = 256  # ops, and packets, that check_counters looks at in one turn


cdef class Driver:
    cdef PacketQueue queue
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
    cdef int64_t turn_began          # ns; 0: no loop has said so
    cdef int spin_pause              # how many waits still go without
    cdef int spin_penalty
    cdef double waited               # seconds that `stop` has waited for ops which are in flight still
    cdef object __weakref__

    # What every driver does, and close().  docs/pages/design/drivers.md has the same list.
    cdef int open(self) except -1
    cdef int submit(self, Op op) except -1
    cdef int cancel(self, Op op) except -1
    cdef int wait(self, int64_t timeout_ns) except -1
    cdef int sleep(self, int64_t timeout_ns) except -1 nogil
    cdef int wake(self) noexcept nogil
    cdef int start(self) except -1
    cdef int stop(self) except -1

    # What has a default, which says that there is nothing to do.
    cdef bint may_have_packets(self, uint32_t callbacks) noexcept
    cdef int flush_submissions(self) except -1
    cdef int perform(self, Op op, RawPacket *packet) except -1
    cdef int continues(self, Op op, RawPacket *packet) except -1
    cdef void give_back(self, RawPacket *packet) noexcept
    cdef int quiesce(self, Op op) except -1
    cdef int resume(self, Op op) except -1
    cdef int forget(self, int fd) except -1
    cdef int new_file(self, int fd) except -1
    cdef int credentials_changed(self) except -1
    cdef bint adopt_file(self, int fd) except -1

    # Shared.
    cdef bint may_spin(self) noexcept
    cdef void spun(self, bint hit) noexcept
    cdef int push(self, Op op, int res, uint32_t flags, char *data=*) except -1
    cdef int push_next(self, Op op, int res, uint32_t flags) except -1
    cdef int track(self, Op op) except -1
    cdef int untrack(self, Op op) except -1
    cdef int check_counters(self) except -1
