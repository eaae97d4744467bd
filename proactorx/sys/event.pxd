cdef extern from "proactorx/sys/event.h" nogil:
    ctypedef struct px_waker:
        int fd
    void px_waker_clear(px_waker *waker)
    void px_waker_set(px_waker *waker, int fd)
    int px_waker_close(px_waker *waker)
    int px_waker_forget(px_waker *waker)
    int px_wake_socket(px_waker *waker)

    # Linux.
    int px_eventfd()
    void px_eventfd_drain(int fd)
    int px_wake(px_waker *waker)
