"""``read_bytes`` and ``read_text``: a small file whose names and bytes are in the kernel's caches is read at once.

Six system calls and no thread; anything else is read by one call on an IO thread.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from posix.fcntl cimport O_NONBLOCK, O_RDONLY
from posix.unistd cimport close
from proactorx.files.access cimport Access, access_of

import asyncio
import io
import os

from proactorx.files.handles import in_thread
from proactorx.files import window as _window

cdef extern from "fileio.h":
    ctypedef struct px_file_facts:
        int kind
        int64_t size
        unsigned long long device
    int px_open_now(const char *path, int flags) nogil
    int px_look_now(const char *path, px_file_facts *facts) nogil
    ssize_t px_file_read_now(int fd, char *buffer, size_t size, int64_t offset) nogil

cdef object sleep = asyncio.sleep
cdef object fsencode = os.fsencode
cdef dict local_devices = _window.local_devices
cdef enum:
    SMALL = 1 << 18
    CALLS = 16 << 10  # what opening costs, as copying so many bytes


cdef bytes read_now(path):
    """The bytes of the file, or None where they have to be waited for."""
    cdef px_file_facts facts
    cdef bytes name = fsencode(path)
    cdef bytes data
    cdef ssize_t count
    cdef int fd
    # Of size 0 are also the files of /proc, which are not empty.
    if (b"\0" in name or px_look_now(name, &facts) < 0 or facts.kind != c"r" or not 0 < facts.size <= SMALL
            or not local_devices.get(facts.device)):
        return None
    fd = px_open_now(name, O_RDONLY | O_NONBLOCK)
    if fd < 0:
        return None
    data = PyBytes_FromStringAndSize(NULL, facts.size)
    # At offset 0, and not at the position: of a FIFO that was put there in between that is an error.
    count = px_file_read_now(fd, PyBytes_AS_STRING(data), facts.size, 0)
    close(fd)
    return data if count == facts.size else None


def _read_file(path):
    """The body: all of it."""
    with _window.RawFile(path, "r") as file:
        file._window.look_at_file_system()
        return file.readall()


async def read_bytes(path):
    """All bytes of the file.

    Raises:
        OSError: it cannot be opened or read.
    """
    cdef Access access = access_of(None, None)
    if access.tired():
        await sleep(0)
    cdef bytes data = read_now(path) if access.port is not None else None
    if data is None:
        return await in_thread(access, _read_file, path)
    access.spend(2 * CALLS + len(data))
    return data


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
