"""Stream transports: TCP and Unix sockets.

Reading.  A receive op runs as long as the transport reads.  Its packets are given to the protocol in the context of
the connection, one call per packet.  What the kernel has taken when reading is paused is kept and given first when it
resumes.  A ``BufferedProtocol`` gets its bytes by recv(2) straight into its own buffer.

Writing.  ``write`` queues; what a callback or a turn has queued goes out in one system call, at once when much is
queued.  A socket that takes no more is waited for by an op, and the system call is made when it is writable: so the
number of bytes that were sent is known at every moment, whatever is cancelled.

One owner per descriptor: the transport, until a Python socket exists for it (given by the user or made for
``get_extra_info("socket")``); then that socket, and the transport closes through it.  The descriptor is closed when
its last op has ended, never before.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from proactorx.port.errnos cimport EAGAIN, ECANCELED, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTO, EWOULDBLOCK
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from posix.unistd cimport close
from proactorx.port.op cimport (
    ACCEPT, DONE, IN_FLIGHT, NEW, Op, PACKET_MORE, PACKET_READY, POLL, Packet, RECV_STREAM,
)
from proactorx.port.port cimport Flushable, Port

import asyncio
import logging
import os
import socket
import sys
import warnings
from asyncio import constants, trsock

from proactorx.port.names import parse as parse_name

cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_CopyCurrent()
    object PyContext_Copy(object context)
    object PyObject_VectorcallMethod(object name, PyObject **args, size_t nargsf, PyObject *kwnames)

cdef extern from "../drivers/sockio.h":
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t px_recv(int fd, char *buffer, size_t size) nogil
    ssize_t px_send(int fd, const char *buffer, size_t size) nogil
    ssize_t px_sendv(int fd, iovec *vector, int count) nogil
    enum: SHUT_WR, SOL_SOCKET, SO_ERROR
    int shutdown(int fd, int how) nogil
    int px_name(int fd, int peer, void *name, size_t room) nogil

cdef extern from "<poll.h>":
    enum: POLLIN, POLLOUT, POLLERR, POLLHUP, POLLPRI

cdef extern from *:
    """
    #ifndef POLLRDHUP
    #define POLLRDHUP 0
    #endif
    """
    enum: POLLRDHUP

logger = logging.getLogger("asyncio")

cdef enum:
    SEND_AT_ONCE = 32768   # so much queued is sent without waiting for the end of the turn
    GATHER = 4096          # pieces of up to so many bytes are copied together rather than given as a vector
    VECTOR = 64            # pieces in one sendmsg(2)
    UNLOCKED_SEND = 65536  # a send this large copies long enough for other threads to run meanwhile

cdef object DATA_RECEIVED = "data_received"
cdef object BufferedProtocol = asyncio.BufferedProtocol
cdef int MANY_WARNINGS = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES


class TCPTransport(asyncio.Transport):
    """What ``isinstance`` sees of a stream transport: it is an ``asyncio.Transport``."""


cdef class ReceiveOp(Op):
    """The receive of one transport."""

    cdef int on_packet(self, Packet *packet) except -1:
        cdef StreamTransport transport = self.transport
        cdef bint last = not packet.flags & PACKET_MORE
        try:
            if transport.port.closing:
                pass  # the loop is being closed: as on stock asyncio, protocols hear no more
            elif packet.flags & PACKET_READY:
                transport.ready(<uint32_t>packet.res)
            elif packet.res > 0:
                transport.data(packet.data, packet.res)
            elif packet.res == 0:
                transport.eof()
            elif packet.res != -ECANCELED:
                transport.receive_failed(-packet.res)
        finally:
            if last:
                self.transport = None
                transport.receive_done()
        return 0


cdef class WritableOp(Op):
    """Waits until the socket of a transport takes more."""

    cdef int on_packet(self, Packet *packet) except -1:
        cdef StreamTransport transport = self.transport
        self.transport = None
        transport.writable = None
        if transport.buffered and packet.res >= 0:
            transport.flush()
        elif transport.buffered and not transport.lost and packet.res != -ECANCELED:
            transport._fatal_error(OSError(-packet.res, os.strerror(-packet.res)), "Fatal write error on socket transport")
        transport.release_fd()
        return 0


cdef class StreamTransport(Flushable):
    """The transport of a connected stream socket: ``asyncio.Transport`` with its whole contract."""

    _sendfile_compatible = constants._SendfileMode.FALLBACK
    _start_tls_compatible = True
    max_size = 256 * 1024

    def __cinit__(self):
        self.fd = -1

    def __init__(self, loop, Port port not None, int fd, protocol, *, sock=None, extra=None, server=None, context=None):
        self._loop = loop
        self.port = port
        self.fd = fd
        self.sock = sock
        self.given = sock is not None
        self.extra = extra
        self.server = server
        self.context = PyContext_CopyCurrent() if context is None else context
        self.high = 65536
        self.low = 16384
        port.own(fd, self)
        self.set_protocol(protocol)
        self.remember_name(True)
        if server is not None:
            attach(server, self)

    @property
    def __class__(self):
        return TCPTransport

    # ------------------------------------------------------------------------------------------ what users ask for

    def get_extra_info(self, name, default=None):
        """``socket``, ``sockname``, ``peername``, and what the maker of the transport gave."""
        cdef dict extra = self.extra
        if extra is not None and name in extra:
            return extra[name]
        if name == "socket":
            if self.sock is None and self.fd < 0:
                self.sock = socket.socket(self._family())  # as closed as the connection is
                self.sock.close()
            if self.sock is None:
                self.sock = socket.socket(fileno=self.fd)
                self.sock.setblocking(False)
            value = trsock.TransportSocket(self.sock)
        elif name == "sockname":
            value = self._name(False)
        elif name == "peername":
            value = self._name(True)
        else:
            return default
        self._remember(name, value)
        return value

    cdef _remember(self, name, value):
        if self.extra is None:
            self.extra = {}
        self.extra[name] = value

    cdef int remember_name(self, bint peer) except -1:
        """Ask for a name while it can be had: a peer's is gone after a reset, our own after close(2)."""
        cdef unsigned char storage[128]
        cdef int size
        if self.fd < 0 or self.name_sizes[peer]:
            return 0
        size = px_name(self.fd, peer, storage, sizeof(storage))
        if size < 0:
            return 0
        if size <= <int>sizeof(self.names[peer]):
            memcpy(self.names[peer], storage, size)
            self.name_sizes[peer] = <uint8_t>size
        elif size <= <int>sizeof(storage):
            self._remember("peername" if peer else "sockname", parse_name((<char *>storage)[:size]))
        return 0

    cdef _name(self, bint peer):
        self.remember_name(peer)
        if self.name_sizes[peer]:
            return parse_name((<char *>self.names[peer])[:self.name_sizes[peer]])
        return self.extra.get("peername" if peer else "sockname") if self.extra is not None else None

    def _family(self):
        return int.from_bytes((<char *>self.names[0])[:2], sys.byteorder) if self.name_sizes[0] else socket.AF_INET

    def set_protocol(self, protocol):
        """Give the bytes that come from now on to `protocol`."""
        cdef bint buffered = isinstance(protocol, BufferedProtocol)
        self._protocol = protocol
        if buffered == self.buffered_protocol:
            return
        self.buffered_protocol = buffered
        if self.receive is not None:
            self.receive.direct = buffered
            if buffered:
                self.port.driver.prefer_direct(self.receive)

    def get_protocol(self):
        """The protocol that gets the bytes."""
        return self._protocol

    def is_closing(self):
        """Whether the transport is closing or closed."""
        return self.closing

    def is_reading(self):
        """Whether the protocol may be given bytes: neither closing nor paused."""
        return not self.closing and not self.reading_paused

    def __repr__(self):
        info = [TCPTransport.__name__]
        if self.fd < 0:
            info.append("closed")
        elif self.closing:
            info.append("closing")
        info.append(f"fd={self.fd}")
        if self.fd >= 0 and not self._loop.is_closed():
            info.append("read=paused" if self.reading_paused else "read=polling" if self.receive is not None else "read=idle")
            info.append(f"write=<{'polling' if self.writable is not None else 'idle'}, bufsize={self.buffered}>")
        return "<{}>".format(" ".join(info))

    # ----------------------------------------------------------------------------------------------------- opening

    def _start(self, waiter=None):
        """Call ``connection_made``, then read, then wake who waits for the connection; each in a turn as asyncio does."""
        self._loop.call_soon(self._connection_made, context=self.context)
        if waiter is not None:
            self._loop.call_soon(_set_result_unless_done, waiter)

    def _connection_made(self):
        self.in_callback = True
        try:
            self._protocol.connection_made(self)
        finally:
            self.in_callback = False
            # The protocol may have closed, aborted or paused; a failure is the handle's to report.
            if not self.closing and self.receive is None and not self.reading_paused:
                self.start_reading()
            if self.dirty:
                self.flush()

    cdef int start_reading(self) except -1:
        cdef ReceiveOp op
        if self.receive is not None or self.eof_seen or self.fd < 0:
            return 0
        op = ReceiveOp.__new__(ReceiveOp)
        op.kind = RECV_STREAM
        op.fd = self.fd
        op.direct = self.buffered_protocol
        op.transport = self
        self.receive = op
        try:
            self.port.submit(op)
        except BaseException:
            self.receive = None
            op.transport = None
            raise
        return 0

    cdef int stop_reading(self) except -1:
        if self.receive is not None:
            self.port.cancel(self.receive)
        return 0

    # ----------------------------------------------------------------------------------------------------- reading

    def pause_reading(self):
        """Give the protocol nothing until ``resume_reading``; no effect when paused or closing."""
        if self.closing or self.reading_paused:
            return
        self.reading_paused = True
        if self.receive is not None:
            self.receive.paused = True

    def resume_reading(self):
        """Undo ``pause_reading``; what was received meanwhile comes first."""
        if self.closing or not self.reading_paused:
            return
        self.reading_paused = False
        if self.stash is not None:
            # From the loop, as every packet: the caller may be inside a callback of the protocol.
            self._loop.call_soon(self._unstash, context=self.context)
        elif self.receive is not None:
            self.port.resume(self.receive)
        else:
            self._loop.call_soon(self._read_again, context=self.context)

    def _read_again(self):
        if not self.closing and not self.reading_paused:
            self.start_reading()

    def _unstash(self):
        self.unstash()

    cdef int unstash(self) except -1:
        cdef list stash
        cdef object piece
        while self.stash is not None and not self.reading_paused and not self.closing:
            stash = self.stash
            piece = stash.pop(0)
            if not stash:
                self.stash = None
            if piece is None:
                self._eof()
            elif self.buffered_protocol:
                self.data_buffered(PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
            else:
                self.data_plain(piece)
        if self.stash is None and not self.reading_paused and not self.closing:
            if self.receive is not None:
                self.port.resume(self.receive)
            else:
                self.start_reading()
        if self.dirty:
            self.flush()
        return 0

    cdef int data(self, char *data, Py_ssize_t size) except -1:
        if self.closing:
            return 0
        if self.reading_paused or self.stash is not None:
            if self.stash is None:
                self.stash = []
            self.stash.append(PyBytes_FromStringAndSize(data, size))
            return 0
        PyContext_Enter(self.context)
        try:
            if self.buffered_protocol:
                self.data_buffered(data, size)
            else:
                self.data_plain(PyBytes_FromStringAndSize(data, size))
        finally:
            PyContext_Exit(self.context)
        if self.dirty:
            self.flush()
        return 0

    cdef int data_plain(self, object data) except -1:
        cdef PyObject *args[2]
        args[0] = <PyObject *>self._protocol
        args[1] = <PyObject *>data
        self.in_callback = True
        try:
            PyObject_VectorcallMethod(DATA_RECEIVED, args, 2, NULL)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.data_received() call failed.")
        finally:
            self.in_callback = False
        return 0

    cdef int get_buffer(self, Py_buffer *view) except -1:
        """A buffer of the protocol's in `view`: 1, or 0 when it has none and the connection was given up."""
        try:
            buffer = self._protocol.get_buffer(-1)
            if not len(buffer):
                raise RuntimeError("get_buffer() returned an empty buffer")
            PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
            return 0
        return 1

    cdef int buffer_updated(self, Py_ssize_t size) except -1:
        try:
            self._protocol.buffer_updated(size)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.buffer_updated() call failed.")
        return 0

    cdef int data_buffered(self, char *data, Py_ssize_t size) except -1:
        """Bytes that are here already, for a protocol with buffers of its own."""
        cdef Py_buffer view
        cdef Py_ssize_t n
        self.in_callback = True
        try:
            while size and not self.closing:
                if self.reading_paused or not self.buffered_protocol:
                    # It changed its mind half-way: the rest comes first when it reads again.
                    if self.stash is None:
                        self.stash = []
                    self.stash.insert(0, PyBytes_FromStringAndSize(data, size))
                    if not self.reading_paused:
                        self._loop.call_soon(self._unstash, context=self.context)
                    return 0
                if not self.get_buffer(&view):
                    return 0
                n = min(size, view.len)
                memcpy(view.buf, data, n)
                PyBuffer_Release(&view)
                data += n
                size -= n
                self.buffer_updated(n)
        finally:
            self.in_callback = False
        return 0

    cdef int ready(self, uint32_t mask) except -1:
        """The socket is readable and the protocol has buffers of its own: receive straight into them."""
        cdef Py_buffer view
        cdef Py_ssize_t n, room
        cdef bytes data
        if self.closing or self.fd < 0:
            return 0
        if self.stash is not None:
            self.receive.again = True
            return self.unstash()
        self.in_callback = True
        PyContext_Enter(self.context)
        try:
            if not self.buffered_protocol:
                # The protocol was changed back: as any other stream, but the call is ours to make.
                data = PyBytes_FromStringAndSize(NULL, 65536)
                room = 65536
                n = px_recv(self.fd, PyBytes_AS_STRING(data), room)
                if n > 0:
                    self.data_plain(data[:n])
            else:
                if not self.get_buffer(&view):
                    return 0
                room = view.len
                n = px_recv(self.fd, <char *>view.buf, room)
                PyBuffer_Release(&view)
                if n > 0:
                    self.buffer_updated(n)
        finally:
            PyContext_Exit(self.context)
            self.in_callback = False
        if n > 0:
            if self.receive is not None:
                self.receive.again = n == room or mask & (POLLRDHUP | POLLHUP | POLLERR | POLLPRI) != 0
        elif n == 0:
            self.stop_reading()
            self.eof()
        elif n != -EAGAIN and n != -EWOULDBLOCK:
            self.receive_failed(<int>-n)
        if self.dirty:
            self.flush()
        return 0

    cdef int eof(self) except -1:
        self.eof_seen = True
        if self.closing:
            return 0
        if self.reading_paused or self.stash is not None:
            if self.stash is None:
                self.stash = []
            self.stash.append(None)
            return 0
        PyContext_Enter(self.context)
        try:
            self._eof()
        finally:
            PyContext_Exit(self.context)
        if self.dirty:
            self.flush()
        return 0

    cdef _eof(self):
        self.in_callback = True
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.eof_received() call failed.")
            return
        finally:
            self.in_callback = False
        if not keep_open:
            self.close()

    cdef int receive_failed(self, int error) except -1:
        if not self.closing or self.buffered:
            self._fatal_error(OSError(error, os.strerror(error)), "Fatal read error on socket transport")
        return 0

    cdef int receive_done(self) except -1:
        self.receive = None
        return self.release_fd()

    # ----------------------------------------------------------------------------------------------------- writing

    def write(self, data):
        """Send `data`; bytes are kept until they are sent, anything mutable may be changed after the call.

        Raises:
            TypeError: `data` is not bytes, bytearray or memoryview.
            RuntimeError: ``write_eof`` was called before.
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
        if not size:
            return
        if self.lost:
            if self.lost > MANY_WARNINGS:
                logger.warning("socket.send() raised exception.")
            self.lost += 1
            return
        if type(data) is not bytes:
            data = self._keep(data, size)
            if data is None:
                return
            size = PyBytes_GET_SIZE(data)
        self.enqueue(data, size)

    cdef object _keep(self, data, Py_ssize_t size):
        """What must be kept of a mutable buffer: nothing where much of it can be sent at once."""
        cdef const unsigned char[::1] view
        cdef Py_ssize_t n
        if self.buffered or size < SEND_AT_ONCE or not _contiguous(data):
            return bytes(data)
        if isinstance(data, memoryview):
            data = data.cast("B")
        view = data
        if not self._may_send():
            return bytes(data)
        n = px_send(self.fd, <const char *>&view[0], size)
        if n < 0:
            return bytes(data)  # the queue's own send reports the error, or waits
        return bytes(view[n:]) if n < size else None

    cdef bint _may_send(self) except -1:
        # The user's own socket may have been closed behind our back, and its number given to another file.
        return self.fd >= 0 and self.writable is None and not (self.given and self.sock.fileno() != self.fd)

    cdef int enqueue(self, object data, Py_ssize_t size) except -1:
        if not self.buffered:
            self.first = data
        else:
            if self.more is None:
                self.more = []
            self.more.append(data)
        self.buffered += size
        if self.writable is None:
            if self.buffered >= SEND_AT_ONCE:
                self.flush()
            elif self.in_callback:
                self.dirty = True
            elif not self.dirty:
                self.port.mark(self)
        if self.buffered > self.high and not self.protocol_paused:
            self._pause_protocol()
        return 0

    def writelines(self, list_of_data):
        """``write`` for each item, gathered into as few system calls as possible."""
        cdef bint nested = self.in_callback
        self.in_callback = True
        try:
            for data in list_of_data:
                self.write(data)
        finally:
            self.in_callback = nested
            if self.dirty and not nested:
                self.flush()

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
                self._fatal_error(OSError(<int>-n, os.strerror(<int>-n)), "Fatal write error on socket transport")
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
        cdef char *memory = PyBytes_AS_STRING(self.first) + self.offset
        cdef ssize_t n
        if self.given and self.sock.fileno() != self.fd:
            return -9  # EBADF: the user has closed the socket
        size = PyBytes_GET_SIZE(self.first) - self.offset
        if self.more is None:
            tried[0] = size
            if size < UNLOCKED_SEND:
                return px_send(self.fd, memory, size)
            data = self.first  # keeps the memory while other threads run
            with nogil:
                n = px_send(self.fd, memory, size)
            return n
        if self.buffered <= GATHER:
            memcpy(gathered, memory, size)
            total = size
            for data in self.more:
                size = PyBytes_GET_SIZE(data)
                memcpy(gathered + total, PyBytes_AS_STRING(data), size)
                total += size
            tried[0] = total
            return px_send(self.fd, gathered, total)
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
        return px_sendv(self.fd, vector, <int>count + 1)

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
        if self.eof_written and not self.flags:
            self.flags = 1
            shutdown(self.fd, SHUT_WR)
        if self.closing:
            self.lost = 1
            self._loop.call_soon(self._call_connection_lost, None, context=self.context)
        return 0

    def can_write_eof(self):
        """True: a stream socket can be closed in one direction."""
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
        """Bytes that wait for the peer to take them."""
        if self.dirty:
            self.flush()
        return self.buffered

    def get_write_buffer_limits(self):
        """(low, high), in bytes."""
        return (self.low, self.high)

    def set_write_buffer_limits(self, high=None, low=None):
        """When ``pause_writing`` (more than `high` bytes queued) and ``resume_writing`` (at most `low`) are called.

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

    def _pause_protocol(self):
        self.protocol_paused = True
        self._tell("pause_writing")

    def _resume_protocol(self):
        self.protocol_paused = False
        self._tell("resume_writing")

    def _tell(self, str name):
        try:
            getattr(self._protocol, name)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._loop.call_exception_handler({
                "message": f"protocol.{name}() failed",
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            })

    # ----------------------------------------------------------------------------------------------------- closing

    def close(self):
        """Stop reading, send what is queued, then call ``connection_lost(None)``.  Twice is allowed."""
        if self.closing:
            return
        self.closing = True
        self.stash = None
        self.stop_reading()
        if self.dirty:
            self.flush()  # ends in drained() where everything could be sent
        elif not self.buffered:
            self.drained()

    def abort(self):
        """Drop what is queued and call ``connection_lost(None)``."""
        self.force_close(None)

    def _force_close(self, exc):
        self.force_close(exc)

    cdef int force_close(self, exc) except -1:
        if self.lost:
            return 0
        self.clear_buffer()
        self.stash = None
        self.closing = True
        self.lost = 1
        self.stop_reading()
        self._loop.call_soon(self._call_connection_lost, exc, context=self.context)
        return 0

    def _fatal_error(self, exc, message="Fatal error on transport"):
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        else:
            self._loop.call_exception_handler({
                "message": message,
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            })
        self.force_close(exc)

    def _call_connection_lost(self, exc):
        try:
            self._protocol.connection_lost(exc)
        finally:
            self.connection_lost_called = True
            self._protocol = None
            self.stash = None
            server, self.server = self.server, None
            self.release_fd()
            if server is not None:
                detach(server, self)

    cdef int release_fd(self) except -1:
        """Close the descriptor once the connection is lost and the last op on it has ended."""
        cdef int fd = self.fd
        if fd < 0 or not self.connection_lost_called or self.receive is not None or self.writable is not None:
            return 0
        if self.given and self.sock.fileno() != fd:
            self.port.disown(fd, <void *>self)
            self.fd = -1  # closed by its other owner: the number is not ours any more
            return 0
        self.port.driver.forget(fd)
        self.remember_name(False)
        self.port.disown(fd, <void *>self)
        self.fd = -1
        if self.sock is not None:
            self.sock.close()
        else:
            close(fd)
        return 0

    def _has(self, fd):
        return self.fd == fd and not self.closing and not (self.given and self.sock.fileno() != fd)

    def __dealloc__(self):
        if self.fd >= 0 and self.port is not None:
            self.port.disown(self.fd, <void *>self)

    def __del__(self):
        cdef int fd = self.fd
        if fd < 0:
            return
        warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
        self.port.disown(fd, <void *>self)
        self.fd = -1
        if self.sock is not None:
            self.sock.close()
        else:
            close(fd)


cdef bint _contiguous(data):
    return not isinstance(data, memoryview) or data.c_contiguous


def _set_result_unless_done(future):
    if not future.done():
        future.set_result(None)


# Server._attach and _detach take the transport since 3.12.1 and 3.13.
_ATTACH_TAKES_TRANSPORT = asyncio.base_events.Server._attach.__code__.co_argcount == 2


cdef attach(server, transport):
    if _ATTACH_TAKES_TRANSPORT:
        server._attach(transport)
    else:
        server._attach()


cdef detach(server, transport):
    if _ATTACH_TAKES_TRANSPORT:
        server._detach(transport)
    else:
        server._detach()


cdef class Listener(Op):
    """Accepts the connections of one listening socket and makes their transports."""

    cdef object loop
    cdef Port port
    cdef readonly object sock
    cdef object factory
    cdef object server
    cdef object context
    cdef object make_tls         # makes the transport of a TLS connection from (sock, protocol), or None
    cdef object retry            # the timer of a pause for want of descriptors
    cdef bint closed
    cdef int error               # why accepting has stopped, where that is known before the op ends
    cdef bint starved            # said already that there are no descriptors

    def __init__(self, loop, Port port not None, sock, factory, server, make_tls=None):
        self.kind = ACCEPT
        self.loop = loop
        self.port = port
        self.sock = sock
        self.factory = factory
        self.server = server
        self.make_tls = make_tls
        self.context = PyContext_CopyCurrent()
        self.fd = sock.fileno()

    def start(self):
        """Accept from now on."""
        self.retry = None
        if self.closed or self.sock.fileno() != self.fd:
            return
        self.state = NEW
        self.port.submit(self)

    def close(self):
        """Accept no more; the socket is closed when the kernel has let go of it."""
        if self.closed:
            return
        self.closed = True
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        if self.state == IN_FLIGHT:
            self.port.cancel(self)
            # From now on clients are to be refused: have the kernel let go at once.
            self.port.driver.settle()
        if not self.in_kernel:
            self._release()

    def _release(self):
        if self.sock.fileno() == self.fd:
            self.port.driver.forget(self.fd)
            self.sock.close()

    cdef int on_packet(self, Packet *packet) except -1:
        cdef int res = packet.res
        if res >= 0:
            if self.closed:
                close(res)
            else:
                self.starved = False
                self.accepted(res)
        elif packet.flags & PACKET_MORE:
            self.error = -res
        if not packet.flags & PACKET_MORE:
            if self.closed:
                self._release()
                self.loop = self.factory = self.server = self.make_tls = None
            elif res < 0:
                res, self.error = self.error or -res, 0
                self._failed(res)
        return 0

    cdef int accepted(self, int fd) except -1:
        cdef StreamTransport transport
        context = PyContext_Copy(self.context)
        PyContext_Enter(context)
        try:
            protocol = self.factory()
            if self.make_tls is not None:
                sock = socket.socket(fileno=fd)
                fd = -1
                self.make_tls(sock, protocol)
                return 0
            transport = StreamTransport(self.loop, self.port, fd, protocol, server=self.server, context=context)
            fd = -1
            transport._connection_made()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.loop.call_exception_handler({
                "message": "Error on transport creation for incoming connection",
                "exception": exc,
            })
            return 0
        finally:
            PyContext_Exit(context)
            if fd >= 0:
                close(fd)
        return 0

    cdef _failed(self, int error):
        if error == ECONNABORTED or error == EINTR or error == EPROTO or error == EAGAIN:
            # The connection is gone, not the listener: accept(2) says to try again.
            self.start()
        elif error == EMFILE or error == ENFILE or error == ENOBUFS or error == ENOMEM:
            if not self.starved:
                self.starved = True
                self.loop.call_exception_handler({
                    "message": "socket.accept() out of system resource",
                    "exception": OSError(error, os.strerror(error)),
                    "socket": trsock.TransportSocket(self.sock),
                })
            self.retry = self.loop.call_later(constants.ACCEPT_RETRY_DELAY, self.start)
        else:
            self.loop.call_exception_handler({
                "message": "Accepting connections failed",
                "exception": OSError(error, os.strerror(error)),
                "socket": trsock.TransportSocket(self.sock),
            })
            # Network errors that were pending on the new connection, accept(2): the listener itself is fine.
            self.retry = self.loop.call_later(constants.ACCEPT_RETRY_DELAY, self.start)
