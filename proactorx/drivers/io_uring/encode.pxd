from libc.stdint cimport uint64_t
from proactorx.ops.kinds cimport PX_ON_FILE, px_kinds
from proactorx.ops.op cimport Op
from proactorx.sys.ring cimport px_sqe

cdef bint has_cell(int kind) noexcept
cdef void encode(Op op, px_sqe *entry) noexcept
cdef void encode_poll(px_sqe *entry, int fd, uint64_t user_data) noexcept
cdef void encode_cancel(px_sqe *entry, uint64_t user_data) noexcept


cdef inline bint on_file(Op op) noexcept:
    """Whether it is an op on a file or a path: one of the kernel's threads may be at it."""
    return px_kinds[op.kind].on >= PX_ON_FILE


cdef inline bint moves_file(Op op) noexcept:
    """READ, WRITE."""
    return px_kinds[op.kind].on == PX_ON_FILE and px_kinds[op.kind].moves
