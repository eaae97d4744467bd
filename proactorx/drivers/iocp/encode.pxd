from libc.stdint cimport int64_t, uint32_t
from proactorx.drivers.readiness.driver cimport ReadinessDriver
from proactorx.ops.op cimport Op, RawPacket
from proactorx.sys.iocp cimport HANDLE, OVERLAPPED, px_calls, px_overlapped

cdef class OverlappedCalls(ReadinessDriver):
    cdef HANDLE port
    cdef px_calls calls
    cdef unsigned char *bound    # of each handle: PX_BOUND and so on
    cdef int handle_count        # how many that table is for
    cdef list waiting            # ops that are to be given to the kernel before the next wait
    cdef int most                # so many buffers may be lent to streams that wait
    cdef bint skip               # packets of what succeeds at once, where the kernel grants that

    cdef bint is_file(self, int fd) noexcept
    cdef void put_buffer(self, char *buffer) noexcept
    cdef bint skips(self, Op op) noexcept
    cdef int begin(self, Op op) except -1
    cdef int call(self, Op op, px_overlapped *flight) except? -1
    cdef int ended(self, Op op, uint32_t count) except -1
    cdef int end(self, Op op, int res) except -1
    cdef int again(self, Op op) except -1
    cdef int datagram(self, Op op, char *buffer, uint32_t *count) except? -1

cdef bint has_cells(int kind) noexcept

cdef inline px_overlapped *flight_of(Op op) noexcept:
    return <px_overlapped *>&op.flight
