from proactorx.files.access cimport Access

cdef class ThreadCall:
    cdef readonly object future
    cdef object inner
    cdef object then         # called with `inner` at its end, if the caller was cancelled
    cdef int abandon(self, then) except -1

cdef ThreadCall start_call(Access access, fn, tuple args)
