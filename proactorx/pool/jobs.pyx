"""The last calls that the threads of a pool have run: what, where, when it was handed over, begun and ended.

Always kept: a call that goes to another thread costs many times what this does.  Names are made by who reads.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int64_t
from proactorx.sys.clock cimport px_now_ns
from proactorx.sys.thread cimport px_name_thread

cdef extern from "Python.h":
    bint PyFunction_Check(object callback)
    PyObject *PyFunction_GetCode(object callback)  # borrowed

from collections import deque
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


cdef object code_of(callback):
    """The code that runs when this is called; else its name, or its type."""
    if PyFunction_Check(callback):
        return <object>PyFunction_GetCode(callback)
    while isinstance(callback, partial):
        if callback.args and isinstance(getattr(callback.func, "__self__", None), Context):
            callback = callback.args[0]  # what asyncio.to_thread makes
        else:
            callback = callback.func
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


@cython.final
cdef class Jobs:
    """Those of one pool."""

    def __cinit__(self):
        self.kept = []
        self.displaced = set()
        self.names = {}
        self.waiting = deque()

    def enters(self, str name not None):
        """The thread that calls this is one of the pool's, and has this name."""
        self.names[PyThread_get_thread_ident()] = name

    cdef Job begin(self, int64_t since, fn):
        """This thread calls `fn` now; None: that cannot be kept."""
        cdef Job job
        try:
            job = <Job>Job.__new__(Job)
            what = code_of(fn)
            job.what = what.__qualname__ if isinstance(what, type) else what
            job.thread = self.names.get(PyThread_get_thread_ident(), "?")
            job.since = since
            job.began = px_now_ns()
            self.keep(job)
            return job
        except Exception:  # of an attribute of the user's, or for want of memory
            return None

    cdef int keep(self, Job job) except -1:
        cdef Job before = None
        with self.mutex:
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
        work.jobs = self
        work.fn = fn
        work.since = px_now_ns()
        self.waiting.append(work.since)
        return work

    def oldest_wait(self):
        """Seconds for which the first call of ``work`` has waited for a thread; None: there is none."""
        try:
            return (px_now_ns() - self.waiting[0]) * 1e-9
        except IndexError:
            return None

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

    cdef begins(self):
        if not self.begun:
            self.begun = True
            self.jobs.waiting.popleft()

    def __dealloc__(self):
        # Cancelled before it was called.  Any time may be taken out: both come in the same order.
        if not self.begun and self.jobs is not None:
            self.jobs.waiting.popleft()
