from libc.stdint cimport int64_t, uint64_t
from proactorx.loop.call_queue cimport CallQueue
from proactorx.loop.handles cimport TimerHandle
from proactorx.observe.meter cimport Meter

cdef extern from "proactorx/loop/timers.h":
    ctypedef struct Timer "px_timer":
        double when
        uint64_t order
        void *handle
    void px_timer_up(Timer *heap, Py_ssize_t i) nogil
    void px_timer_pop(Timer *heap, Py_ssize_t count) nogil
    void px_timer_down(Timer *heap, Py_ssize_t count, Py_ssize_t i) nogil

cdef class TimerQueue(CallQueue):
    cdef Timer *timers
    cdef Py_ssize_t timer_count, timer_room, timer_cancelled
    cdef uint64_t timer_order
    cdef uint64_t timers_shown   # the garbage collector knows of those that were set before this one
    cdef double timers_due       # when one was due last
    cdef double timer_slack      # so long the loop sleeps after that at least
    cdef Meter meter
    cdef object clock            # a `time` of a subclass's or a patched one, else None
    cdef void drop_timers(self) noexcept
    cdef double now(self) except? -1
    cdef double now_at(self, int64_t read) except? -1
    cdef int push_timer(self, TimerHandle handle) except -1
    cdef void *pop_timer(self) noexcept
    cdef int compact_timers(self) except -1
    cdef int due_timers(self, int64_t read) except -1
    cdef void share_wakes(self, double now, int count) noexcept
    cdef int64_t until_timer(self, int64_t read) except -2
