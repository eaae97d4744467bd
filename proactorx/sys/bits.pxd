from libc.stdint cimport uint64_t

cdef extern from "proactorx/sys/bits.h" nogil:
    int px_bit_length(uint64_t value)
