"""What the transports of one loop share: who owns which descriptor, who has unsent data, and a receive arena.

The loop makes one registry, flushes it once per turn, and looks descriptors up in it;
every transport holds it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy, memset
from proactorx.sys.errnos cimport EBADF

from proactorx.sys.errors import strerror

cdef enum:
    ACCEPTS = 4096  # connections that the recorder keeps; a power of two


cdef class Flushable:
    """Collects writes during a turn and sends them when flushed."""

    cdef int flush(self) except -1:
        raise NotImplementedError("Flushable.flush")


cdef LoopPort no_port = LoopPort.__new__(LoopPort)  # of a registry that was made without its __init__


cdef class Registry:
    """The transports of one loop, and what they share.

    Args:
        port: the loop's port, which their ops go through.

    Raises:
        RuntimeError: on a second initialization.
    """

    def __cinit__(self, *args, **kwargs):
        self.port = no_port
        self.dirty = []

    def __init__(self, LoopPort port not None):
        if self.port is not no_port:
            raise RuntimeError("a registry is initialized once")
        self.port = port

    def __dealloc__(self):
        PyMem_Free(self.owners)
        PyMem_Free(self.accepts)

    # ---------------------------------------------------------------------------------- owners of descriptors

    cdef int own(self, int fd, object owner) except -1:
        """Record the transport `owner` as the owner of `fd` until it calls `disown`.

        Raises:
            OSError: EBADF, `fd` is negative: the socket has been closed.
        """
        cdef int size = self.owner_count or 64
        cdef void **owners
        if fd < 0:
            raise OSError(EBADF, strerror(EBADF))
        with self.mutex:
            if fd >= self.owner_count:
                while size <= fd:
                    size *= 2
                owners = <void **>PyMem_Realloc(self.owners, size * sizeof(void *))
                if owners == NULL:
                    raise MemoryError
                memset(&owners[self.owner_count], 0, (size - self.owner_count) * sizeof(void *))
                self.owners = owners
                self.owner_count = size
            self.owners[fd] = <void *>owner
        return 0

    cdef void disown(self, int fd, void *owner) noexcept:
        with self.mutex:
            if 0 <= fd < self.owner_count and self.owners[fd] == owner:
                self.owners[fd] = NULL

    def owner_of(self, int fd):
        """Return the transport that owns `fd`, or None."""
        return <object>self.owners[fd] if 0 <= fd < self.owner_count and self.owners[fd] != NULL else None

    # ----------------------------------------------------------------------------------- accepted connections

    cdef int note_accepted(self, int listener, int fd, int64_t began, int64_t ended) except -1:
        """Keep for the recorder that `listener` has made the connection `fd` in that time (ns)."""
        cdef Accepted *note
        with self.mutex:
            if self.accepts == NULL:
                self.accepts = <Accepted *>PyMem_Malloc(ACCEPTS * sizeof(Accepted))
                if self.accepts == NULL:
                    raise MemoryError
            note = &self.accepts[self.accepted & (ACCEPTS - 1)]
            note.listener, note.fd, note.began, note.ended = listener, fd, began, ended
            self.accepted += 1
        return 0

    def last_accepts(self):
        """Return the last connections that listeners have made, as (began, ended, listener, descriptor):
        times in ns, and the listener's descriptor.  Any thread may ask.
        """
        # Copied first: an object made under the mutex may start the garbage collector, and that `disown`.
        cdef bytes copy = PyBytes_FromStringAndSize(NULL, ACCEPTS * sizeof(Accepted))
        cdef Accepted *notes = <Accepted *>PyBytes_AS_STRING(copy)
        cdef Accepted *note
        cdef uint32_t i, count, first
        cdef list found = []
        with self.mutex:
            count = min(self.accepted, <uint32_t>ACCEPTS)
            first = self.accepted - count
            if count:
                memcpy(notes, self.accepts, ACCEPTS * sizeof(Accepted))
        for i in range(count):
            note = &notes[(first + i) & (ACCEPTS - 1)]
            found.append((note.began, note.ended, note.listener, note.fd))
        return found

    # -------------------------------------------------------------------------------------------- unsent data

    cdef int mark(self, Flushable item) except -1:
        """Flush `item` before the loop sleeps."""
        item.dirty = True
        self.dirty.append(item)
        self.port.changed()
        return 0

    cdef int flush(self) except -1:
        cdef list dirty
        cdef Flushable item
        cdef Py_ssize_t done
        while self.dirty:
            dirty = self.dirty
            self.dirty = []
            done = 0
            try:
                for item in dirty:
                    done += 1
                    if item.dirty:
                        item.flush()
            except BaseException:
                # a protocol ended the run: keep the others for the next one
                self.dirty = dirty[done:] + self.dirty
                raise
        return 0

    def send_all(self):
        """Send everything that transports have put off until the end of the turn."""
        self.flush()

    def drop_all(self):
        """Forget what has been put off: the loop is closing, and nothing more is sent."""
        self.dirty.clear()

    cdef int begin_run(self) except -1:
        """The loop starts turning: it drives the port, and flushes before it sleeps."""
        self.running = True
        return self.port.begin_run()

    cdef int end_run(self) except -1:
        """The loop stops turning, perhaps because of an exception: leave no write behind."""
        self.running = False
        try:
            if not self.port.driver.forked:  # in a forked child the data is the parent's to send
                self.flush()
        finally:
            self.port.end_run()
        return 0
