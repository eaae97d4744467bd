cdef extern from "proactorx/sys/overlapped.h":
    ctypedef struct px_overlapped:
        pass
