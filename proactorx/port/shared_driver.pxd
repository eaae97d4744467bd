from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport int64_t, uint32_t
from proactorx.port.operations cimport Operations, Overlapped
from proactorx.port.loop_port cimport LoopPort
from proactorx.sys.park cimport px_parking

cdef extern from "scheduler_posix.h":
    ctypedef struct px_parcel:
        void *key
        void *overlapped
        int64_t nbytes
        int error
    ctypedef struct px_shared:
        int (*wake)(void *driver) noexcept nogil
        int64_t look_ns
    ctypedef struct px_thread:
        px_shared *port
        px_parking parking
        px_parcel parcel
        int blocking
        char inside
    ctypedef struct px_numbers:
        int associated, running, queued, in_flight

    int px_begin(px_shared *port, int driven) nogil
    void px_undo(px_shared *port, int driven) nogil

cdef class SharedPort(Operations):
    cdef px_shared *core
    cdef LoopPort inner          # everything of it, and of its driver, under the lock
    cdef object choice
    cdef PyThread_type_lock lock
    cdef unsigned long holder
    cdef list deferred
    cdef int ready           # the driver is open
    cdef readonly int concurrency
    cdef readonly bint closed
    cdef readonly bint forked
    cdef object __weakref__

    cdef bint has_native_files(self) except -1
    cdef int stop_on(self, int fd) except -1
    cdef int refuse(self, int error=*) except -1
    cdef int put_back(self) except -1
    cdef int _enter_driver(self) except -1
    cdef int _leave_driver(self) except -1
    cdef int _drain(self) except -1
    cdef int _ask_driver(self) except -1
    cdef int _get(self, px_thread *me, int64_t timeout) except -1
    cdef int _wait(self, px_thread *me, bint ask, int64_t deadline) except -1
    cdef int _sleep(self, px_thread *me, int64_t deadline) except -1
    cdef int _get_slowly(self, px_thread *me, int got, int64_t deadline) except -1
    cdef int _drive(self, px_thread *me, int64_t limit) except -1
    cdef int _begin_deferred(self, Overlapped op) except -1
    cdef int _lead(self, px_thread *me, int64_t deadline) except -1
    cdef px_thread *_me(self) except NULL
