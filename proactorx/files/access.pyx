"""How the files of one loop are read and written: at once where nothing has to be waited for, else by an op.

The kernel executes the op on io_uring; elsewhere an IO thread runs its blocking body, ``FileOp.run``.
"""

cimport cython
from proactorx.sys.errnos cimport EAGAIN, ECANCELED, EINTR, EOPNOTSUPP
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, _PyBytes_Resize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t, uint32_t, uintptr_t
from proactorx.drivers.driver cimport FD_FOR_FILE_OPS
from proactorx.ops.kinds cimport PX_FD, PX_IN, PX_ON_FILE, px_kind
from proactorx.ops.op cimport (
    FILE_STEP, IN_FLIGHT, OPEN, Overlapped, PACKET_MORE, READ, RawPacket, WRITE, px_call, px_kinds,
)
from proactorx.pool.core cimport Call, PoolCore
from proactorx.port.loop_port cimport LoopPort
from proactorx.sys.clock cimport px_monotonic
from proactorx.sys.file cimport (
    AT_FDCWD, px_file_close, px_file_ends, px_file_seek,
)
from proactorx.sys.socket cimport px_has_bytes

import asyncio
import collections
import functools
from asyncio import events

from proactorx.files import direct as _direct
from proactorx.pool import default_pool

cdef extern from *:
    """
    /* asyncio's ``_get_running_loop()``, by its C function: calling the object takes twice as long. */
    static inline PyObject *px_running_loop(PyObject *function) {
        if (PyCFunction_CheckExact(function) && PyCFunction_GET_FLAGS(function) == METH_NOARGS)
            return PyCFunction_GET_FUNCTION(function)(PyCFunction_GET_SELF(function), NULL);
        return PyObject_CallNoArgs(function); /* nest_asyncio, say, has put another one in its place */
    }
    #ifdef Py_GIL_DISABLED
    #define PX_HAS_GIL 0
    #else
    #define PX_HAS_GIL 1
    #endif
    """
    object px_running_loop(object function)
    bint PX_HAS_GIL

cdef object get_running_loop = events._get_running_loop
#: The ``Access`` that was asked for last, a borrowed reference: looking it up on the loop takes a twentieth
#: of the time of reading a small file.  The interpreter's lock guards it; builds without that lock do not use
#: it.
cdef void *latest = NULL
cdef object sleep = asyncio.sleep
cdef Py_ssize_t DIRECT_BLOCK = _direct.BLOCK
cdef str OURS = "_proactorx_files"  # an attribute of the loop: its Access
cdef enum:
    LARGEST_CALL = 0x7ffff000  # read(2), write(2)
    CALL_WORK = 6 << 10      # an operation costs as much as copying so many bytes
    LOOK_AFTER = 64 << 10    # copied, and it is time to look at the clock: 10 to 20 µs
    MOST_WOKEN = 256         # operations that go on in one turn
    SEEK_CUR = 1
    SEEK_END = 2
# Seconds of one turn of the loop that operations may take without waiting.  Timers are late by no more than
# that.
cdef double SLICE = 0.25e-3


@cython.final
cdef class _Done:
    """An awaitable that has ended: it costs no coroutine."""

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise StopIteration


DONE = _Done()


cdef inline Py_ssize_t blocks(Py_ssize_t n):
    return max((n + DIRECT_BLOCK - 1) // DIRECT_BLOCK, 1) * DIRECT_BLOCK


cdef class FileOp(Overlapped):
    """READ, WRITE, FSYNC, OPEN or PATH_CHANGE.

    ``future`` gets None when it has ended; ``error`` and ``nbytes`` say how.
    """

    def __cinit__(self):
        self.opened = self.move_to = -1

    def __dealloc__(self):
        self.close_opened()  # its loop was closed meanwhile

    cdef int on_packet(self, RawPacket *packet) except -1:
        cdef const px_kind *row = &px_kinds[self.kind]
        cdef int res = packet.res
        if packet.flags & PACKET_MORE:
            return 0
        if row.brings == PX_FD and res >= 0:
            self.opened = res
            return self.finish()
        if (res == -EAGAIN or res == -EOPNOTSUPP) and row.on == PX_ON_FILE and not self.abandoned:
            # Opened with O_NONBLOCK, or its driver in the kernel supports only reads by a waiting thread.
            return self.access.call(self.run, (), self._ran)
        if res < 0:
            self.error = ECANCELED if res == -EINTR else -res
        elif res == 0 and row.direction == PX_IN:
            self.at_end = True
        elif row.whole and 0 < res and self.offset < self.size:
            self.error = ECANCELED  # half-way
        return self.finish()

    cdef int took(self, Py_ssize_t nbytes) except -1:
        if px_kinds[self.kind].direction != PX_IN:
            return Overlapped.took(self, nbytes)
        self.offset += nbytes
        self.position += nbytes
        if self.offset >= self.size or not nbytes:
            return 0
        self.at_end = nbytes < FILE_STEP and px_file_ends(self.fd, self.position)
        return not self.at_end

    def run(self):
        """The blocking body, for an IO thread."""
        cdef const px_kind *row = &px_kinds[self.kind]
        cdef px_call call
        cdef ssize_t n = 0
        cdef size_t step
        call.fd = self.fd
        call.events = self.events
        if self.abandoned:
            self.error = ECANCELED  # abandoned before it began
            return
        if row.blocking == NULL:
            raise RuntimeError("not an operation on a file")
        with nogil:
            while True:
                step = <size_t>(self.size - self.offset)
                if row.moves:
                    step = min(step, <size_t>LARGEST_CALL)
                call.buffer = self.memory + self.offset
                call.size = step
                call.position = self.position
                n = row.blocking(&call)
                if n >= 0 and row.brings == PX_FD:
                    self.opened = <int>n
                    break
                if n == -EINTR:
                    continue
                if n <= 0:
                    self.at_end = n == 0 and row.direction == PX_IN
                    break
                self.offset = self.offset + n
                if self.position >= 0:
                    self.position = self.position + n
                if self.offset >= self.size:
                    break
                if row.whole:
                    continue
                # The next bytes may be far away.
                if self.until == ONCE or self.abandoned:
                    break
                if self.until == UNTIL_DRY and not px_has_bytes(self.fd):
                    break
                if self.until == UNTIL_FULL and px_file_ends(self.fd, self.position):
                    self.at_end = True
                    break
            if self.move_to == SEEK_END:
                px_file_seek(self.place, 0, SEEK_END)  # here: another machine may be asked where that is
                self.move_to = -1
        if n < 0:
            self.error = <int>-n

    def _ran(self, Call call not None):
        if call.error is not None:
            raise call.error
        if call.cancelled and not self.offset:
            self.error = ECANCELED  # the pool was closed before it began
        self.finish()

    cdef int finish(self) except -1:
        self.ended = True
        if self.abandoned:
            self.close_opened()
        if self.move_to == SEEK_END:
            px_file_seek(self.place, 0, SEEK_END)  # it was appended
        elif self.move_to == SEEK_CUR and self.offset:
            px_file_seek(self.place, self.offset, SEEK_CUR)
        if not self.own:
            self.view = None  # the caller may change its buffer again
        if self.future is None:
            return 0  # it was done without waiting
        if not self.future.done() and not self.access.loop.is_closed():
            self.future.set_result(None)
        elif self.then is not None:
            then, self.then = self.then, None
            then(self)
        return 0

    cdef int abandon(self) except -1:
        """The caller has been cancelled.  The op lives on, with its buffer."""
        self.abandoned = True
        if self.ended:
            self.close_opened()
        elif self.state == IN_FLIGHT:
            self.access.port.cancel(self)
            self.orphan()
        return 0

    cdef void close_opened(self) noexcept:
        if self.opened >= 0:
            px_file_close(self.opened)
            self.opened = -1

    cdef bytes taken(self):
        """The bytes that a READ into its own memory has brought."""
        cdef PyObject *data
        if type(self.view) is not bytes:
            return PyBytes_FromStringAndSize(self.memory, self.offset)
        # Cut in place: no other code has a reference, and copying a gibibyte would hold up the loop.
        data = <PyObject *>self.view
        Py_INCREF(<object>data)
        self.view = None
        self.memory = NULL
        if self.offset != PyBytes_GET_SIZE(<object>data):
            _PyBytes_Resize(&data, self.offset)
        result = <object>data
        Py_DECREF(result)
        return result

    cdef int make_buffer(self) except -1:
        self.own = True
        return Overlapped.make_buffer(self)

    cdef int make_aligned(self, Py_ssize_t n) except -1:
        """For a READ of a direct file: page-aligned memory for `n` bytes, rounded up to whole blocks."""
        self.set_buffer(_direct.aligned(blocks(n)), True)
        self.own = True
        return 0

    cdef int align(self) except -1:
        """For a WRITE to a direct file: copy the bytes to aligned memory if they are not there."""
        if self.size and <uintptr_t>self.memory % DIRECT_BLOCK:
            copy = _direct.aligned(blocks(self.size))[:self.size]
            copy[:] = memoryview(self.view).cast("B")
            self.set_buffer(copy, False)
        return 0


cdef class Access:
    """The files of one loop, and where their blocking bodies run."""

    def __dealloc__(self):
        global latest
        if latest == <void *>self:
            latest = NULL

    cdef FileOp new_op(self, int kind, int fd, int64_t position):
        cdef FileOp op = <FileOp>FileOp.__new__(FileOp)
        op.kind = <unsigned char>kind
        op.fd = fd
        op.position = position
        op.access = self
        return op

    cdef int start(self, FileOp op, bint native) except -1:
        """Have `op` executed; await its ``future``, and ``abandon`` it when that raises.

        Pass `native` only if the op is sure to end soon: a read of a pipe or a terminal may wait for ever,
        and would occupy one of the kernel's few threads.
        """
        op.future = self.loop.create_future()
        if native and self.has_ring() and self.port.driver.native_files >> op.kind & 1:
            self.port.submit(op)
        else:
            self.call(op.run, (), op._ran)
        return 0

    cdef FileOp start_by_path(self, int kind, bytes path, uint32_t events):
        """Have an OPEN or a PATH_CHANGE executed, as ``start`` does."""
        cdef FileOp op = self.new_op(kind, AT_FDCWD, -1)
        op.view = path
        op.memory = PyBytes_AS_STRING(path)
        op.events = events
        self.start(op, True)
        return op

    cdef bint has_ring(self) except -1:
        """Whether the kernel executes ops on files; if so, the driver is open and will not change."""
        if self.port is None or self.executor is not None or not self.port.driver.native_files:
            return False
        if not (self.port.driver.opened or self.port.driver.closed or self.port.driver.forked):
            self.port.open()
        return self.port.driver.native_files != 0

    cdef bint takes(self, int fd) except -1:
        """Whether the driver reads and writes this file.  Called once for each file and loop."""
        return self.has_ring() and self.port.driver.note(fd, FD_FOR_FILE_OPS)

    cdef int call(self, fn, tuple args, on_end) except -1:
        """Run the blocking ``fn(*args)`` on an IO thread; ``on_end(call)``: in the loop's thread, at its end.

        No future that a caller may cancel: that would hide when the body has ended.
        """
        if self.executor is None:
            pool = self.loop.io_pool if self.port is not None else default_pool()
            (<PoolCore?>pool).start(self.loop, fn, args, on_end)
        else:
            future = self.loop.run_in_executor(self.executor, functools.partial(fn, *args))
            future.add_done_callback(functools.partial(_ended, on_end))
        return 0

    cdef bint over_budget(self) noexcept:
        """Whether the operation has to let others have their turn first, see ``yield_turn``.

        Operations check before they begin, not at their end, where a cancellation would lose the bytes taken.
        """
        if self.port is not None:
            return self.port.driver.turn_began == self.spent
        if not self.exhausted:
            return False
        self.exhausted = False
        return True

    cdef object budget(self):
        """Await this before an operation: others have their turn if the budget of this turn is spent."""
        return self.yield_turn() if self.over_budget() else DONE

    cdef object yield_turn(self):
        """Await this to let others have their turn.  The operation that has waited longest goes on first."""
        cdef object future
        if self.port is None:
            return sleep(0)
        if self.resting is None:
            self.resting = collections.deque()
        future = self.loop.create_future()
        if not self.resting:
            self.loop.call_soon(self._wake)
        self.resting.append(future)
        return future

    def _wake(self):
        """Once a turn: wake as many operations as the budget of one turn is likely to be enough for.

        Waking them all would spend the next turn's budget on queuing again.
        """
        cdef Py_ssize_t n
        cdef object resting = self.resting
        if self.port.driver.turn_began == self.spent:
            self.woken = max(self.woken // 2, 1)
        else:
            self.woken = min(self.woken * 2, MOST_WOKEN)
        n = self.woken
        while n and resting:
            future = resting.popleft()
            if not future.done():
                future.set_result(None)
                n -= 1
        if resting:
            self.loop.call_soon(self._wake)

    cdef int charge(self, Py_ssize_t size) except -1:
        """Count an operation on `size` bytes that did not wait."""
        self.work += CALL_WORK + size
        if self.work < (LOOK_AFTER if self.port is not None else 16 * LOOK_AFTER):
            return 0
        self.work = 0
        if self.port is None:
            self.exhausted = True
        elif self.port.driver.turn_began != self.turn:
            self.turn = self.port.driver.turn_began
            self.since = px_monotonic()
        elif px_monotonic() - self.since > SLICE:
            self.spent = self.turn
        return 0


def _ended(on_end, future):
    """A call by the user's executor has ended: tell of it as of one on an IO thread."""
    cdef Call call = <Call>Call.__new__(Call)
    call.cancelled = future.cancelled()
    if not call.cancelled:
        call.error = future.exception()
        call.result = future.result() if call.error is None else None
    on_end(call)


cdef Access new_access(object loop, object executor):
    cdef Access access = <Access>Access.__new__(Access)
    port = getattr(loop, "_port", None)
    access.loop = loop
    access.port = port if isinstance(port, LoopPort) else None
    access.executor = executor
    access.woken = 1
    access.spent = -1
    return access


cdef Access access_of(object loop, object executor):
    """The ``Access`` of `loop`, or of the running loop where that is None."""
    global latest
    cdef object access
    if loop is None:
        loop = px_running_loop(get_running_loop)
        if loop is None:
            loop = asyncio.get_running_loop()  # raises
    if executor is not None:
        return new_access(loop, executor)
    if latest != NULL and (<Access>latest).loop is loop:
        return <Access>latest
    access = getattr(loop, OURS, None)
    if access is None:
        access = new_access(loop, None)
        setattr(loop, OURS, access)
    if PX_HAS_GIL:
        latest = <void *><Access?>access
    return <Access?>access


cdef Access access_here(Access before):
    """The ``Access`` of the running loop; `before` if that is its."""
    loop = px_running_loop(get_running_loop)
    if before is not None and before.loop is loop:
        return before
    return access_of(loop, before.executor if before is not None else None)


def access_for(loop=None, executor=None):
    """The ``Access`` of a loop.

    Args:
        loop: default: the running one.
        executor: runs the blocking bodies; default: the IO threads.
    """
    return access_of(loop, executor)
