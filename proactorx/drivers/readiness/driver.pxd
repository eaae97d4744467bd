cimport cython
from libc.stdint cimport int64_t, uint32_t
from proactorx.drivers.driver cimport Driver
from proactorx.ops.kinds cimport px_kind
from proactorx.ops.op cimport Op, RawPacket
from proactorx.sys.event cimport px_waker

cdef enum:
    LARGEST_FD = 1 << 26  # more than any kernel's fs.nr_open: the table grows to the largest number seen

cdef struct FdSlot:
    void *readers        # the first op that waits for input; the others hang on its line.next
    void *writers
    uint32_t registered  # what the operating system has been asked for
    uint32_t generation  # how often that was begun and ended
    bint renumbered      # the facility has forgotten the file: another one has its number

cdef class ReadinessDriver(Driver):
    cdef FdSlot *slots
    cdef int slot_count
    cdef bint lazy       # a registration may outlast the receive that it was made for

    cdef FdSlot *slot_of(self, int fd) except NULL
    cdef int set_interest(self, int fd, uint32_t before, uint32_t after) except -1
    cdef int ready(self, int fd, uint32_t mask) except -1
    cdef int _refused(self, Op op, int error) except -1
    @cython.final
    cdef int _tell(self, void *item, uint32_t mask, uint32_t direction) except -1
    cdef int update(self, int fd) except -1
    cdef int match(self, int fd) except -1
    cdef int end_stale(self, int fd, void *fresh) except -1
    cdef int enqueue(self, Op op) except -1
    @cython.final
    cdef int pause(self, Op op) except -1
    cdef int resume(self, Op op) except -1
    cdef int unlink(self, Op op, bint lazily=*) except -1

cdef int perform_call(Op op, const px_kind *row, RawPacket *packet, char *scratch) except -1

cdef class PythonReadinessDriver(ReadinessDriver):
    cdef px_waker waker      # one end of a socket pair
    cdef int sleep_fd
