from libc.stdint cimport uint32_t
from proactorx.sys.iocp cimport HANDLE, OVERLAPPED

cdef extern from "proactorx/sys/afd.h" nogil:
    enum: PX_AFD_SHARE, PX_POLL_CLOSED
    ctypedef struct px_poll:
        OVERLAPPED overlapped
        int fd
        int group
        uint32_t asked
        int cancelled
    HANDLE px_afd_open(HANDLE port)
    int px_afd_ask(HANDLE afd, px_poll *poll, uint32_t mask)
    uint32_t px_afd_answer(const px_poll *poll)
