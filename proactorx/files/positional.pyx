"""Reads and writes at a position.  They do not move the file, and wait for no other operation."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from proactorx.files.access cimport Access, FileOp, ONCE, UNTIL_DRY
from proactorx.files.async_file cimport AsyncBase
from proactorx.files.raw_state cimport RawState
from proactorx.files.transfer cimport error_of
from proactorx.sys.errnos cimport EOPNOTSUPP
from proactorx.sys.file cimport px_file_read_now, px_file_write_now
from proactorx.ops.op cimport WRITE

from proactorx.files import coroutines as _coroutines

cdef enum:
    INLINE = 1 << 20         # bytes that are copied in the loop's thread
    WITH_GIL = 1 << 16       # reads of up to so many bytes are over before another thread could have begun


cdef class Positional(AsyncBase):
    """``pread`` and the like, which all binary files have."""

    async def _ready_for(self, bint writing):
        """Write to the file what the buffers of this object hold."""
        cdef RawState state = self.state
        self.here()
        if state is None:
            if writing or self.file().writable():
                await self.flush()
        elif self.dirty:
            await self.flush()

    cdef FileOp new_read_at(self, int64_t offset):
        """A READ that goes on until it has all bytes, or there are no more."""
        cdef FileOp op = self.new_read(offset)
        if op.until == ONCE:
            op.until = UNTIL_DRY
        return op

    pread = _coroutines.pread

    @cython.binding(False)  # a plain method descriptor: CPython calls it directly
    def _pread_now(self, Py_ssize_t n, int64_t offset, int ready):
        """Return the bytes if the page cache has them; else start an op that reads them, and return that.

        Args:
            n: how many bytes.
            offset: where.
            ready: 0: return False if others are to have their turn first.  Up to 1: return None if this
                object holds bytes that have to be written first.  2: go ahead.
        """
        cdef bytes data
        cdef FileOp op
        cdef Py_ssize_t got = 0
        cdef ssize_t count = -1
        cdef RawState state = self.state
        cdef Access access = self.here()
        if ready == 0 and access.over_budget():
            return False
        if n < 0 or offset < 0:
            raise ValueError("a size or an offset cannot be negative")
        if ready < 2 and (state is None or self.dirty):
            return None
        if state is not None:
            state.check_read()
        data = PyBytes_FromStringAndSize(NULL, n)
        if state is not None:
            got = read_now(state, PyBytes_AS_STRING(data), n, offset, &count)
        if got == n or count == 0:
            access.charge(got)
            return data if got == n else data[:got]
        op = self.new_read_at(offset + got)
        if state is not None and state.direct:
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
        """The bytes that the op of ``_pread_now`` has read."""
        self.op_ended()
        if op.error and not op.offset:
            raise error_of(op, self.state)
        self.access.charge(op.offset)
        return op.taken()[:n] if self.state is not None and self.state.direct else op.taken()

    def pread_into(self, buffer, int64_t offset):
        """Fill `buffer` with the bytes at `offset`: pread(2).

        `buffer` stays locked until the read has ended, also when the caller is cancelled.

        Args:
            buffer: a writable one.
            offset: in bytes.

        Returns:
            int: how many bytes were read, fewer than the buffer holds only at the end of the file.

        Raises:
            OSError: the file cannot be read.
            ValueError: `offset` is negative.
        """
        return self.preadv((buffer,), offset)

    async def preadv(self, buffers, int64_t offset):
        """Fill one buffer after the other with the bytes at `offset`, as ``pread_into`` does: preadv(2)."""
        cdef FileOp op
        cdef Py_ssize_t total = 0, got
        cdef ssize_t count
        cdef RawState state = self.state
        cdef Access access = self.here()
        await access.budget()
        if offset < 0:
            raise ValueError("an offset cannot be negative")
        if self.dirty or state is None:
            await self._ready_for(False)
        for buffer in buffers:
            op = self.new_read_at(offset + total)
            op.set_buffer(buffer, True)
            count = -1
            got = 0
            if state is not None:
                state.check_read()
                got = read_now(state, op.memory, op.size, op.position, &count)
            if got < op.size and count != 0:
                op.offset = got
                op.position += got
                await self._moved(op)
                if op.error and not total and not op.offset:
                    raise error_of(op, self.state)
                got = op.offset
            total += got
            if got < op.size:
                break
        access.charge(total)
        return total

    async def _moved(self, FileOp op):
        """Execute a read at a position.  A cancelled one has no effect."""
        self.begin(op)
        try:
            await op.future
        except BaseException:
            self._abandon(op)
            raise
        self.op_ended()

    def _abandon(self, FileOp op):
        """The caller of the op was cancelled."""
        op.abandon()
        if op.ended:
            self.op_ended()
        else:
            op.then = self._op_ended

    def pwrite(self, data, int64_t offset):
        """Write all of `data` at `offset`: pwrite(2).

        It does not move the file, and waits for no other operation.  In append mode Linux writes at the end,
        whatever `offset` is.  If the caller is cancelled, the exception's ``characters_written`` tells how
        many bytes are in the file.

        Args:
            data: any buffer.
            offset: in bytes.

        Returns:
            int: how many bytes were written: all, unless an error came after some of them.

        Raises:
            OSError: nothing could be written.
            ValueError: `offset` is negative.
        """
        return self.pwritev((data,), offset)

    async def pwritev(self, buffers, int64_t offset):
        """Write one buffer after the other at `offset`, as ``pwrite`` does: pwritev(2)."""
        cdef FileOp op
        cdef Py_ssize_t total = 0
        cdef RawState state = self.state
        cdef Access access = self.here()
        await access.budget()
        if offset < 0:
            raise ValueError("an offset cannot be negative")
        if self.dirty or state is None:
            await self._ready_for(True)
        for buffer in buffers:
            op = access.new_op(WRITE, -1, offset + total)
            op.set_buffer(buffer, False)
            if state is not None:
                state.check_write()
            op.fd = self.descriptor()
            if state is not None and state.direct:
                op.align()
            write_now(state, op)
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
                raise error_of(op, self.state)
        access.charge(total)
        return total


cdef Py_ssize_t read_now(RawState state, char *buffer, Py_ssize_t n, int64_t offset, ssize_t *last) except -1:
    """Read those of `n` bytes at `offset` that are in the page cache; `last` is 0 if the file ends there."""
    cdef Py_ssize_t got = 0
    cdef ssize_t count = -1
    last[0] = -1
    if not state.read_now or n > INLINE:
        return 0
    while got < n:
        if n <= WITH_GIL:
            count = px_file_read_now(state.fd, buffer + got, n - got, offset + got)
        else:
            with nogil:
                count = px_file_read_now(state.fd, buffer + got, n - got, offset + got)
        if count <= 0:
            break
        got += count
    last[0] = count
    if count == -EOPNOTSUPP:
        state.read_now = False
    return got


cdef int write_now(RawState state, FileOp op) except -1:
    """Write what can be written without waiting."""
    cdef ssize_t n
    while state is not None and state.write_now and op.offset < op.size and op.offset < INLINE:
        n = px_file_write_now(op.fd, op.memory + op.offset, min(op.size - op.offset, INLINE), op.position)
        if n == -EOPNOTSUPP:
            state.write_now = False
        if n <= 0:
            break  # the op will meet the error, too
        op.offset += n
        if op.position >= 0:
            op.position += n
    return 0
