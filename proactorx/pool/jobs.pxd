cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

cdef object code_of(callback)
cdef object what_of(callback)

cdef struct Job:                 # one call; part of the object that is called, which has the references
    int64_t since                # ns: when it was handed over
    int64_t began                # 0: it has not
    PyObject *what               # see `what_of`
    PyObject *thread             # the name of the thread, which has it
    Job *before                  # in a list of Jobs; NULL: in none
    Job *after

cdef struct Entry:               # of one that has ended, with references of its own
    int64_t since, began, ended
    PyObject *what
    PyObject *thread

cdef class JobRecord:
    cdef readonly object what    # the code, or a name
    cdef readonly str thread     # the name of the thread
    cdef readonly int64_t since  # ns: when it was handed over
    cdef readonly int64_t began
    cdef readonly int64_t ended  # 0: it runs

cdef class Jobs:
    cdef cython.pymutex mutex    # of all below; under it nothing is allocated that the collector tracks
    cdef Job waiting, running    # the ends of two lists, in the order in which they came
    cdef Py_ssize_t running_now
    cdef Entry *kept             # a ring
    cdef Py_ssize_t oldest       # its place in that
    cdef dict names              # of an executor's threads, by their identifiers
    cdef unsigned long latest    # the thread that has begun a job last: most often it is this one
    cdef str latest_name
    cdef void wait(self, Job *job) noexcept
    cdef void forget(self, Job *job) noexcept
    cdef void begin(self, Job *job, str thread) noexcept
    cdef int end(self, Job *job) noexcept
    cdef Py_ssize_t take(self, Entry *found) noexcept

cdef class Work:
    cdef Jobs jobs
    cdef object fn
    cdef object what
    cdef Job job
