cimport cython
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t
from proactorx.loop.calling cimport px_tuple
from proactorx.loop.handles cimport ARGUMENTS, Handle, HandleOwner, NO_ARGUMENTS, ONE_ARGUMENT
from proactorx.ops.op cimport Watch
from proactorx.port.loop_port cimport LoopPort
from proactorx.sys.atomic cimport load_relaxed

cdef extern from "Python.h":
    ctypedef PyObject *(*PyCFunction)(PyObject *, PyObject *)
    ctypedef struct PyMethodDef:
        const char *ml_name
        PyCFunction ml_meth
        int ml_flags
        const char *ml_doc
    PyObject *PyTuple_GET_ITEM(PyObject *items, Py_ssize_t place)
    Py_ssize_t PyTuple_GET_SIZE(PyObject *items)

# For methods that take their arguments in an array.
cdef object replace_method(type kind, PyMethodDef *method, str name, str first, PyCFunction function)
cdef bint is_context(PyObject *names) noexcept
cdef object call_method(function, CallQueue self, PyObject **args, Py_ssize_t count, PyObject *names)

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

cdef class HandleWatch(Watch):
    cdef CallQueue queue

cdef inline int fill_handle(CallQueue self, Handle handle, PyObject **args, Py_ssize_t count,
                            PyObject *names) except -1:
    """Give `handle` its callback and what follows in `args`; `names`: the context is behind them."""
    handle._callback = <object>args[0]
    if count == 1:
        handle.held = NO_ARGUMENTS
    elif count == 2:
        handle.held = ONE_ARGUMENT
        handle.given = <object>args[1]
    else:
        handle.held = ARGUMENTS
        handle.given = px_tuple(args + 1, count - 1)
    return self.set_context(handle, <object>args[count] if names != NULL else None)
