"""A lock of Python's that one thread sleeps on, until another one rings.

It is held, but for the moment between the ring and the end of the sleep.  Each ring needs its sleep:
code that may ring twice has to note that it has.
"""

cdef extern from "pythread.h":
    ctypedef void *PyThread_type_lock
    ctypedef int PyLockStatus
    PyLockStatus PY_LOCK_ACQUIRED
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait) nogil
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int intr) nogil
    void PyThread_release_lock(PyThread_type_lock lock) nogil


cdef inline PyThread_type_lock new_bell() except NULL:
    cdef PyThread_type_lock bell = PyThread_allocate_lock()
    if bell == NULL:
        raise MemoryError
    PyThread_acquire_lock(bell, 1)
    return bell


cdef inline void free_bell(PyThread_type_lock bell) noexcept:
    if bell != NULL:
        PyThread_acquire_lock(bell, 0)  # somebody may have rung: it has to be taken to be released
        PyThread_release_lock(bell)
        PyThread_free_lock(bell)


cdef inline void ring_bell(PyThread_type_lock bell) noexcept nogil:
    PyThread_release_lock(bell)


cdef inline bint sleep_on(PyThread_type_lock bell, long long microseconds) noexcept nogil:
    """Whether it has rung; negative: sleep without a limit."""
    return PyThread_acquire_lock_timed(bell, microseconds, 0) == PY_LOCK_ACQUIRED
