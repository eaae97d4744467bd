"""The calls that a loop has to make: the ready queue, and the inbox that other threads fill."""

from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, malloc
from proactorx.sys.atomic cimport exchange, load_pointer, load_relaxed, load_relaxed_ulong, store_release

cdef extern from "inbox.h":
    void px_inbox_push(void **head, void *item, void **next) nogil
    void *px_inbox_take(void **head) nogil

cdef enum:
    FIRST_ROOM = 256

cdef LoopPort no_port = LoopPort.__new__(LoopPort)  # of a loop that was made without its __init__


cdef class CallQueue(HandleOwner):
    """The ready queue of a loop, and the calls that other threads post to it."""

    def __cinit__(self, *args, **kwargs):
        self.ready = <void **>malloc(FIRST_ROOM * sizeof(void *))
        if self.ready == NULL:
            raise MemoryError
        self.ready_mask = FIRST_ROOM - 1
        self._port = no_port

    def __dealloc__(self):
        self.drop_ready()
        free(self.ready)

    @property
    def _closed(self):
        """Whether ``close`` was called, which any thread may ask."""
        return load_relaxed(&self.closed) != 0

    @_closed.setter
    def _closed(self, bint closed):
        store_release(&self.closed, closed)

    cdef void drop_ready(self) noexcept:
        cdef object handle
        cdef void *item
        cdef void *next
        while self.ready_head != self.ready_tail:
            handle = <object>self.ready[self.ready_head & self.ready_mask]
            self.ready_head = self.ready_head + 1
            Py_DECREF(handle)
            handle = None
        item = px_inbox_take(&self.inbox)
        while item != NULL:
            handle = <object>item
            next = (<Handle>handle).next
            Py_DECREF(handle)
            handle = None
            item = next

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
        self.ready_tail = self.ready_tail + 1
        if load_relaxed(&self.sleeping):
            self.rouse()
        return 0

    cdef void rouse(self) noexcept:
        """End the loop's sleep, unless somebody has done so already.

        From its own thread too: a finalizer or a signal handler may come in after the decision to sleep and
        before the system call that does it, where the driver runs bytecode in between.
        """
        if exchange(&self.sleeping, 0):
            self._port.wake_driver()

    cdef bint runs_elsewhere(self) noexcept:
        """Whether another thread runs the loop now, and has its queues."""
        cdef unsigned long thread = load_relaxed_ulong(&self.thread)
        return thread and thread != PyThread_get_thread_ident()

    cdef int add_soon(self, Handle handle) except -1:
        # A call from a wrong thread is an error of the caller's (debug mode says so),
        # but must corrupt nothing.
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
