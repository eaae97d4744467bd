"""Each call of a handle and each packet of a loop: what was called, when, and for how long.

Kept only where ``loop.record(detail=True)`` asks for it.  What is called is known by its code: by the one of
its coroutine, where a task goes on.  The thread of the loop writes, any other may read.
"""

from asyncio import Task

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy
from proactorx.ops.kinds cimport px_kinds
from proactorx.ops.op cimport Op
from proactorx.pool.jobs cimport code_of as plain_code_of
from proactorx.sys.pages cimport px_pages, px_pages_free


cdef str name_of_code(code):
    return f"{code.co_qualname} {code.co_filename}:{code.co_firstlineno}"


cdef object code_of(callback):
    """The code that runs when this is called, or the callable itself."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, Task):
        coroutine = owner.get_coro()
        for name in ("cr_code", "gi_code", "ag_code"):
            code = getattr(coroutine, name, None)
            if code is not None:
                return code
        return type(coroutine)
    return plain_code_of(callback)


cdef class Details:
    """The last calls, and the totals of all."""

    def __cinit__(self):
        self.kept = <Detail *>px_pages(DETAILS * sizeof(Detail))
        self.totals = <Total *>px_pages(PLACES * sizeof(Total))
        if self.kept == NULL or self.totals == NULL:
            raise MemoryError
        self.places = {}
        self.owners = [None]
        self.names = ["others"]
        self.task_places = {}
        self.tasks = []

    def __dealloc__(self):
        px_pages_free(self.kept, DETAILS * sizeof(Detail))
        px_pages_free(self.totals, PLACES * sizeof(Total))

    cdef int place_of(self, key, callback) except -1:
        """The place of what has this key: an object that is kept, or a string."""
        index = key if isinstance(key, str) else id(key)
        place = self.places.get(index)
        if place is not None:
            return place
        if len(self.names) >= PLACES:
            return 0
        if hasattr(key, "co_qualname"):
            name = name_of_code(key)
        else:
            name = key if isinstance(key, str) else getattr(key, "__qualname__", None) or repr(type(key))
        place = len(self.names)
        self.owners.append(key)
        self.names.append(str(name)[:200])
        self.places[index] = place
        return place

    cdef int of_handle(self, callback) except -1:
        try:
            return self.place_of(code_of(callback), callback)
        except Exception:  # of an attribute of the user's
            return 0

    cdef int of_packet(self, Op op) except -1:
        kind = px_kinds[op.kind].name.decode()
        try:
            protocol = getattr(op.subject(), "_protocol", None)
            return self.place_of(kind if protocol is None else f"{kind} {type(protocol).__qualname__}", None)
        except Exception:
            return 0

    cdef int64_t task_of(self, callback) noexcept:
        """Which task goes on by this call, as a Detail has it."""
        try:
            owner = getattr(callback, "__self__", None)
            if not isinstance(owner, Task):
                return 0
            name = owner.get_name()
            if name.startswith("Task-") and name[5:].isdecimal() and len(name) < 20:
                return <int64_t>int(name[5:])
            place = self.task_places.get(name)
            if place is None:
                if len(self.tasks) >= PLACES:
                    return 0
                place = self.task_places[name] = len(self.tasks)
                self.tasks.append(name[:200])
            return -1 - <int64_t>place
        except Exception:
            return 0

    cdef Detail *note(self, int place, int fd, int64_t of, int64_t began, int64_t ended) noexcept:
        cdef Detail *kept = &self.kept[self.count % DETAILS]
        cdef Total *total = &self.totals[place]
        kept.began = began
        kept.ended = ended
        kept.of = of
        kept.place = place
        kept.fd = fd
        kept.more = 0
        self.count += 1
        total.count += 1
        total.ns += ended - began
        if ended - began > total.longest:
            total.longest = ended - began
        return kept

    def all_names(self):
        """What the places of `calls` mean."""
        return list(self.names)

    def all_tasks(self):
        """The names of tasks that are no numbers."""
        return list(self.tasks)

    def totals_by_name(self):
        """[(name, calls, seconds in all, seconds of the longest)]."""
        return [
            (name, self.totals[place].count, self.totals[place].ns * 1e-9, self.totals[place].longest * 1e-9)
            for place, name in enumerate(list(self.names))
        ]

    def calls(self):
        """The last ones, oldest first.  The loop may go on: what it may have written over is left out."""
        cdef uint64_t last = self.count, first = last - DETAILS if last > DETAILS else 0, place = first, step
        cdef size_t size = sizeof(Detail)
        copy = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>((last - first) * size))
        cdef char *to = PyBytes_AS_STRING(copy)
        with nogil:
            while place < last:
                step = min(last - place, DETAILS - place % DETAILS)
                memcpy(to + (place - first) * size, &self.kept[place % DETAILS], step * size)
                place += step
        step = self.count + 1 - DETAILS if self.count >= DETAILS else 0
        return copy[min(last, max(first, step)) * size - first * size:]
