"""The timers of a loop: a binary heap, see ``timers.h``, and the clock that they are due by."""

from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc, realloc
from proactorx.loop.call_queue cimport (
    PyCFunction, PyMethodDef, call_method, fill_handle, is_context, replace_method,
)
from proactorx.loop.calling cimport PX_GIL, px_track
from proactorx.sys.atomic cimport load_relaxed, load_relaxed_ulong
from proactorx.observe.meter cimport record
from proactorx.sys.clock cimport px_monotonic, px_monotonic_at

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object instance, object name, object value) except -1
    int px_delete "PyObject_GenericSetAttr"(object instance, object name, void *null) except -1

cdef enum:
    FIRST_ROOM = 64
    FEW_TIMERS = 64  # below this many cancelled timers nothing is swept

cdef double MAX_WAIT = 24 * 3600.0
# Seconds, and more than the quick clock may be wrong: only a timer that may be due is worth a reading of the
# clock that it is due by.
cdef double QUICK_ERROR = 2e-6
# Timers share wake-ups: after one was due, the loop does not sleep for less than this.  The kernel allows
# itself as much: the default slack of a thread's timers, prctl(2), PR_SET_TIMERSLACK.
cdef double TIMER_SLACK = 50e-6
# In a dense train, so many a second, it sleeps for twice as long each time; at last half of the millisecond
# that stock asyncio rounds up to.  A wake-up costs what tens of timers do.
cdef double DENSE = 32e3
cdef double MOST_SLACK = 500e-6
cdef double TRAIN = 1e-3  # a train ends with a gap of this length


cdef class TimerQueue(CallQueue):
    """The calls that a loop has to make, with those that are due later."""

    def __cinit__(self, *args, **kwargs):
        self.timers = <Timer *>malloc(FIRST_ROOM * sizeof(Timer))
        if self.timers == NULL:
            raise MemoryError
        self.timer_room = FIRST_ROOM
        self.timer_slack = TIMER_SLACK

    def __dealloc__(self):
        self.drop_timers()
        free(self.timers)

    cdef void drop_timers(self) noexcept:
        cdef object handle
        while self.timer_count:
            self.timer_count -= 1
            handle = <object>self.timers[self.timer_count].handle
            (<TimerHandle>handle)._scheduled = False
            Py_DECREF(handle)
            handle = None
        self.timer_cancelled = 0

    # -------------------------------------------------------------------------------------------------- clock

    # A clock of somebody else's may come and go while the loop runs.

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        if name == "time" and self.thread:
            self.clock = self._own_clock()

    def __delattr__(self, name):
        px_delete(self, name, NULL)
        if name == "time" and self.thread:
            self.clock = self._own_clock()

    cdef double now(self) except? -1:
        clock = self.clock
        if load_relaxed_ulong(&self.thread) == 0:
            clock = self._own_clock()  # while the loop does not run, somebody may replace its clock
        return <double>clock() if clock is not None else px_monotonic()

    cdef double now_at(self, int64_t read) except? -1:
        """What the time was when `px_now_ns` said `read`; of somebody else's clock: what it is."""
        return px_monotonic_at(read) if self.clock is None and self.thread and read else self.now()

    def _own_clock(self):
        """Return the replacement for ``time`` that a subclass or a test has installed, or None."""
        raise NotImplementedError("TimerQueue._own_clock")

    # --------------------------------------------------------------------------------------------------- heap

    cdef int push_timer(self, TimerHandle handle) except -1:
        cdef Timer *bigger
        cdef Timer *item
        if self.timer_count == self.timer_room:
            bigger = <Timer *>realloc(self.timers, 2 * self.timer_room * sizeof(Timer))
            if bigger == NULL:
                raise MemoryError
            self.timers = bigger
            self.timer_room *= 2
        item = &self.timers[self.timer_count]
        item.when = handle._when
        item.order = self.timer_order
        item.handle = <void *>handle
        Py_INCREF(handle)
        if PX_GIL and self.thread == 0:
            px_track(item.handle)  # see `end_run`
        handle._scheduled = True
        self.timer_order += 1
        self.timer_count += 1
        self.meter.left = 0  # from the next turn on what it waits for is timed
        px_timer_up(self.timers, self.timer_count - 1)
        if load_relaxed(&self.sleeping):
            self.rouse()  # it did not know of this one
        return 0

    cdef void *pop_timer(self) noexcept:
        """The first timer, with the heap's reference to it."""
        cdef void *item = self.timers[0].handle
        self.timer_count -= 1
        px_timer_pop(self.timers, self.timer_count)
        (<TimerHandle>item)._scheduled = False
        if (<TimerHandle>item).counted:
            (<TimerHandle>item).counted = False
            self.timer_cancelled -= 1
        return item

    cdef int compact_timers(self) except -1:
        """Drop the cancelled timers: they are never more than half of all, and so cost O(1) each."""
        cdef Py_ssize_t i, count = 0, dropped = 0
        cdef void *item
        # Freed at the end: what they refer to may have finalizers, which schedule timers.
        cdef void **garbage = <void **>malloc(self.timer_count * sizeof(void *))
        if garbage == NULL:
            return 0  # another time
        for i in range(self.timer_count):
            item = self.timers[i].handle
            if (<TimerHandle>item)._cancelled:
                (<TimerHandle>item)._scheduled = (<TimerHandle>item).counted = False
                garbage[dropped] = item
                dropped += 1
            else:
                self.timers[count] = self.timers[i]
                count += 1
        self.timer_count = count
        self.timer_cancelled = 0
        for i in range(count // 2 - 1, -1, -1):
            px_timer_down(self.timers, count, i)
        for i in range(dropped):
            self.recycle(garbage[i])
        free(garbage)
        return 0

    cdef int due_timers(self, int64_t read) except -1:
        """Move due timers to the ready queue.  `read`: what the quick clock says."""
        cdef double now, late
        cdef TimerHandle handle
        cdef void *item
        cdef int count = 0
        if self.clock is None and self.thread and self.timers[0].when > px_monotonic_at(read) + QUICK_ERROR:
            return 0
        now = self.now()
        if self.clock is None and self.timer_count and self.timers[0].when <= now:
            # One that was due before it was scheduled is late since then at most.
            late = min((now - self.timers[0].when) * 1e9, <double>(self.meter.began - self.meter.previous))
            record(&self.meter.lag, <int64_t>late)
        if self.clock is not None:
            # As on stock asyncio: ten steps of 0.1 s are not quite one second.
            now += <double>self._clock_resolution
        while self.timer_count and self.timers[0].when <= now:
            item = self.pop_timer()
            if (<TimerHandle>item)._cancelled:
                self.recycle(item)
                continue
            handle = <TimerHandle>item
            Py_DECREF(handle)
            self.push_ready(handle)
            count += 1
        if count:
            self.share_wakes(now, count)
        return 0

    cdef void share_wakes(self, double now, int count) noexcept:
        """So many timers were due at this look: see how long the next sleep has to be."""
        cdef double gap = now - self.timers_due
        if gap < TRAIN and count > DENSE * gap:
            self.timer_slack = min(2 * self.timer_slack, MOST_SLACK)
        else:
            self.timer_slack = TIMER_SLACK
        self.timers_due = now

    cdef int64_t until_timer(self, int64_t read) except -2:
        """Nanoseconds until the first timer is due; -1: there is none.  `read`: what the quick clock says."""
        cdef double now, delay
        while self.timer_count and (<TimerHandle>self.timers[0].handle)._cancelled:
            self.recycle(self.pop_timer())
        if not self.timer_count:
            return -1
        now = self.now_at(read)
        delay = self.timers[0].when - now
        if delay <= 0:
            return 0
        delay = max(delay, min(self.timers_due + self.timer_slack - now, self.timer_slack))
        return <int64_t>(min(delay, MAX_WAIT) * 1e9) + 1

    cdef void end_run(self) noexcept:
        """Show the garbage collector the timers of the run too."""
        cdef Py_ssize_t i
        CallQueue.end_run(self)
        for i in range(self.timer_count):
            if PX_GIL and self.timers[i].order >= self.timers_shown:
                px_track(self.timers[i].handle)
        self.timers_shown = self.timer_order

    cdef int count_cancelled_timer(self) except -1:
        self.timer_cancelled += 1
        if self.timer_cancelled > FEW_TIMERS and 2 * self.timer_cancelled > self.timer_count:
            self.compact_timers()
        return 0


# `call_later` and `call_at` without a tuple of the arguments; see `call_queue`.

cdef PyMethodDef methods[2]
cdef object plain_later, plain_at  # Cython's, for all other calls


def time_fast(type kind):
    """Give the class of loops, a subclass of TimerQueue, these methods in the place of those it inherits."""
    global plain_later, plain_at
    if not issubclass(kind, TimerQueue):
        raise TypeError("a class of loops is expected")
    plain_later = replace_method(kind, &methods[0], "call_later", "delay, callback",
                                 <PyCFunction><void *>_later)
    plain_at = replace_method(kind, &methods[1], "call_at", "when, callback", <PyCFunction><void *>_at)


cdef object _later(TimerQueue self, PyObject **args, Py_ssize_t count, PyObject *names):
    return _timer(self, plain_later, args, count, names)


cdef object _at(TimerQueue self, PyObject **args, Py_ssize_t count, PyObject *names):
    return _timer(self, plain_at, args, count, names)


cdef inline object _timer(TimerQueue self, plain, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef TimerHandle handle
    cdef double when
    if (count < 2 or not PyFloat_CheckExact(<object>args[0]) or load_relaxed(&self.closed) or self._debug
            or self.runs_elsewhere() or not (names == NULL or is_context(names))):
        return call_method(plain, self, args, count, names)
    when = PyFloat_AS_DOUBLE(<object>args[0])
    if plain is plain_later:
        when += self.now()
    if when != when:
        return call_method(plain, self, args, count, names)
    handle = self.empty_timer()
    fill_handle(self, handle, args + 1, count - 1, names)
    handle._when = when
    self.push_timer(handle)
    return handle
