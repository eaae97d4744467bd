cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from proactorx.loop.handles cimport Handle, TimerHandle
from proactorx.loop.timers cimport TimerQueue
from proactorx.observe.details cimport Details
from proactorx.port.loop_port cimport LoopPort
from proactorx.transports.registry cimport Registry

cdef class LoopCore(TimerQueue):
    cdef readonly Registry _registry
    cdef public bint _stopping
    cdef public double slow_callback_duration
    cdef public object _thread_id
    cdef public object _task_factory
    cdef dict only_loop      # {"loop": self}, the keyword arguments of a new future, while the loop runs
    cdef uint64_t turns
    cdef bint polled
    cdef bint slept
    cdef bint fresh          # the first turn of a run
    cdef void *running       # the handle that is called now; borrowed
    cdef bint noting         # each call and packet
    cdef Details details     # of them; made once, and not freed before the loop: its thread may use it

    cdef object new_future(self)
    cdef TimerHandle _call_at(self, double when, callback, tuple args, context, str method)
    cdef int turn(self) except -1
    @cython.final
    cdef int64_t measured_now(self) noexcept
    @cython.final
    cdef int sleep(self, LoopPort port, int64_t timeout, int64_t now) except -1
    @cython.final
    cdef bint has_calls(self) noexcept
    @cython.final
    cdef int flush_measured(self) except -1
    @cython.final
    cdef int finish_measured(self, uint32_t count) except -1
    @cython.final
    cdef int first_turn(self) except -1
    @cython.final
    cdef int dispatch(self, uint32_t count) except -1
    @cython.final
    cdef int run_ready(self, uint32_t count) except -1
    cdef int dispatch_noted(self, uint32_t count) except -1
    cdef int run_ready_slowly(self, uint32_t count) except -1
    cdef int run_slowly(self, Handle handle) except -1
