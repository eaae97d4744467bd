"""Pipe transports: one direction of a pipe, a FIFO, a socket or a character device (a terminal).

Reading.  Nothing but sockets can be received from, so the descriptor is polled and read(2) is called here,
into memory that all pipes of a loop share, once in a turn: what is left is reported again.

Writing.  The sending half is that of every transport, with write(2) and at once: unlike a socket, a pipe is
often the output that a user looks at, or shared with code that writes to it without the loop.  While nothing
is written, a poll waits for the other end to go away.

The descriptor belongs to the file object that was given, and is closed through it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from proactorx.drivers.driver cimport FD_OPENED
from proactorx.sys.errnos cimport EAGAIN, EBADF, ECANCELED, EPERM, EWOULDBLOCK
from proactorx.ops.op cimport Op, PACKET_READY, POLL, RECV_STREAM, RawPacket
from proactorx.transports.base cimport BaseTransport, holds
from proactorx.transports.registry cimport Registry
from proactorx.transports.sending cimport SendingTransport, iovec
from proactorx.sys.socket cimport POLLIN, px_peek, px_read, px_write, px_writev

import asyncio
import errno
import fcntl
import logging
import os
import stat
import sys
from asyncio import constants

from proactorx.transports import base

cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_CopyCurrent()
    char *PyByteArray_AS_STRING(object memory)
    Py_ssize_t PyByteArray_GET_SIZE(object memory)

logger = logging.getLogger("asyncio")

cdef int MANY_WARNINGS = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES


class ReadPipe(asyncio.ReadTransport):
    """What ``isinstance`` sees of the reading side: it is an ``asyncio.ReadTransport``."""


class WritePipe(asyncio.Transport):
    """What ``isinstance`` sees of the writing side.

    An ``asyncio.WriteTransport``, and as on stock asyncio an ``asyncio.Transport``,
    on whose word programs may rely.
    """


cdef class PipeFile:
    """The file object that owns the descriptor, with the manners of a socket."""

    def __init__(self, loop, pipe):
        self.loop = loop
        self.pipe = pipe

    def fileno(self):
        """Return the descriptor.  Raises what the file object raises once it is closed."""
        return self.pipe.fileno()

    def close(self):
        """Close the file.  If flushing its own buffer fails, report the error and close anyway."""
        try:
            self.pipe.close()
        except Exception as exc:
            self.loop.call_exception_handler({"message": f"closing {self.pipe!r} failed", "exception": exc})


def _get_pipe(BaseTransport self):
    # asyncio's own name for the file object; setting it to None takes the file back.
    return (<PipeFile?>self.sock).pipe if self.fd >= 0 else None


def _set_pipe(BaseTransport self, value):
    if value is not None:
        raise AttributeError("a transport keeps its pipe")
    if isinstance(self.sock, PipeFile):
        self.fd = -1


cdef class ReadPipeTransport(BaseTransport):
    """The transport of ``connect_read_pipe``: an ``asyncio.ReadTransport`` with its whole contract."""

    def __init__(self, loop, Registry registry not None, pipe, protocol, bytearray memory not None, *,
                 extra=None):
        cdef int fd = pipe.fileno()
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
            raise ValueError("Pipe transport is for pipes/sockets only.")
        os.set_blocking(fd, False)
        self.init(loop, registry)
        self.sock = PipeFile(loop, pipe)
        self.user_owned = self.lent = True
        self.memory = memory
        self._protocol = protocol
        self.context = PyContext_CopyCurrent()
        self.extra = {} if extra is None else dict(extra)
        self.extra["pipe"] = pipe
        self.character = stat.S_ISCHR(mode)
        self.fd = fd
        self.port.driver.note(fd, FD_OPENED)

    @property
    def __class__(self):
        return ReadPipe

    _pipe = property(_get_pipe, _set_pipe)

    cdef list states(self):
        return ["open" if self._loop.is_closed() else "idle" if self.receive is None else "polling"]

    # ------------------------------------------------------------------------------------------------ reading

    is_reading = base.is_reading
    pause_reading = base.pause_reading
    resume_reading = base.resume_reading

    def _connection_made(self):
        try:
            self._protocol.connection_made(self)
        finally:
            # Unless the protocol has closed or paused; a failure is the handle's to report.
            if self.awaited:
                self._loop.call_soon(self._read_again, context=self.context)
            else:
                self._read_again()

    def _read_again(self):
        if not self.closing and not self.reading_paused:
            self.start_reading()

    cdef int start_reading(self) except -1:
        if self.receive is not None or self.fd < 0:
            return 0
        if self.unpollable:
            self._loop.call_soon(self._read_at_once)
            return 0
        return self.begin(RECV_STREAM, True)

    cdef int arrived(self, RawPacket *packet) except -1:
        if packet.flags & PACKET_READY:
            self.ready()
        elif packet.res < 0 and packet.res != -ECANCELED:
            self.not_pollable(-packet.res)
        return 0

    cdef int ready(self) except -1:
        cdef Py_ssize_t room, n
        if self.closing or self.fd < 0:
            return 0
        room = PyByteArray_GET_SIZE(self.memory)
        # The file object may have been closed behind our back, and the number given to another file.
        n = -EBADF
        if holds(self.sock, self.fd):
            n = px_read(self.fd, PyByteArray_AS_STRING(self.memory), room)
        if n > 0:
            self.data(PyBytes_FromStringAndSize(PyByteArray_AS_STRING(self.memory), n))
        elif n == 0:
            self.eof()
        elif n != -EAGAIN and n != -EWOULDBLOCK:
            self._fatal_error(OSError(-n, os.strerror(-n)), "Fatal read error on pipe transport")
        return 0

    cdef int data(self, bytes data) except -1:
        PyContext_Enter(self.context)
        try:
            self._protocol.data_received(data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            # As on stock asyncio: reported, and reading goes on.
            self._report("protocol.data_received() call failed.", exc)
        finally:
            PyContext_Exit(self.context)
        return 0

    cdef int eof(self) except -1:
        self._loop.call_soon(self._protocol.eof_received, context=self.context)
        return self.finish(None)

    cdef int not_pollable(self, int error) except -1:
        if error == EPERM and self.character:
            # /dev/null and the like: epoll(7) refuses what is always ready.
            self.unpollable = True
            self._loop.call_soon(self._read_at_once)
        elif not self.closing:
            self._fatal_error(OSError(error, os.strerror(error)), "Fatal read error on pipe transport")
        return 0

    def _read_at_once(self):
        if not self.closing and not self.reading_paused:
            self.ready()
            self._read_again()

    # ------------------------------------------------------------------------------------------------- ending

    def close(self):
        """Stop reading and call ``connection_lost(None)``.  Twice is allowed."""
        if not self.closing:
            self.finish(None)

    def _fatal_error(self, exc, message="Fatal error on pipe transport"):
        # EIO is how a terminal says that its other side is gone.
        if isinstance(exc, OSError) and exc.errno == errno.EIO:
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self._report(message, exc)
        if not self.closing:
            self.finish(exc)

    cdef int finish(self, exc) except -1:
        return 0 if self.stranded() else BaseTransport.finish(self, exc)


cdef class PeerOp(Op):
    """Waits for the other end of a pipe to go away."""

    cdef object subject(self):
        return self.transport

    cdef int on_packet(self, RawPacket *packet) except -1:
        cdef WritePipeTransport transport = self.transport
        self.transport = None
        transport.peer = None
        if packet.res >= 0 and not transport.port.closing:
            transport.peer_event()
        transport.release_fd()
        return 0


cdef class WritePipeTransport(SendingTransport):
    """The transport of ``connect_write_pipe``: an ``asyncio.WriteTransport`` with its whole contract."""

    def __init__(self, loop, Registry registry not None, pipe, protocol, *, extra=None):
        cdef int fd = pipe.fileno()
        status = os.fstat(fd)
        mode = status.st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
            raise ValueError("Pipe transport is only for pipes, sockets and character devices")
        os.set_blocking(fd, False)
        self.init(loop, registry)
        self.sock = PipeFile(loop, pipe)
        self.user_owned = self.lent = True
        self.eager = True
        self._protocol = protocol
        self.context = PyContext_CopyCurrent()
        self.extra = {} if extra is None else dict(extra)
        self.extra["pipe"] = pipe
        self.is_socket = stat.S_ISSOCK(mode)
        self.watches = self.is_socket or (stat.S_ISFIFO(mode) and _hears_of_readers(fd, status))
        self.fd = fd

    @property
    def __class__(self):
        return WritePipe

    cdef ssize_t put(self, const char *data, size_t size) noexcept nogil:
        return px_write(self.fd, data, size)

    cdef ssize_t putv(self, iovec *vector, int count) noexcept nogil:
        return px_writev(self.fd, vector, count)

    _pipe = property(_get_pipe, _set_pipe)

    cdef list states(self):
        state = "open" if self._loop.is_closed() else "idle" if self.writable is None else "polling"
        return [state, f"bufsize={self.buffered}"]

    # What a transport in both directions has and this one has not; stock asyncio's says the same.

    def is_reading(self):
        """Raise NotImplementedError: a pipe has one direction."""
        raise NotImplementedError

    def pause_reading(self):
        """Raise NotImplementedError: a pipe has one direction."""
        raise NotImplementedError

    def resume_reading(self):
        """Raise NotImplementedError: a pipe has one direction."""
        raise NotImplementedError

    # ----------------------------------------------------------------------------------------------- the peer

    def _connection_made(self):
        try:
            self._protocol.connection_made(self)
        finally:
            if self.watches and not self.closing:
                self.watch_peer()

    cdef int watch_peer(self) except -1:
        cdef PeerOp op
        if self.peer is not None or self.fd < 0:
            return 0
        op = PeerOp.__new__(PeerOp)
        op.kind = POLL
        op.fd = self.fd
        op.events = POLLIN  # errors and hang-ups are always reported, poll(2)
        op.transport = self
        self.peer = op
        try:
            self.port.submit(op)
        except BaseException:
            self.peer = None
            op.transport = None
            raise
        return 0

    cdef int peer_event(self) except -1:
        cdef ssize_t n = 0
        if self.closing or self.fd < 0 or not holds(self.sock, self.fd):
            return 0
        if self.is_socket:
            n = px_peek(self.fd)
            if n > 0:
                # Bytes for somebody else.  While they lie there a poll says nothing new:
                # the next write will tell.
                return 0
            if n == -EAGAIN or n == -EWOULDBLOCK:
                return self.watch_peer()
        return self.force_close(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) if self.buffered
                                else None)

    cdef bint busy(self) noexcept:
        return self.peer is not None or self.writable is not None

    cdef int stop_reading(self) except -1:
        if self.peer is not None:
            self.port.cancel(self.peer)
        return 0

    # ------------------------------------------------------------------------------------- writing and ending

    def write(self, data):
        """Send `data`, as much as possible at once; anything mutable may be changed after the call.

        After the end, or when the other side is gone, nothing is sent, and many such writes are logged.

        Raises:
            TypeError: `data` is not bytes, bytearray or memoryview.
        """
        if self.closing and isinstance(data, (bytes, bytearray, memoryview)):
            if len(data):
                if self.refused >= <uint32_t>MANY_WARNINGS:
                    logger.warning("pipe closed by peer or os.write(pipe, data) raised exception.")
                else:
                    self.refused += 1
            return
        SendingTransport.write(self, data)

    cdef int send_failed(self, int error) except -1:
        self._fatal_error(OSError(error, os.strerror(error)), "Fatal write error on pipe transport")
        return 0

    cdef bint stranded(self) except -1:
        if not BaseTransport.stranded(self):
            return False
        self.lost = self.lost or 1
        self.clear_buffer()
        return True

    def write_eof(self):
        """The same as ``close``: a pipe has one direction."""
        self.close()

    def close(self):
        """Send what is queued, then call ``connection_lost(None)``.  Twice is allowed."""
        if not self.stranded():
            SendingTransport.close(self)

    def abort(self):
        """Discard the write buffer and call ``connection_lost(None)``."""
        if not self.stranded():
            SendingTransport.abort(self)


cdef bint _hears_of_readers(int fd, status):
    """Whether poll(2) tells that the last reader of a pipe or FIFO has gone."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
        return False  # a FIFO of which this descriptor is a reader too, fifo(7)
    if sys.platform == "darwin":
        return status.st_nlink == 0  # named FIFOs are reported readable while data waits in them
    return not sys.platform.startswith("aix")
