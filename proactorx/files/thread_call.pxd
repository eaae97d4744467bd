from proactorx.files.access cimport Access
from proactorx.pool.core cimport Call

cdef class ThreadCall:
    cdef readonly object future
    cdef Call ended          # None until then
    cdef object then         # see `abandon`
    cdef Call succeeded(self)
    cdef int abandon(self, then) except -1

cdef ThreadCall start_call(Access access, fn, tuple args)
