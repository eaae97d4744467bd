"""Binary files: buffered ones, which are the ``io`` module's fed from the window, and raw ones."""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from proactorx.files.access cimport Access, FileOp, ONCE, UNTIL_DRY
from proactorx.files.async_file cimport AsyncBase, error_of
from proactorx.files.raw_file cimport Window
from proactorx.sys.errnos cimport EAGAIN, EOPNOTSUPP
from proactorx.ops.op cimport WRITE
from proactorx.sys.file cimport px_file_read_now, px_file_seek, px_file_write_now
from proactorx.sys.socket cimport px_has_bytes

import os

from proactorx.files import coroutines as _coroutines

cdef object next_line = _coroutines.next_line

cdef enum:
    WINDOW = 1 << 16         # read ahead at a time
    INLINE = 1 << 20         # bytes that are copied in the loop's thread
    WITH_GIL = 1 << 16
    LARGEST_CALL = 0x7ffff000  # read(2)
    SEEK_CUR = 1


cdef class AsyncBinary(AsyncBase):
    """What all binary files have."""

    cdef object one_line     # the stack's readline

    def _set_window(self):
        AsyncBase._set_window(self)
        if self.window is not None:
            self.one_line = self.stack.readline

    def readable(self):
        """Whether the file was opened for reading."""
        return self.file().readable()

    # ------------------------------------------------------------------------------------------------- in line

    cdef Py_ssize_t shortage(self, str name, tuple args):
        """How many bytes an attempt that starved still wants."""
        cdef object n = args[0] if args else None
        if name == "readline" or name == "peek":
            return WINDOW
        if name == "readinto":
            return max(memoryview(n).nbytes - self.window.left(), WINDOW)
        if name == "read1":
            return WINDOW if n is None or n < 0 else max(n, 1)
        if n is None or n < 0:
            return max(self._remaining() + 1, WINDOW)
        return max(n - self.window.left(), 1)

    cdef object attempt(self, str name, tuple args):
        """Call the stack; None where it needs bytes that have to be waited for.  It has taken none then."""
        cdef Window window = self.window
        cdef object result
        window.begin()
        try:
            result = getattr(self.stack, name)(*args)
        finally:
            window.end()
        if not window.starved:
            return result
        if name == "readinto":
            if result:
                window.unread(bytes(memoryview(args[0]).cast("B")[:result]))
        elif result and name != "peek":
            window.unread(result)
        return None

    cdef bint is_much(self, str name, tuple args):
        """Whether a page cache that has it all would keep the loop's thread busy."""
        return name == "read" and (not args or args[0] is None or args[0] < 0 or args[0] > INLINE)

    async def _waiting(self, str name, tuple args):
        """The same, in line, with what it takes to have the bytes."""
        cdef Window window = self.window
        if self.held:
            await self._turn()
        self.held = True
        try:
            if window is None:
                return await self._on_thread(name, args, None, True)
            if window.fd < 0 or not window.readable:
                return getattr(self.stack, name)(*args)  # raises
            if self.dirty:
                await self._flush()
            self.prepare(name, args)
            if window.placed and self.is_much(name, args) and not window.eof:
                await self._fetch(self.shortage(name, args))
            elif not window.placed and name == "read" and (not args or args[0] is None or args[0] < 0):
                await self._gather()
            while True:
                result = self.attempt(name, args)
                if not window.starved:
                    return result
                await self._fetch(self.shortage(name, args))
        finally:
            self.leave()

    cdef int prepare(self, str name, tuple args) except -1:
        """Before the first attempt."""
        return 0

    cdef object now(self, str name, tuple args):
        if self.free_now() and not (self.window.placed and self.is_much(name, args)):
            self.prepare(name, args)
            return self.attempt(name, args)
        return None

    async def read(self, *args):
        """At most `size` bytes, or all up to the end: ``read(size=-1)``; b"" at the end."""
        if self.here().tired():
            await self.access.rest()
        result = self.now("read", args)
        if result is None:
            result = await self._waiting("read", args)
        self.access.spend(len(result) if result else 0)
        return result

    async def readinto(self, buffer):
        """Read into `buffer`; how many bytes, 0 at the end."""
        if self.here().tired():
            await self.access.rest()
        args = (buffer,)
        result = self.now("readinto", args)
        if result is None:
            result = await self._waiting("readinto", args)
        self.access.spend(result or 0)
        return result

    readline = _coroutines.readline

    def __anext__(self):
        return next_line(self)

    @cython.binding(False)  # a plain method descriptor: CPython calls it directly
    def _line_now(self, tuple args, bint rested):
        """The line; False: it is others' turn; None: it has to be waited for."""
        if self.here().tired() and not rested:
            return False
        line = self.now("readline", args)
        if line is not None:
            self.access.spend(len(line))
        return line

    async def _line(self, tuple args):
        line = await self._waiting("readline", args)
        self.access.spend(len(line) if line else 0)
        return line

    # ----------------------------------------------------------------------------------------- at a position

    async def _ready_for(self, bint writing):
        """What the buffers of this object hold goes to the file first."""
        cdef Window window = self.window
        self.here()
        if window is None:
            if writing or self.file().writable():
                await self.flush()
        elif self.dirty:
            await self.flush()

    cdef FileOp new_read_at(self, int64_t offset):
        """A READ that goes on until it has all, or there is no more."""
        cdef FileOp op = self.new_read(offset)
        if op.until == ONCE:
            op.until = UNTIL_DRY
        return op

    pread = _coroutines.pread

    @cython.binding(False)  # a plain method descriptor: CPython calls it directly
    def _pread_now(self, Py_ssize_t n, int64_t offset, int ready):
        """``pread`` of what the page cache has; or the op that brings it, which has begun.

        Args:
            n: how many bytes.
            offset: where.
            ready: 1: others have had their turn (else False: it is theirs); 2: and what was written to this object has
                gone to the file (else None: it has to).
        """
        cdef bytes data
        cdef FileOp op
        cdef Py_ssize_t got = 0
        cdef ssize_t count = -1
        cdef Window window = self.window
        cdef Access access = self.here()
        if ready == 0 and access.tired():
            return False
        if n < 0 or offset < 0:
            raise ValueError("a size or an offset cannot be negative")
        if ready < 2 and (window is None or self.dirty):
            return None
        if window is not None:
            window.check_read()
        data = PyBytes_FromStringAndSize(NULL, n)
        if window is not None:
            got = read_now(window, PyBytes_AS_STRING(data), n, offset, &count)
        if got == n or count == 0:
            access.spend(got)
            return data if got == n else data[:got]
        op = self.new_read_at(offset + got)
        if window is not None and window.direct:
            op.make_aligned(n)
        else:
            op.view = data
            op.own = True
            op.memory = PyBytes_AS_STRING(data)
            op.size = n
            op.offset = got
        self.begin(op)
        return op

    def _pread_end(self, FileOp op, Py_ssize_t n):
        """What it has brought."""
        self.landed()
        if op.error and not op.offset:
            raise error_of(op, self.window)
        self.access.spend(op.offset)
        return op.taken()[:n] if self.window is not None and self.window.direct else op.taken()

    def pread_into(self, buffer, int64_t offset):
        """Fill `buffer` with the bytes at `offset`; how many there were, fewer only at the end of the file: pread(2).

        `buffer` is locked until it is filled, also when the caller is cancelled.
        """
        return self.preadv((buffer,), offset)

    async def preadv(self, buffers, int64_t offset):
        """Fill one buffer after the other with the bytes at `offset`; how many there were: preadv(2)."""
        cdef FileOp op
        cdef Py_ssize_t total = 0, got
        cdef ssize_t count
        cdef Window window = self.window
        cdef Access access = self.here()
        if access.tired():
            await access.rest()
        if offset < 0:
            raise ValueError("an offset cannot be negative")
        if self.dirty or window is None:
            await self._ready_for(False)
        for buffer in buffers:
            op = self.new_read_at(offset + total)
            op.set_buffer(buffer, True)
            count = -1
            got = 0
            if window is not None:
                window.check_read()
                got = read_now(window, op.memory, op.size, op.position, &count)
            if got < op.size and count != 0:
                op.offset = got
                op.position += got
                await self._moved(op)
                if op.error and not total and not op.offset:
                    raise error_of(op, self.window)
                got = op.offset
            total += got
            if got < op.size:
                break
        access.spend(total)
        return total

    async def _moved(self, FileOp op):
        """Execute a read at a position.  A cancelled one is as if it had never been."""
        self.begin(op)
        try:
            await op.future
        except BaseException:
            self._left(op)
            raise
        self.landed()

    cdef int begin(self, FileOp op) except -1:
        self.flying += 1
        try:
            self.access.start(op, self.window is not None and self.window.by_kernel())
        except BaseException:
            self.landed()
            raise
        return 0

    def _left(self, FileOp op):
        """Nobody waits for it any more."""
        op.leave()
        if op.ended:
            self.landed()
        else:
            op.then = self._op_landed

    def pwrite(self, data, int64_t offset):
        """Write all of `data` at `offset`; how many bytes that were: pwrite(2).

        The position of the file stays where it is, and the operations in line are not waited for.  In append mode Linux
        writes at the end, whatever `offset` says.  Cancelled: ``characters_written`` of the exception says how many
        bytes are in the file.

        Raises:
            OSError: nothing could be written; where something could, its count is returned, as of write(2).
        """
        return self.pwritev((data,), offset)

    async def pwritev(self, buffers, int64_t offset):
        """Write one buffer after the other at `offset`; as ``pwrite``: pwritev(2)."""
        cdef FileOp op
        cdef Py_ssize_t total = 0
        cdef Window window = self.window
        cdef Access access = self.here()
        if access.tired():
            await access.rest()
        if offset < 0:
            raise ValueError("an offset cannot be negative")
        if self.dirty or window is None:
            await self._ready_for(True)
        for buffer in buffers:
            op = access.new_op(WRITE, -1, offset + total)
            op.set_buffer(buffer, False)
            if window is not None:
                window.check_write()
            op.fd = self.descriptor()
            if window is not None and window.direct:
                op.align()
            write_now(window, op)
            self.unsynced = True
            if op.offset < op.size:
                try:
                    await self._whole(op, False)
                except BaseException as exc:
                    exc.characters_written = total + op.offset
                    raise
            total += op.offset
            if op.error:
                if total:
                    break
                raise error_of(op, self.window)
        access.spend(total)
        return total


cdef Py_ssize_t read_now(Window window, char *buffer, Py_ssize_t n, int64_t offset, ssize_t *last) except -1:
    """What the page cache has of `n` bytes at `offset`; `last` is 0 when the end of the file was seen."""
    cdef Py_ssize_t got = 0
    cdef ssize_t count = -1
    last[0] = -1
    if not window.read_now or n > INLINE:
        return 0
    while got < n:
        if n <= WITH_GIL:
            count = px_file_read_now(window.fd, buffer + got, n - got, offset + got)
        else:
            with nogil:
                count = px_file_read_now(window.fd, buffer + got, n - got, offset + got)
        if count <= 0:
            break
        got += count
    last[0] = count
    if count == -EOPNOTSUPP:
        window.read_now = False
    return got


cdef bint fill_now(Window window, FileOp op) except -1:
    """Have `op` read what the page cache has at the file's position; whether that is all that there is."""
    cdef Py_ssize_t left
    cdef ssize_t count
    while op.offset < op.size:
        if not window.read_now or op.offset >= INLINE:
            return False
        left = min(op.size - op.offset, <Py_ssize_t>INLINE)
        if left <= WITH_GIL:
            count = px_file_read_now(window.fd, op.memory + op.offset, left, -1)
        else:
            with nogil:
                count = px_file_read_now(window.fd, op.memory + op.offset, left, -1)
        if count <= 0:
            if count == -EOPNOTSUPP:
                window.read_now = False
            return count == 0
        op.offset += count
    return True


cdef Py_ssize_t _size(str name, tuple args) except -1:
    return args[0] if name == "read" else memoryview(args[0]).nbytes


cdef int write_now(Window window, FileOp op) except -1:
    """Write what can be written without waiting."""
    cdef ssize_t n
    while window is not None and window.write_now and op.offset < op.size and op.offset < INLINE:
        n = px_file_write_now(op.fd, op.memory + op.offset, min(op.size - op.offset, INLINE), op.position)
        if n == -EOPNOTSUPP:
            window.write_now = False
        if n <= 0:
            break  # what is wrong, the op will say
        op.offset += n
        if op.position >= 0:
            op.position += n
    return 0


cdef class AsyncBufferedIOBase(AsyncBinary):
    """The asynchronous ``io.BufferedWriter``, or another ``io.BufferedIOBase``."""

    async def read1(self, *args):
        """At most `size` bytes, with at most one read of the file: ``read1(size=-1)``; b"" at the end."""
        result = self.now("read1", args)
        if result is None:
            result = await self._waiting("read1", args)
        return result

    def detach(self):
        """Separate the raw file of the ``io`` module's from this object, and return it."""
        raw = self.file().detach()
        self.window = None
        return raw

    @property
    def raw(self):
        """The raw file of the ``io`` module's; its methods block."""
        return self.file().raw


cdef class AsyncBufferedReader(AsyncBufferedIOBase):
    """The asynchronous ``io.BufferedReader`` or ``io.BufferedRandom``."""

    async def peek(self, *args):
        """Bytes that the next read will bring, without moving: ``peek(size=0)``; b"" at the end."""
        result = self.now("peek", args)
        if result is None:
            result = await self._waiting("peek", args)
        return result


cdef class AsyncFileIO(AsyncBinary):
    """The asynchronous ``io.FileIO``: no buffer, each ``write`` goes to the file."""

    cdef int prepare(self, str name, tuple args) except -1:
        # One read brings what one read(2) would, also where a line before it was read with what is behind.
        cdef Window window = self.window
        if window.seekable and window.left() and window.fd >= 0 and args and args[0] is not None:
            if (name == "read" or name == "readinto") and _size(name, args) > window.left():
                window.drop()
        return 0

    cdef Py_ssize_t shortage(self, str name, tuple args):
        if name == "readinto" or (name == "read" and args and args[0] is not None and args[0] >= 0):
            # What is read ahead of a pipe is lost to others that have its descriptor.
            return max(_size(name, args) - self.window.left(), 1)
        return AsyncBinary.shortage(self, name, args)

    # Of a plain file as many bytes as there are come straight into the caller's memory: one read(2) would bring them.

    async def _straight(self, str name, tuple args):
        cdef Window window
        cdef FileOp op
        if self.here().tired():
            await self.access.rest()
        window = self.window
        if window is None or window.direct or window.fd < 0 or not (window.local and window.placed and window.readable):
            if window is not None and window.fd >= 0 and 0 < window.left() < _size(name, args):
                await self._more(_size(name, args))
            return await (AsyncBinary.read(self, *args) if name == "read" else AsyncBinary.readinto(self, *args))
        if self.held:
            await self._turn()
        self.held = True
        try:
            window.check_read()
            if _size(name, args) <= window.left():
                return self.attempt(name, args)
            window.drop()
            op = self.new_read(-1)
            if name == "readinto":
                op.set_buffer(args[0], True)
            else:
                op.size = args[0]
                op.make_buffer()
            if not fill_now(window, op):
                await self._fill(op)
        finally:
            self.leave()
        self.access.spend(op.offset)
        if name == "read":
            return op.taken()
        if not op.ended:
            op.finish()  # the buffer is the caller's again
        return op.offset

    async def _more(self, Py_ssize_t size):
        """Behind what was read ahead of a pipe, for a line: as much as one read(2) would bring now."""
        cdef Window window = self.window
        if self.held:
            await self._turn()
        self.held = True
        try:
            if window.fd >= 0 and 0 < window.left() < size and not window.seekable and px_has_bytes(window.fd):
                await self._fetch(size - window.left())
        finally:
            self.leave()

    async def _fill(self, FileOp op):
        """Have fetched what the page cache lacks."""
        cdef Window window = self.window
        cdef Py_ssize_t begun = op.offset
        try:
            op.position = window.position()
            await self._moved(op)
        except BaseException:
            px_file_seek(window.fd, -begun, SEEK_CUR)  # as if it had never been
            raise
        if op.error and not op.offset:
            raise error_of(op, window)
        px_file_seek(window.fd, op.offset - begun, SEEK_CUR)

    read = _coroutines.raw_read
    readinto = _coroutines.raw_readinto

    @cython.binding(False)  # a plain method descriptor: CPython calls it directly
    def _raw_now(self, str name, tuple args, bint rested):
        """The result, of what the page cache has; False: it is others' turn; None: it has to be waited for."""
        cdef Py_buffer view
        cdef Py_ssize_t size
        cdef bytes data
        cdef Window window = self.window
        if self.here().tired() and not rested:
            return False
        if not (window is not None and window.read_now and window.readable and window.placed) or self.held:
            return None
        if name == "readinto":
            PyObject_GetBuffer(args[0], &view, PyBUF_WRITABLE)
            try:
                size = self.taken(<char *>view.buf, view.len)
            finally:
                PyBuffer_Release(&view)
            return size if size >= 0 else None
        if len(args) != 1 or type(args[0]) is not int or not 0 <= args[0] <= INLINE:
            return None
        data = PyBytes_FromStringAndSize(NULL, args[0])
        size = self.taken(PyBytes_AS_STRING(data), args[0])
        return None if size < 0 else data if size == args[0] else data[:size]

    cdef Py_ssize_t taken(self, char *buffer, Py_ssize_t n) except -2:
        """How many bytes were there, up to the end; -1: not at once, and the position is where it was."""
        cdef Window window = self.window
        cdef Py_ssize_t got = 0
        cdef ssize_t count = -1
        if window.fd < 0 or window.left() or n > INLINE:
            return -1
        window.eof = False
        while got < n:
            if n - got <= WITH_GIL:
                count = px_file_read_now(window.fd, buffer + got, n - got, -1)
            else:
                with nogil:
                    count = px_file_read_now(window.fd, buffer + got, n - got, -1)
            if count <= 0:
                break
            got += count
        if got < n and count != 0:
            if count == -EOPNOTSUPP:
                window.read_now = False
            if got:
                px_file_seek(window.fd, -got, SEEK_CUR)
            return -1
        self.access.spend(got)
        return got

    async def _raw(self, str name, tuple args):
        if name == "readinto" or (len(args) == 1 and type(args[0]) is int and 0 <= args[0] <= LARGEST_CALL):
            return await self._straight(name, args)
        return await AsyncBinary.read(self, *args)

    async def readall(self):
        """All bytes up to the end."""
        return await self.read()

    async def write(self, data):
        """Write `data`; how many bytes of it are in the file.

        All, unless an error came after some of them: the next ``write`` will raise it.  Cancelled:
        ``characters_written`` of the exception says how many bytes are in the file.

        Raises:
            OSError: nothing could be written.
        """
        cdef FileOp op
        cdef Window window
        cdef Access access = self.here()
        if access.tired():
            await access.rest()
        if self.held:
            await self._turn()
        self.held = True
        try:
            window = self.window
            if window is None:
                return await self._on_thread("write", (data,))
            window.check_write()
            window.drop()
            op = self.new_write()
            op.set_buffer(data, False)
            if window.direct:
                op.align()
            write_now(window, op)
            self.unsynced = True
            if op.offset < op.size:
                await self._whole(op)
            else:
                op.finish()
        finally:
            self.leave()
        if op.error and not op.offset:
            if op.error == EAGAIN:
                return None  # as io.FileIO: it does not wait, and has no room now
            raise error_of(op, self.window)
        access.spend(op.offset)
        return op.offset

    async def writelines(self, lines):
        """Write each of `lines`, all of it.

        Raises:
            OSError: not all could be written.
        """
        for line in lines:
            view = memoryview(line).cast("B")
            while view.nbytes:
                n = await self.write(view)
                if n is None:
                    raise BlockingIOError(EAGAIN, os.strerror(EAGAIN), 0)
                view = view[n:]


cdef class AsyncIndirectBufferedIOBase(AsyncBufferedIOBase):
    """One that looks for its file each time, as ``sys.stdout`` may be replaced.

    Args:
        name: of what it stands for.
        loop: as of the others.
        executor: as of the others.
        indirect: finds the file.
    """

    def __init__(self, name, loop, executor, indirect):
        self.indirect = indirect
        AsyncBufferedIOBase.__init__(self, None, loop, executor)


cdef class AsyncIndirectBufferedReader(AsyncBufferedReader):
    """The same of an ``io.BufferedReader`` or ``io.BufferedRandom``."""

    def __init__(self, name, loop, executor, indirect):
        self.indirect = indirect
        AsyncBufferedReader.__init__(self, None, loop, executor)


cdef class AsyncIndirectFileIO(AsyncFileIO):
    """The same of an ``io.FileIO``."""

    def __init__(self, name, loop, executor, indirect):
        self.indirect = indirect
        AsyncFileIO.__init__(self, None, loop, executor)
