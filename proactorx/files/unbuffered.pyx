"""Raw files: each read and write goes to the file."""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from proactorx.files.access cimport Access, FileOp
from proactorx.files.binary cimport AsyncBinary
from proactorx.files.positional cimport write_now
from proactorx.files.raw_state cimport RawState
from proactorx.files.transfer cimport error_of
from proactorx.sys.errnos cimport EAGAIN, EOPNOTSUPP
from proactorx.sys.file cimport px_file_read_now, px_file_seek
from proactorx.sys.socket cimport px_has_bytes

import os

from proactorx.files import coroutines as _coroutines

cdef enum:
    INLINE = 1 << 20         # bytes that are copied in the loop's thread
    WITH_GIL = 1 << 16       # reads of up to so many bytes are over before another thread could have begun
    LARGEST_CALL = 0x7ffff000  # read(2)
    SEEK_CUR = 1


cdef class AsyncFileIO(AsyncBinary):
    """The asynchronous ``io.FileIO``: no buffer, each ``write`` goes to the file."""

    cdef int prepare(self, str name, tuple args) except -1:
        # One read brings what one read(2) would, also where a line before it was read with what is behind.
        cdef RawState state = self.state
        if state.seekable and state.left() and state.fd >= 0 and args and args[0] is not None:
            if (name == "read" or name == "readinto") and _size(name, args) > state.left():
                state.drop()
        return 0

    cdef Py_ssize_t shortage(self, str name, tuple args):
        if name == "readinto" or (name == "read" and args and args[0] is not None and args[0] >= 0):
            # What is read ahead of a pipe is lost to others that have its descriptor.
            return max(_size(name, args) - self.state.left(), 1)
        return AsyncBinary.shortage(self, name, args)

    # Regular files and disks are read straight into the caller's memory, as many bytes as one read(2) brings.

    async def _straight(self, str name, tuple args):
        cdef RawState state
        cdef FileOp op
        await self.here().budget()
        state = self.state
        plain = state is not None and state.fd >= 0 and state.placed and state.readable
        if not plain or state.direct:
            if state is not None and state.fd >= 0 and 0 < state.left() < _size(name, args):
                await self._more(_size(name, args))
            read = AsyncBinary.read if name == "read" else AsyncBinary.readinto
            return await read(self, *args)
        await self.turn()
        try:
            state.check_read()
            if _size(name, args) <= state.left():
                return self.attempt(name, args)
            state.drop()
            op = self.new_read(-1)
            if name == "readinto":
                op.set_buffer(args[0], True)
            else:
                op.size = args[0]
                op.make_buffer()
            if not fill_now(state, op):
                await self._fill(op)
        finally:
            self.lock.release()
        self.access.charge(op.offset)
        if name == "read":
            return op.taken()
        if not op.ended:
            op.finish()  # unlock the caller's buffer
        return op.offset

    async def _more(self, Py_ssize_t size):
        """Of a pipe that was read ahead for a line: add as much as one read(2) would bring now."""
        cdef RawState state = self.state
        await self.turn()
        try:
            if state.fd >= 0 and 0 < state.left() < size and not state.seekable and px_has_bytes(state.fd):
                await self._fetch(size - state.left())
        finally:
            self.lock.release()

    async def _fill(self, FileOp op):
        """Have fetched what the page cache lacks."""
        cdef RawState state = self.state
        cdef Py_ssize_t begun = op.offset
        try:
            op.position = state.position()
            await self._moved(op)
        except BaseException:
            px_file_seek(state.fd, -begun, SEEK_CUR)  # undo it
            raise
        if op.error and not op.offset:
            raise error_of(op, state)
        px_file_seek(state.fd, op.offset - begun, SEEK_CUR)

    read = _coroutines.raw_read
    readinto = _coroutines.raw_readinto

    @cython.binding(False)  # a plain method descriptor: CPython calls it directly
    def _raw_now(self, str name, tuple args, bint yielded):
        """The result, if the page cache has it; False: it is others' turn; None: the read would wait."""
        cdef Py_buffer view
        cdef Py_ssize_t size
        cdef bytes data
        cdef RawState state = self.state
        if self.here().over_budget() and not yielded:
            return False
        if not (state is not None and state.read_now and state.readable and state.placed) or self.lock.held:
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
        """Read up to `n` bytes from the page cache; -1, and nothing was read, if it lacks some of them."""
        cdef RawState state = self.state
        cdef Py_ssize_t got = 0
        cdef ssize_t count = -1
        if state.fd < 0 or state.left() or n > INLINE:
            return -1
        state.eof = False
        while got < n:
            if n - got <= WITH_GIL:
                count = px_file_read_now(state.fd, buffer + got, n - got, -1)
            else:
                with nogil:
                    count = px_file_read_now(state.fd, buffer + got, n - got, -1)
            if count <= 0:
                break
            got += count
        if got < n and count != 0:
            if count == -EOPNOTSUPP:
                state.read_now = False
            if got:
                px_file_seek(state.fd, -got, SEEK_CUR)
            return -1
        self.access.charge(got)
        return got

    async def _raw(self, str name, tuple args):
        if name == "readinto" or (len(args) == 1 and type(args[0]) is int and 0 <= args[0] <= LARGEST_CALL):
            return await self._straight(name, args)
        return await AsyncBinary.read(self, *args)

    async def readall(self):
        """Read all bytes up to the end.

        Raises:
            OSError: the file cannot be read.
        """
        return await self.read()

    async def write(self, data):
        """Write `data` to the file: write(2).

        If the caller is cancelled, the exception's ``characters_written`` tells how many bytes are in the
        file.

        Returns:
            int: how many bytes were written: all, unless an error came after some of them, which the next
                ``write`` raises.  None: the file does not wait (O_NONBLOCK), and has no room now.

        Raises:
            OSError: nothing could be written.
        """
        cdef FileOp op
        cdef RawState state
        cdef Access access = self.here()
        await access.budget()
        await self.turn()
        try:
            state = self.state
            if state is None:
                return await self._on_thread("write", (data,))
            state.check_write()
            state.drop()
            op = self.new_write()
            op.set_buffer(data, False)
            if state.direct:
                op.align()
            write_now(state, op)
            self.unsynced = True
            if op.offset < op.size:
                await self._whole(op)
            else:
                op.finish()
        finally:
            self.lock.release()
        if op.error and not op.offset:
            if op.error == EAGAIN:
                return None  # as io.FileIO: it does not wait, and has no room now
            raise error_of(op, self.state)
        access.charge(op.offset)
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


cdef class AsyncIndirectFileIO(AsyncFileIO):
    """``AsyncFileIO`` that looks for its file each time."""

    def __init__(self, name, loop, executor, indirect):
        self.indirect = indirect
        AsyncFileIO.__init__(self, None, loop, executor)


cdef bint fill_now(RawState state, FileOp op) except -1:
    """Have `op` read what the page cache has at the file's position; whether it is complete."""
    cdef Py_ssize_t left
    cdef ssize_t count
    while op.offset < op.size:
        if not state.read_now or op.offset >= INLINE:
            return False
        left = min(op.size - op.offset, <Py_ssize_t>INLINE)
        if left <= WITH_GIL:
            count = px_file_read_now(state.fd, op.memory + op.offset, left, -1)
        else:
            with nogil:
                count = px_file_read_now(state.fd, op.memory + op.offset, left, -1)
        if count <= 0:
            if count == -EOPNOTSUPP:
                state.read_now = False
            return count == 0
        op.offset += count
    return True


cdef Py_ssize_t _size(str name, tuple args) except -1:
    return args[0] if name == "read" else memoryview(args[0]).nbytes
