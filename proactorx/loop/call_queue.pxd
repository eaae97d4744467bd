cimport cython
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t
from proactorx.loop.handles cimport Handle, HandleOwner
from proactorx.port.loop_port cimport LoopPort
from proactorx.sys.atomic cimport load_relaxed

cdef class CallQueue(HandleOwner):
    cdef readonly LoopPort _port # which `rouse` wakes
    # The ready queue: a ring of owned references.
    cdef void **ready
    cdef uint32_t ready_head, ready_tail, ready_mask
    # Handles from other threads, where there is no GIL: a stack that any thread pushes to.  Who has the GIL
    # has the ready queue.
    cdef void *inbox
    cdef int sleeping
    cdef unsigned long thread    # that runs the loop, or 0; any thread may read this and the next
    cdef int closed
    cdef object __weakref__
    cdef void drop_ready(self) noexcept
    cdef int more_room(self) except -1
    cdef int add_soon(self, Handle handle) except -1
    cdef void rouse(self) noexcept
    cdef int drain_inbox(self) except -1
    cdef void end_run(self) noexcept

    @cython.final
    cdef inline int push_ready(self, Handle handle) except -1:
        if self.ready_tail - self.ready_head > self.ready_mask:
            self.more_room()
        Py_INCREF(handle)
        self.ready[self.ready_tail & self.ready_mask] = <void *>handle
        self.ready_tail = self.ready_tail + 1
        if load_relaxed(&self.sleeping):
            self.rouse()
        return 0
