from libc.stdint cimport int64_t

cdef class Packet:
    cdef readonly object key
    cdef readonly object overlapped
    cdef readonly int64_t nbytes
    cdef readonly int error
    cdef tuple values(self)
