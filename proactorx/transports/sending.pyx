"""The sending half of a transport.

``write`` queues. One system call sends what a callback or a turn has queued; a large amount is sent at once.
The transport sends before the connection or the run can end and before other code can use the descriptor: in
``abort()``, when an exception ends the run, in ``drain()``, and before it hands out the socket. On a socket
that the user passed in it always sends at once. When the socket is full, an op waits until it is writable,
and the transport makes the system call then. So it knows at any moment how many bytes were sent, whatever is
cancelled.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from proactorx.sys.errnos cimport EAGAIN, EBADF, ECANCELED, EWOULDBLOCK
from libc.stdint cimport uint8_t
from libc.string cimport memcpy
from proactorx.ops.op cimport Op, POLL, RawPacket
from proactorx.transports.base cimport BaseTransport, enter, holds
from proactorx.sys.socket cimport POLLOUT, SHUT_WR, px_send, px_sendv, px_shutdown

import logging
from asyncio import constants, streams

from proactorx.sys.errors import strerror

cdef extern from "Python.h":
    int PyContext_Exit(object context) except -1

logger = logging.getLogger("asyncio")

cdef enum:
    GATHER = 4096          # pieces of up to so many bytes are copied together rather than given as a vector
    VECTOR = 64            # pieces in one sendmsg(2)

cdef object Drainable = streams.FlowControlMixin
cdef int MANY_WARNINGS = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES


cdef class WritableOp(Op):
    """Waits until the socket of a transport takes more."""

    cdef object subject(self):
        return self.transport

    cdef int on_packet(self, RawPacket *packet) except -1:
        cdef SendingTransport transport = self.transport
        self.transport = None
        transport.writable = None
        if transport.buffered and packet.res >= 0:
            transport.flush()
        elif transport.buffered and not transport.lost and packet.res != -ECANCELED:
            transport.send_failed(-packet.res)
        if transport.room is not None and not transport.buffered:
            transport.has_room()
        transport.release_fd()
        return 0


cdef class SendingTransport(BaseTransport):
    """What every transport that sends has in common;
    a subclass says what else it does with the descriptor.
    """

    def __cinit__(self):
        self.high = 65536
        self.low = 16384

    cdef ssize_t put(self, const char *data, size_t size) noexcept nogil:
        """The system call that sends: how many bytes it took, or -errno."""
        return px_send(self.fd, data, size)

    cdef ssize_t putv(self, iovec *vector, int count) noexcept nogil:
        """The same for several pieces of memory."""
        return px_sendv(self.fd, vector, count)

    cdef bint busy(self) noexcept:
        return self.receive is not None or self.writable is not None

    cdef list states(self):
        if self._loop.is_closed():
            return []
        idle = "idle" if self.receive is None else "polling"
        return [
            f"read={'paused' if self.reading_paused else idle}",
            f"write=<{'polling' if self.writable is not None else 'idle'}, bufsize={self.buffered}>",
        ]

    # ------------------------------------------------------------------------------------------------ writing

    def is_closing(self):
        """Return whether the transport is closing or closed."""
        # ``StreamWriter.drain`` asks this: written data is the system's once drain() has returned.
        if self.dirty and not self.in_callback and isinstance(self._protocol, Drainable):
            self.flush()
        return self.closing

    def _send_now(self, bint shared):
        """Send now: other code is about to use the descriptor, once or, if `shared`,
        at any time from now on.
        """
        self.eager = self.eager or shared
        if self.dirty:
            self.flush()

    def write(self, data):
        """Send `data`; bytes are kept until they are sent, anything mutable may be changed after the call.

        Raises:
            TypeError: `data` is not bytes, bytearray or memoryview.
            RuntimeError: ``write_eof`` was called before, or ``loop.sendfile`` is using the transport.
        """
        cdef Py_ssize_t size
        if type(data) is bytes:
            size = PyBytes_GET_SIZE(data)
        elif isinstance(data, (bytes, bytearray, memoryview)):
            size = data.nbytes if isinstance(data, memoryview) else len(data)
        else:
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.sending_file:
            raise RuntimeError("unable to write; sendfile is in progress")
        if not size:
            return
        if self.lost:
            self.refuse()
            return
        if type(data) is not bytes:
            data = self._keep(data, size)
            if data is None:
                return
            size = PyBytes_GET_SIZE(data)
        self.enqueue(data, size)

    cdef int refuse(self) except -1:
        """A write after the connection was lost: many of them are logged, and `lost` stops counting there."""
        if self.lost > MANY_WARNINGS:
            logger.warning("socket.send() raised exception.")
        else:
            self.lost += 1
        return 0

    cdef object _keep(self, data, Py_ssize_t size):
        """What must be kept of a mutable buffer: nothing where much of it can be sent at once."""
        cdef Py_buffer view
        cdef ssize_t n
        if self.buffered or size < SEND_AT_ONCE or not _contiguous(data) or not self._may_send():
            return bytes(data)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            n = self.put(<const char *>view.buf, <size_t>view.len)
            if n < 0:
                n = 0  # the queue's own send reports the error, or waits
            return PyBytes_FromStringAndSize(<const char *>view.buf + n,
                                             view.len - n) if n < view.len else None
        finally:
            PyBuffer_Release(&view)

    cdef bint _may_send(self) except -1:
        # The user's own socket may have been closed behind our back, and its number given to another file.
        return self.fd >= 0 and self.writable is None and not (self.user_owned
                                                               and not holds(self.sock, self.fd))

    cdef bint sends_now(self) except -1:
        """Return whether a layer above may make the system call itself: nothing waits to be sent before."""
        return not (self.buffered or self.lost or self.closing or self.eof_written
                    or self.sending_file) and self._may_send()

    cdef int enqueue(self, object data, Py_ssize_t size) except -1:
        if not self.buffered:
            self.first = data
        else:
            if self.more is None:
                self.more = []
            self.more.append(data)
        self.buffered += size
        if self.writable is None:
            if (self.eager or not (self.in_callback or self.registry.running)
                    or self.buffered >= SEND_AT_ONCE or self.buffered > self.high):
                self.flush()
            elif self.in_callback:
                self.dirty = True
            elif not self.dirty:
                self.registry.mark(self)
        if self.buffered > self.high and not self.protocol_paused:
            self._pause_protocol()
        return 0

    def writelines(self, list_of_data):
        """``write`` for each item, gathered into as few system calls as possible.

        Raises:
            TypeError: an item is not bytes-like; nothing is sent then.
            RuntimeError: as for ``write``.
        """
        cdef bint nested = self.in_callback, eager = self.eager
        cdef list items = [data if type(data) is bytes else memoryview(data) for data in list_of_data or ()]
        if self.eof_written:
            raise RuntimeError("Cannot call writelines() after write_eof()")
        if self.sending_file:
            raise RuntimeError("unable to writelines; sendfile is in progress")
        self.in_callback = True
        self.eager = False
        try:
            for data in items:
                self.write(data)
        finally:
            self.in_callback = nested
            self.eager = eager
            if self.dirty and (eager or not (nested or self.registry.running)):
                self.flush()
            elif self.dirty and not nested:
                self.registry.mark(self)

    cdef int flush(self) except -1:
        cdef ssize_t n
        cdef Py_ssize_t tried = 0
        self.dirty = False
        while self.buffered and self.writable is None and not self.lost:
            n = self.send_some(&tried)
            if n == -EAGAIN or n == -EWOULDBLOCK:
                self.wait_writable()
                break
            if n < 0:
                self.send_failed(<int>-n)
                break
            if n == self.buffered and self.more is None:  # as most of the time
                self.first = None
                self.buffered = self.offset = 0
                break
            self.consume(n)
            if n < tried:
                self.wait_writable()
        if self.protocol_paused and self.buffered <= self.low and not self.lost:
            self._resume_protocol()
        if not self.buffered and (self.closing or self.eof_written):
            self.drained()
        return 0

    cdef ssize_t send_some(self, Py_ssize_t *tried) except? -1:
        cdef Py_ssize_t size, total, i, count
        cdef char gathered[GATHER]
        cdef iovec vector[VECTOR]
        cdef PyObject *first = <PyObject *>self.first
        cdef char *memory = PyBytes_AS_STRING(<object>first) + self.offset
        cdef ssize_t n
        if self.user_owned and not holds(self.sock, self.fd):
            return -EBADF  # the user has closed the socket
        size = PyBytes_GET_SIZE(<object>first) - self.offset
        if self.more is None:
            tried[0] = size
            if size < UNLOCKED_SEND:
                return self.put(memory, size)
            data = self.first  # keeps the memory while other threads run
            with nogil:
                n = self.put(memory, size)
            return n
        if self.buffered <= GATHER:
            memcpy(gathered, memory, size)
            total = size
            for data in self.more:
                size = PyBytes_GET_SIZE(data)
                memcpy(gathered + total, PyBytes_AS_STRING(data), size)
                total += size
            tried[0] = total
            return self.put(gathered, total)
        vector[0].iov_base = memory
        vector[0].iov_len = size
        total = size
        count = min(<Py_ssize_t>len(self.more), VECTOR - 1)
        for i in range(count):
            data = self.more[i]
            size = PyBytes_GET_SIZE(data)
            vector[i + 1].iov_base = PyBytes_AS_STRING(data)
            vector[i + 1].iov_len = size
            total += size
        tried[0] = total
        return self.putv(vector, <int>count + 1)

    cdef int consume(self, Py_ssize_t size) except -1:
        """`size` bytes of the queue are sent."""
        cdef Py_ssize_t left, done = 0
        self.buffered -= size
        if not self.buffered:
            self.first = None
            self.more = None
            self.offset = 0
            return 0
        left = PyBytes_GET_SIZE(self.first) - self.offset
        if size < left:
            self.offset += size
            return 0
        size -= left
        self.offset = 0
        while True:
            self.first = self.more[done]
            done += 1
            left = PyBytes_GET_SIZE(self.first)
            if size < left:
                break
            size -= left
        self.offset = size
        del self.more[:done]
        if not self.more:
            self.more = None
        return 0

    cdef int wait_writable(self) except -1:
        cdef WritableOp op
        if self.writable is not None:
            return 0
        op = WritableOp.__new__(WritableOp)
        op.kind = POLL
        op.fd = self.fd
        op.events = POLLOUT
        op.transport = self
        self.writable = op
        try:
            self.port.submit(op)
        except BaseException:
            self.writable = None
            op.transport = None
            raise
        return 0

    cdef int send_failed(self, int error) except -1:
        self._fatal_error(OSError(error, strerror(error)), "Fatal write error on socket transport")
        return 0

    cdef int clear_buffer(self) except -1:
        self.first = None
        self.more = None
        self.offset = self.buffered = 0
        if self.writable is not None:
            self.port.cancel(self.writable)
        return 0

    cdef int drained(self) except -1:
        """The queue is empty, and somebody waited for that."""
        if self.fd < 0 or self.lost:
            return 0
        if self.eof_written and not self.shut:
            self.shut = True
            px_shutdown(self.fd, SHUT_WR)
        if self.closing:
            self.lost = 1
            self._loop.call_soon(self._call_connection_lost, None, context=self.context)
        return 0

    def can_write_eof(self):
        """Return True: a stream socket can be closed in one direction."""
        return True

    def write_eof(self):
        """Close the sending direction when everything queued is sent: shutdown(2) with SHUT_WR."""
        if self.closing or self.eof_written:
            return
        self.eof_written = True
        if self.dirty and self.buffered:
            self.flush()
        elif not self.buffered:
            self.drained()

    def get_write_buffer_size(self):
        """Return the number of bytes in the write buffer."""
        if self.dirty:
            self.flush()
        return self.buffered

    def get_write_buffer_limits(self):
        """Return (low, high), in bytes."""
        return (self.low, self.high)

    def set_write_buffer_limits(self, high=None, low=None):
        """Set when to call ``pause_writing`` (more than `high` bytes are queued) and ``resume_writing``
        (at most `low`).

        Raises:
            ValueError: not ``high >= low >= 0``.
        """
        if high is None:
            high = 65536 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        self.high = high
        self.low = low
        if self.dirty:
            self.flush()
        if self.buffered > self.high and not self.protocol_paused:
            self._pause_protocol()

    @property
    def _protocol_paused(self):
        # For asyncio's own sendfile fall-back.
        return self.protocol_paused

    def _pause_protocol(self):
        self.protocol_paused = True
        self._tell("pause_writing")

    def _resume_protocol(self):
        self.protocol_paused = False
        self._tell("resume_writing")

    def _tell(self, str name):
        cdef bint entered = enter(self.context)
        try:
            getattr(self._protocol, name)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._report(f"protocol.{name}() failed", exc)
        finally:
            if entered:
                PyContext_Exit(self.context)

    # ---------------------------------------------------------------------------------- for ``loop.sendfile``

    def _begin_sendfile(self):
        """Refuse writes from now on; what is queued goes out first."""
        if self.sending_file:
            raise RuntimeError("sendfile is in progress already")
        self.sending_file = True
        if self.dirty:
            self.flush()

    def _end_sendfile(self):
        self.sending_file = False

    def _room(self, bint full):
        """Return a future that is done when the write buffer is empty and, if the socket was `full`, it takes
        more; or when the connection is lost.
        """
        future = self._loop.create_future()
        if self.lost or (not full and not self.buffered):
            future.set_result(None)
        else:
            self.room = future
            self.wait_writable()
        return future

    cdef int has_room(self) except -1:
        room, self.room = self.room, None
        if not room.done() and not self._loop.is_closed():  # who waits for it is not run again then
            room.set_result(None)
        return 0

    def _sendfile_fd(self):
        """Return the descriptor to send on.

        Raises:
            ConnectionError: the transport is closing, or the connection is lost.
        """
        if self.lost or not self._has(self.fd):
            raise ConnectionError("Connection is closed by peer" if not self.closing
                                  else "the transport is closing")
        return self.fd

    # ------------------------------------------------------------------------------------------------ closing

    def close(self):
        """Stop reading, send the buffer, then call ``connection_lost(None)``. A second call has no effect."""
        if self.closing:
            return
        self.closing = True
        self.stop_reading()
        if self.dirty:
            self.flush()  # ends in drained() where everything could be sent
        elif not self.buffered:
            self.drained()

    def abort(self):
        """Discard the write buffer and call ``connection_lost(None)``."""
        self.force_close(None)

    def _force_close(self, exc):
        self.force_close(exc)

    cdef int last_send(self) except -1:
        """Send what the system takes now, and ignore errors: the connection ends."""
        cdef ssize_t n = 0
        cdef Py_ssize_t tried = 0
        self.dirty = False
        while self.buffered and self.writable is None and n == tried:
            n = self.send_some(&tried)
            if n > 0:
                self.consume(n)
        return 0

    cdef int force_close(self, exc) except -1:
        if self.lost:
            return 0
        if self.dirty:
            self.last_send()
            if self.lost:
                return 0
        self.clear_buffer()
        self.lost = 1
        return self.finish(exc)

    def _fatal_error(self, exc, message="Fatal error on transport"):
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self._report(message, exc)
        self.force_close(exc)

    cdef int ended(self) except -1:
        if self.room is not None:
            self.has_room()
        return BaseTransport.ended(self)

    def _has(self, fd):
        return self.fd == fd and not self.closing and not (self.user_owned and not holds(self.sock, fd))


cdef bint _contiguous(data):
    return not isinstance(data, memoryview) or data.c_contiguous
