from proactorx.port.op cimport Op
from proactorx.port.port cimport Flushable, Port

cdef class BaseTransport(Flushable):
    cdef readonly object _loop       # for asyncio's own sendfile fall-back, too
    cdef Port port
    cdef readonly object _protocol   # as asyncio calls it, which programs read
    cdef object context
    cdef dict extra              # get_extra_info() values given or already asked for
    cdef object sock             # the Python object that owns fd, once there is one; else the transport owns it
    cdef Op receive              # what reads, or None
    cdef list stash              # received while paused
    cdef int fd
    cdef bint given              # the socket or file was the user's: it may be closed behind our back
    cdef bint reading_paused
    cdef bint closing
    cdef bint connection_lost_called

    cdef int init(self, object loop, Port port) except -1
    cdef int begin(self, Op op, int kind) except -1
    cdef int receive_done(self) except -1
    cdef bint busy(self) noexcept
    cdef int stop_reading(self) except -1
    cdef int ended(self) except -1
    cdef int finish(self, exc) except -1
    cdef bint stranded(self) except -1
    cdef int release_fd(self) except -1
    cdef list states(self)

cdef bint holds(object sock, int fd) except -1
cdef bint enter(object context) except -1
