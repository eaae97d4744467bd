"""``read_bytes`` and ``read_text``: a small file whose names and bytes are in the kernel's caches is read at once.

That takes four system calls and no thread; anything else is read by one call on an IO thread.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t
from proactorx.files.access cimport Access, access_of

import io
import os
import select

from proactorx.files.handles import in_thread
from proactorx.files import window as _window

cdef extern from "fileio.h":
    ctypedef struct px_file_facts:
        int kind
        int64_t size
        unsigned long long device
    int px_open_now(const char *path, int flags, int resolve) nogil
    int px_look_now(const char *path, px_file_facts *facts) nogil
    int px_file_look(int fd, px_file_facts *facts) nogil
    int px_file_is_remote(int fd) nogil
    ssize_t px_file_read_now(int fd, char *buffer, size_t size, int64_t offset) nogil
    int px_file_close(int fd) nogil
    enum: PX_BY_HANDLE, PX_RESOLVE_CACHED, PX_RESOLVE_SAME_MOUNT, O_NONBLOCK, O_RDONLY

cdef extern from "Python.h":
    int PyUnicode_FSConverter(object path, PyObject **result) except 0

cdef object RawFile = _window.RawFile
cdef dict local_devices = _window.local_devices
cdef enum:
    SMALL = 1 << 18
    CALLS = 16 << 10  # what opening costs, as copying so many bytes

cdef enum Root:
    UNKNOWN
    LOCAL    # no other machine or process answers for the files of the mount at "/"
    REMOTE

cdef Root root = UNKNOWN


cdef bytes encoded(path):
    cdef PyObject *name = NULL
    PyUnicode_FSConverter(path, &name)
    result = <bytes>name
    Py_DECREF(result)
    return result


cdef int open_small(bytes name, px_file_facts *facts) except -2:
    """Open the file if that needs no waiting; else -1.

    On the mount of the root it is opened first, and looked at then.  On another one, which may be that of a network,
    opening might wait: it is looked at first.
    """
    cdef int fd = -1
    if root == LOCAL and PyBytes_AS_STRING(name)[0] == c"/":
        fd = px_open_now(name, O_RDONLY | O_NONBLOCK, PX_RESOLVE_SAME_MOUNT)
    if fd < 0:
        if px_look_now(name, facts) < 0 or facts.kind != c"r" or not local_devices.get(facts.device):
            return -1
        fd = px_open_now(name, O_RDONLY | O_NONBLOCK, PX_RESOLVE_CACHED)
        if fd < 0:
            return -1
    if px_file_look(fd, facts) < 0:
        px_file_close(fd)
        return -1
    return fd


cdef object read_now(bytes name):
    """The bytes of the file; or a named pipe, which is open now; or None where the file has to be waited for."""
    cdef px_file_facts facts
    cdef bytes data = None
    cdef ssize_t count = -1
    cdef int fd = open_small(name, &facts)
    if fd < 0:
        return None
    if facts.kind == c"p":
        # Its writer has noticed: closing it would break the pipe.
        return RawFile(fd, "r")
    # Of size 0 are also the files of /proc, which are not empty.
    if facts.kind == c"r" and 0 < facts.size <= SMALL:
        data = PyBytes_FromStringAndSize(NULL, facts.size)
        count = px_file_read_now(fd, PyBytes_AS_STRING(data), facts.size, 0)
    px_file_close(fd)
    return data if count == facts.size else None


def _read_file(path):
    """The body: all of it."""
    with RawFile(path, "r") as file:
        file._window.look_at_file_system()
        data = file.readall()
    if root == UNKNOWN and not PX_BY_HANDLE:
        _look_at_root()
    return data


def _look_at_root():
    global root
    try:
        fd = os.open(b"/", getattr(os, "O_PATH", os.O_RDONLY))
    except OSError:
        return  # there is no descriptor left, say: another time
    root = REMOTE if px_file_is_remote(fd) else LOCAL
    os.close(fd)


def _read_pipe(pipe):
    """The body for a named pipe that was opened without waiting for a writer."""
    with pipe:
        os.set_blocking(pipe.fileno(), True)
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        poll.poll()
        return pipe.readall()


async def read_bytes(path):
    """All bytes of the file.

    Raises:
        OSError: it cannot be opened or read.
    """
    cdef Access access = access_of(None, None)
    cdef object found = None
    if access.tired():
        await access.rest()
    if access.port is not None:
        found = read_now(encoded(path))
    if type(found) is bytes:
        access.spend(2 * CALLS + len(<bytes>found))
        return found
    return await (in_thread(access, _read_file, path) if found is None else in_thread(access, _read_pipe, found))


def _decode(data, encoding, errors, newline):
    return io.TextIOWrapper(io.BytesIO(data), encoding, errors, newline).read()


async def read_text(path, encoding=None, errors=None, newline=None):
    """All text of the file; the arguments are those of the built-in ``open``.

    Raises:
        OSError: it cannot be opened or read.
        UnicodeDecodeError: it holds something else.
    """
    encoding = io.text_encoding(encoding)
    data = await read_bytes(path)
    if len(data) <= SMALL:
        return _decode(data, encoding, errors, newline)
    return await in_thread(access_of(None, None), _decode, data, encoding, errors, newline)
