cimport cython
from cpython.ref cimport Py_DECREF
from proactorx.loop.calling cimport PX_GIL, px_current_values, px_untrack, px_values
from proactorx.sys.flag cimport flag

cdef enum Held:              # what a Handle has in `given`
    NOTHING                  # it is cancelled
    NO_ARGUMENTS
    ONE_ARGUMENT             # itself: a tuple of it would cost 80 instructions
    ARGUMENTS                # a tuple

cdef class Handle:
    cdef public object _callback
    cdef object given        # the arguments, see Held
    cdef object context
    cdef readonly HandleOwner _loop
    cdef public object _source_traceback
    cdef object _repr
    # CallQueue.inbox; a Spare; while it runs in a context that may be used again: what that said
    cdef void *next
    # TimerHandle's; here, so that both are of one size and share Cython's free list.
    cdef readonly double _when
    cdef public bint _cancelled
    cdef public bint _scheduled
    cdef flag counted        # in TimerQueue.timer_cancelled
    cdef flag shares         # `context` is for others too: it is copied before the call
    cdef flag lent           # `context` was made for this call
    cdef unsigned char held  # a Held
    cdef object __weakref__
    cdef int set_args(self, tuple args) except -1
    cdef object own_context(self)
    cdef int run(self) except -1
    cdef int failed(self, callback, args) except -1
    cdef int let_go(self) except -1

cdef class TimerHandle(Handle):
    pass

cdef struct Spare:           # handles that are over and that nobody has: a list through `next`
    void *first
    int count

cdef inline void *take_spare(Spare *spare) noexcept:
    """One of these, with the list's reference to it; NULL: there is none."""
    cdef void *item = spare.first
    if item != NULL:
        spare.first = (<Handle>item).next
        spare.count -= 1
    return item

cdef class HandleOwner:
    cdef public bint _debug
    cdef Spare spare, spare_timers
    cdef object shared       # a copy of the context that calls were scheduled in last, for all of them
    cdef object unused       # a context for the next of these calls to run in
    cdef void recycle(self, void *item) noexcept
    cdef void drop_spare(self, Spare *spare) noexcept
    cdef int give_context(self, Handle handle) except -1
    cdef void drop_contexts(self) noexcept
    cdef Handle new_handle(self, callback, tuple args, context)
    cdef int copy_context(self, Handle handle) except -1
    cdef TimerHandle new_timer(self, double when, callback, tuple args, context)
    cdef bint runs_elsewhere(self) noexcept
    cdef int post(self, Handle handle) except -1
    cdef int count_cancelled_timer(self) except -1

    # Here and final, to be compiled into `call_soon`.
    @cython.final
    cdef inline Handle empty_handle(self):
        cdef Handle handle
        cdef void *item = take_spare(&self.spare)
        if item != NULL:
            handle = <Handle>item
            Py_DECREF(handle)  # the list's reference is ours now
        else:
            handle = <Handle>Handle.__new__(Handle)
            if PX_GIL:
                px_untrack(<void *>handle)
        handle._loop = self
        return handle

    @cython.final
    cdef inline TimerHandle empty_timer(self):
        cdef TimerHandle handle
        cdef void *item = take_spare(&self.spare_timers)
        if item != NULL:
            handle = <TimerHandle>item
            Py_DECREF(handle)
        else:
            handle = <TimerHandle>TimerHandle.__new__(TimerHandle)
            if PX_GIL:
                px_untrack(<void *>handle)
        handle._loop = self
        return handle

    @cython.final
    cdef inline int set_context(self, Handle handle, context) except -1:
        """Have `handle` run in `context`; None: in a copy of the current one.

        Until it runs, all calls that are scheduled while a context says the same have one copy of it.
        """
        if context is not None:
            handle.context = context
        elif self.shared is not None and px_values(<void *>self.shared) == px_current_values():
            handle.context = self.shared
            handle.shares = True
        else:
            self.copy_context(handle)
        return 0
