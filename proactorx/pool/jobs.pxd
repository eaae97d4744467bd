from libc.stdint cimport int64_t

cdef object code_of(callback)

cdef class Job:
    cdef readonly int64_t since  # ns: when it was handed over
    cdef readonly int64_t began
    cdef readonly int64_t ended  # 0: it runs
    cdef readonly str thread     # the name of the thread
    cdef object ident
    cdef readonly object what    # the code that was called, or what has a name

cdef class Jobs:
    cdef object done             # a deque of Job
    cdef object keep             # its append
    cdef dict running            # by the identifier of the thread
    cdef dict names              # of the threads, by the same
    cdef object waiting          # of Work: when each was handed over, in that order
    cdef Job begin(self, int64_t since, fn)
    cdef int end(self, Job job) noexcept

cdef class Work:
    cdef Jobs jobs
    cdef object fn
    cdef int64_t since
    cdef bint begun
    cdef begins(self)
