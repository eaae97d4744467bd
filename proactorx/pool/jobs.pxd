cimport cython
from libc.stdint cimport int64_t
from proactorx.sys.flag cimport flag

cdef object code_of(callback)

cdef class Job:
    cdef readonly int64_t since  # ns: when it was handed over
    cdef readonly int64_t began
    cdef readonly int64_t ended  # 0: it runs
    cdef readonly str thread     # the name of the thread
    cdef readonly object what    # the code that was called, or a name
    cdef flag displaced          # its place was needed while it ran

cdef class Jobs:
    cdef cython.pymutex mutex    # of the next three
    cdef list kept               # the last ones, a ring in the order in which they began
    cdef Py_ssize_t oldest       # its place in that, once the ring is full
    cdef set displaced           # those that still run
    cdef dict names              # of the threads, by their identifiers
    cdef object waiting          # of Work: when each was handed over, in that order
    cdef Job begin(self, int64_t since, fn)
    cdef int keep(self, Job job) except -1
    cdef int end(self, Job job) noexcept

cdef class Work:
    cdef Jobs jobs
    cdef object fn
    cdef int64_t since
    cdef bint begun
    cdef begins(self)
