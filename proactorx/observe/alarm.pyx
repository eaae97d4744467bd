"""A sleep that knows why it was long: because it woke late, or because it had to wait for the GIL."""

from libc.stdint cimport int64_t
from proactorx.observe.witness cimport asks_for_gil, has_gil
from proactorx.sys.atomic cimport exchange
from proactorx.sys.bell cimport PyThread_type_lock, free_bell, new_bell, ring_bell, sleep_on
from proactorx.sys.clock cimport px_now_ns


def now_ns():
    """The clock that the loops measure with."""
    return px_now_ns()


cdef class Alarm:
    """What one thread sleeps on, and others end that sleep with."""

    cdef PyThread_type_lock bell
    cdef int rung

    def __cinit__(self):
        self.bell = new_bell()

    def __dealloc__(self):
        free_bell(self.bell)

    def ring(self):
        """End the sleep, or the next one."""
        if not exchange(&self.rung, 1):
            ring_bell(self.bell)

    def sleep(self, double seconds):
        """Sleep so long, or until somebody rings.

        Returns:
            (overslept, waited): for how many ns it slept too long, and then waited for the GIL.
        """
        cdef long long microseconds = <long long>(seconds * 1e6)
        cdef int64_t until = px_now_ns() + 1000 * microseconds, woke
        with nogil:
            if sleep_on(self.bell, microseconds):
                exchange(&self.rung, 0)
            woke = px_now_ns()
        return max(0, woke - until), px_now_ns() - woke

    def probe(self, double seconds):
        """Sleep so long, and then let the witness know how long it takes to have the GIL."""
        with nogil:
            if sleep_on(self.bell, <long long>(seconds * 1e6)):
                exchange(&self.rung, 0)
            asks_for_gil(px_now_ns())
        has_gil()
