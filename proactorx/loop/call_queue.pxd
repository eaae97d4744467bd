from libc.stdint cimport uint32_t
from proactorx.loop.handles cimport Handle, HandleOwner
from proactorx.port.loop_port cimport LoopPort

cdef class CallQueue(HandleOwner):
    cdef readonly LoopPort _port # which `rouse` wakes
    # The ready queue: a ring of owned references.
    cdef void **ready
    cdef uint32_t ready_head, ready_tail, ready_mask
    cdef void *inbox             # handles from other threads: a stack that any thread pushes to
    cdef int sleeping
    cdef unsigned long thread    # that runs the loop, or 0; any thread may read this and the next
    cdef int closed
    cdef object __weakref__
    cdef void drop_ready(self) noexcept
    cdef int push_ready(self, Handle handle) except -1
    cdef int add_soon(self, Handle handle) except -1
    cdef void rouse(self) noexcept
    cdef int drain_inbox(self) except -1
