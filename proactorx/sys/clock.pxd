from libc.stdint cimport int64_t

cdef extern from "proactorx/sys/clock.h" nogil:
    int64_t px_now_ns()
    double px_monotonic()
    double px_monotonic_at(int64_t ns)
