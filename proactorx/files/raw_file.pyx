"""The file at the bottom of a stack of ``io`` objects.

The stack above (``BufferedReader``, ``TextIOWrapper`` and so on) is the standard library's.  It calls
``RawFile`` as it would call ``io.FileIO``, and in one of two ways:

* Within an operation in the loop's thread (``RawState.within``) nothing may wait.  Reads are served from what
  was read ahead, or from the page cache where the kernel says that it has the bytes; else they answer None,
  as the ``io`` module has it for files that do not block, and the operation fetches the bytes and goes on.
  Writes go to ``RawState.pending``, from where the operation writes them to the file.
* Called by any other code, it blocks, as ``io.FileIO`` does.
"""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.string cimport memchr, memcpy
from proactorx.files.raw_state cimport RawState, number_of

import io

cdef object FileIO = io.FileIO
cdef enum:
    WITH_GIL = 1 << 16       # reads of up to so many bytes are over before another thread could have begun
    SEEK_SET = 0
    SEEK_CUR = 1


class RawFile(io.FileIO):
    """An ``io.FileIO`` that never waits while an operation of the loop's thread runs."""

    _state = None

    def __init__(self, file, mode="r", closefd=True, opener=None):
        cdef RawState state
        FileIO.__init__(self, file, mode, closefd, opener)
        try:
            self._state = state = RawState(number_of(FileIO.fileno(self)))
        except BaseException:
            FileIO.close(self)  # not by the finalizer, which would call a close() that needs the state
            raise
        state.readable = FileIO.readable(self)
        state.writable = FileIO.writable(self)
        state.appends = "a" in mode

    def readinto(self, buffer, /):
        """``io.FileIO.readinto``: read(2) into `buffer`."""
        cdef RawState state = self._state
        cdef Py_buffer view
        cdef Py_ssize_t n
        state.check_read()
        if not state.within and not state.left():
            state.eof = False
            return FileIO.readinto(self, buffer)
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            n = min(state.left(), view.len)
            if n:
                memcpy(view.buf, state.bytes_left(), n)
                state.start += n
                return n
            if state.eof or not view.len:
                state.told = state.eof
                return 0
            if state.dry:
                return None
            if state.strict:
                raise RuntimeError("the text layer asked for more bytes than were fetched for it")
            n = -1
            if state.read_now and state.allowance > 0:
                n = state.now(<char *>view.buf, min(view.len, state.allowance))
            if n < 0:
                state.starved = True
                return None
            state.allowance -= n
            return n
        finally:
            PyBuffer_Release(&view)

    def read(self, size=-1, /):
        """``io.FileIO.read``: read(2)."""
        cdef RawState state = self._state
        cdef Py_ssize_t n = -1 if size is None else size
        cdef bytearray buffer
        if n < 0:
            return self.readall()
        state.check_read()
        if not state.within and not state.left():
            state.eof = False
            return FileIO.read(self, n)
        if state.left():
            return state.take(n)
        buffer = bytearray(n)
        found = self.readinto(buffer)
        return None if found is None else bytes(buffer[:found])

    def readline(self, size=-1, /):
        """``io.IOBase.readline``: one line."""
        cdef RawState state = self._state
        cdef Py_ssize_t limit = -1 if size is None else size
        cdef const void *found
        if limit == 0 or not (state.within or state.seekable):
            return FileIO.readline(self, limit)
        state.check_read()
        while True:
            found = memchr(state.bytes_left(), c"\n", state.left())
            if found != NULL:
                size = <const char *>found - state.bytes_left() + 1
                return state.take(min(size, limit) if limit >= 0 else size)
            if 0 <= limit <= state.left() or state.eof:
                state.told = state.eof and (limit < 0 or limit > state.left())
                if state.told and not state.within:
                    state.told = state.eof = False
                return state.take(limit)
            if state.dry:
                return state.take(-1)  # as a BufferedReader does
            if not state.within:
                # Not byte by byte, as io.IOBase does it: the position is ours to put back.
                data = FileIO.read(self, WITH_GIL)
                state.add(data)
                state.eof = not data
            elif state.allowance <= 0 or state.read_ahead(WITH_GIL) < 0:
                state.starved = True
                return None
            state.allowance -= WITH_GIL

    def readall(self):
        """``io.FileIO.readall``: all bytes up to the end."""
        cdef RawState state = self._state
        cdef list parts
        cdef Py_ssize_t n
        state.check_read()
        if not state.within:
            state.eof = False
            return state.take(-1) + FileIO.readall(self) if state.left() else FileIO.readall(self)
        parts = []
        while True:
            if state.left():
                parts.append(state.take(-1))
            if state.eof:
                state.told = True
                break
            if state.dry:
                break
            if state.strict:
                raise RuntimeError("the text layer asked for more bytes than were fetched for it")
            n = state.read_ahead(min(state.allowance, <Py_ssize_t>WITH_GIL)) if state.allowance > 0 else -1
            if n < 0:
                state.starved = True
                break
            state.allowance -= n
        if (state.starved or state.dry) and not parts:
            return None
        return <bytes>parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, data, /):
        """``io.FileIO.write``: write(2)."""
        cdef RawState state = self._state
        cdef bytes copy
        state.check_write()
        state.drop()
        if not state.within:
            self._move_pending()
            return FileIO.write(self, data)
        copy = bytes(data)
        if copy:
            state.pending.append(copy)
            state.pending_size += len(copy)
        return len(copy)

    def _move_pending(self):
        cdef RawState state = self._state
        while state.pending_size:
            state.wrote(FileIO.write(self, state.joined()))

    def seek(self, offset, whence=SEEK_SET, /):
        """``io.FileIO.seek``: lseek(2)."""
        cdef RawState state = self._state
        cdef object target
        if not state.within:
            self._move_pending()
        if state.left() or state.eof:
            # A BufferedRandom moves by 0 before each read: the end must not be forgotten by that.
            if whence == SEEK_CUR:
                target = offset
            elif whence == SEEK_SET:
                target = offset - FileIO.tell(self) + state.left()
            else:
                target = -1
            if 0 <= target <= state.left():
                state.start += target
                return FileIO.tell(self) - state.left()
        state.drop()
        target = FileIO.seek(self, offset, whence)
        state.take(-1)  # what cannot be put back has been left behind
        return target

    def tell(self):
        """``io.FileIO.tell``: the position of the next read or write."""
        cdef RawState state = self._state
        return FileIO.tell(self) - state.left() + state.pending_size

    def truncate(self, size=None, /):
        """``io.FileIO.truncate``: ftruncate(2)."""
        cdef RawState state = self._state
        if size is None:
            size = self.tell()
        self._move_pending()
        state.drop()
        return FileIO.truncate(self, size)

    def close(self):
        """``io.FileIO.close``: close(2); what is still to be written is written first."""
        try:
            if not self.closed and (<RawState>self._state).pending_size:
                self._move_pending()
        finally:
            if self._state is not None:
                (<RawState>self._state).let_go()
            FileIO.close(self)
