# cython: binding=False, embedsignature.format=clinic
"""What a ``StreamReader`` of ours keeps instead of attributes, and the steps of its methods.

``streams`` has the classes: coroutines of a few lines, whose steps are these.  Received bytes are kept as the
one object that the next ``read`` returns, wherever that takes all of it.  Each step that may be taken without
asking anybody answers NotImplemented where a method was replaced, or an argument is unusual: then asyncio's
own method runs, on the same state.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.string cimport memchr, memcpy, memmove
from proactorx.sys.atomic cimport store_relaxed_u32
from proactorx.sys.slots cimport px_is_version, px_slot, px_slot_offset, px_version

from asyncio import exceptions, futures, tasks

from proactorx.sys import python

cdef extern from "Python.h":
    Py_ssize_t PyLong_AsSsize_t(object number) except? -1
    Py_ssize_t MOST "PY_SSIZE_T_MAX"
    bint PyCFunction_Check(object function)
    PyObject *PyCFunction_GET_SELF(object function)

cdef object IncompleteReadError = exceptions.IncompleteReadError
cdef object LimitOverrunError = exceptions.LimitOverrunError
cdef object CancelledError = exceptions.CancelledError
cdef object InvalidStateError = exceptions.InvalidStateError
cdef object take_bytes = getattr(bytearray, "take_bytes", None) or (  # Python 3.15
    lambda held, size: (bytes(held[:size]), held.__delitem__(slice(0, size)))[0])
cdef object Future = futures.Future
cdef object Task = tasks.Task


class _Nowhere:
    """The loop of a future that nobody waits for."""

    def get_debug(self):
        """Return False."""
        return False


# What a task is told instead of a wait that is over: of asyncio's own future it asks nothing.  Loops that run
# at once do not share it, since the task writes to it.
cdef object over = Future(loop=_Nowhere())
over.set_result(None)
cdef bint tells_over = not python.FREE_THREADED

# The classes of `streams`, and what they looked like: a class has another version tag when it or one that it
# is derived from was changed.
cdef object Reader = None
cdef object Converted = None
cdef object Protocol = None
cdef Py_ssize_t state_offset = 0
cdef unsigned int[3] versions
cdef object unchanged = None


def watch(reader, converted, protocol, check):
    """Serve instances of these classes, as long as `check()` says that nothing of them was replaced.

    A `reader` has its state in a slot, a `converted` one, once of asyncio's own class, in its dictionary.
    """
    global Reader, Converted, Protocol, state_offset, unchanged
    Reader = reader
    Converted = converted
    Protocol = protocol
    state_offset = px_slot_offset(reader.__dict__["_state"])
    unchanged = check


cdef inline bint intact() except -1:
    """Whether the classes are as they were made."""
    return (px_is_version(Reader, &versions[0]) and px_is_version(Converted, &versions[1])
            and px_is_version(Protocol, &versions[2])) or look()


cdef bint look() except -1:
    # A tag is given by the first look-up after a change, and never again.  Read before the classes are looked
    # at: what another thread changes from here on has another one.
    Reader.read, Converted.read, Protocol.data_received
    cdef unsigned int[3] found = [px_version(Reader), px_version(Converted), px_version(Protocol)]
    if not unchanged():
        return False
    for i in range(3):
        store_relaxed_u32(&versions[i], found[i])
    return True


def is_intact():
    """Whether nothing of the classes was replaced."""
    return intact()


cdef bint is_compiled(protocol) except -1:
    """Whether the reader of `protocol` has a ``ReadState``."""
    return Protocol is not None and type(protocol) is Protocol


cdef ReadState state_of(reference):
    """The state of the reader that a weak reference is of, if it may be given bytes by hand; else None."""
    cdef PyObject *slot
    cdef ReadState state
    reader = reference()
    if type(reader) is Reader:
        slot = px_slot(reader, state_offset)
        if slot == NULL:
            return None
        state = <ReadState?><object>slot
    elif type(reader) is Converted:
        state = reader._state
    else:
        return None
    return state if not state.eof and state.ours() else None


cdef enum:
    PENDING = 0
    DONE = 1
    FAILED = 2
    CANCELLED = 3


cdef inline bint is_task(callback) noexcept:
    """Whether a task of asyncio's compiled ones is woken by it."""
    cdef PyObject *owner
    if not PyCFunction_Check(callback):
        return False
    owner = PyCFunction_GET_SELF(callback)
    return owner != NULL and type(<object>owner) is Task


@cython.freelist(256)
cdef class Arrival:
    """What a coroutine waits for until bytes arrive: a future that serves one ``await`` at a small price."""

    cdef ReadState state         # of the reader; None once the wait is over
    cdef object loop
    cdef object callback         # with its context: of the task that waits
    cdef object context
    cdef list others             # (callback, context) of whoever else asked
    cdef object reason           # the exception, or the message of the cancellation
    cdef unsigned char status
    cdef bint asked              # the task has been told to wait
    cdef public bint _asyncio_future_blocking

    @property
    def __class__(self):
        return Future

    @property
    def _loop(self):
        return self.loop

    @property
    def _state(self):
        return ("PENDING", "FINISHED", "FINISHED", "CANCELLED")[self.status]

    def get_loop(self):
        """Return the loop of the reader."""
        return self.loop

    def __repr__(self):
        return f"<Future {self._state.lower()}>"

    # ------------------------------------------------------------------------------------- for the coroutine

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.status == PENDING:
            if self.asked:
                raise RuntimeError("await wasn't used with future")
            self.asked = True
            self._asyncio_future_blocking = True
            return self
        self.close()
        if self.status != DONE:
            self.result()
        raise StopIteration

    def throw(self, kind, value=None, traceback=None):
        """Raise in the coroutine, which waits no more."""
        self.close()
        if value is None:
            value = kind if isinstance(kind, BaseException) else kind()
        if traceback is not None:
            value = value.with_traceback(traceback)
        raise value

    def close(self):
        """The coroutine waits no more."""
        if self.state is not None:
            self.state.waiter = None
            self.state = None

    # ------------------------------------------------------------------------------------------ for the task

    def done(self):
        """Return whether the wait is over."""
        return self.status != PENDING

    def cancelled(self):
        """Return whether the wait was cancelled."""
        return self.status == CANCELLED

    def result(self):
        """Return None, or raise what ended the wait."""
        if self.status == PENDING:
            raise InvalidStateError("Result is not set.")
        if self.status == CANCELLED:
            raise CancelledError() if self.reason is None else CancelledError(self.reason)
        if self.status == FAILED:
            raise self.reason
        return None

    def exception(self):
        """Return the exception that ended the wait, or None."""
        if self.status == FAILED:
            return self.reason
        return self.result()

    def add_done_callback(self, function, *, context=None):
        """Call ``function(self)`` from the loop when the wait is over."""
        if self.status != PENDING:
            self.loop.call_soon(function, self, context=context)
        elif self.callback is None:
            self.callback = function
            self.context = context
        else:
            if self.others is None:
                self.others = []
            self.others.append((function, context))

    def remove_done_callback(self, function):
        """Forget a callback; return how often it was there."""
        before = [] if self.callback is None else [(self.callback, self.context)]
        before += self.others or []
        after = [pair for pair in before if pair[0] != function]
        self.callback = self.context = None
        if after:
            self.callback, self.context = after[0]
        self.others = after[1:]
        return len(before) - len(after)

    def cancel(self, msg=None):
        """End the wait with ``CancelledError``; return False if it is over."""
        if self.status != PENDING:
            return False
        self.reason = msg
        self.end(CANCELLED)
        return True

    def set_result(self, result):
        """End the wait."""
        if self.status != PENDING:
            raise InvalidStateError("invalid state")
        self.end(DONE)

    def set_exception(self, exception):
        """End the wait with an exception."""
        if self.status != PENDING:
            raise InvalidStateError("invalid state")
        future = Future(loop=self.loop)  # it knows what may be an exception of a future
        future.set_exception(exception)
        self.reason = future.exception()
        self.end(FAILED)

    cdef int end(self, unsigned char status) except -1:
        callback, self.callback = self.callback, None
        context, self.context = self.context, None
        self.status = status
        if callback is not None:
            told = over if tells_over and status == DONE and is_task(callback) else self
            self.loop.call_soon(callback, told, context=context)
        if self.others is not None:
            for callback, context in self.others:
                self.loop.call_soon(callback, self, context=context)
            self.others = None
        return 0


cdef Py_ssize_t number(n) except? -1:
    """An int of Python's, or the nearest."""
    try:
        return PyLong_AsSsize_t(n)
    except OverflowError:
        return MOST if n > 0 else -2


cdef class ReadState:
    """What was received, and who waits for more.

    Args:
        loop: the loop of the reader.
        limit: as ``asyncio.StreamReader``'s.
    """

    def __init__(self, loop, limit):
        self.loop = loop
        self.set_limit(limit)

    def set_limit(self, limit):
        """Pause the transport above twice as many bytes."""
        if not limit > 0:
            raise ValueError("Limit cannot be <= 0")
        self.limit = limit
        try:
            self.bound = limit
        except (OverflowError, TypeError):
            self.replaced = True  # a number that only Python can compare

    def get_limit(self):
        """Return the limit, as it was given."""
        return self.limit

    # --------------------------------------------------------------------------------------------- the bytes

    cdef Py_ssize_t size(self) noexcept:
        """How many bytes are there."""
        held = self.held
        if held is None:
            return 0
        if type(held) is bytes:
            return PyBytes_GET_SIZE(held) - self.start
        return PyByteArray_GET_SIZE(held) - self.start

    cdef char *memory(self) noexcept:
        """Where they are."""
        held = self.held
        if type(held) is bytes:
            return PyBytes_AS_STRING(held) + self.start
        return PyByteArray_AS_STRING(held) + self.start

    cdef bytearray writable(self):
        """`held`, as a bytearray of nothing but the bytes that are there."""
        cdef bytearray kept
        cdef Py_ssize_t size = self.size()
        if type(self.held) is bytearray:
            kept = self.held
            if self.start:
                memmove(PyByteArray_AS_STRING(kept), self.memory(), size)
                PyByteArray_Resize(kept, size)
        else:
            kept = bytearray()
            if size:
                PyByteArray_Resize(kept, size)
                memcpy(PyByteArray_AS_STRING(kept), self.memory(), size)
            self.held = kept
        self.start = 0
        return kept

    def feed(self, data):
        """Keep bytes, and do what else ``feed_data`` does."""
        if type(data) is not bytes or self.eof or not self.ours():
            return NotImplemented
        self.add(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def end(self):
        """Note that nothing more comes, and wake who waits."""
        if not self.ours():
            return NotImplemented
        self.eof = True
        if self.waiter is not None:
            self.wake()

    def show(self):
        """Return the bytes as the bytearray that is ``reader._buffer``; it stays the same from now on."""
        self.shown = True
        return self.writable()

    def put(self, buffer):
        """Let `buffer` be ``reader._buffer``."""
        self.held = buffer if type(buffer) is bytearray else bytearray(buffer)
        self.start = 0
        self.shown = True

    def hide(self):
        """Nobody has kept what `show` returned."""
        self.shown = False

    cdef int add(self, const char *data, Py_ssize_t size) except -1:
        """Keep these bytes, and do what else ``feed_data`` does."""
        if not size:
            return 0
        if self.held is None:
            self.held = PyBytes_FromStringAndSize(data, size)
            self.start = 0
        else:
            memcpy(self.grow(size), data, size)
        return self.added()

    cdef int adopt(self, bytes data) except -1:
        """The same where nothing is there: `data` itself is kept."""
        self.held = data
        self.start = 0
        return self.added()

    cdef char *grow(self, Py_ssize_t size) except NULL:
        """Make `size` bytes of room behind what is there; `grown` must follow."""
        cdef bytearray kept = self.writable()
        cdef Py_ssize_t before = PyByteArray_GET_SIZE(kept)
        PyByteArray_Resize(kept, before + size)
        return PyByteArray_AS_STRING(kept) + before

    cdef int grown(self, Py_ssize_t size, Py_ssize_t count) except -1:
        """`count` of the `size` bytes are filled: drop the rest, and do what else ``feed_data`` does."""
        if count != size:
            PyByteArray_Resize(self.held, PyByteArray_GET_SIZE(self.held) - size + count)
        return self.added() if count else 0

    cdef int added(self) except -1:
        if self.waiter is not None:
            self.wake()
        if self.size() > 2 * self.bound and not self.paused and self.transport is not None:
            self.transport.pause_reading()
            self.paused = True
        return 0

    cdef int wake(self) except -1:
        cdef Arrival arrival
        waiter, self.waiter = self.waiter, None
        if type(waiter) is Arrival:
            arrival = <Arrival>waiter
            if arrival.status == PENDING:
                arrival.end(DONE)
            elif arrival.status != CANCELLED:
                arrival.set_result(None)  # raises, as a future does
        elif not waiter.cancelled():
            waiter.set_result(None)
        return 0

    cdef bytes cut(self, Py_ssize_t size):
        """Take the first `size` bytes, of which there are so many, and read on if that makes room."""
        cdef bytes data
        cdef Py_ssize_t left = self.size() - size
        if self.shown:
            data = take_bytes(self.held, size)
        elif not left and not self.start and type(self.held) is bytes:
            data = <bytes>self.held
            self.held = None
        elif not size:
            data = b""
        else:
            data = PyBytes_FromStringAndSize(self.memory(), size)
            self.start += size
            if not left:
                self.held = None
                self.start = 0
        if self.paused and left <= self.bound:
            self.resume()
        return data

    cdef int resume(self) except -1:
        self.paused = False
        self.transport.resume_reading()
        return 0

    # ------------------------------------------------------------------------------------- steps of `streams`

    cdef bint ours(self) except -1:
        """Whether the methods of the reader are those that these steps are of."""
        return not self.replaced and intact()

    def unreplaced(self):
        """Whether these steps may be taken."""
        return self.ours()

    def quiet(self):
        """Whether ``drain`` has nothing to raise."""
        return self.exception is None and self.ours()

    def at_eof(self):
        """Whether nothing is there and nothing will come."""
        return self.eof and not self.size()

    def wait(self, str name):
        """Return what the coroutine of that name has to await until more has come."""
        cdef Arrival arrival
        if self.waiter is not None:
            raise RuntimeError(
                f"{name}() called while another coroutine is already waiting for incoming data")
        if self.eof:
            raise AssertionError("_wait_for_data after EOF")
        # One that waits for more than the limit would wait for ever.
        if self.paused:
            self.resume()
        arrival = Arrival.__new__(Arrival)
        arrival.state = self
        arrival.loop = self.loop
        self.waiter = arrival
        return arrival

    def take(self, n):
        """``read`` before it waits: the bytes; None: wait for them, and then `took`."""
        cdef Py_ssize_t size, left
        if not self.ours() or type(n) is not int:
            return NotImplemented
        if self.exception is not None:
            raise self.exception
        size = number(n)
        if size == 0:
            return b""
        if size < 0:
            return NotImplemented
        left = self.size()
        if not left and not self.eof:
            return None
        return self.cut(min(size, left))

    def took(self, n):
        """``read`` after it has waited."""
        return self.cut(min(number(n), self.size()))

    def take_exactly(self, n, bint again):
        """``readexactly``: the bytes; None: wait for more, and then `again`."""
        cdef Py_ssize_t size, left
        if not again:
            if not self.ours() or type(n) is not int:
                return NotImplemented
        size = number(n)
        if not again:
            if size < 0:
                raise ValueError("readexactly size can not be less than zero")
            if self.exception is not None:
                raise self.exception
            if size == 0:
                return b""
        left = self.size()
        if left >= size:
            return self.cut(size)
        if self.eof:
            raise IncompleteReadError(self.rest(), n)
        return None

    cdef bytes rest(self):
        """Everything, which is removed without reading on."""
        cdef bint paused = self.paused
        self.paused = False
        try:
            return self.cut(self.size())
        finally:
            self.paused = paused

    def take_until(self, separator, Py_ssize_t offset, bint again):
        """``readuntil``: the bytes; a number: wait for more, and then `again` with that `offset`."""
        cdef Py_ssize_t size, length, found
        if not again:
            if not self.ours() or type(separator) is not bytes or not separator:
                return NotImplemented
            if self.exception is not None:
                raise self.exception
        length = PyBytes_GET_SIZE(separator)
        size = self.size()
        if size - offset >= length:
            found = self.find(separator, offset, size)
            if found >= 0:
                if found > self.bound:
                    raise LimitOverrunError("Separator is found, but chunk is longer than limit", found)
                return self.cut(found + length)
            offset = size + 1 - length
            if offset > self.bound:
                raise LimitOverrunError("Separator is not found, and chunk exceed the limit", offset)
        if self.eof:
            raise IncompleteReadError(self.rest(), None)
        return offset

    cdef Py_ssize_t find(self, bytes separator, Py_ssize_t offset, Py_ssize_t size) except -2:
        cdef char *memory
        cdef char *found
        if PyBytes_GET_SIZE(separator) == 1 and offset >= 0:
            memory = self.memory()
            found = <char *>memchr(memory + offset, PyBytes_AS_STRING(separator)[0], size - offset)
            return found - memory if found != NULL else -1
        offset = self.held.find(separator, self.start + offset)
        return offset if offset < 0 else offset - self.start

    def drop_line(self, Py_ssize_t size):
        """A line of `size` bytes is too long: remove it, or all that there is where its end has not come."""
        cdef Py_ssize_t left = self.size()
        if 0 <= size < left and self.memory()[size] == b"\n":
            left = size + 1
        self.cut(left)
