from libc.stdint cimport int64_t

cdef extern from "proactorx/drivers/convoy.h" nogil:
    ctypedef struct px_convoy:
        int trust
    bint px_convoy_woke(px_convoy *convoy, int64_t woken, int64_t now)
    void px_convoy_begin(px_convoy *convoy, int64_t hold, int64_t now)
    int64_t px_convoy_until(px_convoy *convoy, int64_t now)
    void px_convoy_looked(px_convoy *convoy, bint hit, int64_t now)
