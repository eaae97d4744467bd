from libc.stdint cimport int64_t, uint32_t, uint64_t
from proactorx.port.loop_port cimport LoopPort
from proactorx.transports.registry cimport Registry

cdef class Handle:
    cdef public object _callback
    cdef public tuple _args
    cdef readonly object _context
    cdef readonly LoopCore _loop
    cdef public object _source_traceback
    cdef object _repr
    cdef public bint _cancelled
    cdef void *next          # LoopCore.inbox
    # TimerHandle's; here, so that both are of one size and share the free list.
    cdef readonly double _when
    cdef public bint _scheduled
    cdef bint counted        # in LoopCore.timer_cancelled
    cdef object __weakref__
    cdef int run(self) except -1
    cdef int failed(self, callback, args) except -1
    cdef int let_go(self) except -1

cdef class TimerHandle(Handle):
    pass

cdef extern from "proactorx/loop/timers.h":
    ctypedef struct Timer "px_timer":
        double when
        uint64_t order
        void *handle
    void px_timer_up(Timer *heap, Py_ssize_t i) nogil
    void px_timer_down(Timer *heap, Py_ssize_t count, Py_ssize_t i) nogil

cdef class LoopCore:
    cdef readonly LoopPort _port
    cdef readonly Registry _registry
    # The ready queue: a ring of owned references.
    cdef void **ready
    cdef uint32_t ready_head, ready_tail, ready_mask
    # Handles from other threads: a stack that any thread pushes to.
    cdef void *inbox
    cdef int sleeping
    # Timers: a binary heap.
    cdef Timer *timers
    cdef Py_ssize_t timer_count, timer_room, timer_cancelled
    cdef uint64_t timer_order
    cdef double timers_due   # when one was due last
    cdef public bint _debug
    cdef public bint _stopping
    cdef public bint _closed
    cdef public double slow_callback_duration
    cdef public object _thread_id
    cdef unsigned long thread
    cdef public object _task_factory
    cdef dict only_loop      # {"loop": self}, the keyword arguments of a new future, while the loop runs
    cdef object clock        # a `time` of a subclass's or a patched one, else None
    cdef bint polled
    cdef bint slept
    cdef bint fresh          # the first turn of a run
    cdef object __weakref__

    cdef object new_future(self)
    cdef Handle new_handle(self, callback, tuple args, context)
    cdef TimerHandle _call_at(self, double when, callback, tuple args, context, str method)
    cdef int _run_ready_debug(self, uint32_t count) except -1
    cdef void drop_handles(self) noexcept
    cdef int push_ready(self, Handle handle) except -1
    cdef bint runs_elsewhere(self) noexcept
    cdef int add_soon(self, Handle handle) except -1
    cdef void rouse(self) noexcept
    cdef void post(self, Handle handle) noexcept
    cdef int drain_inbox(self) except -1
    cdef double now(self) except? -1
    cdef int push_timer(self, TimerHandle handle) except -1
    cdef TimerHandle pop_timer(self)
    cdef int compact_timers(self) except -1
    cdef int due_timers(self) except -1
    cdef int64_t until_timer(self) except -2
    cdef int turn(self) except -1
    cdef int first_turn(self) except -1
    cdef int dispatch(self, uint32_t count) except -1
    cdef int run_ready(self, uint32_t count) except -1
