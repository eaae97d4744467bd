from libc.stdint cimport int64_t, uint64_t

cdef extern from "proactorx/sys/watch.h" nogil:
    int64_t px_thread_cpu_ns(uint64_t native_id)
    int px_listen_queue(int fd, int *waiting, int *limit)
    void px_take_no_signals()
    void px_kernel_view(int fd, uint64_t native_id)
    void px_copy_rest(int source, int64_t start, int to)
    int64_t px_file_end(int fd)
    void px_say(int fd, const char *text)
