"""Binary files: a ``BufferedReader`` and its like, fed from ``RawState``."""

cimport cython
from proactorx.files.positional cimport Positional
from proactorx.files.raw_state cimport RawState

from proactorx.files import coroutines as _coroutines

cdef enum:
    READ_AHEAD = 1 << 16     # bytes at a time
    INLINE = 1 << 20         # bytes that are copied in the loop's thread


cdef class AsyncBinary(Positional):
    """Methods of all binary files."""

    def readable(self):
        """Whether the file was opened for reading."""
        return self.file().readable()

    cdef Py_ssize_t shortage(self, str name, tuple args):
        """How many bytes an attempt that starved still needs."""
        cdef object n = args[0] if args else None
        if name == "readline" or name == "peek":
            return READ_AHEAD
        if name == "readinto":
            return max(memoryview(n).nbytes - self.state.left(), READ_AHEAD)
        if name == "read1":
            return READ_AHEAD if n is None or n < 0 else max(n, 1)
        if n is None or n < 0:
            return max(self._remaining() + 1, READ_AHEAD)
        return max(n - self.state.left(), 1)

    cdef object attempt(self, str name, tuple args):
        """Call the stack.  None, and nothing was taken, if it needs bytes that have to be waited for."""
        cdef RawState state = self.state
        cdef object result
        result = self.call_stack(name, args)
        if not state.starved:
            return result
        if name == "readinto":
            if result:
                state.unread(bytes(memoryview(args[0]).cast("B")[:result]))
        elif result and name != "peek":
            state.unread(result)
        return None

    cdef bint is_much(self, str name, tuple args):
        """Whether copying it all from the page cache would keep the loop's thread busy."""
        return name == "read" and (not args or args[0] is None or args[0] < 0 or args[0] > INLINE)

    async def _waiting(self, str name, tuple args):
        """``now``, in line, fetching the bytes that are not here."""
        cdef RawState state = self.state
        await self.turn()
        try:
            if state is None:
                return await self._on_thread(name, args, None, True)
            if state.fd < 0 or not state.readable:
                return getattr(self.stack, name)(*args)  # raises
            if self.dirty:
                await self._flush()
            self.prepare(name, args)
            if state.placed and self.is_much(name, args) and not state.eof:
                await self._fetch(self.shortage(name, args))
            elif not state.placed and name == "read" and (not args or args[0] is None or args[0] < 0):
                await self._gather()
            while True:
                result = self.attempt(name, args)
                if not state.starved:
                    return result
                await self._fetch(self.shortage(name, args))
        finally:
            self.lock.release()

    cdef int prepare(self, str name, tuple args) except -1:
        """Before the first attempt."""
        return 0

    cdef object now(self, str name, tuple args):
        """The result, if no bytes have to be waited for; else None."""
        if self.free_now() and not (self.state.placed and self.is_much(name, args)):
            self.prepare(name, args)
            return self.attempt(name, args)
        return None

    read = _coroutines.read
    readinto = _coroutines.readinto

    @cython.binding(False)  # a plain method descriptor: CPython calls it directly
    def _now(self, str name, tuple args, bint yielded):
        """``now``; False where it is others' turn, unless they have had it (`yielded`)."""
        if self.here().over_budget() and not yielded:
            return False
        result = self.now(name, args)
        if result is not None:
            self.charge_for(result)
        return result

    async def _awaited(self, str name, tuple args):
        result = await self._waiting(name, args)
        self.charge_for(result)
        return result

    cdef int charge_for(self, result) except -1:
        return self.access.charge(len(<bytes>result) if type(result) is bytes else result or 0)

    cdef object line_now(self, tuple args):
        return self.now("readline", args)

    async def _line(self, tuple args):
        return await self._awaited("readline", args)


cdef class AsyncBufferedIOBase(AsyncBinary):
    """The asynchronous ``io.BufferedWriter``, or another ``io.BufferedIOBase``."""

    async def read1(self, *args):
        """Read at most `size` bytes, with at most one read(2): ``read1(size=-1)``; b"" at the end.

        Raises:
            OSError: the file cannot be read.
        """
        result = self.now("read1", args)
        if result is None:
            result = await self._waiting("read1", args)
        return result

    def detach(self):
        """Separate the raw file of the ``io`` module from this object, and return it."""
        raw = self.file().detach()
        self.state = None
        return raw

    @property
    def raw(self):
        """The raw file of the ``io`` module; its methods block."""
        return self.file().raw


cdef class AsyncBufferedReader(AsyncBufferedIOBase):
    """The asynchronous ``io.BufferedReader`` or ``io.BufferedRandom``."""

    async def peek(self, *args):
        """The bytes that the next read will bring, without moving: ``peek(size=0)``; b"" at the end.

        Raises:
            OSError: the file cannot be read.
        """
        result = self.now("peek", args)
        if result is None:
            result = await self._waiting("peek", args)
        return result


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
    """``AsyncBufferedReader`` that looks for its file each time."""

    def __init__(self, name, loop, executor, indirect):
        self.indirect = indirect
        AsyncBufferedReader.__init__(self, None, loop, executor)
