from libc.stdint cimport int64_t, uint64_t

cdef extern from "proactorx/sys/watch.h" nogil:
    int64_t px_thread_cpu_ns(uint64_t native_id)
    int px_listen_queue(int fd, int *waiting, int *limit)
