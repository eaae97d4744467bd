cdef extern from "proactorx/sys/event.h":
    ctypedef struct px_waker:
        int fd
    void px_waker_clear(px_waker *waker) nogil
    void px_waker_set(px_waker *waker, int fd) nogil
    int px_wake(px_waker *waker) nogil
    int px_waker_close(px_waker *waker) nogil
    int px_waker_forget(px_waker *waker) nogil
