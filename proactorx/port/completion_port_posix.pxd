from libc.stdint cimport int64_t
from proactorx.port.shared_driver cimport SharedDriver, px_packet, px_shared
from proactorx.sys.park cimport px_parking

cdef extern from "scheduler_posix.h":
    ctypedef struct px_thread:
        px_shared *port
        px_parking parking
        px_packet packet
        int blocking
        char inside
    ctypedef struct px_numbers:
        int associated, running, queued, in_flight

cdef class CompletionPort(SharedDriver):
    cdef int put_back(self) except -1
    cdef int _get(self, px_thread *me, int64_t timeout) except -1
    cdef int _wait(self, px_thread *me, bint ask, int64_t deadline) except -1
    cdef int _sleep(self, px_thread *me, int64_t deadline) except -1
    cdef int _get_slowly(self, px_thread *me, int got, int64_t deadline) except -1
    cdef int _drive(self, px_thread *me, int64_t limit) except -1
    cdef int _lead(self, px_thread *me, int64_t deadline) except -1
    cdef px_thread *_me(self) except NULL
