from libc.stdint cimport int32_t, int64_t, uint64_t
from proactorx.ops.op cimport Op

cdef enum:
    DETAILS = 65536          # of calls, that are kept
    PLACES = 4096            # names at most; what is more is counted together

cdef struct Detail:          # one call
    int64_t began
    int64_t ended
    # Of a packet: when its op was submitted.  Of a handle: the task that went on, N where its name is Task-N,
    # else -1 - its place in `tasks`; 0: none.
    int64_t of
    int32_t place            # in `names`
    int32_t fd               # of a packet; -1: a handle was called
    int32_t more             # of a packet: the op stays in flight
    int32_t unused

cdef struct Total:           # of one name
    uint64_t count
    int64_t ns
    int64_t longest

cdef class Details:
    cdef Detail *kept        # a ring
    cdef Total *totals
    cdef uint64_t count
    cdef dict places         # by the identity of what has a name, which `owners` keeps
    cdef list owners
    cdef list names
    cdef dict task_places    # by the name of the task
    cdef list tasks          # names that are no numbers
    cdef int place_of(self, key, callback) except -1
    cdef int of_handle(self, callback) except -1
    cdef int of_packet(self, Op op) except -1
    cdef int64_t task_of(self, callback) noexcept
    cdef Detail *note(self, int place, int fd, int64_t of, int64_t began, int64_t ended) noexcept
