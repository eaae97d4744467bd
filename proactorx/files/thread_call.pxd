from proactorx.files.access cimport Access

cdef class Body:
    cdef readonly object future
    cdef object inner
    cdef object then         # called with `inner` at its end, when who waited for it has gone
    cdef int leave(self, then) except -1

cdef Body start_body(Access access, fn, tuple args)
