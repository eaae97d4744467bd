"""The last calls that the threads of a pool have run: what, where, when it was handed over, begun and ended.

Always kept, so it must cost nearly nothing where it counts: in the thread that runs the call and has the GIL,
for which all the others wait.  What is called is found out by who hands it over, names are made by who reads,
and the threads write a few words into memory that is there already.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport int64_t
from proactorx.drivers cimport driver
from proactorx.sys.clock cimport px_now_ns
from proactorx.sys.pages cimport px_pages, px_pages_free
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
    # Functions in C first, which IO threads call: whether it is a partial one takes 500 instructions to tell.
    while not PyCFunction_Check(callback) and isinstance(callback, partial):
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


cdef object what_of(callback):
    """For ``Job.what``: the code that runs when this is called, a function in C, or a name."""
    if PyFunction_Check(callback):
        return <object>PyFunction_GetCode(callback)
    try:
        callback = unwrapped(callback)
        if of_a_module(callback):
            return callback  # its name is made by who reads
        found = code_of(callback)
    except Exception:  # of an attribute of the user's
        found = type(callback)
    return found.__qualname__ if isinstance(found, type) else found


cdef inline void link(Job *job, Job *end) noexcept nogil:
    """Put it at the end of a list, a ring of which `end` is the beginning and the end."""
    job.after, job.before = end, end.before
    end.before.after = job
    end.before = job


cdef inline void unlink(Job *job) noexcept nogil:
    job.before.after, job.after.before = job.after, job.before
    job.before = job.after = NULL


@cython.final
cdef class JobRecord:
    """One call on a thread of a pool, for who reads."""


cdef JobRecord record(Entry *entry):
    """Of an entry with references of its own, which are given back."""
    cdef JobRecord made = <JobRecord>JobRecord.__new__(JobRecord)
    what = <object>entry.what
    made.what = what.__qualname__ if PyCFunction_Check(what) else what
    made.thread = <str>entry.thread
    made.since, made.began, made.ended = entry.since, entry.began, entry.ended
    Py_XDECREF(entry.what)
    Py_XDECREF(entry.thread)
    return made


@cython.final
cdef class Jobs:
    """Those of one pool."""

    def __cinit__(self):
        self.waiting.before = self.waiting.after = &self.waiting
        self.running.before = self.running.after = &self.running
        self.names = {}
        self.kept = <Entry *>px_pages(KEPT * sizeof(Entry))
        if self.kept == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.kept != NULL:
            for i in range(KEPT):
                Py_XDECREF(self.kept[i].what)
                Py_XDECREF(self.kept[i].thread)
            px_pages_free(self.kept, KEPT * sizeof(Entry))

    def enters(self, str name not None):
        """The thread that calls this is one of the executor's, and has this name."""
        cdef unsigned long thread = PyThread_get_thread_ident()
        with self.mutex:
            self.names[thread] = name
            if self.latest == thread:
                self.latest = 0  # its number was another's

    cdef void wait(self, Job *job) noexcept:
        """It has been handed over, and no thread has begun it."""
        with self.mutex:
            link(job, &self.waiting)

    cdef void forget(self, Job *job) noexcept:
        """It will not be begun."""
        with self.mutex:
            unlink(job)

    cdef void begin(self, Job *job, str thread) noexcept:
        """This thread, of that name, begins it; None: that which ``enters`` was told."""
        cdef unsigned long ident
        cdef int64_t now = px_now_ns()
        with self.mutex:
            if job.began:
                return
            if thread is None:
                ident = PyThread_get_thread_ident()
                if self.latest != ident:
                    self.latest_name = self.names.get(ident, "?")
                    self.latest = ident
                thread = self.latest_name
            job.thread = <PyObject *>thread  # which lives as long as the thread
            job.began = now
            if job.after != NULL:
                unlink(job)  # it waits no more
            link(job, &self.running)
            self.running_now += 1
            if driver.has_gil:
                driver.pool_calls += 1

    cdef int end(self, Job *job) noexcept:
        """... and it has returned."""
        cdef int64_t now = px_now_ns()
        cdef Entry *entry
        cdef PyObject *what = NULL
        cdef PyObject *thread = NULL
        with self.mutex:
            if job.after == NULL:
                return 0  # it was called in two threads at once, or memory had run out
            unlink(job)
            self.running_now -= 1
            if driver.has_gil:
                driver.pool_calls -= 1
            entry = &self.kept[self.oldest]
            self.oldest = (self.oldest + 1) % KEPT
            what, thread = entry.what, entry.thread
            copy(entry, job, now)
        # Not under the mutex: freeing may run code of the user's.
        Py_XDECREF(what)
        Py_XDECREF(thread)
        return 0

    def work(self, fn):
        """`fn`, for an executor: it says when it is called, and when it returns."""
        cdef Work work = <Work>Work.__new__(Work)
        work.fn = fn
        work.what = what_of(fn)
        work.job.what = <PyObject *>work.what
        work.job.since = px_now_ns()
        work.jobs = self
        self.wait(&work.job)
        return work

    def oldest_wait(self):
        """Seconds for which the first call of ``work`` has waited for a thread; None: there is none."""
        cdef int64_t since = 0
        with self.mutex:
            if self.waiting.after != &self.waiting:
                since = self.waiting.after.since
        return (px_now_ns() - since) * 1e-9 if since else None

    def last(self):
        """Those that have ended, in that order, and those that run; any thread may ask."""
        cdef Entry *found
        cdef Py_ssize_t i, room, count = -1
        while count < 0:
            room = self.running_now + 16
            found = <Entry *>PyMem_Malloc((KEPT + room) * sizeof(Entry))
            if found == NULL:
                raise MemoryError
            with self.mutex:
                if self.running_now <= room:
                    count = self.take(found)
            if count < 0:
                PyMem_Free(found)
        try:
            return [record(&found[i]) for i in range(count)]
        finally:
            PyMem_Free(found)

    cdef Py_ssize_t take(self, Entry *found) noexcept:
        """Under the mutex: copy all of them, with references of their own; how many they are."""
        cdef Job *job = self.running.after
        cdef Py_ssize_t i, count = 0
        for i in range(KEPT):
            found[count] = self.kept[(self.oldest + i) % KEPT]
            if found[count].what != NULL:
                hold(&found[count])
                count += 1
        while job != &self.running:
            copy(&found[count], job, 0)
            count += 1
            job = job.after
        return count


cdef void copy(Entry *entry, Job *job, int64_t ended) noexcept:
    entry.since, entry.began, entry.ended = job.since, job.began, ended
    entry.what, entry.thread = job.what, job.thread
    hold(entry)


cdef inline void hold(Entry *entry) noexcept:
    Py_INCREF(<object>entry.what)
    Py_INCREF(<object>entry.thread)


# The collector must not take `jobs` before it is freed: it is in a list there.
@cython.final
@cython.no_gc_clear
@cython.freelist(16)
cdef class Work:
    """A function that is called in another thread, once."""

    def __call__(self, *args):
        self.jobs.begin(&self.job, None)
        try:
            return self.fn(*args)
        finally:
            self.jobs.end(&self.job)

    def __dealloc__(self):
        # Cancelled before it was called.
        if self.job.after != NULL:
            self.jobs.forget(&self.job)
