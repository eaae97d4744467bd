"""What was read ahead of a raw file, and what is still to be written to it.

The position of the file in the kernel is ahead of the program's by what was read ahead, just as it is with
the buffer of a ``BufferedReader``; ``RawFile.tell`` and ``seek`` take account of that.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memchr
from proactorx.sys.errnos cimport EAGAIN, EINTR, EOPNOTSUPP
from proactorx.sys.file cimport (
    PX_BY_HANDLE, PX_LOCAL, PX_MADE_UP, px_file_close, px_file_facts, px_file_nature, px_file_read_now,
    px_file_second, px_file_seek, px_stat_fd,
)

import io
import os
import sys

if sys.platform == "win32":
    from msvcrt import get_osfhandle

cdef extern from *:
    """
    static const void *px_find(const void *haystack, size_t size, const char *needle, size_t length) {
        const char *p = haystack, *end = p + size;
        while ((size_t)(end - p) >= length) {
            p = memchr(p, needle[0], (size_t)(end - p) - length + 1);
            if (p == NULL) break;
            if (memcmp(p, needle, length) == 0) return p;
            p++;
        }
        return NULL;
    }
    """
    const void *px_find(const void *haystack, size_t size, const char *needle, size_t length) nogil

#: Device number of a file system: whether it is known to be one of this machine's.
cdef dict devices = {}
local_devices = devices
cdef enum:
    ALLOWANCE = 1 << 20      # copied by one operation in the loop's thread, 0.1 ms; the rest is fetched
    WITH_GIL = 1 << 16       # reads of up to so many bytes are over before another thread could have begun
    SEEK_CUR = 1


cdef int nature_of(int fd) except -1:
    """Who answers for a file: PX_LOCAL, PX_REMOTE or PX_MADE_UP; noted for its device.  May wait."""
    cdef px_file_facts facts
    cdef int nature, error
    with nogil:
        nature = px_file_nature(fd)
        error = px_stat_fd(fd, &facts)
    if error == 0:
        devices[facts.device] = nature == PX_LOCAL
    return nature


cdef bint is_known(unsigned long long device) except -1:
    """Whether a file of this file system was looked at."""
    return device in devices


cdef bint is_local(unsigned long long device) except -1:
    """Whether a file system is known to be one of this machine's."""
    return devices.get(device) is True


cdef class RawState:
    """What was read of a file ahead of the stack above, and what that stack has written."""

    def __init__(self, int fd):
        cdef px_file_facts facts
        cdef int error = px_stat_fd(fd, &facts)
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        self.fd = self.io = fd
        self.data = b""
        self.pending = []
        self.kind = facts.kind
        self.buffer = 0

    cdef Py_ssize_t left(self) noexcept:
        return PyBytes_GET_SIZE(self.data) - self.start

    cdef char *bytes_left(self) noexcept:
        return PyBytes_AS_STRING(self.data) + self.start

    cdef bytes take(self, Py_ssize_t n):
        """Take at most `n` bytes; all where `n` is negative."""
        cdef bytes data
        if n < 0 or n >= self.left():
            data = self.data[self.start:] if self.start else self.data
            self.data = b""
            self.start = 0
            return data
        data = PyBytes_FromStringAndSize(self.bytes_left(), n)
        self.start += n
        return data

    cdef int add(self, bytes data) except -1:
        """Append `data`, which was read ahead."""
        self.data = self.take(-1) + data if self.left() else data
        self.start = 0
        return 0

    cdef int unread(self, bytes data) except -1:
        """Put back `data`, which a call has taken that was not completed."""
        self.data = data + self.take(-1)
        self.start = 0
        return 0

    cdef int drop(self) except -1:
        """Move the file back to the position that the stack above has."""
        cdef int64_t n
        if self.left() and self.seekable:
            n = px_file_seek(self.fd, -self.left(), SEEK_CUR)
            if n < 0:
                raise OSError(<int>-n, os.strerror(<int>-n))
            self.data = b""
            self.start = 0
        self.eof = False
        return 0

    cdef Py_ssize_t read_ahead(self, Py_ssize_t n) except -2:
        """Read about `n` bytes more without waiting; 0 at the end of the file, -1 if the read would wait."""
        cdef bytes data
        cdef ssize_t count
        if not self.read_now:
            return -1
        data = PyBytes_FromStringAndSize(NULL, n)
        count = self.now(PyBytes_AS_STRING(data), n)
        if count < 0:
            return -1
        if count == 0:
            self.eof = True
        else:
            self.add(data if count == n else data[:count])
        return count

    cdef ssize_t now(self, char *buffer, Py_ssize_t n) except -2:
        """Read from the page cache; -1 if the read would wait."""
        cdef ssize_t count
        if n <= WITH_GIL:
            count = px_file_read_now(self.fd, buffer, n, -1)
        else:
            with nogil:
                count = px_file_read_now(self.fd, buffer, n, -1)
        if count >= 0:
            return count
        if count == -EOPNOTSUPP:
            self.read_now = False
        elif count != -EAGAIN and count != -EINTR:
            raise OSError(<int>-count, os.strerror(<int>-count))
        return -1

    cdef bint has_line(self, int newline) noexcept:
        """Whether a line of text ends in here.  `newline`: 'n', 'r', 'w' for CR LF, 'u' for any of them.

        A CR at the very end does not count for 'u': whether LF follows, only the next byte tells.
        """
        cdef char *data = self.bytes_left()
        cdef Py_ssize_t size = self.left()
        if newline == c"w":
            return px_find(data, size, "\r\n", 2) != NULL
        if newline != c"r" and memchr(data, c"\n", size) != NULL:
            return True
        if newline == c"r":
            return memchr(data, c"\r", size) != NULL
        return newline == c"u" and size > 1 and memchr(data, c"\r", size - 1) != NULL

    cdef bytes joined(self):
        """The pending bytes, in one piece."""
        if len(self.pending) != 1:
            self.pending = [b"".join(self.pending)]
        return <bytes>self.pending[0]

    cdef int wrote(self, Py_ssize_t n) except -1:
        """The first `n` bytes of ``joined`` are in the file."""
        cdef bytes data
        if n == self.pending_size:
            self.pending.clear()
        elif n:
            data = self.joined()
            self.pending = [data[n:]]
        self.pending_size -= n
        return 0

    cdef int cut(self, Py_ssize_t n) except -1:
        """Forget what is pending behind the first `n` bytes."""
        self.pending = [self.joined()[:n]]
        self.pending_size = n
        return 0

    cdef int begin(self) except -1:
        """The loop's thread calls the stack from now on."""
        self.within = True
        self.starved = False
        self.allowance = ALLOWANCE
        return 0

    cdef bint end(self) noexcept:
        """That call is over; whether it wants bytes that have to be waited for."""
        self.within = self.dry = False
        if self.told:
            self.told = self.eof = False
        return self.starved

    cdef bint by_kernel(self) noexcept:
        """Whether ops on this file are sure to end soon, and may occupy one of the kernel's few threads."""
        return self.native and self.local

    cdef int64_t position(self) except -1:
        """Of the file in the kernel."""
        cdef int64_t n = px_file_seek(self.fd, 0, SEEK_CUR)
        if n < 0:
            raise OSError(<int>-n, os.strerror(<int>-n))
        return n

    cdef int64_t size(self) except -1:
        """The length in bytes.  A file of another machine may have grown since."""
        cdef px_file_facts facts
        cdef int error = px_stat_fd(self.fd, &facts)
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        return facts.size

    cdef int let_go(self) except -1:
        """The file is being closed."""
        if self.io != self.fd:
            px_file_close(self.io)
        self.fd = self.io = -1
        return 0

    def __dealloc__(self):
        self.let_go()

    cdef int check_read(self) except -1:
        if self.fd < 0:
            raise ValueError("I/O operation on closed file")
        if not self.readable:
            raise io.UnsupportedOperation("File not open for reading")
        return 0

    cdef int check_write(self) except -1:
        if self.fd < 0:
            raise ValueError("I/O operation on closed file")
        if not self.writable:
            raise io.UnsupportedOperation("File not open for writing")
        return 0

    def look_at_file_system(self):
        """Find out what kind of file system the file is on.  May wait."""
        cdef int nature = nature_of(self.fd)
        if nature == PX_LOCAL:
            self.trust_file_system()
        else:
            # Not by the kind alone: what the kernel makes up as it is read looks like a regular file.
            self.seekable = self.moves()
            self.placed = self.seekable and nature != PX_MADE_UP and self.on_disk()

    def take_second(self, bint direct):
        """On Windows, open the file again for reads and writes at a position, see file_windows.h.  May wait.

        Raises:
            OSError: with `direct`: it cannot be opened so.
        """
        cdef int second
        if not PX_BY_HANDLE:
            return
        second = px_file_second(self.fd, self.appends, direct)
        if second >= 0:
            self.io = second
        elif direct:
            why = os.strerror(-second)
            raise OSError(-second, f"direct=True: the file cannot be opened for direct access: {why}")
        else:
            self.alone = True

    def trust_file_system(self):
        """The file is on a file system that is known to be local."""
        self.local = True
        self.placed = self.on_disk()
        self.seekable = self.placed or self.moves()
        self.read_now = self.write_now = self.kind == c"r"

    cdef bint on_disk(self) noexcept:
        return self.kind == c"r" or self.kind == c"b"

    cdef bint moves(self) noexcept:
        """Whether it has a position.  Windows may say that a pipe has one."""
        return (self.on_disk() or not PX_BY_HANDLE) and px_file_seek(self.fd, 0, SEEK_CUR) >= 0


cdef int number_of(int fd) except -1:
    """The number by which the kernel knows a descriptor: on Windows, its handle."""
    return get_osfhandle(fd) if PX_BY_HANDLE else fd
