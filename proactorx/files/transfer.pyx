"""Moving bytes between a file and the ``io`` stack above it, one operation of a file object at a time.

An operation whose bytes are in user space or in the page cache ends without waiting.  Bytes that have to be
waited for are fetched into ``RawState`` (see raw_file.pyx), and the operation is tried again.  So the io
stack never meets a file that is not ready halfway through a call, and a cancelled operation leaves in
``RawState`` what it has fetched.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t
from proactorx.files.access cimport (
    Access, DONE, FileOp, ONCE, UNTIL_DRY, UNTIL_FULL, access_here, access_of,
)
from proactorx.files.raw_state cimport RawState, number_of
from proactorx.files.thread_call cimport ThreadCall, start_call
from proactorx.pool.core cimport Call
from proactorx.sys.errnos cimport EAGAIN, EINTR, EINVAL, EOPNOTSUPP
from proactorx.sys.file cimport px_file_seek, px_file_write_now
from proactorx.ops.op cimport READ, WRITE

import asyncio
import collections
import functools
import os

from proactorx.files.raw_file import RawFile
from proactorx.files.thread_call import read_at

cdef str BLOCKED = "write could not complete without blocking"  # in the words of the io module
cdef enum:
    READ_AHEAD = 1 << 16     # bytes at a time
    INLINE = 1 << 20         # bytes that may be decoded or split in the loop's thread, and copied by it
    SEEK_CUR = 1
    SEEK_END = 2


cdef class FifoLock:
    """Lets one operation run at a time, in the order in which they asked.

    An operation may be detached: its caller was cancelled, and it goes on.  The lock stays held until it has
    ended.
    """

    cdef bint take(self) noexcept:
        """Take the lock if it is free; whether it was."""
        if self.held:
            return False
        self.held = True
        return True

    async def wait(self, loop):
        """Wait for the lock, which is held, and take it."""
        future = loop.create_future()
        if self.waiting is None:
            self.waiting = collections.deque()
        self.waiting.append(future)
        try:
            await future
        except BaseException:
            if future.done() and not future.cancelled():
                self.release()
            raise

    cdef int release(self) except -1:
        """Hand the lock to the next operation.  Nothing happens while the one that holds it is detached."""
        if self.detached:
            return 0
        while self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_result(None)
                return 0
        self.held = False
        return 0

    cdef int detach(self) except -1:
        """The caller was cancelled, its operation goes on: only ``release_detached`` ends it."""
        self.detached = True
        return 0

    cdef int release_detached(self) except -1:
        """The detached operation has ended."""
        self.detached = False
        return self.release()

    cdef int reset(self) except -1:
        """Start anew: all operations that waited belonged to a loop that is gone."""
        self.held = self.detached = False
        self.waiting = None
        return 0


cdef class Transfer:
    """What all file objects share below their public methods."""

    def __cinit__(self, *args, **kwargs):
        self.lock = FifoLock()

    def _set_state(self):
        file = self.stack
        raw = getattr(getattr(file, "buffer", file), "raw", getattr(file, "buffer", file))
        if type(raw) is RawFile and not raw._state.alone:
            self.state = raw._state

    cdef object file(self):
        return self.stack if self.indirect is None else self.indirect()

    cdef Access here(self):
        """The ``Access`` of the running loop."""
        cdef Access access
        if self.access is None:
            access = access_of(self.loop, self.executor)
        elif self.loop is not None:
            return self.access
        else:
            access = access_here(self.access)
        if access is not self.access:
            self.access = access
            self.lock.reset()
            self.in_flight = 0
            if self.state is not None and self.state.fd >= 0:
                self.state.native = self.state.placed and access.takes(self.state.io)
                if access.port is None or not self.state.local:
                    self.state.read_now = self.state.write_now = False
        return access

    cdef int descriptor(self) except -1:
        """The number that the kernel is asked with."""
        if self.state is not None and self.state.fd >= 0:
            return self.state.io
        return number_of(self.file().fileno())

    # ------------------------------------------------------------------------------------ one after the other

    cdef object turn(self):
        """Await this to take the lock; end the operation with ``self.lock.release()``."""
        self.here()
        return DONE if self.lock.take() else self.lock.wait(self.access.loop)

    def _op_ended(self, op):
        self.op_ended()

    cdef int op_ended(self) except -1:
        self.in_flight -= 1
        if not self.in_flight and self.idle is not None and not self.idle.done():
            self.idle.set_result(None)
        return 0

    cdef int begin(self, FileOp op) except -1:
        """Start `op`; ``op_ended`` is to be called when it has ended."""
        self.in_flight += 1
        try:
            self.access.start(op, self.state is not None and self.state.by_kernel())
        except BaseException:
            self.op_ended()
            raise
        return 0

    # ---------------------------------------------------------------------------------------- on an IO thread

    async def _on_thread(self, name, args=(), kwargs=None, bint reads=False):
        """Run a method of the stack on an IO thread.  The operations behind it wait until it has ended."""
        stack = self.file()
        if reads:
            return (await self._call(read_at, (stack, name, args), self._put_back))[1]
        method = functools.partial(getattr(stack, name), *args, **(kwargs or {}))
        return await self._call(method, (), self._call_ended)

    async def _call(self, fn, tuple args, ended):
        """``fn(*args)`` on an IO thread; `ended`: see ``ThreadCall.abandon``."""
        cdef ThreadCall call = start_call(self.access, fn, args)
        try:
            return await call.future
        except asyncio.CancelledError:
            self.lock.detach()
            call.abandon(ended)
            raise

    def _call_ended(self, call):
        self.lock.release_detached()

    def _put_back(self, Call call):
        """A cancelled read has ended: move the position back to where the read began."""
        before = call.result[0] if call is not None else None
        if before is None or self.access.loop.is_closed() or self.file().closed:
            self._call_ended(call)
        else:
            start_call(self.access, self.file().seek, (before,)).abandon(self._call_ended)

    # ------------------------------------------------------------------------------------------------ reading

    cdef FileOp new_read(self, int64_t position):
        """A READ at `position`, or at the file's own where that is -1; of a plain file up to its end."""
        cdef FileOp op = self.access.new_op(READ, self.descriptor(), position)
        op.until = UNTIL_FULL if self.state is None or self.state.local and self.state.placed else ONCE
        return op

    async def _fetch(self, Py_ssize_t n, bint on=False):
        """Read up to `n` bytes more into ``RawState``, or find the end of the file.

        Of a file that is not plain, one read brings what there is.  With `on`, further reads follow while
        they need not wait.
        """
        cdef RawState state = self.state
        cdef FileOp op = self.new_read(state.position() if state.placed else -1)
        if on and op.until == ONCE and state.kind == c"r":
            op.until = UNTIL_DRY
        if not state.placed and state.seekable and not state.known:
            state.before = state.position()
        if state.direct:
            op.make_aligned(max(n, 1))
        else:
            op.size = max(n, 1)
            op.make_buffer()
        self.begin(op)
        try:
            await op.future
        except BaseException:
            op.abandon()
            if state.placed:
                # A read at a position leaves no trace.
                if op.ended:
                    self.op_ended()
                else:
                    op.then = self._op_ended
            elif op.ended:
                self.adopt(op)
            else:
                self.lock.detach()
                op.then = self._fetched_late
            raise
        self.adopt(op)

    def _fetched_late(self, op):
        """The bytes of a pipe have come after the reader was cancelled: the next read takes them."""
        try:
            self.adopt(op)
        except OSError:
            pass  # the next read meets the error itself
        self.state.dry = False
        self.lock.release_detached()

    cdef int adopt(self, FileOp op) except -1:
        """Take over what a READ has brought."""
        cdef RawState state = self.state
        self.op_ended()
        if op.offset:
            state.add(op.taken())
            if state.placed:
                px_file_seek(state.fd, op.offset, SEEK_CUR)
            elif state.seekable and not state.known:
                # The position of a kernel file may say nothing: what was read of /proc/kmsg is gone.
                state.known = True
                state.seekable = state.position() != state.before
        elif op.error == EAGAIN and not state.placed:
            state.dry = True
        elif op.error:
            raise error_of(op, state)
        state.eof = op.at_end
        return 0

    async def _fetch_all(self):
        """Read everything up to the end into ``RawState``."""
        cdef RawState state = self.state
        while not state.eof:
            if state.left() >= INLINE or state.read_ahead(max(READ_AHEAD, state.left())) < 0:
                await self._fetch(max(self._remaining() + 1, READ_AHEAD))

    async def _gather(self):
        """``_fetch_all`` for a file that is not plain; of one that does not wait, all that there is now."""
        cdef RawState state = self.state
        cdef list parts = []
        try:
            while not state.eof and not state.dry:
                parts.append(state.take(-1))
                await self._fetch(INLINE if state.kind == c"r" else READ_AHEAD, True)
        finally:
            parts.append(state.take(-1))
            state.add(b"".join(parts))

    def _remaining(self):
        """How many bytes of the file are still to be read; 0 where that is unknown."""
        cdef RawState state = self.state
        if not state.placed:
            return 0
        return max(state.size() - state.position(), 0)

    # ------------------------------------------------------------------------------------------------ writing

    cdef int write_pending_now(self) except -1:
        """Write what can be written without waiting."""
        cdef RawState state = self.state
        cdef bytes data
        cdef ssize_t n
        while state.pending_size and state.write_now:
            data = state.joined()
            n = px_file_write_now(state.fd, PyBytes_AS_STRING(data), min(len(data), INLINE), -1)
            if n > 0:
                self.unsynced = True
                state.wrote(n)
            elif n == -EOPNOTSUPP:
                state.write_now = False
            elif n == -EAGAIN or n == -EINTR or n == 0:
                break
            else:
                raise OSError(<int>-n, os.strerror(<int>-n))
        return 0

    cdef FileOp new_write(self):
        """A WRITE at the file's position.

        It names that position: at "the file's own" io_uring repeats a short write where it began (seen on
        6.18).
        """
        cdef RawState state = self.state
        cdef FileOp op = self.access.new_op(WRITE, state.io, state.position() if state.placed else -1)
        if state.placed:
            op.move_to = SEEK_END if state.appends else SEEK_CUR
            op.place = state.fd
        return op

    async def _drain(self):
        """Write to the file what the stack has written."""
        cdef RawState state = self.state
        cdef FileOp op
        self.write_pending_now()
        while state.pending_size:
            op = self.new_write()
            op.set_buffer(state.joined(), False)
            try:
                await self._whole(op)
            finally:
                if op.ended:
                    state.wrote(op.offset)
            if op.error:
                raise error_of(op, self.state)

    async def _whole(self, FileOp op, bint in_line=True):
        """Execute a write to its end, even if the caller is cancelled: only the kernel knows what is written.

        A caller that is cancelled a second time does not wait; the operations behind the write still do.
        """
        self.unsynced = True
        self.begin(op)
        try:
            await op.future
        except BaseException as exc:
            op.abandon()
            if not op.ended:
                await self._end_of(op, in_line)
            exc.characters_written = op.offset
            self.op_ended()
            raise
        self.op_ended()

    async def _end_of(self, FileOp op, bint in_line):
        cdef object future = self.access.loop.create_future()
        op.then = functools.partial(_wake, future)
        try:
            await future
        except BaseException:
            if op.ended:
                self.op_ended()
            elif in_line:
                self.lock.detach()
                op.then = self._written_late
            else:
                op.then = self._op_ended
            raise

    def _written_late(self, FileOp op):
        self.op_ended()
        if self.state is not None and self.state.pending_size:
            self.state.wrote(op.offset)
        self.lock.release_detached()

    async def _flush(self):
        """Have the stack write what it holds, and write that to the file."""
        cdef RawState state = self.state
        if state is None:
            await self._on_thread("flush")
            return
        self._flush_stack()
        if state.pending_size:
            await self._drain()
        self.dirty = False

    def _flush_stack(self):
        """Have the stack hand on what it holds; it is pending then."""
        cdef RawState state = self.state
        state.begin()
        try:
            self.stack.flush()
        finally:
            state.end()


cdef object error_of(FileOp op, RawState state):
    """The OSError of an op that has failed."""
    if op.error == EAGAIN:
        return BlockingIOError(EAGAIN, BLOCKED, 0)
    if op.error == EINVAL and state is not None and state.direct:
        return OSError(
            EINVAL,
            "direct=True: offset, size and buffer must be multiples of the disk's block size "
            "(4096 does for every disk)",
        )
    return OSError(op.error, os.strerror(op.error))


def _wake(future, op):
    if not future.done():
        future.set_result(None)
