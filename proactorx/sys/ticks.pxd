from libc.stdint cimport int64_t

cdef extern from "proactorx/sys/ticks.h" nogil:
    ctypedef struct px_quick_clock:
        pass
    void px_quick_begin(px_quick_clock *clock)
    int64_t px_quick_now(px_quick_clock *clock)
