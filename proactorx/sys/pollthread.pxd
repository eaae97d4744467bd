from libc.stdint cimport uint32_t
from proactorx.sys.afd cimport px_poll
from proactorx.sys.iocp cimport HANDLE

cdef extern from "proactorx/sys/pollthread.h" nogil:
    ctypedef struct px_thread:
        pass
    px_thread *px_thread_new(HANDLE port)
    void px_thread_stop(px_thread *thread)
    int px_thread_ask(px_thread *thread, px_poll *poll, uint32_t mask)
    void px_thread_cancel(px_thread *thread, px_poll *poll)
