cimport cython
from libc.stdint cimport int64_t, uint32_t
from proactorx.port.loop_port cimport LoopPort

cdef class Flushable:
    cdef bint dirty
    cdef int flush(self) except -1

cdef struct Accepted:            # one connection that a listener has made
    int64_t began
    int64_t ended
    int listener                 # descriptors
    int fd

cdef class Registry:
    cdef readonly LoopPort port
    cdef bint running            # the loop is: what is marked is flushed before it sleeps
    cdef list dirty              # Flushable
    cdef cython.pymutex mutex    # of the next four: other threads look at them
    cdef void **owners           # the transport of each descriptor that has one; borrowed
    cdef int owner_count
    cdef Accepted *accepts       # a ring of the last ACCEPTS, made for the first one
    cdef uint32_t accepted       # how many there have been
    cdef object arena            # memory that the datagram transports share; None: not yet made, or in use
    cdef int own(self, int fd, object owner) except -1
    cdef void disown(self, int fd, void *owner) noexcept
    cdef int note_accepted(self, int listener, int fd, int64_t began, int64_t ended) except -1
    cdef int mark(self, Flushable item) except -1
    cdef int flush(self) except -1
    cdef int begin_run(self) except -1
    cdef int end_run(self) except -1
