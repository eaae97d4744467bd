cimport cython
from libc.stdint cimport int64_t, uint32_t
from proactorx.sys.flag cimport flag

cdef object code_of(callback)

cdef class Job:
    cdef readonly int64_t since  # ns: when it was handed over
    cdef readonly int64_t began
    cdef readonly int64_t ended  # 0: it runs
    cdef readonly str thread     # the name of the thread
    cdef object called           # the code, a name, or a function of a module in C
    cdef flag displaced          # its place was needed while it ran

cdef class Jobs:
    cdef cython.pymutex mutex    # of the next six
    cdef list kept               # the last ones, a ring in the order in which they began
    cdef Py_ssize_t oldest       # its place in that, once the ring is full
    cdef set displaced           # those that still run
    cdef dict names              # of the threads, by their identifiers
    cdef unsigned long latest    # the thread that has begun a job last: most often it is this one
    cdef str latest_name
    # Of the rest.  Another one: the collector, which an allocation under the first may start, frees Work.
    cdef cython.pymutex counting
    cdef int64_t *times          # a ring: when each Work that has not begun was handed over, in that order
    cdef uint32_t first, newest, mask
    cdef Job begin(self, int64_t since, fn)
    cdef int keep(self, Job job) except -1
    cdef int end(self, Job job) noexcept
    cdef int wait(self, int64_t since) except -1
    cdef int begins(self) except -1

cdef class Work:
    cdef Jobs jobs
    cdef object fn
    cdef int64_t since
    cdef bint begun
    cdef int begins(self) except -1
