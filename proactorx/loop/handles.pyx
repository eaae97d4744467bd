"""``Handle`` and ``TimerHandle``: scheduled calls, and what they ask of the loop that they belong to."""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_CLEAR, Py_DECREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from proactorx.loop.calling cimport (
    PX_GIL, PX_SHARES, px_call_with, px_context_enter, px_context_exit, px_is_alone, px_is_unused, px_track,
    px_untrack, px_values,
)
from proactorx.sys.raised cimport px_raised

import contextvars
import sys
from asyncio import events, format_helpers

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    object PyContext_Copy(object context)
    Py_ssize_t Py_REFCNT(void *item)

cdef enum:
    SPARE = 4096  # handles of each kind that a loop keeps for its next calls: half a megabyte

cdef object extract_stack = format_helpers.extract_stack
cdef object getframe = sys._getframe
cdef tuple no_args = ()


cdef bint shares():
    """Whether the word for what a context says is where ``calling.pxd`` takes it from."""
    if not PX_SHARES:
        return False
    first = contextvars.Context()
    before = px_values(<void *>first)
    first.run(contextvars.ContextVar("name").set, None)
    copy = first.copy()
    return before != NULL and before != px_values(<void *>first) and px_values(<void *>first) == px_values(
        <void *>copy)


cdef bint sharing = shares()


@cython.freelist(256)
cdef class Handle:
    """asyncio's ``Handle``: a scheduled call that can be cancelled."""

    @property
    def __class__(self):
        # For isinstance(): asyncio's own classes have slots, from which a compiled class cannot inherit.
        return events.Handle

    @property
    def _args(self):
        if self.held == ONE_ARGUMENT:
            return (self.given,)
        return no_args if self.held == NO_ARGUMENTS else self.given

    @_args.setter
    def _args(self, tuple args):
        self.set_args(args)

    cdef int set_args(self, tuple args) except -1:
        if args is None:
            self.held, self.given = NOTHING, None
        elif PyTuple_GET_SIZE(args) == 0:
            self.held, self.given = NO_ARGUMENTS, None
        elif PyTuple_GET_SIZE(args) == 1:
            self.held, self.given = ONE_ARGUMENT, <object>PyTuple_GET_ITEM(args, 0)
        else:
            self.held, self.given = ARGUMENTS, args
        return 0

    @property
    def _context(self):
        return self.own_context()

    def get_context(self):
        """Return the ``contextvars.Context`` that the callback runs in."""
        return self.own_context()

    cdef object own_context(self):
        if self.shares:  # somebody may look at it, and set what it says
            self.context = PyContext_Copy(self.context)
            self.shares = False
        return self.context

    def cancel(self):
        """Cancel the call; has no effect once it has been made."""
        if not self._cancelled:
            self._cancelled = True
            if self._loop.runs_elsewhere():
                # it may be looking at the rest
                self._loop.post(self._loop.new_handle(self._let_go, (), None))
            else:
                self.let_go()

    cdef int let_go(self) except -1:
        """Drop the callback of a cancelled handle: in the loop's thread, or while the loop does not run."""
        if self._loop._debug:
            # For the logs: the callback itself goes now, so that it can be freed.
            self._repr = repr(self)
        self._callback = None
        self.held = NOTHING
        self.given = None
        return 0

    def _let_go(self):
        self.let_go()

    def cancelled(self):
        """Return whether ``cancel`` was called."""
        return self._cancelled

    cdef int run(self) except -1:
        # Plain C: Cython's try statement saves and restores the exception state of the thread for each
        # callback.
        cdef unsigned char held = self.held
        cdef object callback = self._callback  # it may be cancelled meanwhile
        cdef object given = self.given if held >= ONE_ARGUMENT else no_args
        cdef object context
        cdef PyObject *result = NULL
        if held == NOTHING:
            return 0  # cancelled by another thread just now
        if self.shares:
            self._loop.give_context(self)
        context = self.context
        if px_context_enter(context) == 0:
            if held == ONE_ARGUMENT:
                result = px_call_with(<PyObject *>callback, <PyObject *>given, NULL)
            else:
                result = px_call_with(<PyObject *>callback, NULL, <PyObject *>given)
            if px_context_exit(context) < 0:
                Py_CLEAR(result)
        if result != NULL:
            Py_DECREF(<object>result)
            return 0
        return self.failed(callback, (given,) if held == ONE_ARGUMENT else given)

    cdef int failed(self, callback, args) except -1:
        """Report the exception of the callback, unless it is one that ends the program."""
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
        """Return the time of the call, in seconds of ``loop.time()``."""
        return self._when

    cdef int let_go(self) except -1:
        Handle.let_go(self)
        if self._scheduled:
            self.counted = True
            self._loop.count_cancelled_timer()
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


cdef class HandleOwner:
    """The part of a loop that its handles know: it makes them, and hears of their cancellation."""

    def __dealloc__(self):
        self.drop_spare(&self.spare)
        self.drop_spare(&self.spare_timers)

    cdef void drop_spare(self, Spare *spare) noexcept:
        cdef void *item = take_spare(spare)
        while item != NULL:
            Py_DECREF(<object>item)
            item = take_spare(spare)

    cdef void recycle(self, void *item) noexcept:
        """Take over a queue's reference to a handle that has run or was cancelled: if nobody else has it, use
        it again.

        With a GIL the garbage collector need not look at a handle before: what is in a queue of a loop that
        runs is not garbage.
        """
        cdef void *context
        cdef Spare *spare
        if px_is_alone(item, Handle) and self.spare.count < SPARE:
            spare = &self.spare
        elif px_is_alone(item, TimerHandle) and self.spare_timers.count < SPARE:
            spare = &self.spare_timers
        else:
            if PX_GIL:
                px_track(item)
            Py_DECREF(<object>item)
            return
        if PX_GIL:
            px_untrack(item)
        # What is dropped here may have finalizers, which schedule calls: the handle is not in the list yet.
        (<Handle>item)._callback = None
        (<Handle>item).given = None
        if (<Handle>item).lent:
            (<Handle>item).lent = False
            context = <void *>(<Handle>item).context
            if px_is_unused(context) and px_values(context) == (<Handle>item).next:
                if self.unused is None:
                    self.unused = <object>context
                elif self.shared is None:
                    self.shared = <object>context
        (<Handle>item).shares = False
        (<Handle>item).context = None
        if (<Handle>item)._source_traceback is not None:
            (<Handle>item)._source_traceback = None
        if (<Handle>item)._repr is not None:
            (<Handle>item)._repr = None
        (<Handle>item)._loop = None
        (<Handle>item)._cancelled = False
        (<Handle>item).next = spare.first
        spare.first = item
        spare.count += 1

    cdef bint runs_elsewhere(self) noexcept:
        """Return whether another thread runs the loop now, and uses its queues."""
        return False

    cdef int post(self, Handle handle) except -1:
        """Hand `handle` to the thread that runs the loop."""
        return 0

    cdef int count_cancelled_timer(self) except -1:
        """A timer in the loop's heap was cancelled."""
        return 0

    cdef int give_context(self, Handle handle) except -1:
        """Give a handle that shares its context one of its own: one that says the same."""
        cdef void *context = <void *>handle.context
        if self.unused is not None and px_values(<void *>self.unused) == px_values(context):
            handle.context = self.unused
            self.unused = None
        elif context == <void *>self.shared and Py_REFCNT(context) == 2:
            self.shared = None  # nobody else has it
        elif Py_REFCNT(context) != 1:
            handle.context = PyContext_Copy(handle.context)
        handle.shares = False
        handle.lent = True
        handle.next = px_values(<void *>handle.context)
        return 0

    cdef void drop_contexts(self) noexcept:
        """Keep nothing for longer that contexts refer to."""
        if self.shared is not None:
            self.shared = None
        if self.unused is not None:
            self.unused = None

    cdef int copy_context(self, Handle handle) except -1:
        """As ``set_context`` where there is no copy of the current context yet."""
        handle.context = PyContext_CopyCurrent()
        if sharing:
            handle.shares = True
            self.shared = handle.context  # last: what goes may have finalizers, which schedule calls
        return 0

    cdef Handle new_handle(self, callback, tuple args, context):
        cdef Handle handle = self.empty_handle()
        handle._callback = callback
        handle.set_args(args)
        self.set_context(handle, context)
        if self._debug:
            handle._source_traceback = extract_stack(getframe(0))
        return handle

    cdef TimerHandle new_timer(self, double when, callback, tuple args, context):
        cdef TimerHandle handle = self.empty_timer()
        handle._callback = callback
        handle.set_args(args)
        self.set_context(handle, context)
        handle._when = when
        if self._debug:
            handle._source_traceback = extract_stack(getframe(0))
        return handle
