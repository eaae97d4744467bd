"""``read_bytes`` and ``read_text``.  A small file that is in the kernel's caches is read at once.

That takes three system calls (openat2, preadv2, close) and no thread.  Any other file is read by one call on
an IO thread.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t
from libc.string cimport memchr, memcpy
from proactorx.files.access cimport Access, access_of
from proactorx.files.raw_state cimport is_local, nature_of
from proactorx.sys.file cimport (
    O_NONBLOCK, O_RDONLY, PX_BY_HANDLE, PX_LOCAL, PX_RESOLVE_CACHED, PX_RESOLVE_SAME_MOUNT, px_file_close,
    px_file_facts, px_file_read_now, px_open_now, px_stat_cached, px_stat_fd,
)

import io
import os
import select

from proactorx.files.thread_call import in_thread
from proactorx.files import raw_file as _raw_file

cdef extern from "Python.h":
    int PyUnicode_FSConverter(object path, PyObject **result) except 0
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    bint PyUnicode_IS_ASCII(object text)

cdef object RawFile = _raw_file.RawFile
cdef enum:
    SMALL = 1 << 18   # read in the loop's thread
    TINY = 1 << 14    # read by one call, which comes before the file is looked at
    PAGE = 1 << 12    # the smallest there is: a larger one is a multiple of it
    CALLS = 16 << 10  # what opening costs, as copying so many bytes

cdef enum Root:
    UNKNOWN
    LOCAL    # the file system at "/" is this machine's
    OTHER

cdef Root root = UNKNOWN


def _look_at_root():
    global root
    cdef int fd
    try:
        fd = os.open(b"/", getattr(os, "O_PATH", os.O_RDONLY))
    except OSError:
        return  # there is no descriptor left, say; the next file tries again
    try:
        root = LOCAL if nature_of(fd) == PX_LOCAL else OTHER
    finally:
        os.close(fd)


if not PX_BY_HANDLE:
    # Importing this module waits for files anyway.  Without it, IO threads would read the first files.
    _look_at_root()


cdef bytes encoded(path):
    cdef PyObject *name = NULL
    PyUnicode_FSConverter(path, &name)
    result = <bytes>name
    Py_DECREF(result)
    return result


cdef object read_path(path):
    """``read_now`` of a path in any of its forms."""
    cdef const char *name
    cdef Py_ssize_t size
    cdef bytes copy
    if type(path) is str and PyUnicode_IS_ASCII(path):
        # Every file system encoding writes ASCII as itself, and the string has it with a NUL at its end.
        name = PyUnicode_AsUTF8AndSize(path, &size)
        if memchr(name, 0, size) == NULL:
            return read_now(name)
    copy = encoded(path)
    return read_now(PyBytes_AS_STRING(copy))


cdef int open_small(const char *name) except -2:
    """Open the file if that needs no waiting; else -1.

    On the mount of the root it is opened at once.  Another mount may be that of a network, where opening may
    wait, so the path is examined first.
    """
    cdef px_file_facts facts
    cdef int fd = -1
    if root == LOCAL and name[0] == c"/":
        fd = px_open_now(name, O_RDONLY | O_NONBLOCK, PX_RESOLVE_SAME_MOUNT)
    if fd < 0:
        if px_stat_cached(name, &facts) < 0 or facts.kind != c"r" or not is_local(facts.device):
            return -1
        fd = px_open_now(name, O_RDONLY | O_NONBLOCK, PX_RESOLVE_CACHED)
        if fd < 0:
            return -1
    return fd


cdef object read_now(const char *name):
    """The bytes of the file; or the open file of a named pipe; or None if the file has to be waited for."""
    cdef char[TINY] buffer
    cdef px_file_facts facts
    cdef object data = None
    cdef ssize_t count
    cdef int fd = open_small(name)
    if fd < 0:
        return None
    # The kind of file is not known yet.  A pipe has no positions and refuses this; a device may, too.
    count = px_file_read_now(fd, buffer, TINY, 0)
    if 0 < count < TINY and (count % PAGE or px_file_read_now(fd, buffer + count, 1, count) == 0):
        # All of it: where the page cache lacks a page, what it has ends at a page's end.
        data = PyBytes_FromStringAndSize(buffer, count)
    elif count != 0 and px_stat_fd(fd, &facts) == 0:  # 0: empty, or a file of /proc
        if facts.kind == c"p":
            # Its writer has noticed the reader: closing it would break the pipe.
            return RawFile(fd, "r")
        if facts.kind == c"r" and count == TINY and facts.size <= SMALL:
            data = read_rest(fd, buffer, facts.size)
    px_file_close(fd)
    return data


cdef bytes read_rest(int fd, const char *begun, Py_ssize_t size):
    """A file of `size` bytes, the first of which are known; None if the others have to be waited for."""
    cdef bytes data
    if size < TINY:
        return None  # it shrinks at the moment
    data = PyBytes_FromStringAndSize(NULL, size)
    memcpy(PyBytes_AS_STRING(data), begun, TINY)
    if px_file_read_now(fd, PyBytes_AS_STRING(data) + TINY, size - TINY, TINY) != size - TINY:
        return None
    return data


def _read_file(path):
    """The blocking body: read all of the file."""
    with RawFile(path, "r") as file:
        file._state.look_at_file_system()
        data = file.readall()
    if root == UNKNOWN and not PX_BY_HANDLE:
        _look_at_root()
    return data


def _read_pipe(pipe):
    """The blocking body for a named pipe that was opened without waiting for a writer."""
    with pipe:
        os.set_blocking(pipe.fileno(), True)
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        poll.poll()
        return pipe.readall()


def read_small(path):
    """The bytes of a file that need not be waited for; else the second argument of ``read_waiting``.

    Raises:
        OSError, TypeError, ValueError: as of ``open``.
    """
    cdef Access access = access_of(None, None)
    if access.over_budget():
        return False
    return read_at_once(access, path)


cdef object read_at_once(Access access, path):
    cdef object found = read_path(path) if access.port is not None else None
    if type(found) is bytes:
        access.charge(2 * CALLS + len(<bytes>found))
    return found


async def read_waiting(path, found):
    """The bytes of a file for which ``read_small`` has returned `found`."""
    cdef Access access = access_of(None, None)
    if found is False:
        await access.yield_turn()
        found = read_at_once(access, path)
        if type(found) is bytes:
            return found
    if found is None:
        return await in_thread(access, _read_file, path)
    return await in_thread(access, _read_pipe, found)


def _decode(data, encoding, errors, newline):
    return io.TextIOWrapper(io.BytesIO(data), encoding, errors, newline).read()


async def decode(data, encoding, errors, newline):
    """The text that `data` is."""
    if len(data) <= SMALL:
        return _decode(data, encoding, errors, newline)
    return await in_thread(access_of(None, None), _decode, data, encoding, errors, newline)
