"""A sleep that knows why it was long: because it woke late, or because it had to wait for the GIL."""

from libc.stdint cimport int64_t
from proactorx.sys.atomic cimport exchange
from proactorx.sys.clock cimport px_now_ns

cdef extern from "pythread.h":
    ctypedef void *PyThread_type_lock
    ctypedef int PyLockStatus
    PyThread_type_lock PyThread_allocate_lock()
    void PyThread_free_lock(PyThread_type_lock lock)
    int PyThread_acquire_lock(PyThread_type_lock lock, int wait) nogil
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock lock, long long microseconds, int intr) nogil
    void PyThread_release_lock(PyThread_type_lock lock) nogil


def now_ns():
    """The clock that the loops measure with."""
    return px_now_ns()


cdef class Alarm:
    """What one thread sleeps on, and others end that sleep with."""

    cdef PyThread_type_lock lock
    cdef int rung

    def __cinit__(self):
        self.lock = PyThread_allocate_lock()
        if self.lock == NULL:
            raise MemoryError
        PyThread_acquire_lock(self.lock, 1)

    def __dealloc__(self):
        if self.lock != NULL:
            PyThread_acquire_lock(self.lock, 0)  # somebody may have rung: it has to be taken to be released
            PyThread_release_lock(self.lock)
            PyThread_free_lock(self.lock)

    def ring(self):
        """End the sleep, or the next one."""
        if not exchange(&self.rung, 1):
            PyThread_release_lock(self.lock)

    def sleep(self, double seconds):
        """Sleep so long, or until somebody rings.

        Returns:
            (overslept, waited): for how many ns it slept too long, and then waited for the GIL.
        """
        cdef long long microseconds = <long long>(seconds * 1e6)
        cdef int64_t until = px_now_ns() + 1000 * microseconds, woke
        cdef int got
        with nogil:
            got = PyThread_acquire_lock_timed(self.lock, microseconds, 0)
            if got:
                exchange(&self.rung, 0)
            woke = px_now_ns()
        return max(0, woke - until), px_now_ns() - woke
