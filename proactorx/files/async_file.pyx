"""The file objects: the coroutines that aiofiles has, over a stack of the ``io`` module.

Operations on one file object queue: each begins when the one before it has ended, so that none meets
another's half-filled buffer.  Those at a position (``pread`` and so on, see positional.pyx) do not queue and
run at once.
"""

cimport cython
from proactorx.files.access cimport Access
from proactorx.files.disk_calls cimport DiskCalls
from proactorx.files.raw_state cimport RawState
from proactorx.files.thread_call cimport start_call

import asyncio
import types
import warnings

from proactorx.files import coroutines as _coroutines
from proactorx.files.raw_file import RawFile

cdef object next_line = _coroutines.next_line
cdef enum:
    INLINE = 1 << 20         # bytes that may be decoded or split in the loop's thread


cdef class AsyncBase(DiskCalls):
    """A file whose methods are coroutines.

    Args:
        file: the file of the ``io`` module that it stands for.
        loop: the loop that uses it; default: the one that runs when it is used.
        executor: runs what blocks; default: the loop's IO threads.
    """

    def __init__(self, file, loop, executor):
        self.stack = file
        self.loop = loop
        self.executor = executor
        self._set_state()

    __class_getitem__ = classmethod(types.GenericAlias)  # what reads give, and what writes take

    def _opened(self, site, bint direct):
        self.opened_at = site
        if direct:
            # preadv2(2) waits for the disk, whatever RWF_NOWAIT says.
            self.state.direct = True
            self.state.read_now = self.state.write_now = False

    @property
    def _file(self):
        return self.file()

    @property
    def _loop(self):
        return self.loop or asyncio.get_running_loop()

    @property
    def _executor(self):
        return self.executor

    def __repr__(self):
        return f"{object.__repr__(self)} wrapping {self.file()!r}"

    def __aiter__(self):
        """Return the file itself, which iterates over its lines."""
        return self

    def __anext__(self):
        return next_line(self)

    async def __aenter__(self):
        return self

    async def __aexit__(self, exc_type, exc_val, exc_tb):
        await self.close()

    async def _exit_block(self, *exc_info):
        """The end of a block that has entered a temporary file."""
        await self.turn()
        try:
            await self._on_thread("__exit__", exc_info)
        finally:
            self.lock.release()

    def __del__(self):
        if self.state is None or self.state.fd < 0 or self.stack is None:
            return
        try:
            where = "" if self.opened_at is None else " opened at {}:{}".format(*self.opened_at)
            warnings.warn(f"unclosed file {self.stack!r}{where}", ResourceWarning, source=self)
        finally:  # also where warnings are errors
            self.stack.close()

    cdef bint free_now(self) except -1:
        """Whether an operation may be tried at once, without taking the lock."""
        self.here()
        return self.state is not None and not self.lock.held and not self.dirty

    def _yield_turn(self):
        """Something to await until others have had their turn."""
        return self.access.yield_turn()

    cdef object call_stack(self, name, args):
        """A method of the stack; bytes that have to be waited for are not there for it."""
        self.state.begin()
        try:
            return getattr(self.stack, name)(*args)
        finally:
            self.state.end()

    # ----------------------------------------------------------------------------- any kind of file: position

    async def _simple(self, name, args=(), kwargs=None):
        """A method that needs no bytes of the file."""
        await self.turn()
        try:
            if self.state is None:
                return await self._on_thread(name, args, kwargs)
            if name == "tell" and self.state.strict and self.dirty:
                await self._flush()  # as a text file does it: in append mode it is only known then
            result = self.call_stack(name, args)
            if self.state.pending_size:
                await self._drain()
            return result
        finally:
            self.lock.release()

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
        """The position of the next read or write; of a text file, a number that only ``seek`` understands.

        Raises:
            OSError: the file has no position.
        """
        return await self._simple("tell")

    def fileno(self):
        """The number of the descriptor.

        The descriptor of an unbuffered file is at the position that ``tell`` gives; others may be ahead of
        it.
        """
        if self.state is not None and not self.lock.held and type(self.stack) is RawFile:
            self.state.drop()
        return self.file().fileno()

    @property
    def closed(self):
        """Whether ``close`` has ended."""
        return self.file().closed

    @property
    def name(self):
        """The first argument of ``open``."""
        return self.file().name

    @property
    def mode(self):
        """How the file was opened, as of the built-in ``open``."""
        return self.file().mode

    def _complex_seek(self, args):
        """Whether this seek reads."""
        return False

    async def seek(self, *args):
        """Move to a position: ``seek(offset, whence=0)``.

        Args:
            offset: in bytes.
            whence: ``os.SEEK_SET``, ``os.SEEK_CUR`` or ``os.SEEK_END``: what `offset` is relative to.

        Returns:
            int: the new position.

        Raises:
            OSError: the file has no position.
        """
        await self.turn()
        try:
            if self.state is None:
                return await self._on_thread("seek", args)
            if self.dirty:
                await self._flush()
            if not self.state.local or self._complex_seek(args):
                return await self._on_thread("seek", args)
            return self.call_stack("seek", args)
        finally:
            self.lock.release()

    async def truncate(self, *args):
        """Cut or lengthen the file to ``truncate(size)`` bytes, or to its position: ftruncate(2).

        Returns:
            int: the new size in bytes.

        Raises:
            OSError: the file has no size that can be set, or the disk is full.
        """
        await self.turn()
        try:
            if self.dirty and self.state is not None:
                await self._flush()
            self.unsynced = True
            return await self._on_thread("truncate", args)
        finally:
            self.lock.release()

    # ------------------------------------------------------------------------------------------------ writing

    async def flush(self):
        """Write what is in the buffers of this object to the file.

        Raises:
            OSError: not all was written; the rest is kept, and the next ``flush`` or ``close`` tries again.
        """
        await self.turn()
        try:
            await self._flush()
        finally:
            self.lock.release()

    async def write(self, data):
        """Write `data`.

        What does not fit into the buffer is in the file when this returns.  When it is cancelled meanwhile,
        the whole of `data` has been taken, and the next ``flush`` writes the rest.

        Returns:
            int: how many bytes or characters were taken.

        Raises:
            OSError: as for ``flush``.
        """
        cdef Access access = self.here()
        await access.budget()
        await self.turn()
        try:
            if self.state is None:
                return await self._on_thread("write", (data,))
            result = self.put(data)
            if self.state.pending_size:
                await self._push(data)
        finally:
            self.lock.release()
        access.charge(len(data) if type(data) is bytes or type(data) is str else 0)
        return result

    cdef object put(self, data):
        """Have the stack take `data`."""
        self.state.asked = self.state.pending_size
        try:
            return self.call_stack("write", (data,))
        finally:
            self.dirty = True

    async def _push(self, data):
        """Write to the file what the stack has written of `data`.

        A file that does not wait (O_NONBLOCK) may not take it all.  Then as much as one buffer holds is kept
        for later, as the ``io`` module does it.
        """
        cdef RawState state = self.state
        cdef Py_ssize_t given = state.pending_size - state.asked, excess
        if type(data) is not str:
            given = memoryview(data).nbytes
        try:
            await self._drain()
        except BlockingIOError as exc:
            self._flush_stack()  # the buffer of the io module counts too: 128 KiB from Python 3.14 on
            excess = state.pending_size - state.buffer
            if excess > 0:
                state.cut(state.buffer)
                exc.characters_written = max(given - excess, 0)
                raise

    async def writelines(self, lines):
        """Write each of `lines`, as ``write`` does.

        Raises:
            OSError: as for ``flush``.
        """
        await self.turn()
        try:
            if self.state is None:
                await self._on_thread("writelines", (lines,))
                return
            for line in lines:
                self.put(line)
                if self.state.pending_size:
                    await self._push(line)
                self.access.charge(len(line))
                await self.access.budget()
        finally:
            self.lock.release()

    # -------------------------------------------------------------------------------------------------- lines

    readline = _coroutines.readline

    cdef object line_now(self, tuple args):
        """A line, or None where it has to be waited for."""
        return None

    @cython.binding(False)  # a plain method descriptor: CPython calls it directly
    def _line_now(self, tuple args, bint yielded):
        """``line_now``; False where it is others' turn, unless they have had it (`yielded`)."""
        if self.here().over_budget() and not yielded:
            return False
        line = self.line_now(args)
        if line is not None:
            self.access.charge(len(line))
        return line

    async def _bulk(self, name, args):
        """A read of everything, with work on it: on an IO thread where it is much."""
        cdef RawState state = self.state
        if state is not None and (state.fd < 0 or not state.readable):
            return getattr(self.stack, name)(*args)  # raises
        if state is not None and self.dirty:
            await self._flush()
        if state is not None and not state.placed and not state.seekable and not args:
            await self._gather()
        elif state is not None and state.placed and self._remaining() <= INLINE:
            await self._fetch_all()
        else:
            return await self._on_thread(name, args, None, True)
        if state.left() > INLINE:
            return await self._on_thread(name, args, None, True)
        return self.call_stack(name, args)

    async def readlines(self, *args):
        """The lines up to the end: ``readlines(hint=-1)``.

        Args:
            hint: stop after the line that ends beyond so many bytes or characters; -1: no limit.

        Raises:
            OSError: the file cannot be read.
        """
        await self.turn()
        try:
            return await self._bulk("readlines", args)
        finally:
            self.lock.release()

    # ------------------------------------------------------------------------------------------------ closing

    async def close(self):
        """Write what is still in the buffers, wait for the operations that run, and close the file.

        The descriptor is closed in any case.

        Raises:
            OSError: not all could be written.
        """
        await self.turn()
        try:
            if self.state is None:
                await self._on_thread("close")
            elif self.state.fd >= 0:
                await self._close()
        finally:
            self.lock.release()

    async def _close(self):
        cdef RawState state = self.state
        cdef object failure = None
        try:
            try:
                if self.dirty or state.pending_size:
                    await self._flush()
            except OSError as exc:
                failure = exc
                state.wrote(state.pending_size)
            while self.in_flight:
                self.idle = self.access.loop.create_future()
                await self.idle
            if state.local and not self.unsynced:
                self.stack.close()
                self.access.charge(0)
            else:
                await self._on_thread("close")
        except BaseException:
            if state.fd >= 0 and not self.lock.detached:
                # Cancelled: an IO thread writes the rest and closes the file, without its caller.
                self.lock.detach()
                start_call(self.access, self.stack.close, ()).abandon(self._call_ended)
            raise
        if failure is not None:
            raise failure
