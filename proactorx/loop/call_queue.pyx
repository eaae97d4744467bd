"""The calls that a loop has to make: the ready queue, and the inbox that other threads fill."""

from cpython.object cimport PyObject, PyTypeObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, malloc
from proactorx.loop.calling cimport PX_GIL, px_track, px_tuple
from proactorx.ops.op cimport PACKET_MORE, RawPacket
from proactorx.sys.errnos cimport ECANCELED
from proactorx.sys.atomic cimport (
    exchange, load, load_pointer, load_relaxed, load_relaxed_ulong, store_release,
)

import sys

cdef extern from "inbox.h":
    void px_inbox_push(void **head, void *item, void **next) nogil
    void *px_inbox_take(void **head) nogil

cdef extern from "Python.h":
    int METH_FASTCALL, METH_KEYWORDS
    object PyDescr_NewMethod(PyTypeObject *kind, PyMethodDef *method)
    int PyUnicode_CompareWithASCIIString(PyObject *text, const char *other)

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

    cdef int more_room(self) except -1:
        cdef uint32_t count = self.ready_tail - self.ready_head, i
        cdef void **bigger = <void **>malloc(2 * (self.ready_mask + 1) * sizeof(void *))
        if bigger == NULL:
            raise MemoryError
        for i in range(count):
            bigger[i] = self.ready[(self.ready_head + i) & self.ready_mask]
        free(self.ready)
        self.ready = bigger
        self.ready_mask = 2 * (self.ready_mask + 1) - 1
        self.ready_head = 0
        self.ready_tail = count
        return 0

    cdef void rouse(self) noexcept:
        """End the loop's sleep, unless somebody has done so already.

        From its own thread too: a finalizer or a signal handler may come in after the decision to sleep and
        before the system call that does it, where the driver runs bytecode in between.
        """
        if load(&self.sleeping) and exchange(&self.sleeping, 0):
            self._port.wake_driver()

    cdef bint runs_elsewhere(self) noexcept:
        """Whether another thread runs the loop now, and has its queues."""
        cdef unsigned long thread = load_relaxed_ulong(&self.thread)
        return thread and thread != PyThread_get_thread_ident()

    cdef int add_soon(self, Handle handle) except -1:
        # A call from a wrong thread is an error of the caller's (debug mode says so),
        # but must corrupt nothing.
        if PX_GIL:
            if self.thread == 0:
                px_track(<void *>handle)  # see `end_run`
            return self.push_ready(handle)
        if self.runs_elsewhere():
            self.post(handle)
            return 0
        if load_pointer(&self.inbox) != NULL:
            self.drain_inbox()  # what was posted before this call runs before it
        return self.push_ready(handle)

    cdef int post(self, Handle handle) except -1:
        if PX_GIL:
            return self.add_soon(handle)
        Py_INCREF(handle)
        px_inbox_push(&self.inbox, <void *>handle, &handle.next)
        self.rouse()
        return 0

    cdef void end_run(self) noexcept:
        """The loop does not run any more: show the garbage collector the calls that it has left."""
        cdef uint32_t i = self.ready_head
        self.drop_contexts()
        while PX_GIL and i != self.ready_tail:
            px_track(self.ready[i & self.ready_mask])
            i += 1

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


cdef class HandleWatch(Watch):
    """Schedules the call of a handle each time that `fd` is ready, without a function of Python's."""

    def __init__(self, int fd, uint32_t events, CallQueue queue not None, Handle handle not None):
        Watch.__init__(self, fd, events, handle)
        self.queue = queue

    cdef int on_packet(self, RawPacket *packet) except -1:
        cdef Handle handle = self.callback
        if not packet.flags & PACKET_MORE:
            self.callback = None
        if handle is None or packet.res == -ECANCELED:
            return 0
        if not handle._cancelled:
            self.queue.add_soon(handle)
        elif packet.flags & PACKET_MORE:
            self.queue._end_watch(self, self.events)  # of Readers
        return 0


# `call_soon` as tasks and futures, which are C, call it: the arguments are in an array, and the context has
# its keyword.  Cython would make a tuple of the arguments, and compare keywords: 250 instructions more.

cdef PyMethodDef methods[2]
cdef object context_word = sys.intern("context")
cdef PyObject *known_names = NULL  # asyncio's, whose word is another object
cdef list docs = []                # which the methods refer to
cdef object plain_soon, plain_threadsafe  # Cython's, for all other calls


def call_fast(type kind):
    """Give the class of loops, a subclass of CallQueue, these methods in the place of those it inherits.

    In its own class: Python asks first whether a loop is an instance, and looks through the bases for that.
    """
    global plain_soon, plain_threadsafe
    if not issubclass(kind, CallQueue):
        raise TypeError("a class of loops is expected")
    plain_soon = replace_method(kind, &methods[0], "call_soon", "callback", <PyCFunction><void *>_soon)
    plain_threadsafe = replace_method(kind, &methods[1], "call_soon_threadsafe", "callback",
                                      <PyCFunction><void *>_threadsafe)


cdef object replace_method(type kind, PyMethodDef *method, str name, str first, PyCFunction function):
    """Have `function` called for a method whose signature begins with `first`; returns the old method."""
    plain = getattr(kind, name)
    word = name.encode()
    text = plain.__doc__.partition("\n")[2].lstrip()
    doc = f"{name}($self, {first}, *args, context=None)\n--\n\n{text}".encode()
    docs.append((word, doc))
    method.ml_name = <const char *>word
    method.ml_doc = <const char *>doc
    method.ml_flags = METH_FASTCALL | METH_KEYWORDS
    method.ml_meth = function
    setattr(kind, name, PyDescr_NewMethod(<PyTypeObject *>kind, method))
    return plain


cdef bint is_context(PyObject *names) noexcept:
    """Whether the names of a call's keyword arguments are that one."""
    global known_names
    if names == known_names:
        return True
    if PyTuple_GET_SIZE(names) != 1:
        return False
    if PyTuple_GET_ITEM(names, 0) == <PyObject *>context_word:
        return True
    if PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), b"context"):
        return False
    if known_names == NULL:
        Py_INCREF(<object>names)
        known_names = names
    return True


cdef inline bint _is_plain(CallQueue self, Py_ssize_t count, PyObject *names) noexcept:
    if count == 0 or load_relaxed(&self.closed) or self._debug:
        return False
    return names == NULL or is_context(names)


cdef Handle _handle(CallQueue self, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef Handle handle = self.empty_handle()
    fill_handle(self, handle, args, count, names)
    return handle


cdef object _soon(CallQueue self, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef Handle handle
    if not _is_plain(self, count, names):
        return call_method(plain_soon, self, args, count, names)
    handle = _handle(self, args, count, names)
    if PX_GIL and self.thread:
        self.push_ready(handle)
    else:
        self.add_soon(handle)
    return handle


cdef object _threadsafe(CallQueue self, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef Handle handle
    if not _is_plain(self, count, names) or self._port.driver.forked:
        return call_method(plain_threadsafe, self, args, count, names)
    handle = _handle(self, args, count, names)
    if PX_GIL and self.thread:
        self.push_ready(handle)
    elif PX_GIL or load_relaxed_ulong(&self.thread) == PyThread_get_thread_ident():
        self.add_soon(handle)
    else:
        self.post(handle)
    return handle


cdef object call_method(function, CallQueue self, PyObject **args, Py_ssize_t count, PyObject *names):
    cdef Py_ssize_t place, named = PyTuple_GET_SIZE(names) if names != NULL else 0
    keywords = {<object>PyTuple_GET_ITEM(names, place): <object>args[count + place] for place in range(named)}
    return function(self, *(<tuple>px_tuple(args, count)), **keywords)
