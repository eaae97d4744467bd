"""``Handle`` and ``TimerHandle``: scheduled calls, and what they ask of the loop that they belong to."""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_CLEAR, Py_DECREF
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from proactorx.sys.raised cimport px_raised

import sys
from asyncio import events, format_helpers

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    # As C has them: NULL or -1 with an exception set, which Cython does not look at.
    int px_context_enter "PyContext_Enter"(object context)
    int px_context_exit "PyContext_Exit"(object context)
    PyObject *px_call_none "PyObject_CallNoArgs"(object callback)
    PyObject *px_call_one "PyObject_CallOneArg"(object callback, object arg)
    PyObject *px_call "PyObject_Call"(object callback, object args, PyObject *kwargs)

cdef extern from *:
    """
    /* Whether there is one reference to `item`, an object of exactly this type, and no weak one. */
    #ifdef Py_GIL_DISABLED
    #define px_is_alone(item, type) 0  /* references are counted in two places */
    #else
    #define px_is_alone(item, type) (Py_REFCNT((PyObject *)(item)) == 1 && \\
        Py_TYPE((PyObject *)(item)) == (PyTypeObject *)(type) && \\
        *(PyObject **)((char *)(item) + Py_TYPE((PyObject *)(item))->tp_weaklistoffset) == NULL)
    #endif
    """
    bint px_is_alone(void *item, object type)

cdef enum:
    SPARE = 1024  # handles that a loop keeps for its next calls

cdef object extract_stack = format_helpers.extract_stack
cdef object getframe = sys._getframe


@cython.freelist(2048)
cdef class Handle:
    """asyncio's ``Handle``: a scheduled call that can be cancelled."""

    @property
    def __class__(self):
        # For isinstance(): asyncio's own classes have slots, from which a compiled class cannot inherit.
        return events.Handle

    def get_context(self):
        """Return the ``contextvars.Context`` that the callback runs in."""
        return self._context

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
        self._args = None
        return 0

    def _let_go(self):
        self.let_go()

    def cancelled(self):
        """Return whether ``cancel`` was called."""
        return self._cancelled

    cdef int run(self) except -1:
        # Plain C: Cython's try statement saves and restores the exception state of the thread for each
        # callback.
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
        cdef void *item
        while self.spare != NULL:
            item = self.spare
            self.spare = (<Handle>item).next
            Py_DECREF(<object>item)

    cdef void recycle(self, void *item) noexcept:
        """Take over the queue's reference to a handle that has run: if nobody else has it, use it again."""
        if not px_is_alone(item, Handle) or self.spare_count >= SPARE:
            Py_DECREF(<object>item)
            return
        # What is dropped here may have finalizers, which schedule calls: the handle is not in the list yet.
        (<Handle>item)._callback = None
        (<Handle>item)._args = None
        (<Handle>item)._context = None
        if (<Handle>item)._source_traceback is not None:
            (<Handle>item)._source_traceback = None
        if (<Handle>item)._repr is not None:
            (<Handle>item)._repr = None
        (<Handle>item)._loop = None
        (<Handle>item)._cancelled = False
        (<Handle>item).next = self.spare
        self.spare = item
        self.spare_count = self.spare_count + 1

    cdef bint runs_elsewhere(self) noexcept:
        """Return whether another thread runs the loop now, and uses its queues."""
        return False

    cdef void post(self, Handle handle) noexcept:
        """Hand `handle` to the thread that runs the loop."""

    cdef int count_cancelled_timer(self) except -1:
        """A timer in the loop's heap was cancelled."""
        return 0

    cdef Handle new_handle(self, callback, tuple args, context):
        cdef Handle handle
        if self.spare != NULL:
            handle = <Handle>self.spare
            Py_DECREF(handle)  # the list's reference is ours now
            self.spare = handle.next
            self.spare_count = self.spare_count - 1
        else:
            handle = <Handle>Handle.__new__(Handle)
        handle._loop = self
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent() if context is None else context
        if self._debug:
            handle._source_traceback = extract_stack(getframe(0))
        return handle

    cdef TimerHandle new_timer(self, double when, callback, tuple args, context):
        cdef TimerHandle handle = <TimerHandle>TimerHandle.__new__(TimerHandle)
        handle._loop = self
        handle._callback = callback
        handle._args = args
        handle._context = PyContext_CopyCurrent() if context is None else context
        handle._when = when
        if self._debug:
            handle._source_traceback = extract_stack(getframe(0))
        return handle
