from libc.stdint cimport int64_t, uint32_t
from proactorx.drivers.readiness.driver cimport ReadinessDriver
from proactorx.sys.epoll cimport PX_EVENTS, px_event
from proactorx.sys.event cimport px_waker

cdef class EpollSet(ReadinessDriver):
    cdef int epfd
    cdef px_waker waker      # an eventfd
    cdef px_event events[PX_EVENTS]
    cdef uint32_t turns      # with callbacks ready, since the set was asked last
    cdef uint32_t callbacks  # in those turns
    cdef int64_t polled_at

    cdef bint is_due(self, uint32_t callbacks) noexcept
    cdef int renew(self) except -1
    cdef int _look_first(self, int64_t timeout_ns) except? -1
    cdef int _look(self, int64_t until) noexcept
    cdef int _spin(self)
    cdef _drop(self, int wake_fd)
