from proactorx.files.positional cimport Positional

cdef class AsyncBinary(Positional):
    cdef Py_ssize_t shortage(self, str name, tuple args)
    cdef object attempt(self, str name, tuple args)
    cdef bint is_much(self, str name, tuple args)
    cdef int prepare(self, str name, tuple args) except -1
    cdef object now(self, str name, tuple args)
    cdef int charge_for(self, result) except -1
