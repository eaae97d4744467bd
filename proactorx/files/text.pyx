"""Text files: ``io.TextIOWrapper``, fed from ``RawState``.

A ``TextIOWrapper`` takes "nothing now" for the end of the file, and forgets what it has decoded when a read
fails.  So it is asked for a line only when ``RawState`` has the end of one, and for characters only when it
has enough of them.  Where that cannot be known (other codecs, error handlers that the program registers), an
IO thread makes the call.

A pipe or a terminal has no positions, and its next bytes may never come.  Its lines and characters are
counted here (see characters.pyx), so that a read waits for no more bytes than it needs.
"""

from proactorx.files.access cimport Access
from proactorx.files.async_file cimport AsyncBase
from proactorx.files.characters cimport Characters
from proactorx.files.raw_state cimport RawState

import codecs

cdef enum:
    READ_AHEAD = 1 << 16     # bytes at a time
    INLINE = 1 << 20         # bytes that may be looked at and decoded in the loop's thread
    FEW = 1 << 16            # characters that are read there
    SLACK = 16               # bytes that give no character: a byte order mark, CR before LF

# Codecs whose bytes 0x0A and 0x0D are always line ends, and whose characters have at most four bytes.
cdef tuple PLAIN_CODECS = ("utf-8", "ascii", "iso8859", "cp125", "cp437", "cp850", "koi8")
cdef tuple PLAIN_ERRORS = (
    "strict", "replace", "surrogateescape", "surrogatepass", "backslashreplace", "ignore",
)


cdef class AsyncTextIOWrapper(AsyncBase):
    """The asynchronous ``io.TextIOWrapper``."""

    cdef object one_line     # the stack's readline
    cdef int newline         # see RawState.has_line
    cdef str splits          # as it was given to open
    cdef Characters flow     # of what has no positions; else None
    cdef bint by_lines       # the bytes say where lines end
    cdef bint by_characters  # and how many characters there are, at least

    def _set_state(self):
        AsyncBase._set_state(self)
        if self.state is not None:
            self.state.strict = True
            self.one_line = self.stack.readline
            name = codecs.lookup(self.stack.encoding).name
            self.by_lines = name.startswith(PLAIN_CODECS) and self.stack.errors in PLAIN_ERRORS
            self.by_characters = self.by_lines and self.stack.errors != "ignore"
            self.newline = c"u"

    def _splits_at(self, newline):
        """Set `newline`, as it was given to ``open``."""
        self.splits = newline
        self.newline = {"\n": c"n", "\r": c"r", "\r\n": c"w"}.get(newline, c"u")

    # -------------------------------------------------------------------------------------- without positions

    cdef bint flows(self) except -1:
        """Whether the file has no positions, and is read by way of ``flow``."""
        cdef RawState state = self.state
        if state is None or state.seekable or not state.readable or state.fd < 0:
            return False
        if self.flow is None:
            self.flow = Characters(self.stack.encoding, self.stack.errors, self.splits)
        if state.left():
            self.flow.feed(state.take(-1), False)
        return True

    async def _flows(self):
        """``flows``, after a first read, which shows whether a file that claims positions has them."""
        cdef RawState state = self.state
        if state.seekable and not state.known and state.readable and state.fd >= 0:
            if not state.left() and not state.eof:
                await self._fetch(READ_AHEAD)
        return self.flows()

    cdef Py_ssize_t ready(self, str name, Py_ssize_t n) except -2:
        """How many characters the call gives, if that needs no more bytes; else -1."""
        cdef Py_ssize_t found = -1
        if name == "readline":
            found = self.flow.line()
        if 0 <= n <= self.flow.left() and (found < 0 or n < found):
            found = n
        return found

    async def _flow(self, str name, tuple args):
        """``readline(n)`` or ``read(n)``; negative: without a limit."""
        cdef RawState state = self.state
        cdef Py_ssize_t n = _limit(args), found
        cdef list parts = []
        try:
            while True:
                found = self.ready(name, n)
                if found >= 0:
                    return self.flow.take(found)
                if state.eof or state.dry:
                    break
                if name == "read" and n < 0:
                    parts.append(self.flow.take(-1))
                await self._fetch(READ_AHEAD)
                self.flow.feed(state.take(-1), False)
        finally:
            if parts:
                self.flow.put_back("".join(parts))
        if state.dry and not self.flow.left():
            return self.call_stack(name, args)  # what the io module says when there is nothing now
        if state.eof:
            self.flow.feed(b"", True)
            found = self.ready(name, n)
        if found < 0:
            state.eof = state.dry = False  # the caller knows now
        return self.flow.take(found)

    async def seek(self, *args):
        """Move to a position that ``tell`` gave, to the beginning or the end: ``seek(offset, whence=0)``.

        Raises:
            OSError: the file has no position.
        """
        result = await AsyncBase.seek(self, *args)
        if self.flow is not None:
            self.flow.drop()
        return result

    async def _bulk(self, name, args):
        if self.state is None or self.state.placed or not await self._flows():
            return await AsyncBase._bulk(self, name, args)
        if name == "read":
            return await self._flow(name, args)
        lines, count, hint = [], 0, _limit(args)
        while line := await self._flow("readline", ()):
            lines.append(line)
            count += len(line)
            if 0 < hint < count:
                break
        return lines

    # ----------------------------------------------------------------------------------------- lines and text

    cdef object line_now(self, tuple args):
        """A line, or None where it has to be waited for."""
        cdef RawState state = self.state
        cdef Py_ssize_t n
        if not self.free_now():
            return None
        if not state.seekable:
            n = self.ready("readline", _limit(args)) if self.flows() else -1
            return None if n < 0 else self.flow.take(n)
        if not self.by_lines:
            return None
        if state.fd >= 0 and state.readable:
            while not state.has_line(self.newline) and not state.eof:
                if state.left() >= INLINE or state.read_ahead(max(READ_AHEAD, state.left())) < 0:
                    return None
        state.begin()
        try:
            return self.one_line(*args)
        finally:
            state.end()

    async def _line(self, tuple args):
        line = await self._awaited_line(args)
        self.access.charge(len(line))
        return line

    async def _awaited_line(self, tuple args):
        cdef RawState state
        await self.turn()
        try:
            state = self.state
            if state is not None and self.dirty and state.readable and state.fd >= 0:
                await self._flush()
            if state is not None and not state.placed and await self._flows():
                return await self._flow("readline", args)
            if state is None or not self.by_lines:
                return await self._on_thread("readline", args, None, True)
            if state.fd >= 0 and state.readable:
                while not state.has_line(self.newline) and not state.eof:
                    if state.left() >= INLINE or state.read_ahead(max(READ_AHEAD, state.left())) < 0:
                        await self._fetch(max(READ_AHEAD, state.left()))
            state.begin()
            try:
                return self.one_line(*args)
            finally:
                state.end()
        finally:
            self.lock.release()

    async def read(self, *args):
        """Read at most `size` characters, or all up to the end: ``read(size=-1)``; "" at the end.

        Raises:
            OSError: the file cannot be read.
            UnicodeDecodeError: the bytes are no text in this encoding.
        """
        cdef RawState state
        cdef Py_ssize_t n, enough
        cdef Access access = self.here()
        await access.budget()
        await self.turn()
        try:
            n = -1 if not args or args[0] is None else args[0]
            state = self.state
            if n < 0:
                result = await self._bulk("read", args)
            elif state is not None and (state.fd < 0 or not state.readable):
                result = self.stack.read(n)  # raises
            elif state is not None and not state.placed and await self._flows():
                result = await self._flow("read", args)
            elif state is None or not state.seekable or not self.by_characters or n > FEW:
                if state is not None and self.dirty:
                    await self._flush()
                result = await self._on_thread("read", args, None, True)
            else:
                if self.dirty:
                    await self._flush()
                enough = 4 * n + SLACK
                while n and state.left() < enough and not state.eof:
                    if state.read_ahead(max(READ_AHEAD, enough - state.left())) < 0:
                        await self._fetch(max(READ_AHEAD, enough - state.left()))
                result = self.call_stack("read", (n,))
        finally:
            self.lock.release()
        access.charge(len(result))
        return result

    def _complex_seek(self, args):
        # What tell() says of a place where the decoder has a state; seeking there decodes up to it.
        return (len(args) > 1 and args[1] == 1) or (bool(args) and args[0] >= 1 << 63)

    async def readable(self):
        """Whether the file was opened for reading."""
        return await self._simple("readable")

    def detach(self):
        """Separate the buffered file of the ``io`` module from this object, and return it."""
        return _detached(self)

    @property
    def buffer(self):
        """The buffered file of the ``io`` module; its methods block."""
        return self.file().buffer

    @property
    def encoding(self):
        """The name of the encoding."""
        return self.file().encoding

    @property
    def errors(self):
        """The name of the error handler of decoder and encoder."""
        return self.file().errors

    @property
    def line_buffering(self):
        """Whether a line end is written at once."""
        return self.file().line_buffering

    @property
    def newlines(self):
        """The line ends that were seen so far."""
        return self.file().newlines if self.flow is None else self.flow.newlines


cdef Py_ssize_t _limit(tuple args) except? -1:
    return -1 if not args or args[0] is None else args[0]


cdef object _detached(AsyncBase handle):
    below = handle.file().detach()
    handle.state = None
    return below


cdef class AsyncTextIndirectIOWrapper(AsyncTextIOWrapper):
    """One that looks for its file each time, as ``sys.stdout`` may be replaced.

    Args:
        name: of what it stands for.
        loop: as of the others.
        executor: as of the others.
        indirect: finds the file.
    """

    def __init__(self, name, loop, executor, indirect):
        self.indirect = indirect
        AsyncTextIOWrapper.__init__(self, None, loop, executor)
