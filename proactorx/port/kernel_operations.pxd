from libc.stdint cimport uint32_t
from proactorx.port.operations cimport Operations, Overlapped
from proactorx.sys.iocp cimport HANDLE, px_overlapped

cdef extern from "scheduler_windows.h":
    ctypedef struct px_port:
        HANDLE handle
        int queued
        int associated

cdef class KernelOperations(Operations):
    cdef px_port *port
    cdef set ops             # operations whose packets nobody has taken
    cdef readonly bint closed
    cdef int free_buffer(self, px_overlapped *flight) except -1
    cdef int begin(self, Overlapped op) except -1
    cdef bint ended(self, Overlapped op, uint32_t count) except -1
    cdef bint goes_on(self, Overlapped op) except -1

cdef int load_calls() except -1
