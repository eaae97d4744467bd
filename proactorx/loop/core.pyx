"""What runs per callback: handles, the ready queue, timers, wake-ups from other threads, and the turn of the loop.

One turn: flush what was written, wait for packets (not at all where callbacks are ready), dispatch them, move due
timers to the ready queue, run the callbacks that were ready by then.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_CLEAR, Py_DECREF, Py_INCREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from proactorx.port.loop_port cimport LoopPort
from proactorx.sys.atomic cimport exchange, load_pointer, load_relaxed
from proactorx.sys.clock cimport px_monotonic
from proactorx.transports.registry cimport Registry

import logging
import sys
import time as _time
from asyncio import base_events, events, format_helpers, futures, tasks

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    int PyObject_GenericSetAttr(object instance, object name, object value) except -1
    int px_delete "PyObject_GenericSetAttr"(object instance, object name, void *null) except -1
    object PyObject_Call(object callback, object args, PyObject *kwargs)
    # As C has them: NULL or -1 with an exception set, which Cython does not look at.
    int px_context_enter "PyContext_Enter"(object context)
    int px_context_exit "PyContext_Exit"(object context)
    PyObject *px_call_none "PyObject_CallNoArgs"(object callback)
    PyObject *px_call_one "PyObject_CallOneArg"(object callback, object arg)
    PyObject *px_call "PyObject_Call"(object callback, object args, PyObject *kwargs)
    int PyErr_CheckSignals() except -1
    unsigned long PyThread_get_thread_ident() nogil
    ctypedef int (*visitproc)(PyObject *, void *) noexcept
    ctypedef int (*traverseproc)(PyObject *, visitproc, void *) noexcept
    ctypedef struct PyTypeObject:
        traverseproc tp_traverse

cdef extern from *:
    """
    /* Hands an exception that is set already to Cython. */
    static int px_raised(void) { return -1; }
    """
    int px_raised() except -1

cdef extern from "inbox.h":
    void px_inbox_push(void **head, void *item, void **next) nogil
    void *px_inbox_take(void **head) nogil

FORKED = "this loop belongs to the parent process; make a new one after fork()"

logger = logging.getLogger("asyncio")

cdef object Future = futures.Future
cdef object Task = tasks.Task
cdef object extract_stack = format_helpers.extract_stack
cdef object getframe = sys._getframe
cdef double MAX_WAIT = 24 * 3600.0
# Dense timers share wake-ups: after one was due, the loop does not sleep for less than this.  It is what the kernel
# allows itself anyway (the default slack of a thread's timers, prctl(2), PR_SET_TIMERSLACK).
cdef double TIMER_SLACK = 50e-6
cdef LoopPort no_port = LoopPort.__new__(LoopPort)  # of a loop that was made without its __init__
cdef Registry no_registry = Registry.__new__(Registry)

cdef enum:
    FEW_TIMERS = 64       # below this many cancelled timers nothing is swept


@cython.freelist(2048)
cdef class Handle:
    """asyncio's ``Handle``: a scheduled call that can be cancelled."""

    @property
    def __class__(self):
        # For isinstance(): asyncio's own classes have slots, from which a compiled class cannot inherit.
        return events.Handle

    def get_context(self):
        """The ``contextvars.Context`` that the callback runs in."""
        return self._context

    def cancel(self):
        """Do not call the callback; no effect when it has run already."""
        if not self._cancelled:
            self._cancelled = True
            if self._loop.runs_elsewhere():
                self._loop.post(self._loop.new_handle(self._let_go, (), None))  # it may be looking at the rest
            else:
                self.let_go()

    cdef int let_go(self) except -1:
        """It was cancelled: in the loop's thread, or while the loop does not run."""
        if self._loop._debug:
            # For the logs: the callback itself goes now, so that it can be freed.
            self._repr = repr(self)
        self._callback = None
        self._args = None
        return 0

    def _let_go(self):
        self.let_go()

    def cancelled(self):
        """Whether ``cancel`` was called."""
        return self._cancelled

    cdef int run(self) except -1:
        # Plain C: Cython's try statement saves and restores the exception state of the thread for each callback.
        cdef object callback = self._callback
        cdef tuple args = self._args
        cdef object context = self._context
        cdef PyObject *result = NULL
        if args is None:
            return 0  # cancelled by another thread just now
        if px_context_enter(context) == 0:
            if PyTuple_GET_SIZE(args) == 0:
                result = px_call_none(callback)
            elif PyTuple_GET_SIZE(args) == 1:
                result = px_call_one(callback, <object>PyTuple_GET_ITEM(args, 0))
            else:
                result = px_call(callback, args, NULL)
            if px_context_exit(context) < 0:
                Py_CLEAR(result)
        if result != NULL:
            Py_DECREF(<object>result)
            return 0
        return self.failed(callback, args)

    cdef int failed(self, callback, args) except -1:
        """The callback has raised: report it, unless it is to end the program."""
        try:
            px_raised()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report(callback, args, exc)
        return 0

    def _run(self):
        self.run()

    def _report(self, callback, args, exc):
        source = _format_callback(callback, args, self._loop._debug)
        context = {"message": f"Exception in callback {source}", "exception": exc, "handle": self}
        if self._source_traceback:
            context["source_traceback"] = self._source_traceback
        self._loop.call_exception_handler(context)

    def _repr_info(self):
        info = [type(self).__name__]
        if self._cancelled:
            info.append("cancelled")
        if self._callback is not None:
            info.append(_format_callback(self._callback, self._args, self._loop._debug))
        if self._source_traceback:
            frame = self._source_traceback[-1]
            info.append(f"created at {frame[0]}:{frame[1]}")
        return info

    def __repr__(self):
        if self._repr is not None:
            return self._repr
        return "<{}>".format(" ".join(self._repr_info()))


def _format_callback(callback, args, debug):
    # The functions of asyncio's that do this got a keyword argument `debug` in 3.12.8, 3.13.1 and 3.14.
    try:
        return format_helpers._format_callback_source(callback, args, debug=debug)
    except TypeError:
        return format_helpers._format_callback_source(callback, args)


cdef class TimerHandle(Handle):
    """asyncio's ``TimerHandle``: a call scheduled for a time of ``loop.time()``."""

    @property
    def __class__(self):
        return events.TimerHandle

    def when(self):
        """When the callback is due, in seconds of ``loop.time()``."""
        return self._when

    cdef int let_go(self) except -1:
        cdef LoopCore loop = self._loop
        Handle.let_go(self)
        if self._scheduled:
            self.counted = True
            loop.timer_cancelled += 1
            if loop.timer_cancelled > FEW_TIMERS and 2 * loop.timer_cancelled > loop.timer_count:
                loop.compact_timers()
        return 0

    def _repr_info(self):
        info = Handle._repr_info(self)
        info.insert(2 if self._cancelled else 1, f"when={self._when}")
        return info

    def __hash__(self):
        return hash(self._when)

    def __lt__(self, other):
        if isinstance(other, TimerHandle):
            return self._when < (<TimerHandle>other)._when
        return NotImplemented

    def __le__(self, other):
        if isinstance(other, TimerHandle):
            return self._when < (<TimerHandle>other)._when or self.__eq__(other)
        return NotImplemented

    def __gt__(self, other):
        if isinstance(other, TimerHandle):
            return self._when > (<TimerHandle>other)._when
        return NotImplemented

    def __ge__(self, other):
        if isinstance(other, TimerHandle):
            return self._when > (<TimerHandle>other)._when or self.__eq__(other)
        return NotImplemented

    def __eq__(self, other):
        cdef TimerHandle that
        if isinstance(other, TimerHandle):
            that = <TimerHandle>other
            return (self._when == that._when and self._callback == that._callback and self._args == that._args
                    and self._cancelled == that._cancelled)
        return NotImplemented


cdef class LoopCore:
    """The compiled half of ``proactorx.EventLoop``."""

    def __cinit__(self, *args, **kwargs):
        self.ready = <void **>malloc(256 * sizeof(void *))
        self.timers = <Timer *>malloc(64 * sizeof(Timer))
        if self.ready == NULL or self.timers == NULL:
            raise MemoryError
        self.ready_mask = 255
        self.timer_room = 64
        self._closed = True  # until BaseEventLoop.__init__ has run
        self._port = no_port
        self._registry = no_registry
        self.slow_callback_duration = 0.1

    def __dealloc__(self):
        self.drop_handles()
        free(self.ready)
        free(self.timers)

    def _drop_handles(self):
        """Forget every scheduled call, and free what they refer to."""
        self.drop_handles()

    cdef void drop_handles(self) noexcept:
        cdef object handle
        cdef void *item
        cdef void *next
        while self.ready_head != self.ready_tail:
            handle = <object>self.ready[self.ready_head & self.ready_mask]
            self.ready_head += 1
            Py_DECREF(handle)
            handle = None
        while self.timer_count:
            self.timer_count -= 1
            handle = <object>self.timers[self.timer_count].handle
            (<TimerHandle>handle)._scheduled = False
            Py_DECREF(handle)
            handle = None
        self.timer_cancelled = 0
        item = px_inbox_take(&self.inbox)
        while item != NULL:
            handle = <object>item
            next = (<Handle>handle).next
            Py_DECREF(handle)
            handle = None
            item = next

    # ------------------------------------------------------------------------------------------------ scheduling

    cdef int push_ready(self, Handle handle) except -1:
        cdef uint32_t count = self.ready_tail - self.ready_head, i
        cdef void **bigger
        if count > self.ready_mask:
            bigger = <void **>malloc(2 * (self.ready_mask + 1) * sizeof(void *))
            if bigger == NULL:
                raise MemoryError
            for i in range(count):
                bigger[i] = self.ready[(self.ready_head + i) & self.ready_mask]
            free(self.ready)
            self.ready = bigger
            self.ready_mask = 2 * (self.ready_mask + 1) - 1
            self.ready_head = 0
            self.ready_tail = count
        Py_INCREF(handle)
        self.ready[self.ready_tail & self.ready_mask] = <void *>handle
        self.ready_tail += 1
        if load_relaxed(&self.sleeping):
            self.rouse()
        return 0

    cdef void rouse(self) noexcept:
        """End the loop's sleep, unless somebody has done so already.

        From its own thread too: a finalizer or a signal handler may come in after the decision to sleep and before the
        system call that does it, where the driver runs bytecode in between.
        """
        if exchange(&self.sleeping, 0):
            self._port.wake_driver()

    cdef bint runs_elsewhere(self) noexcept:
        """Whether another thread runs the loop now, and has its queues."""
        return self.thread and self.thread != PyThread_get_thread_ident()

    cdef int add_soon(self, Handle handle) except -1:
        # A call from a wrong thread is an error of the caller's (debug mode says so), but must corrupt nothing.
        if self.runs_elsewhere():
            self.post(handle)
            return 0
        if load_pointer(&self.inbox) != NULL:
            self.drain_inbox()  # what was posted before this call runs before it
        return self.push_ready(handle)

    cdef void post(self, Handle handle) noexcept:
        Py_INCREF(handle)
        px_inbox_push(&self.inbox, <void *>handle, &handle.next)
        self.rouse()

    cdef int drain_inbox(self) except -1:
        cdef void *item = px_inbox_take(&self.inbox)
        cdef void *first = NULL
        cdef void *next
        cdef object handle
        # The stack has the last one on top: turn it over.
        while item != NULL:
            next = (<Handle>item).next
            (<Handle>item).next = first
            first = item
            item = next
        while first != NULL:
            handle = <object>first
            next = (<Handle>handle).next
            self.push_ready(<Handle>handle)
            Py_DECREF(handle)
            first = next
        return 0

    def _check_callback(self, callback, method):
        import asyncio

        if asyncio.iscoroutine(callback) or _iscoroutinefunction(callback):
            raise TypeError(f"coroutines cannot be used with {method}()")
        if not callable(callback):
            raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")

    cdef Handle new_handle(self, callback, tuple args, context):
        cdef Handle handle = <Handle>Handle.__new__(Handle)
        handle._loop = self
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent() if context is None else context
        if self._debug:
            handle._source_traceback = extract_stack(getframe(0))
        return handle

    def call_soon(self, callback, *args, context=None):
        """Call `callback` with `args` in the next turn.

        Args:
            callback: what to call.
            context: the ``contextvars.Context`` to call it in; default: a copy of the current one.

        Returns:
            Handle: to cancel the call with.

        Raises:
            RuntimeError: the loop is closed; in debug mode also when called from another thread.
        """
        cdef Handle handle
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_soon")
        handle = self.new_handle(callback, args, context)
        self.add_soon(handle)
        return handle

    def call_soon_threadsafe(self, callback, *args, context=None):
        """``call_soon`` for other threads and signal handlers; wakes the loop where it sleeps.

        Raises:
            RuntimeError: the loop is closed.
        """
        cdef Handle handle
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self._port.driver.forked:
            raise RuntimeError(FORKED)
        if self._debug:
            self._check_callback(callback, "call_soon_threadsafe")
        handle = self.new_handle(callback, args, context)
        if self.thread == PyThread_get_thread_ident():
            self.add_soon(handle)
        else:
            self.post(handle)
        return handle

    def call_later(self, delay, callback, *args, context=None):
        """Call `callback` after `delay` seconds.

        Raises:
            TypeError: `delay` is None.
            ValueError: `delay` is not a number (NaN).
            RuntimeError: the loop is closed.
        """
        if delay is None:
            raise TypeError("delay must not be None")
        return self._call_at(self.now() + <double>delay, callback, args, context, "call_later")

    def call_at(self, when, callback, *args, context=None):
        """Call `callback` at `when`, in seconds of ``loop.time()``; equal times are called in the order of the calls.

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
        if self._closed:
            raise RuntimeError("Event loop is closed")
        if self._debug:
            self._check_thread()
            self._check_callback(callback, method)
        if when != when:  # neither before nor after any other: no timer behind it would ever be due
            raise ValueError(f"{method}(): the time is not a number (NaN)")
        handle = <TimerHandle>TimerHandle.__new__(TimerHandle)
        handle._loop = self
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent() if context is None else context
        handle._when = when
        if self._debug:
            handle._source_traceback = extract_stack(getframe(0))
        if self.runs_elsewhere():
            self.post(self.new_handle(self._add_timer, (handle,), None))  # as in add_soon
        else:
            self.push_timer(handle)
        return handle

    def _add_timer(self, TimerHandle handle not None):
        if not handle._cancelled and not handle._scheduled:
            self.push_timer(handle)

    def _make_handle(self, callback, args):
        return self.new_handle(callback, args, None)

    def _add_callback(self, Handle handle not None):
        if not handle._cancelled:
            self.add_soon(handle)

    def _add_callback_signalsafe(self, Handle handle not None):
        # A copy: a handle can be in the inbox once only.
        self.post(self.new_handle(handle._callback, handle._args, handle._context))

    def _timer_handle_cancelled(self, handle):
        """asyncio's own hook; our handles count for themselves."""

    # A clock of somebody else's may come and go while the loop runs.

    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, value)
        if name == "time" and self.thread:
            self.clock = self._own_clock()

    def __delattr__(self, name):
        px_delete(self, name, NULL)
        if name == "time" and self.thread:
            self.clock = self._own_clock()

    def time(self):
        """The time of the loop's clock, in seconds: CLOCK_MONOTONIC, clock_gettime(2)."""
        return px_monotonic()

    cdef double now(self) except? -1:
        clock = self.clock
        if self.thread == 0:
            clock = self._own_clock()  # while the loop does not run, somebody may replace its clock
        return <double>clock() if clock is not None else px_monotonic()

    def is_running(self):
        """Whether the loop runs now."""
        return self._thread_id is not None

    def is_closed(self):
        """Whether ``close`` was called."""
        return self._closed

    def create_future(self):
        """A new ``asyncio.Future`` of this loop."""
        return self.new_future()

    cdef object new_future(self):
        if self.only_loop is not None:
            return PyObject_Call(Future, (), <PyObject *>self.only_loop)
        return Future(loop=self)

    def create_task(self, coro, **kwargs):
        """Schedule a coroutine as an ``asyncio.Task``, or as what the task factory makes of it.

        The keyword arguments are those of this Python's ``asyncio.BaseEventLoop.create_task``.
        """
        if self._task_factory is None and not kwargs and not self._debug and self.only_loop is not None:
            return PyObject_Call(Task, (coro,), <PyObject *>self.only_loop)
        if self._task_factory is None and not self._debug and not self._closed:
            return Task(coro, loop=self, **kwargs)
        return base_events.BaseEventLoop.create_task(self, coro, **kwargs)

    # ---------------------------------------------------------------------------------------------------- timers

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
        handle._scheduled = True
        self.timer_order += 1
        self.timer_count += 1
        px_timer_up(self.timers, self.timer_count - 1)
        if load_relaxed(&self.sleeping):
            self.rouse()  # it did not know of this one
        return 0

    cdef TimerHandle pop_timer(self):
        cdef TimerHandle handle = <TimerHandle>self.timers[0].handle
        self.timer_count -= 1
        if self.timer_count:
            self.timers[0] = self.timers[self.timer_count]
            px_timer_down(self.timers, self.timer_count, 0)
        handle._scheduled = False
        Py_DECREF(handle)
        if handle.counted:
            self.timer_cancelled -= 1
        return handle

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
                (<TimerHandle>item)._scheduled = False
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
            Py_DECREF(<object>garbage[i])
        free(garbage)
        return 0

    cdef int due_timers(self) except -1:
        cdef double now = self.now()
        cdef TimerHandle handle
        while self.timer_count and self.timers[0].when <= now:
            handle = self.pop_timer()
            self.timers_due = now
            if not handle._cancelled:
                self.push_ready(handle)
        return 0

    cdef int64_t until_timer(self) except -2:
        """Nanoseconds until the first timer is due; -1: there is none."""
        cdef double now, delay
        while self.timer_count and (<TimerHandle>self.timers[0].handle)._cancelled:
            self.pop_timer()
        if not self.timer_count:
            return -1
        now = self.now()
        delay = self.timers[0].when - now
        if delay <= 0:
            return 0
        delay = max(delay, min(self.timers_due + TIMER_SLACK - now, TIMER_SLACK))
        return <int64_t>(min(delay, MAX_WAIT) * 1e9) + 1

    # -------------------------------------------------------------------------------------------------- the turn

    cdef int turn(self) except -1:
        cdef LoopPort port = self._port
        cdef uint32_t count
        cdef int64_t timeout = -1
        if port.driver.forked:
            raise RuntimeError(FORKED)
        port.turns += 1
        PyErr_CheckSignals()
        if load_pointer(&self.inbox) != NULL:
            self.drain_inbox()
        if self._registry.dirty:
            self._registry.flush()
        if self.ready_head != self.ready_tail or self._stopping or port.queued():
            timeout = 0
        elif self.timer_count:
            timeout = self.until_timer()
        if timeout != 0 and not self.slept:
            self.slept = True
            self._before_sleep()
            PyErr_CheckSignals()  # one that came before the wake-up descriptor was set
            if self.ready_head != self.ready_tail or load_pointer(&self.inbox) != NULL:
                timeout = 0
        count = self.ready_tail - self.ready_head
        if timeout == 0:
            if not self.polled or port.driver.due(count):  # also with packets queued: some streams never end
                self.polled = True
                port.wait(0)
        else:
            # Others post first and look at `sleeping` then; we the other way round: one of us sees the other.
            exchange(&self.sleeping, 1)
            if load_pointer(&self.inbox) == NULL:
                self.polled = True
                port.wait(timeout)
            exchange(&self.sleeping, 0)
            PyErr_CheckSignals()
        if self.fresh:
            self.fresh = False
            if port.queued() and self.ready_head != self.ready_tail:
                return self.first_turn()
        count = port.queued()
        if count:
            self.dispatch(count)
        if load_pointer(&self.inbox) != NULL:
            self.drain_inbox()
        if self.timer_count:
            self.due_timers()
        return self.run_ready(self.ready_tail - self.ready_head)

    cdef int first_turn(self) except -1:
        """As on stock asyncio: what was scheduled before the run comes before what had arrived by then.

        And what that schedules comes in the next turn, for programs that run the loop step by step.
        """
        cdef uint32_t later
        cdef object handle
        self.run_ready(self.ready_tail - self.ready_head)
        later = self.ready_tail - self.ready_head
        self.dispatch(self._port.queued())
        if self.timer_count:
            self.due_timers()
        for _ in range(later):
            handle = <object>self.ready[self.ready_head & self.ready_mask]
            self.ready_head += 1
            Py_DECREF(handle)
            self.push_ready(<Handle>handle)
        return self.run_ready(self.ready_tail - self.ready_head - later)

    cdef int dispatch(self, uint32_t count) except -1:
        if self._debug:
            return self._port.dispatch_timed(count, self.slow_callback_duration)
        return self._port.dispatch(count)

    cdef int run_ready(self, uint32_t count) except -1:
        cdef void *item
        if self._debug:
            return self._run_ready_debug(count)
        while count:
            count -= 1
            if self.ready_head == self.ready_tail:
                break
            item = self.ready[self.ready_head & self.ready_mask]
            self.ready_head += 1
            try:
                if not (<Handle>item)._cancelled:
                    (<Handle>item).run()
                    if self._port.driver.forked:
                        raise RuntimeError(FORKED)  # the callback has returned in a forked child
            finally:
                Py_DECREF(<object>item)
        return 0

    cdef int _run_ready_debug(self, uint32_t count) except -1:
        cdef Handle handle
        cdef double before, took
        while count:
            count -= 1
            if self.ready_head == self.ready_tail:
                break
            handle = <Handle>self.ready[self.ready_head & self.ready_mask]
            self.ready_head += 1
            Py_DECREF(handle)
            if handle._cancelled:
                continue
            self._current_handle = handle
            before = px_monotonic()
            try:
                handle.run()
            finally:
                self._current_handle = None
            took = px_monotonic() - before
            if took >= self.slow_callback_duration:
                logger.warning("Executing %s took %.3f seconds", base_events._format_handle(handle), took)
        return 0

    def _run_once(self):
        self.turn()

    def _run_until_stopped(self):
        """Turn until ``stop`` is called."""
        self.clock = self._own_clock()
        self.thread = PyThread_get_thread_ident()
        self.polled = self.slept = False
        self.fresh = True
        self.only_loop = {"loop": self}
        try:
            self._registry.begin_run()
            while True:
                self.turn()
                if self._stopping:
                    break
        finally:
            self.thread = 0
            self.clock = None
            self.only_loop = None
            self._registry.end_run()

    def _own_clock(self):
        """What a subclass or a test has put in the place of ``time``, or None."""
        if type(self).time is not LoopCore.time or "time" in getattr(self, "__dict__", ()):
            return self.time
        return None

    def _before_sleep(self):
        """Called before the first wait of each run."""

    def _set_port(self, LoopPort port not None):
        if self._port is not no_port:
            raise RuntimeError("a loop is initialized once")
        self._port = port
        self._registry = Registry(port)


# The garbage collector must see the handles in the queues: a cycle from a loop through a timer back to the loop is
# ordinary.  Cython makes a tp_traverse of the Python attributes only; ours visits the rest.

cdef traverseproc _traverse_attributes = (<PyTypeObject *>LoopCore).tp_traverse


cdef int _traverse(LoopCore self, visitproc visit, void *arg) noexcept:
    cdef uint32_t i = self.ready_head
    cdef Py_ssize_t k
    cdef int found = _traverse_attributes(<PyObject *>self, visit, arg)
    cdef void *item = load_pointer(&self.inbox)  # nobody posts now: those who do hold the GIL, or are stopped
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


def _iscoroutinefunction(callback):
    import inspect

    return inspect.iscoroutinefunction(callback)
