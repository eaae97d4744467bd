cimport cython
from proactorx.port.loop_port cimport LoopPort

cdef class Flushable:
    cdef bint dirty
    cdef int flush(self) except -1

cdef class Registry:
    cdef readonly LoopPort port
    cdef bint running            # the loop is: what is marked is flushed before it sleeps
    cdef list dirty              # Flushable
    cdef cython.pymutex mutex    # of the next two: other threads look at who is there
    cdef void **owners           # the transport of each descriptor that has one; borrowed
    cdef int owner_count
    cdef readonly object accepts # a deque of the last: (began, ended, descriptors of listener and connection)
    cdef object arena            # memory that the datagram transports share; None: not yet made, or in use
    cdef int own(self, int fd, object owner) except -1
    cdef void disown(self, int fd, void *owner) noexcept
    cdef int mark(self, Flushable item) except -1
    cdef int flush(self) except -1
    cdef int begin_run(self) except -1
    cdef int end_run(self) except -1
