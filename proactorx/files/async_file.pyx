"""The file objects: the coroutines that aiofiles has, and positional ones, over a stack of the ``io`` module's.

Operations on one file object queue: each begins when the one before it has ended, so none sees another's half-filled
buffer.  Positional ones (``pread`` and so on) have no place in that line and run at once.

An operation whose bytes are in user space or in the page cache is done without waiting.  What has to be waited for is
fetched into the window (see raw_file.pyx), and the operation is tried again: so the io stack never sees a file that is
not ready in the middle of something, and a cancelled operation leaves what it has got in the window.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t
from proactorx.files.access cimport Access, FileOp, ONCE, UNTIL_DRY, UNTIL_FULL, access_here, access_of
from proactorx.files.thread_call cimport Body, start_body
from proactorx.files.raw_file cimport Window, number_of
from proactorx.sys.errnos cimport EAGAIN, EINTR, EINVAL, EOPNOTSUPP
from proactorx.ops.op cimport FSYNC, FSYNC_DATA, READ, WRITE
from proactorx.sys.file cimport px_file_seek, px_file_write_now

import asyncio
import collections
import functools
import os
import types
import warnings

from proactorx.files.thread_call import read_at
from proactorx.files.disk import advise_call, allocate_call
from proactorx.files.raw_file import RawFile

cdef str BLOCKED = "write could not complete without blocking"  # in the words of the io module
cdef enum:
    WINDOW = 1 << 16         # read ahead at a time
    INLINE = 1 << 20         # bytes that may be decoded or split in the loop's thread, and copied by it
    SEEK_CUR = 1
    SEEK_END = 2


cdef class AsyncBase:
    """A file whose methods are coroutines.

    Args:
        file: the file of the ``io`` module's that it stands for.
        loop: the loop that uses it; default: the one that runs when it is used.
        executor: where what blocks is run; default: the loop's IO threads.
    """

    def __init__(self, file, loop, executor):
        self.stack = file
        self.loop = loop
        self.executor = executor
        self._set_window()

    __class_getitem__ = classmethod(types.GenericAlias)  # what reads give, and what writes take

    def _set_window(self):
        file = self.stack
        raw = getattr(getattr(file, "buffer", file), "raw", getattr(file, "buffer", file))
        if type(raw) is RawFile and not raw._window.alone:
            self.window = raw._window

    def _opened(self, site, bint direct):
        self.opened_at = site
        if direct:
            # preadv2(2) waits for the disk, whatever RWF_NOWAIT says.
            self.window.direct = True
            self.window.read_now = self.window.write_now = False

    @property
    def _file(self):
        return self.file()

    @property
    def _loop(self):
        return self.loop or asyncio.get_running_loop()

    @property
    def _executor(self):
        return self.executor

    cdef object file(self):
        return self.stack if self.indirect is None else self.indirect()

    cdef Access here(self):
        cdef Access access
        if self.access is None:
            access = access_of(self.loop, self.executor)
        elif self.loop is not None:
            return self.access
        else:
            access = access_here(self.access)
        if access is not self.access:
            # Another loop: what waited for a turn on the one before is gone with it.
            self.access = access
            self.held = self.deferred = False
            self.line = None
            self.flying = 0
            if self.window is not None and self.window.fd >= 0:
                self.window.native = self.window.placed and access.takes(self.window.io)
                if access.port is None or not self.window.local:
                    self.window.read_now = self.window.write_now = False
        return access

    def __repr__(self):
        return f"{object.__repr__(self)} wrapping {self.file()!r}"

    def __aiter__(self):
        """We are our own iterator."""
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, exc_type, exc_val, exc_tb):
        await self.close()

    async def _leave_block(self, *exc_info):
        """The end of a block that has entered a temporary file."""
        self.here()
        if self.held:
            await self._turn()
        self.held = True
        try:
            await self._on_thread("__exit__", exc_info)
        finally:
            self.leave()

    def __del__(self):
        if self.window is None or self.window.fd < 0 or self.stack is None:
            return
        try:
            where = "" if self.opened_at is None else " opened at {}:{}".format(*self.opened_at)
            warnings.warn(f"unclosed file {self.stack!r}{where}", ResourceWarning, source=self)
        finally:  # also where warnings are errors
            self.stack.close()

    # ------------------------------------------------------------------------------------------------- the line

    async def _turn(self):
        """Wait until the operations before this one have ended.  Then it is ours."""
        cdef object future = self.access.loop.create_future()
        if self.line is None:
            self.line = collections.deque()
        self.line.append(future)
        try:
            await future
        except BaseException:
            if future.done() and not future.cancelled():
                self.leave()
            raise

    cdef int leave(self) except -1:
        """The operation has ended: the next one, please."""
        if self.deferred:
            return 0
        while self.line:
            future = self.line.popleft()
            if not future.done():
                future.set_result(None)
                return 0
        self.held = False
        return 0

    cdef bint free_now(self) except -1:
        """Whether an operation may be tried at once, without a place in the line."""
        self.here()
        return self.window is not None and not self.held and not self.dirty

    def _rest(self):
        """Something to await until others have had their turn."""
        return self.access.rest()

    def _op_landed(self, op):
        self.landed()

    cdef int landed(self) except -1:
        self.flying -= 1
        if not self.flying and self.landing is not None and not self.landing.done():
            self.landing.set_result(None)
        return 0

    async def _on_thread(self, name, args=(), kwargs=None, bint reads=False):
        """Run a method of the stack's on an IO thread; the operations behind it wait until it has ended."""
        cdef Body body
        stack = self.file()
        if reads:
            body = start_body(self.access, read_at, (stack, name, args))
        elif kwargs:
            body = start_body(self.access, functools.partial(getattr(stack, name), *args, **kwargs), ())
        else:
            body = start_body(self.access, getattr(stack, name), args)
        try:
            result = await body.future
        except asyncio.CancelledError:
            self.deferred = True
            body.leave(self._put_back if reads else self._body_ended)
            raise
        return result[1] if reads else result

    def _body_ended(self, inner):
        self.deferred = False
        self.leave()

    def _put_back(self, inner):
        """A read has ended that nobody waited for: have the next one begin where it began."""
        before = inner.result()[0] if inner is not None and not inner.cancelled() else None
        if before is None or self.access.loop.is_closed() or self.file().closed:
            self._body_ended(inner)
        else:
            start_body(self.access, self.file().seek, (before,)).inner.add_done_callback(self._body_ended)

    # --------------------------------------------------------------------------------------------- bytes to move

    cdef FileOp new_read(self, int64_t position):
        """A READ at `position`, at -1: that of the file; of a plain file up to the end."""
        cdef FileOp op = self.access.new_op(READ, self.descriptor(), position)
        op.until = UNTIL_FULL if self.window is None or self.window.local and self.window.placed else ONCE
        return op

    async def _fetch(self, Py_ssize_t n, bint on=False):
        """Have up to `n` bytes more read into the window; or find the end.

        Of what is no plain file one read brings what there is; `on`: more of them, as long as they need not wait.
        """
        cdef Window window = self.window
        cdef FileOp op = self.new_read(window.position() if window.placed else -1)
        if on and op.until == ONCE and window.kind == c"r":
            op.until = UNTIL_DRY
        if not window.placed and window.seekable and not window.known:
            window.before = window.position()
        if window.direct:
            op.make_aligned(max(n, 1))
        else:
            op.size = max(n, 1)
            op.make_buffer()
        self.flying += 1
        try:
            self.access.start(op, window.by_kernel())
        except BaseException:
            self.landed()
            raise
        try:
            await op.future
        except BaseException:
            op.leave()
            if window.placed:
                # It was a read at a position: as if it had never been.
                if op.ended:
                    self.landed()
                else:
                    op.then = self._op_landed
            elif op.ended:
                self.adopt(op)
            else:
                self.deferred = True
                op.then = self._late
            raise
        self.adopt(op)

    def _late(self, op):
        """The bytes of a pipe have come, and nobody waits for them any more: the next read takes them."""
        self.deferred = False
        try:
            self.adopt(op)
        except OSError:
            pass  # the next read will hear of it from the file itself
        self.window.dry = False
        self.leave()

    cdef int adopt(self, FileOp op) except -1:
        cdef Window window = self.window
        self.landed()
        if op.offset:
            window.add(op.taken())
            if window.placed:
                px_file_seek(window.fd, op.offset, SEEK_CUR)
            elif window.seekable and not window.known:
                # The kernel's own may have a position that says nothing: what was read of /proc/kmsg is gone.
                window.known = True
                window.seekable = window.position() != window.before
        elif op.error == EAGAIN and not window.placed:
            window.dry = True
        elif op.error:
            raise error_of(op, window)
        window.eof = op.at_end
        return 0

    async def _fetch_all(self):
        """Have everything up to the end read into the window."""
        cdef Window window = self.window
        while not window.eof:
            if window.left() >= INLINE or window.read_ahead(max(WINDOW, window.left())) < 0:
                await self._fetch(max(self._remaining() + 1, WINDOW))

    async def _gather(self):
        """The same of what is no plain file; or all that there is for now, where it does not wait."""
        cdef Window window = self.window
        cdef list parts = []
        try:
            while not window.eof and not window.dry:
                parts.append(window.take(-1))
                await self._fetch(INLINE if window.kind == c"r" else WINDOW, True)
        finally:
            parts.append(window.take(-1))
            window.add(b"".join(parts))

    def _remaining(self):
        """How many bytes there are behind the window; 0 where nobody knows."""
        cdef Window window = self.window
        if not window.placed:
            return 0
        return max(window.size() - window.position(), 0)

    cdef int write_pending_now(self) except -1:
        cdef Window window = self.window
        cdef bytes data
        cdef ssize_t n
        while window.pending_size and window.write_now:
            data = window.joined()
            n = px_file_write_now(window.fd, PyBytes_AS_STRING(data), min(len(data), INLINE), -1)
            if n > 0:
                self.unsynced = True
                window.wrote(n)
            elif n == -EOPNOTSUPP:
                window.write_now = False
            elif n == -EAGAIN or n == -EINTR or n == 0:
                break
            else:
                raise OSError(<int>-n, os.strerror(<int>-n))
        return 0

    cdef FileOp new_write(self):
        """A WRITE at the file's position.

        It is given one: at "the file's own" io_uring repeats a short write at the place where it began (seen on 6.18).
        """
        cdef Window window = self.window
        cdef FileOp op = self.access.new_op(WRITE, window.io, window.position() if window.placed else -1)
        if window.placed:
            op.move_to = SEEK_END if window.appends else SEEK_CUR
            op.place = window.fd
        return op

    async def _drain(self):
        """Move what the stack has written to the file."""
        cdef Window window = self.window
        cdef FileOp op
        self.write_pending_now()
        while window.pending_size:
            op = self.new_write()
            op.set_buffer(window.joined(), False)
            try:
                await self._whole(op)
            finally:
                if op.ended:
                    window.wrote(op.offset)
            if op.error:
                raise error_of(op, self.window)

    async def _whole(self, FileOp op, bint in_line=True):
        """Execute a write.  A cancelled one is waited for: only the kernel knows how much it has written.

        Who cancels a second time does not wait; the operations behind it still do.
        """
        self.flying += 1
        self.unsynced = True
        try:
            self.access.start(op, self.window is not None and self.window.by_kernel())
        except BaseException:
            self.landed()
            raise
        try:
            await op.future
        except BaseException as exc:
            op.leave()
            if not op.ended:
                await self._end_of(op, in_line)
            exc.characters_written = op.offset
            self.landed()
            raise
        self.landed()

    async def _end_of(self, FileOp op, bint in_line):
        cdef object future = self.access.loop.create_future()
        op.then = functools.partial(_wake, future)
        try:
            await future
        except BaseException:
            if op.ended:
                self.landed()
            elif in_line:
                self.deferred = True
                op.then = self._written_late
            else:
                op.then = self._op_landed
            raise

    def _written_late(self, FileOp op):
        self.landed()
        self.deferred = False
        if self.window is not None and self.window.pending_size:
            self.window.wrote(op.offset)
        self.leave()

    async def _flush(self):
        """Have the stack write what it holds, and move it to the file."""
        cdef Window window = self.window
        window.begin()
        try:
            self.stack.flush()
        finally:
            window.end()
        if window.pending_size:
            await self._drain()
        self.dirty = False

    # ---------------------------------------------------------------------------------------- any kind of file

    async def _simple(self, name, args=(), kwargs=None):
        """A method that needs no bytes of the file."""
        self.here()
        if self.held:
            await self._turn()
        self.held = True
        try:
            if self.window is None:
                return await self._on_thread(name, args, kwargs)
            if name == "tell" and self.window.strict and self.dirty:
                await self._flush()  # as a text file does it: in append mode it is only known then
            self.window.begin()
            try:
                result = getattr(self.stack, name)(*args)
            finally:
                self.window.end()
            if self.window.pending_size:
                await self._drain()
            return result
        finally:
            self.leave()

    async def isatty(self):
        """Whether the file is a terminal: isatty(3)."""
        return await self._simple("isatty")

    async def seekable(self):
        """Whether the file has a position."""
        return await self._simple("seekable")

    async def writable(self):
        """Whether the file was opened for writing."""
        return await self._simple("writable")

    async def tell(self):
        """The position of the next read or write; of a text file, a number that ``seek`` understands."""
        return await self._simple("tell")

    def fileno(self):
        """The number of the descriptor.

        Of an unbuffered file its position is that of ``tell`` then; of others it may be ahead, as ever.
        """
        if self.window is not None and not self.held and self.stack is not None and type(self.stack) is RawFile:
            self.window.drop()
        return self.file().fileno()

    @property
    def closed(self):
        """Whether ``close`` has ended."""
        return self.file().closed

    @property
    def name(self):
        """What was given to ``open``."""
        return self.file().name

    @property
    def mode(self):
        """How it was opened."""
        return self.file().mode

    def _complex_seek(self, args):
        """Whether this seek reads."""
        return False

    async def seek(self, *args):
        """Move to a position: ``seek(offset, whence=0)``; the new one.

        Raises:
            OSError: the file has no position.
        """
        self.here()
        if self.held:
            await self._turn()
        self.held = True
        try:
            if self.window is None:
                return await self._on_thread("seek", args)
            if self.dirty:
                await self._flush()
            if not self.window.local or self._complex_seek(args):
                return await self._on_thread("seek", args)
            self.window.begin()
            try:
                return self.stack.seek(*args)
            finally:
                self.window.end()
        finally:
            self.leave()

    async def truncate(self, *args):
        """Cut or lengthen the file to ``truncate(size)`` bytes, or to its position: ftruncate(2)."""
        self.here()
        if self.held:
            await self._turn()
        self.held = True
        try:
            if self.dirty and self.window is not None:
                await self._flush()
            self.unsynced = True
            return await self._on_thread("truncate", args)
        finally:
            self.leave()

    async def flush(self):
        """Write what is in the buffers of this object to the file.

        Raises:
            OSError: not all was written; the rest is kept, and the next ``flush`` or ``close`` tries again.
        """
        self.here()
        if self.held:
            await self._turn()
        self.held = True
        try:
            if self.window is None:
                await self._on_thread("flush")
            else:
                await self._flush()
        finally:
            self.leave()

    async def write(self, data):
        """Write `data`; how much of it was taken.

        What does not go to the buffer goes to the file before this ends.  When it is cancelled meanwhile, the whole of
        `data` has been taken and the next ``flush`` writes the rest.

        Raises:
            OSError: as of ``flush``.
        """
        cdef Access access = self.here()
        if access.tired():
            await access.rest()
        if self.held:
            await self._turn()
        self.held = True
        try:
            if self.window is None:
                return await self._on_thread("write", (data,))
            result = self.put(data)
            if self.window.pending_size:
                await self._push(data)
        finally:
            self.leave()
        access.spend(len(data) if type(data) is bytes or type(data) is str else 0)
        return result

    cdef object put(self, data):
        """Have the stack take `data`."""
        cdef Window window = self.window
        window.asked = window.pending_size
        window.begin()
        try:
            return self.stack.write(data)
        finally:
            window.end()
            self.dirty = True

    async def _push(self, data):
        """Move what the stack has written of `data`.

        A file that does not wait (O_NONBLOCK) may not take it all.  Then what one buffer holds is kept for later, as
        the ``io`` module has it.
        """
        cdef Window window = self.window
        cdef Py_ssize_t given = window.pending_size - window.asked if type(data) is str else memoryview(data).nbytes
        cdef Py_ssize_t excess
        try:
            await self._drain()
        except BlockingIOError as exc:
            window.begin()
            try:
                self.stack.flush()  # the buffer of the io module counts as well: 128 KiB from Python 3.14 on
            finally:
                window.end()
            excess = window.pending_size - window.buffer
            if excess > 0:
                window.cut(window.buffer)
                exc.characters_written = max(given - excess, 0)
                raise

    async def writelines(self, lines):
        """Write each of `lines`."""
        self.here()
        if self.held:
            await self._turn()
        self.held = True
        try:
            if self.window is None:
                await self._on_thread("writelines", (lines,))
                return
            for line in lines:
                self.put(line)
                if self.window.pending_size:
                    await self._push(line)
                self.access.spend(len(line))
                if self.access.tired():
                    await self.access.rest()
        finally:
            self.leave()

    async def _bulk(self, name, args):
        """A read of everything, with work on it: on an IO thread where it is much."""
        cdef Window window = self.window
        if window is not None and (window.fd < 0 or not window.readable):
            return getattr(self.stack, name)(*args)  # raises
        if window is not None and self.dirty:
            await self._flush()
        if window is not None and not window.placed and not window.seekable and not args:
            await self._gather()
        elif window is not None and window.placed and self._remaining() <= INLINE:
            await self._fetch_all()
        else:
            return await self._on_thread(name, args, None, True)
        if window.left() > INLINE:
            return await self._on_thread(name, args, None, True)
        window.begin()
        try:
            return getattr(self.stack, name)(*args)
        finally:
            window.end()

    async def readlines(self, *args):
        """The lines up to the end, or about as many as ``readlines(hint)`` bytes or characters have."""
        self.here()
        if self.held:
            await self._turn()
        self.held = True
        try:
            return await self._bulk("readlines", args)
        finally:
            self.leave()

    async def close(self):
        """Write what is still in the buffers, wait for the operations that run, and close the file.

        The descriptor is closed whatever happens.

        Raises:
            OSError: not all could be written.
        """
        self.here()
        if self.held:
            await self._turn()
        self.held = True
        try:
            if self.window is None:
                await self._on_thread("close")
            elif self.window.fd >= 0:
                await self._close()
        finally:
            self.leave()

    async def _close(self):
        cdef Window window = self.window
        cdef object failure = None
        try:
            try:
                if self.dirty or window.pending_size:
                    await self._flush()
            except OSError as exc:
                failure = exc
                window.wrote(window.pending_size)
            while self.flying:
                self.landing = self.access.loop.create_future()
                await self.landing
            if window.local and not self.unsynced:
                self.stack.close()
                self.access.spend(0)
            else:
                await self._on_thread("close")
        except BaseException:
            if window.fd >= 0 and not self.deferred:
                # Cancelled: it is closed all the same, with what is still to be written, and nobody waits for it.
                self.deferred = True
                start_body(self.access, self.stack.close, ()).leave(self._body_ended)
            raise
        if failure is not None:
            raise failure

    # ---------------------------------------------------------------------------------------------------- the disk

    cdef int descriptor(self) except -1:
        """What the kernel is to be asked with."""
        if self.window is not None and self.window.fd >= 0:
            return self.window.io
        return number_of(self.file().fileno())

    async def _sync(self, bint data_only):
        cdef FileOp op
        self.here()
        if self.held:
            await self._turn()
        self.held = True
        try:
            if self.window is None:
                await self._on_thread("flush")
            else:
                await self._flush()
            op = self.access.new_op(FSYNC, self.descriptor(), -1)
            op.events = FSYNC_DATA if data_only else 0
            await self._whole(op)
            self.unsynced = op.error != 0
        finally:
            self.leave()
        if op.error:
            raise error_of(op, self.window)

    async def fsync(self):
        """``flush``, and have the disk keep it, with the file's attributes: fsync(2)."""
        await self._sync(False)

    async def fdatasync(self):
        """``fsync`` without attributes that no later read needs: fdatasync(2)."""
        await self._sync(True)

    async def _about(self, fn, *args):
        """A call on the descriptor, on an IO thread, in line with the other operations."""
        cdef Body body
        self.here()
        if self.held:
            await self._turn()
        self.held = self.unsynced = True
        try:
            body = start_body(self.access, fn, (self.descriptor(), *args))
            try:
                await body.future
            except asyncio.CancelledError:
                self.deferred = True
                body.leave(self._body_ended)
                raise
        finally:
            self.leave()

    async def allocate(self, offset, length):
        """Reserve room on the disk for `length` bytes at `offset`, so that writing there cannot fail for want of it.

        The file becomes as long as that: posix_fallocate(3); FileAllocationInfo on Windows.

        Raises:
            OSError: there is not so much room.
            io.UnsupportedOperation: this system has no such call.
        """
        await self._about(allocate_call(), offset, length)

    async def advise(self, advice, offset=0, length=0):
        """Tell the kernel how the file will be read: posix_fadvise(2).

        Args:
            advice: ``normal``, ``sequential``, ``random``, ``noreuse``, ``willneed`` or ``dontneed``.
            offset: of the first byte that this is about.
            length: how many bytes; 0: up to the end.

        Raises:
            ValueError: another word.
            io.UnsupportedOperation: this system has no such call.
        """
        call = advise_call()
        words = ("normal", "sequential", "random", "noreuse", "willneed", "dontneed")
        if advice not in words:
            raise ValueError(f"unknown advice {advice!r}: one of {', '.join(words)}")
        await self._about(call, offset, length, getattr(os, f"POSIX_FADV_{advice.upper()}"))


cdef object error_of(FileOp op, Window window):
    """The OSError of an op that has failed."""
    if op.error == EAGAIN:
        return BlockingIOError(EAGAIN, BLOCKED, 0)
    if op.error == EINVAL and window is not None and window.direct:
        return OSError(EINVAL, "direct=True: offset, size and buffer must be multiples of the disk's block size "
                               "(4096 does for every disk)")
    return OSError(op.error, os.strerror(op.error))


def _wake(future, op):
    if not future.done():
        future.set_result(None)
