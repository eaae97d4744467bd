"""The file at the bottom of a stack of ``io`` objects, and the bytes that were read ahead for it.

The stack above (``BufferedReader``, ``TextIOWrapper`` and so on) is the standard library's.  It calls ``RawFile`` as it
would call ``io.FileIO``, and in one of two ways:

* Within an operation of the loop's thread (``Window.within``) nothing may wait.  Reads are served from the window, or
  from the page cache where the kernel says that it has the bytes; else they answer None, as the ``io`` module has it
  for files that do not block, and the operation fetches the bytes and goes on.  Writes go to ``Window.pending``, from
  where the operation moves them.
* Called by anybody else, it blocks, as ``io.FileIO`` does.

The position of the file in the kernel is behind what the window holds, just as it is behind the buffer of a
``BufferedReader``; ``tell`` and ``seek`` know.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.string cimport memchr, memcpy
from proactorx.files.access cimport Access, FileOp
from proactorx.sys.errnos cimport EAGAIN, EINTR, ENOENT, EOPNOTSUPP
from proactorx.ops.op cimport OPEN
from proactorx.sys.file cimport (
    O_CLOEXEC, O_NONBLOCK, O_RDONLY, PX_BY_HANDLE, PX_LOCAL, PX_MADE_UP, PX_RESOLVE_CACHED, px_file_close,
    px_file_facts, px_file_nature, px_file_read_now, px_file_second, px_file_seek, px_file_set_flags, px_open_now,
    px_stat_cached, px_stat_fd,
)

import errno
import io
import os
import sys

if sys.platform == "win32":
    from msvcrt import get_osfhandle

cdef extern from *:
    """
    static const void *px_find(const void *haystack, size_t size, const char *needle, size_t length) {
        const char *p = haystack, *end = p + size;
        while ((size_t)(end - p) >= length && (p = memchr(p, needle[0], (size_t)(end - p) - length + 1)) != NULL) {
            if (memcmp(p, needle, length) == 0) return p;
            p++;
        }
        return NULL;
    }
    """
    const void *px_find(const void *haystack, size_t size, const char *needle, size_t length) nogil

cdef object FileIO = io.FileIO
#: Device number of a file system: whether it is one of this machine's, as far as somebody has looked.
local_devices = {}
# A named pipe without a reader; a lease of another process's, fcntl(2); a loop that is being closed.
cdef tuple NOT_BY_OP = (errno.ENXIO, errno.EAGAIN, errno.ECANCELED)
cdef enum:
    OPENING = 64 << 10       # what it costs, with the objects that are made for it, as copying so many bytes
    ALLOWANCE = 1 << 20      # copied by one operation in the loop's thread, 0.1 ms; the rest is fetched
    WITH_GIL = 1 << 16       # reads of up to so many bytes are over before another thread could have begun
    SEEK_SET = 0
    SEEK_CUR = 1


cdef class Window:
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
        """At most `n` bytes of it; all where `n` is negative."""
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
        """`data` was read behind what is here."""
        self.data = self.take(-1) + data if self.left() else data
        self.start = 0
        return 0

    cdef int unread(self, bytes data) except -1:
        """`data` was taken by a caller that has been cancelled."""
        self.data = data + self.take(-1)
        self.start = 0
        return 0

    cdef int drop(self) except -1:
        """Put the position of the file where the stack above has it."""
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
        """Read about `n` bytes more if that needs no waiting: how many, 0 at the end, -1: it has to be waited for."""
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
        """Read from the page cache; -1: it has to be waited for."""
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
        """What is pending, as one."""
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
        """Whether an op may keep one of the kernel's few threads: it is sure to end soon."""
        return self.native and self.local

    cdef int64_t position(self) except -1:
        """Of the file in the kernel."""
        cdef int64_t n = px_file_seek(self.fd, 0, SEEK_CUR)
        if n < 0:
            raise OSError(<int>-n, os.strerror(<int>-n))
        return n

    cdef int64_t size(self) except -1:
        """About how long the file is: of one that another machine has, it may be longer by now."""
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
        """Find out what answers for this file; may itself wait."""
        cdef px_file_facts facts
        cdef int nature
        with nogil:
            nature = px_file_nature(self.fd)
        if px_stat_fd(self.fd, &facts) == 0:
            local_devices[facts.device] = nature == PX_LOCAL
        if nature == PX_LOCAL:
            self.trust_file_system()
        else:
            # Not by the kind alone: what the kernel makes up as it is read looks like a regular file.
            self.seekable = self.moves()
            self.placed = self.seekable and nature != PX_MADE_UP and self.on_disk()

    def take_second(self, bint direct):
        """Windows: open the file once more, for bytes at a position (see file_windows.h).  Nothing elsewhere; may wait.

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
            raise OSError(-second, f"direct=True: the file cannot be opened for direct access: {os.strerror(-second)}")
        else:
            self.alone = True

    def trust_file_system(self):
        """`local_devices` has said that the file is local."""
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
    """What the kernel calls a descriptor of Python's."""
    return get_osfhandle(fd) if PX_BY_HANDLE else fd


class RawFile(io.FileIO):
    """An ``io.FileIO`` that never waits while an operation of the loop's thread runs."""

    _window = None

    def __init__(self, file, mode="r", closefd=True, opener=None):
        cdef Window window
        FileIO.__init__(self, file, mode, closefd, opener)
        try:
            self._window = window = Window(number_of(FileIO.fileno(self)))
        except BaseException:
            FileIO.close(self)  # not by the finalizer, which would call a close() that needs the window
            raise
        window.readable = FileIO.readable(self)
        window.writable = FileIO.writable(self)
        window.appends = "a" in mode

    def readinto(self, buffer, /):
        """``io.FileIO.readinto``: read(2) into `buffer`."""
        cdef Window window = self._window
        cdef Py_buffer view
        cdef Py_ssize_t n
        window.check_read()
        if not window.within and not window.left():
            window.eof = False
            return FileIO.readinto(self, buffer)
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            n = min(window.left(), view.len)
            if n:
                memcpy(view.buf, window.bytes_left(), n)
                window.start += n
                return n
            if window.eof or not view.len:
                window.told = window.eof
                return 0
            if window.dry:
                return None
            if window.strict:
                raise RuntimeError("the text layer asked for more bytes than were fetched for it")
            n = -1
            if window.read_now and window.allowance > 0:
                n = window.now(<char *>view.buf, min(view.len, window.allowance))
            if n < 0:
                window.starved = True
                return None
            window.allowance -= n
            return n
        finally:
            PyBuffer_Release(&view)

    def read(self, size=-1, /):
        """``io.FileIO.read``: read(2)."""
        cdef Window window = self._window
        cdef Py_ssize_t n = -1 if size is None else size
        cdef bytearray buffer
        if n < 0:
            return self.readall()
        window.check_read()
        if not window.within and not window.left():
            window.eof = False
            return FileIO.read(self, n)
        if window.left():
            return window.take(n)
        buffer = bytearray(n)
        found = self.readinto(buffer)
        return None if found is None else bytes(buffer[:found])

    def readline(self, size=-1, /):
        """``io.IOBase.readline``: one line."""
        cdef Window window = self._window
        cdef Py_ssize_t limit = -1 if size is None else size
        cdef const void *found
        if limit == 0 or not (window.within or window.seekable):
            return FileIO.readline(self, limit)
        window.check_read()
        while True:
            found = memchr(window.bytes_left(), c"\n", window.left())
            if found != NULL:
                size = <const char *>found - window.bytes_left() + 1
                return window.take(min(size, limit) if limit >= 0 else size)
            if 0 <= limit <= window.left() or window.eof:
                window.told = window.eof and (limit < 0 or limit > window.left())
                if window.told and not window.within:
                    window.told = window.eof = False
                return window.take(limit)
            if window.dry:
                return window.take(-1)  # as a BufferedReader does
            if not window.within:
                # Not byte by byte, as io.IOBase does it: the position is ours to put back.
                data = FileIO.read(self, WITH_GIL)
                window.add(data)
                window.eof = not data
            elif window.allowance <= 0 or window.read_ahead(WITH_GIL) < 0:
                window.starved = True
                return None
            window.allowance -= WITH_GIL

    def readall(self):
        """``io.FileIO.readall``: all bytes up to the end."""
        cdef Window window = self._window
        cdef list parts
        cdef Py_ssize_t n
        window.check_read()
        if not window.within:
            window.eof = False
            return window.take(-1) + FileIO.readall(self) if window.left() else FileIO.readall(self)
        parts = []
        while True:
            if window.left():
                parts.append(window.take(-1))
            if window.eof:
                window.told = True
                break
            if window.dry:
                break
            if window.strict:
                raise RuntimeError("the text layer asked for more bytes than were fetched for it")
            n = window.read_ahead(min(window.allowance, <Py_ssize_t>WITH_GIL)) if window.allowance > 0 else -1
            if n < 0:
                window.starved = True
                break
            window.allowance -= n
        if (window.starved or window.dry) and not parts:
            return None
        return <bytes>parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, data, /):
        """``io.FileIO.write``: write(2)."""
        cdef Window window = self._window
        cdef bytes copy
        window.check_write()
        window.drop()
        if not window.within:
            self._move_pending()
            return FileIO.write(self, data)
        copy = bytes(data)
        if copy:
            window.pending.append(copy)
            window.pending_size += len(copy)
        return len(copy)

    def _move_pending(self):
        cdef Window window = self._window
        while window.pending_size:
            window.wrote(FileIO.write(self, window.joined()))

    def seek(self, offset, whence=SEEK_SET, /):
        """``io.FileIO.seek``: lseek(2)."""
        cdef Window window = self._window
        cdef object target
        if not window.within:
            self._move_pending()
        if window.left() or window.eof:
            # A BufferedRandom moves by 0 before each read: the end must not be forgotten by that.
            if whence == SEEK_CUR:
                target = offset
            elif whence == SEEK_SET:
                target = offset - FileIO.tell(self) + window.left()
            else:
                target = -1
            if 0 <= target <= window.left():
                window.start += target
                return FileIO.tell(self) - window.left()
        window.drop()
        target = FileIO.seek(self, offset, whence)
        window.take(-1)  # what cannot be put back has been left behind
        return target

    def tell(self):
        """``io.FileIO.tell``: the position of the next read or write."""
        cdef Window window = self._window
        return FileIO.tell(self) - window.left() + window.pending_size

    def truncate(self, size=None, /):
        """``io.FileIO.truncate``: ftruncate(2)."""
        cdef Window window = self._window
        if size is None:
            size = self.tell()
        self._move_pending()
        window.drop()
        return FileIO.truncate(self, size)

    def close(self):
        """``io.FileIO.close``: close(2); what is still to be written is written first."""
        try:
            if not self.closed and (<Window>self._window).pending_size:
                self._move_pending()
        finally:
            if self._window is not None:
                (<Window>self._window).let_go()
            FileIO.close(self)


cdef bytes kernel_name(Access access, path):
    """`path` for the kernel; None where a thread must do what is to be done, whose own error is the better one."""
    if access.port is None or access.executor is not None:
        return None
    try:
        name = os.fsencode(path)
    except TypeError:
        return None
    return None if b"\0" in name else name


async def open_now(Access access not None, path):
    """Open a regular file for reading if that needs no waiting; else -1, and nothing has been opened.

    That is so when the names on the way are in the kernel's cache, and the file system is known to be local.  It is
    looked at first and opened then: opening something else, a FIFO say, may wait, or may be noticed by others.

    Raises:
        OSError: the file cannot be opened.
    """
    cdef px_file_facts facts
    cdef bytes name = kernel_name(access, path)
    cdef int fd
    if name is None:
        return -1
    if access.tired():
        await access.rest()
    if px_stat_cached(name, &facts) < 0 or facts.kind != c"r" or not local_devices.get(facts.device):
        return -1
    # O_NONBLOCK: another process may hold a lease, fcntl(2).
    fd = px_open_now(name, O_RDONLY | O_NONBLOCK, PX_RESOLVE_CACHED)
    if fd < 0:
        return -1
    if px_stat_fd(fd, &facts) < 0 or facts.kind != c"r" or px_file_set_flags(fd, O_RDONLY) < 0:
        px_file_close(fd)  # somebody has put something else there in between
        return -1
    access.spend(OPENING)
    return fd


cdef bint may_open_by_op(bytes name) except -1:
    """Whether `name`, or the folder of one that is not there or not in the kernel's cache, is local and no device."""
    cdef px_file_facts facts
    cdef int error = px_stat_cached(name, &facts)
    cdef bytes folder
    if error == -EAGAIN or error == -ENOENT:
        folder = os.path.dirname(name) or b"."
        error = px_stat_cached(folder, &facts)
    elif error >= 0 and facts.kind != c"r":
        return False
    return error >= 0 and bool(local_devices.get(facts.device))


async def open_by_op(Access access not None, path, int flags):
    """Open a file for writing by an op; -1, and nothing was opened, where that will not do.

    The kernel's few threads must not be kept: by a server of files, or a named pipe that waits for its other end.
    Where the driver has no such op, its body asks less of the interpreter's lock than opening all of it on a thread.

    Raises:
        OSError: the file cannot be opened.
    """
    cdef FileOp op
    cdef bytes name = kernel_name(access, path)
    cdef int fd
    if name is None or not may_open_by_op(name):
        return -1
    op = access.start_by_path(OPEN, name, flags | O_CLOEXEC | O_NONBLOCK)
    try:
        await op.future
    except BaseException:
        op.leave()
        raise
    if op.error in NOT_BY_OP:
        return -1
    if op.error:
        raise OSError(op.error, os.strerror(op.error), path)
    fd, op.opened = op.opened, -1
    px_file_set_flags(fd, flags)
    return fd
