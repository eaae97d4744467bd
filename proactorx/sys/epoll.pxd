from libc.stdint cimport int64_t, uint32_t

cdef extern from "proactorx/sys/epoll.h":
    ctypedef struct px_event:
        uint32_t events
        int fd
        uint32_t generation
    enum: PX_EVENTS
    enum: EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    int px_epoll_create() nogil
    int px_epoll_ctl(int epfd, int op, int fd, uint32_t events, uint32_t generation) nogil
    int px_epoll_wait(int epfd, px_event *events, int64_t timeout_ns) nogil
