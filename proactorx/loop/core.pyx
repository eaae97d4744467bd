"""The compiled half of the event loop: scheduling, and the turn.

One turn: flush what was written, wait for packets (not at all where callbacks are ready), dispatch them, move
due timers to the ready queue, run the callbacks that were ready by then.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint32_t
from proactorx.drivers.driver cimport ASK_ANYWAY
from proactorx.loop.calling cimport PX_GIL, px_track
from proactorx.observe.census cimport figures_of, free_records, make_records, records_of
from proactorx.observe.details cimport Details
from proactorx.observe.meter cimport (
    Meter, SAMPLE_EVERY, choose_timing, goes_to_sleep, joins, run_begins, run_ends, turn_begins, wakes_up,
)
from proactorx.ops.op cimport IN_FLIGHT, Op
from proactorx.port.loop_port cimport LoopPort
from proactorx.sys.atomic cimport (
    exchange, load_pointer, load_relaxed, load_relaxed_ulong, store_relaxed_ulong)
from proactorx.sys.clock cimport px_monotonic
from proactorx.sys.ticks cimport px_quick_now
from proactorx.transports.registry cimport Registry

import inspect
import logging
from asyncio import base_events, futures, iscoroutine, tasks

cdef extern from "Python.h":
    object PyObject_Call(object callback, object args, PyObject *kwargs)
    int PyErr_CheckSignals() except -1
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
    ctypedef int (*traverseproc)(PyObject *, visitproc, void *) noexcept
    ctypedef struct PyTypeObject:
        traverseproc tp_traverse

FORKED = "this loop belongs to the parent process; make a new one after fork()"

logger = logging.getLogger("asyncio")

cdef object Future = futures.Future
cdef object Task = tasks.Task
cdef Registry no_registry = Registry.__new__(Registry)  # of a loop that was made without its __init__

cdef enum:
    STARVED_SLEEP = 50_000_000  # ns: the longest sleep while there are no descriptors for signals


cdef class LoopCore(TimerQueue):
    """The compiled half of ``proactorx.EventLoop``.

    What asyncio has too is defined here, not in a base class: those come after ``asyncio.BaseEventLoop`` in
    the method resolution order of ``EventLoop``.
    """

    def __cinit__(self, *args, **kwargs):
        self.closed = 1  # until BaseEventLoop.__init__ has run
        self._registry = no_registry
        choose_timing(&self.meter, 0, False)
        self.slow_callback_duration = 0.1

    def __dealloc__(self):
        # While the rest of the loop is there: what the handles refer to may have finalizers.
        self.drop_ready()
        self.drop_timers()
        free_records(&self.meter)

    def _drop_handles(self):
        """Forget every scheduled call, and free what they refer to."""
        self.drop_contexts()
        self.drop_ready()
        self.drop_timers()

    # --------------------------------------------------------------------------------------------- scheduling

    def _check_callback(self, callback, method):
        if iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError(f"coroutines cannot be used with {method}()")
        if not callable(callback):
            raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")

    def call_soon(self, callback, *args, context=None):
        """Call ``callback(*args)`` in the next turn, in the order of the calls to ``call_soon``.

        Args:
            callback: what to call.
            *args: its arguments.
            context: the ``contextvars.Context`` to call it in; default: a copy of the current one.

        Returns:
            Handle: cancels the call.

        Raises:
            RuntimeError: the loop is closed; in debug mode also when called from another thread.
            TypeError: in debug mode, `callback` is a coroutine or not callable.
        """
        cdef Handle handle
        if load_relaxed(&self.closed):
            raise RuntimeError("Event loop is closed")
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_soon")
        handle = self.new_handle(callback, args, context)
        self.add_soon(handle)
        return handle

    def call_soon_threadsafe(self, callback, *args, context=None):
        """Call ``call_soon`` from another thread or from a signal handler, and wake the loop if it sleeps.

        Raises:
            RuntimeError: the loop is closed, or belongs to the parent of this forked process.
        """
        cdef Handle handle
        if load_relaxed(&self.closed):
            raise RuntimeError("Event loop is closed")
        if self._port.driver.forked:
            raise RuntimeError(FORKED)
        if self._debug:
            self._check_callback(callback, "call_soon_threadsafe")
        handle = self.new_handle(callback, args, context)
        if load_relaxed_ulong(&self.thread) == PyThread_get_thread_ident():
            self.add_soon(handle)
        else:
            self.post(handle)
        return handle

    def call_later(self, delay, callback, *args, context=None):
        """Call ``callback(*args)`` after `delay` seconds.

        Args:
            delay: seconds; the clock is that of ``loop.time()``.  At most 0: in the next turn.
            callback: what to call.
            *args: its arguments.
            context: see ``call_soon``.

        Returns:
            TimerHandle: cancels the call.

        Raises:
            TypeError: `delay` is None.
            ValueError: `delay` is not a number (NaN).
            RuntimeError: the loop is closed.
        """
        if delay is None:
            raise TypeError("delay must not be None")
        return self._call_at(self.now() + <double>delay, callback, args, context, "call_later")

    def call_at(self, when, callback, *args, context=None):
        """Call ``callback(*args)`` at `when`, in seconds of ``loop.time()``; see ``call_later``.

        Calls for the same time are made in the order in which they were scheduled.

        Raises:
            TypeError: `when` is None.
            ValueError: `when` is not a number (NaN).
            RuntimeError: the loop is closed.
        """
        if when is None:
            raise TypeError("when cannot be None")
        return self._call_at(<double>when, callback, args, context, "call_at")

    cdef TimerHandle _call_at(self, double when, callback, tuple args, context, str method):
        cdef TimerHandle handle
        if load_relaxed(&self.closed):
            raise RuntimeError("Event loop is closed")
        if self._debug:
            self._check_thread()
            self._check_callback(callback, method)
        if when != when:  # neither before nor after any other: no timer behind it would ever be due
            raise ValueError(f"{method}(): the time is not a number (NaN)")
        handle = self.new_timer(when, callback, args, context)
        if self.runs_elsewhere():
            if PX_GIL:
                px_track(<void *>handle)  # it is not in the queue
            self.post(self.new_handle(self._add_timer, (handle,), None))  # as in add_soon
        else:
            self.push_timer(handle)
        return handle

    def _add_timer(self, TimerHandle handle not None):
        if not handle._cancelled and not handle._scheduled:
            self.push_timer(handle)

    def _make_handle(self, callback, args):
        cdef Handle handle = self.new_handle(callback, args, None)
        if PX_GIL:
            px_track(<void *>handle)  # it is not in the queue
        return handle

    def _add_callback(self, Handle handle not None):
        if not handle._cancelled:
            self.add_soon(handle)

    def _add_callback_signalsafe(self, Handle handle not None):
        # A copy: a handle can be in the inbox once only.
        self.post(self.new_handle(handle._callback, handle._args, handle.own_context()))

    def _timer_handle_cancelled(self, handle):
        """asyncio's own hook; our handles count for themselves."""

    def time(self):
        """Return the time of the loop's clock in seconds, as a float: CLOCK_MONOTONIC, clock_gettime(2)."""
        return px_monotonic()

    def _own_clock(self):
        # Not by `__dict__`, which makes one: see EventLoop.__slots__.
        time = self.time
        return None if getattr(time, "__func__", None) is LoopCore.time else time

    def is_running(self):
        """Return whether the loop is running."""
        return self._thread_id is not None

    def is_closed(self):
        """Return whether ``close`` was called."""
        return load_relaxed(&self.closed) != 0

    def create_future(self):
        """Return a new ``asyncio.Future`` that belongs to this loop."""
        return self.new_future()

    cdef object new_future(self):
        if self.only_loop is not None:
            return PyObject_Call(Future, (), <PyObject *>self.only_loop)
        return Future(loop=self)

    def create_task(self, coro, **kwargs):
        """Schedule a coroutine as an ``asyncio.Task``, or through the task factory if there is one.

        Args:
            coro: the coroutine.
            **kwargs: those of this Python's ``asyncio.BaseEventLoop.create_task``: ``name``, ``context``,
                ...

        Returns:
            The task.

        Raises:
            RuntimeError: the loop is closed.
        """
        if self._task_factory is None and not kwargs and not self._debug and self.only_loop is not None:
            return PyObject_Call(Task, (coro,), <PyObject *>self.only_loop)
        if self._task_factory is None and not self._debug and not self.closed:
            return Task(coro, loop=self, **kwargs)
        return base_events.BaseEventLoop.create_task(self, coro, **kwargs)

    # ----------------------------------------------------------------------------------------------- the turn

    @cython.nonecheck(False)
    cdef int turn(self) except -1:
        cdef LoopPort port = self._port
        cdef uint32_t count
        cdef int64_t timeout = -1, now = 0
        if port.driver.forked:
            raise RuntimeError(FORKED)
        self.turns = self.turns + 1
        if load_pointer(&self.inbox) != NULL:
            self.drain_inbox()
        if self._registry.dirty:
            if self.meter.countdown == 0:
                self.flush_measured()
            else:
                self._registry.flush()
        if self.ready_head != self.ready_tail or self._stopping or port.queued():
            timeout = 0
        else:
            now = px_quick_now(&port.driver.clock)
            if self.timer_count:
                timeout = self.until_timer(now)
        if timeout != 0 and not self.slept:
            self.slept = self._before_sleep()
            if not self.slept and (timeout < 0 or timeout > STARVED_SLEEP):
                timeout = STARVED_SLEEP  # a signal that comes just before this sleep does not end it
            PyErr_CheckSignals()  # one that came before the wake-up descriptor was set
            if self.has_calls():
                timeout = 0
        count = self.ready_tail - self.ready_head
        if timeout == 0:
            now = 0
            # Also with packets queued: some streams never end.
            port.driver.woke_at = 0
            port.wait(0, <int>count if self.polled else ASK_ANYWAY)
            self.polled = True
            if not count or port.driver.inflight or not joins(&self.meter):
                now = port.driver.woke_at
                if not now:
                    now = px_quick_now(&port.driver.clock)
                turn_begins(&self.meter, now, count != 0, self.timer_count == 0)
        else:
            self.sleep(port, timeout, now)
            PyErr_CheckSignals()
        port.driver.turn_began = self.meter.began
        if self.fresh:
            self.fresh = False
            if port.queued() and self.ready_head != self.ready_tail:
                return self.first_turn()
        count = port.queued()
        self.meter.countdown = self.meter.countdown - 1
        if self.meter.countdown < 0:
            return self.finish_measured(count)
        if count:
            self.dispatch(count)
        if load_pointer(&self.inbox) != NULL:
            self.drain_inbox()
        if self.timer_count:
            self.due_timers(px_quick_now(&port.driver.clock) if count else self.meter.began)
        count = self.ready_tail - self.ready_head
        return self.run_ready(count) if count else 0

    cdef int64_t measured_now(self) noexcept:
        """What time it is, for what is measured; timers are due by ``time``."""
        return px_quick_now(&self._port.driver.clock)

    @cython.nonecheck(False)  # the turn has looked
    cdef int sleep(self, LoopPort port, int64_t timeout, int64_t now) except -1:
        """Wait for a packet, a post or the first timer.  `now`: when the loop decided to."""
        cdef int64_t woke, back
        port.driver.woke_at = 0
        goes_to_sleep(&self.meter, now)
        # Others post first and look at `sleeping` then; we the other way round: one of us sees the other.
        exchange(&self.sleeping, 1)
        self.drop_contexts()  # which may have finalizers, so it is before the last look
        if not self.has_calls():
            self.polled = True
            port.wait(timeout, ASK_ANYWAY)
        exchange(&self.sleeping, 0)
        woke = port.driver.woke_at
        back = port.driver.back_at
        wakes_up(&self.meter, woke, back if woke and back >= woke else px_quick_now(&port.driver.clock))
        return 0

    cdef bint has_calls(self) noexcept:
        return self.ready_head != self.ready_tail or load_pointer(&self.inbox) != NULL

    cdef int flush_measured(self) except -1:
        cdef int64_t before = self.measured_now()
        self._registry.flush()
        self.meter.flush += self.measured_now() - before
        return 0

    cdef int finish_measured(self, uint32_t count) except -1:
        """The rest of a turn after its wait, with the clock read between its parts; see ``joins``."""
        cdef Meter *meter = &self.meter
        cdef int64_t dispatched
        meter.countdown = SAMPLE_EVERY - 1
        self.drop_contexts()
        PyErr_CheckSignals()  # not in each turn: Python code looks itself
        if count:
            self.dispatch(count)
        dispatched = self.measured_now() if meter.began == meter.read or self.timer_count else 0
        if load_pointer(&self.inbox) != NULL:
            self.drain_inbox()
        if self.timer_count:
            self.due_timers(dispatched if dispatched else self.measured_now())
        self.run_ready(self.ready_tail - self.ready_head)
        if meter.began == meter.read:
            meter.dispatch += dispatched - meter.began
            meter.ready += self.measured_now() - dispatched
        return 0

    cdef int first_turn(self) except -1:
        """Run callbacks scheduled before the run ahead of I/O that had arrived by then,
        as stock asyncio does.

        Callbacks that these schedule run in the next turn, for programs that run the loop step by step.
        """
        cdef uint32_t later
        cdef object handle
        self.run_ready(self.ready_tail - self.ready_head)
        later = self.ready_tail - self.ready_head
        self.dispatch(self._port.queued())
        if self.timer_count:
            self.due_timers(self.measured_now())
        for _ in range(later):
            handle = <object>self.ready[self.ready_head & self.ready_mask]
            self.ready_head = self.ready_head + 1
            Py_DECREF(handle)
            self.push_ready(<Handle>handle)
        return self.run_ready(self.ready_tail - self.ready_head - later)

    cdef int dispatch(self, uint32_t count) except -1:
        self.meter.packets = self.meter.packets + count
        if self.noting:
            return self.dispatch_noted(count)
        if self._debug:
            return self._port.dispatch_timed(count, self.slow_callback_duration)
        return self._port.dispatch(count)

    @cython.nonecheck(False)
    cdef int run_ready(self, uint32_t count) except -1:
        cdef void *item = NULL
        self.meter.callbacks = self.meter.callbacks + count
        if self._debug or self.noting:
            return self.run_ready_slowly(count)
        try:
            while count and self.ready_head != self.ready_tail:
                count -= 1
                item = self.ready[self.ready_head & self.ready_mask]
                self.ready_head = self.ready_head + 1
                if not (<Handle>item)._cancelled:
                    self.running = item
                    (<Handle>item).run()
                    self.running = NULL
                    if self._port.driver.forked:
                        raise RuntimeError(FORKED)  # the callback has returned in a forked child
                self.recycle(item)
                item = NULL
        finally:
            if item != NULL:
                self.running = NULL
                self.recycle(item)
        return 0

    cdef int dispatch_noted(self, uint32_t count) except -1:
        cdef LoopPort port = self._port
        cdef Op op
        cdef int64_t began, since
        cdef int place, fd
        while count and port.queued():
            count -= 1
            op = <Op>port.driver.queue.items[port.driver.queue.head & port.driver.queue.mask].op
            place, fd, since = self.details.of_packet(op), op.fd, op.since
            began = self.measured_now()
            if self._debug:
                port.dispatch_timed(1, self.slow_callback_duration)
            else:
                port.dispatch(1)
            # An op that its owner has submitted anew was submitted in this turn.
            self.details.note(place, fd, since, began, self.measured_now()).more = (
                op.state == IN_FLIGHT and op.since == since)
        return 0

    cdef int run_ready_slowly(self, uint32_t count) except -1:
        """As ``run_ready``, in debug mode or where each call is noted."""
        cdef void *item
        cdef bint debug = self._debug
        while count and self.ready_head != self.ready_tail:
            count -= 1
            item = self.ready[self.ready_head & self.ready_mask]
            self.ready_head = self.ready_head + 1
            self.running = item
            if debug:
                self._current_handle = <Handle>item
            try:
                if not (<Handle>item)._cancelled:
                    self.run_slowly(<Handle>item)
                    if self._port.driver.forked:
                        raise RuntimeError(FORKED)
            finally:
                self.running = NULL
                if debug:
                    self._current_handle = None
                self.recycle(item)
        return 0

    cdef int run_slowly(self, Handle handle) except -1:
        cdef int64_t began, ended, task = 0
        cdef int place = -1
        if self.noting:
            place = self.details.of_handle(handle._callback)
            task = self.details.task_of(handle._callback)
        began = self.measured_now()
        handle.run()
        ended = self.measured_now()
        if place >= 0:
            self.details.note(place, -1, task, began, ended)
        if self._debug and (ended - began) * 1e-9 >= self.slow_callback_duration:
            logger.warning("Executing %s took %.3f seconds", base_events._format_handle(handle),
                           (ended - began) * 1e-9)
        return 0

    def _run_once(self):
        self.turn()

    def _run_until_stopped(self):
        """Turn until ``stop`` is called."""
        self.clock = self._own_clock()
        store_relaxed_ulong(&self.thread, PyThread_get_thread_ident())
        self.polled = self.slept = False
        self.fresh = True
        self.only_loop = {"loop": self}
        make_records(&self.meter)
        run_begins(&self.meter, self.measured_now())
        try:
            self._registry.begin_run()
            while True:
                self.turn()
                if self._stopping:
                    break
        finally:
            self._port.driver.woke_at = 0  # else the next run would seem to have been awake since then
            run_ends(&self.meter, self.measured_now())
            store_relaxed_ulong(&self.thread, 0)
            self.end_run()
            self.clock = None
            self.only_loop = None
            self._registry.end_run()

    # ------------------------------------------------------------------------------ for `observe`: any thread

    def _figures(self):
        """What the loop has counted and measured of itself."""
        cdef dict figures = figures_of(&self.meter)
        figures["turns"] = self.turns
        figures["ready"] = self.ready_tail - self.ready_head
        figures["timers"] = self.timer_count
        figures["cancelled_timers"] = self.timer_cancelled
        return figures

    def _turn(self):
        """Where the loop is, in ns of its clock.

        (When the turn began, or 0; if that is 0: when its sleep ended and it began to wait for the GIL, or 0;
        how many turns were noted; the beginning and the end of the last one.)
        """
        cdef Meter *meter = &self.meter
        return meter.began, self._port.driver.woke_at, meter.slow, meter.slow_began, meter.slow_ended

    def _turn_address(self):
        """Where it has the first of those, for a thread without Python."""
        return <size_t>&self.meter.began

    def _records(self):
        """The last turns, as ``observe.trace`` reads them."""
        return records_of(&self.meter)

    def _note_calls(self, on):
        """Note each call of a handle and each packet from now on, or no more."""
        if on and self.details is None:
            self.details = Details()
        self.noting = bool(on)
        choose_timing(&self.meter, self.meter.limit, self.noting)

    def _calls(self):
        """What was noted, as ``observe.details`` keeps it; None: nothing."""
        return self.details

    def _note_turns(self, int64_t length):
        """Note turns that last so many ns; 0: none."""
        choose_timing(&self.meter, length, self.noting)

    def _called(self):
        """The handle that the loop calls now; None: there is none, or, without a GIL, it may be freed."""
        return <object>self.running if PX_GIL and self.running != NULL else None

    def _before_sleep(self):
        """Called before the first sleep of each run; False: before the next one as well."""
        return True

    def _set_port(self, LoopPort port not None):
        if self._registry is not no_registry:
            raise RuntimeError("a loop is initialized once")
        self._port = port
        self._registry = Registry(port)


# The garbage collector must see the handles in the queues: a cycle from a loop through a timer back to the
# loop is ordinary.  Cython makes a tp_traverse of the Python attributes only; ours visits the rest.

cdef traverseproc _traverse_attributes = (<PyTypeObject *>LoopCore).tp_traverse


cdef int _traverse(LoopCore self, visitproc visit, void *arg) noexcept:
    cdef uint32_t i = self.ready_head
    cdef Py_ssize_t k
    cdef int found = _traverse_attributes(<PyObject *>self, visit, arg)
    cdef void *item = load_pointer(&self.inbox)  # no thread posts now: posters hold the GIL, or are stopped
    while item != NULL and not found:
        found = visit(<PyObject *>item, arg)
        item = (<Handle>item).next
    while i != self.ready_tail and not found:
        found = visit(<PyObject *>self.ready[i & self.ready_mask], arg)
        i += 1
    for k in range(self.timer_count):
        if found:
            break
        found = visit(<PyObject *>self.timers[k].handle, arg)
    return found


(<PyTypeObject *>LoopCore).tp_traverse = <traverseproc>_traverse
