from proactorx.files.access cimport Access

cdef class ThreadCall:
    cdef readonly object future
    cdef object inner
    cdef object then         # called with `inner` at its end, when who waited for it has gone
    cdef int abandon(self, then) except -1

cdef ThreadCall start_call(Access access, fn, tuple args)
