"""The last calls that the threads of a pool have run: what, where, when it was handed over, begun and ended.

Always kept: a call that goes to another thread costs many times what this does.  Names are made by who reads.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int64_t, uint32_t
from proactorx.sys.clock cimport px_now_ns
from proactorx.sys.thread cimport px_name_thread

cdef extern from "Python.h":
    bint PyFunction_Check(object callback)
    PyObject *PyFunction_GetCode(object callback)  # borrowed
    bint PyMethod_Check(object callback)
    PyObject *PyMethod_GET_FUNCTION(object callback)
    bint PyCFunction_Check(object callback)
    PyObject *PyCFunction_GET_SELF(object callback)
    bint PyModule_Check(PyObject *instance)

from contextvars import Context
from functools import partial
from operator import itemgetter
from types import CodeType

cdef enum:
    KEPT = 4096


def name_this_thread(str name not None):
    """Set the name under which the system shows this thread; Linux takes 15 bytes: PR_SET_NAME, prctl(2)."""
    cdef bytes data = name.encode("ascii", "replace")
    px_name_thread(data)


cdef bint of_a_module(callback) noexcept:
    """Whether it is a function in C that refers to nothing of the user's."""
    return PyCFunction_Check(callback) and (PyCFunction_GET_SELF(callback) == NULL
                                            or PyModule_Check(PyCFunction_GET_SELF(callback)))


cdef object unwrapped(callback):
    """What a partial function calls in the end."""
    while isinstance(callback, partial):
        function = callback.func
        if PyCFunction_Check(function) and not of_a_module(function) and callback.args and isinstance(
                function.__self__, Context):
            callback = callback.args[0]  # what asyncio.to_thread makes
        else:
            callback = function
    return callback


cdef object code_of(callback):
    """The code that runs when this is called; else its name, or its type."""
    callback = unwrapped(callback)
    if PyFunction_Check(callback):
        return <object>PyFunction_GetCode(callback)
    if PyMethod_Check(callback) and PyFunction_Check(<object>PyMethod_GET_FUNCTION(callback)):
        return <object>PyFunction_GetCode(<object>PyMethod_GET_FUNCTION(callback))
    code = getattr(getattr(callback, "__func__", callback), "__code__", None)
    if type(code) is CodeType:
        return code
    name = getattr(callback, "__qualname__", None)
    return name if type(name) is str and name else type(callback)


# Not for the garbage collector, which would look at thousands of them: it refers to code and names alone.
@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Job:
    """One call on a thread of a pool."""

    @property
    def what(self):
        """The code that was called, or a name."""
        return self.called.__qualname__ if PyCFunction_Check(self.called) else self.called


@cython.final
cdef class Jobs:
    """Those of one pool."""

    def __cinit__(self):
        self.kept = []
        self.displaced = set()
        self.names = {}

    def __dealloc__(self):
        PyMem_Free(self.times)

    def enters(self, str name not None):
        """The thread that calls this is one of the pool's, and has this name."""
        cdef unsigned long thread = PyThread_get_thread_ident()
        with self.mutex:
            self.names[thread] = name
            if self.latest == thread:
                self.latest = 0  # its number was another's

    cdef Job begin(self, int64_t since, fn):
        """This thread calls `fn` now; None: that cannot be kept."""
        cdef Job job
        try:
            job = <Job>Job.__new__(Job)
            what = unwrapped(fn)
            if of_a_module(what):
                job.called = what  # its name is made by who reads
            else:
                what = code_of(what)
                job.called = what.__qualname__ if isinstance(what, type) else what
            job.since = since
            job.began = px_now_ns()
            self.keep(job)
            return job
        except Exception:  # of an attribute of the user's, or for want of memory
            return None

    cdef int keep(self, Job job) except -1:
        cdef Job before = None
        cdef unsigned long thread = PyThread_get_thread_ident()
        with self.mutex:
            if self.latest != thread:
                self.latest_name = self.names.get(thread, "?")
                self.latest = thread
            job.thread = self.latest_name
            if len(self.kept) < KEPT:
                self.kept.append(job)
                return 0
            before = <Job>self.kept[self.oldest]
            if not before.ended:
                self.displaced.add(before)
                before.displaced = True
            self.kept[self.oldest] = job
            self.oldest = (self.oldest + 1) % KEPT
        return 0

    cdef int end(self, Job job) noexcept:
        """... and it has returned."""
        cdef int64_t now = px_now_ns()
        if job is None:
            return 0
        with self.mutex:
            job.ended = now
            if job.displaced:
                self.displaced.discard(job)
        return 0

    def work(self, fn):
        """`fn`, for an executor: it says when it is called, and when it returns."""
        cdef Work work = <Work>Work.__new__(Work)
        work.fn = fn
        work.since = px_now_ns()
        with self.counting:
            self.wait(work.since)
        work.jobs = self
        return work

    cdef int wait(self, int64_t since) except -1:
        """One more waits, from then on; under its mutex."""
        cdef int64_t *more
        cdef uint32_t i, size = self.mask + 1 if self.times != NULL else 0
        if self.newest - self.first == size:
            more = <int64_t *>PyMem_Malloc(max(2 * size, 64) * sizeof(int64_t))
            if more == NULL:
                raise MemoryError
            for i in range(size):
                more[i] = self.times[(self.first + i) & self.mask]
            PyMem_Free(self.times)
            self.times, self.first, self.newest, self.mask = more, 0, size, max(2 * size, 64) - 1
        self.times[self.newest & self.mask] = since
        self.newest += 1
        return 0

    cdef int begins(self) except -1:
        """The first that waits does so no more."""
        with self.counting:
            self.first += 1
        return 0

    def oldest_wait(self):
        """Seconds for which the first call of ``work`` has waited for a thread; None: there is none."""
        cdef int64_t since
        with self.counting:
            if self.first == self.newest:
                return None
            since = self.times[self.first & self.mask]
        return (px_now_ns() - since) * 1e-9

    def last(self):
        """Those that have ended, in that order, and those that run; any thread may ask."""
        cdef Job job
        with self.mutex:
            found = self.kept + list(self.displaced)
        ended = [(job.ended, job) for job in found if job.ended]
        ended.sort(key=itemgetter(0))
        return [job for _, job in ended] + [job for job in found if not job.ended]


@cython.final
@cython.freelist(16)
cdef class Work:
    """A function that is called in another thread, once."""

    def __call__(self, *args):
        cdef Job job
        self.begins()
        job = self.jobs.begin(self.since, self.fn)
        try:
            return self.fn(*args)
        finally:
            self.jobs.end(job)

    cdef int begins(self) except -1:
        if not self.begun:
            self.begun = True
            self.jobs.begins()
        return 0

    def __dealloc__(self):
        # Cancelled before it was called.  Any time may be taken out: both come in the same order.
        if not self.begun and self.jobs is not None:
            self.jobs.begins()
