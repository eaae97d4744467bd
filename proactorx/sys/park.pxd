from libc.stdint cimport int64_t, uint32_t

cdef extern from "proactorx/sys/park.h":
    enum: PX_RUNS, PX_WAITING, PX_PARKED, PX_LEAD, PX_RELEASED, PX_CLOSED
    ctypedef struct px_parking:
        pass
    int px_park(px_parking *parking, int64_t deadline) nogil
    uint32_t px_signal_of(px_parking *parking) nogil
