from proactorx.files.access cimport FileOp
from proactorx.files.async_file cimport AsyncBase
from proactorx.files.raw_state cimport RawState
from libc.stdint cimport int64_t

cdef class Positional(AsyncBase):
    cdef FileOp new_read_at(self, int64_t offset)

cdef int write_now(RawState state, FileOp op) except -1
