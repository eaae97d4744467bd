from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport int64_t
from proactorx.port.operations cimport Operations, Overlapped
from proactorx.port.loop_port cimport LoopPort

cdef extern from "scheduler_posix.h":
    ctypedef struct px_packet:
        void *key
        void *overlapped
        int64_t nbytes
        int error
    ctypedef struct px_shared:
        int (*wake)(void *driver) noexcept nogil
        int64_t look_ns
    int px_begin(px_shared *port, int driven) nogil
    void px_undo(px_shared *port, int driven) nogil
    bint px_take_left(px_shared *port, px_packet *packet) nogil

cdef class SharedDriver(Operations):
    cdef px_shared *core
    cdef LoopPort inner       # everything of it, and of its driver, under the lock
    cdef object choice
    cdef PyThread_type_lock lock
    cdef unsigned long holder
    cdef list deferred
    cdef int ready           # the driver is open
    cdef readonly int concurrency
    cdef readonly bint closed
    cdef readonly bint forked
    cdef object __weakref__

    cdef int open_port(self, concurrency, backend, bint restrict) except -1
    cdef bint has_native_files(self) except -1
    cdef int stop_on(self, int fd) except -1
    cdef int refuse(self, int error=*) except -1
    cdef int _enter_driver(self) except -1
    cdef int _leave_driver(self) except -1
    cdef int _drain(self) except -1
    cdef int _ask_driver(self) except -1
    cdef int _begin_deferred(self, Overlapped op) except -1

cdef px_packet new_packet(object key, object overlapped, int64_t nbytes, int error) noexcept
cdef void drop(px_packet *packet) noexcept
