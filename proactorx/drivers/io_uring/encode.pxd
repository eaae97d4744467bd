from proactorx.ops.op cimport Op
from proactorx.sys.ring cimport px_sqe

cdef bint has_cell(int kind) noexcept
cdef void encode(Op op, px_sqe *entry) noexcept
