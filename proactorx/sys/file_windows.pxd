from libc.stddef cimport wchar_t
from libc.stdint cimport int64_t

cdef extern from "proactorx/sys/file_windows.h" nogil:
    ctypedef struct px_watch:
        unsigned int buffer[1]
    enum: ERROR_OPERATION_ABORTED
    int px_file_reserve(int fd, int64_t size)
    unsigned long px_move_through(const wchar_t *source, const wchar_t *target)
    unsigned long px_watch_open(px_watch *watch, const wchar_t *path)
    unsigned long px_watch_begin(px_watch *watch)
    long px_watch_end(px_watch *watch)
    void px_watch_stop(px_watch *watch)
    void px_watch_close(px_watch *watch)
