cdef class Handle:
    cdef public object _callback
    cdef public tuple _args
    cdef readonly object _context
    cdef readonly HandleOwner _loop
    cdef public object _source_traceback
    cdef object _repr
    cdef public bint _cancelled
    cdef void *next          # CallQueue.inbox
    # TimerHandle's; here, so that both are of one size and share the free list.
    cdef readonly double _when
    cdef public bint _scheduled
    cdef bint counted        # in TimerQueue.timer_cancelled
    cdef object __weakref__
    cdef int run(self) except -1
    cdef int failed(self, callback, args) except -1
    cdef int let_go(self) except -1

cdef class TimerHandle(Handle):
    pass

cdef class HandleOwner:
    cdef public bint _debug
    cdef void *spare         # handles that have run and that nobody else has: a list through `next`
    cdef int spare_count
    cdef void recycle(self, void *item) noexcept
    cdef Handle new_handle(self, callback, tuple args, context)
    cdef TimerHandle new_timer(self, double when, callback, tuple args, context)
    cdef bint runs_elsewhere(self) noexcept
    cdef void post(self, Handle handle) noexcept
    cdef int count_cancelled_timer(self) except -1
