"""Stream transports: TCP and Unix sockets.

Reading.  A receive op runs as long as the transport reads.  Its packets are given to the protocol in the
context of the connection, one call per packet.  What the kernel has taken when reading is paused is kept and
given first when it resumes.  A ``BufferedProtocol`` gets its bytes by recv(2) straight into its own buffer.

Bytes come into the loop's one buffer, which the processor's cache has, and an object of their exact size is
made of them.  Behind a large message the next one is received into such an object at once (`plan`, `land`).

Writing and closing: see ``sending``.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.buffer cimport PyBuffer_Release
from cpython.long cimport PyLong_FromSsize_t
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF
from proactorx.drivers.driver cimport FD_OPENED
from proactorx.sys.errnos cimport EAGAIN, ECANCELED, EWOULDBLOCK
from proactorx.sys.raised cimport px_raised
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy
from proactorx.ops.op cimport PACKET_READY, RECV_STREAM, RawPacket, may_stop_short
from proactorx.transports.base cimport px_drop_dict
from proactorx.transports.read_state cimport ReadState, is_compiled, state_of
from proactorx.transports.reader cimport ask_for_buffer, feed, is_buffered, is_plain
from proactorx.transports.registry cimport Flushable, Registry
from proactorx.transports.sending cimport SendingTransport
from proactorx.sys.socket cimport (
    POLLERR, POLLHUP, POLLPRI, POLLRDHUP, PX_SCRATCH_SIZE, px_name, px_recv, px_recv_both, px_recv_cut,
)

import asyncio
import contextlib
import socket
import sys
from asyncio import constants, transports

from proactorx.sys import python
from proactorx.sys.errors import strerror
from proactorx.port.sockaddr import parse as parse_name
from proactorx.transports import base
from proactorx.transports.shared_socket import SharedSocket

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(object counted)
    object PyContext_CopyCurrent()
    int px_enter "PyContext_Enter"(PyObject *context) except -1
    int px_exit "PyContext_Exit"(PyObject *context) except -1
    PyObject *px_new_bytes "PyBytes_FromStringAndSize"(const char *data, Py_ssize_t size) except NULL
    int px_resize "_PyBytes_Resize"(PyObject **made, Py_ssize_t size) except -1
    # As C has it: NULL with an exception set, which Cython does not look at.
    PyObject *px_call_method "PyObject_VectorcallMethod"(PyObject *name, PyObject **args, size_t nargsf,
                                                         PyObject *kwnames)

cdef enum:
    MORE_BEHIND = POLLRDHUP | POLLHUP | POLLERR | POLLPRI  # a short read is not the last then

# What is received straight into an object.  The copy of less costs too little to be measured; for more, a C
# library that has never freed as much maps pages.
cdef enum:
    KIB = 1024
    LARGE = 24 * KIB
    LARGEST = 127 * KIB

cdef bint lands = sys.platform != "win32"  # there the kernel fills the driver's buffers before it is asked
cdef int AF_UNIX = getattr(socket, "AF_UNIX", -1)
# Where the socket module knows the flag, a socket object is made without the system calls that ask for the
# type and set what the descriptor is already.
cdef object NONBLOCKING_STREAM = socket.SOCK_STREAM | getattr(socket, "SOCK_NONBLOCK", 0)

# Whether an object's count of references tells that nobody else has one.
cdef bint counted = not python.FREE_THREADED

cdef object DATA_RECEIVED = "data_received"
cdef object BUFFER_UPDATED = "buffer_updated"


class TCPTransport(transports._FlowControlMixin, asyncio.Transport):
    """What ``isinstance`` sees of a stream transport: it is an ``asyncio.Transport``."""


# As above: an exception is the caller's to handle.
ctypedef int (*Unchecked)(PyObject *protocol, Py_buffer *view) noexcept


cdef class RawProtocol(Flushable):
    """A protocol of this package that is given the bytes where they lie, and copies what it keeps."""

    cdef int received(self, char *data, Py_ssize_t size) except -1:
        return 0

    cdef int flush(self) except -1:
        self.dirty = False
        return 0


cdef class StreamTransport(SendingTransport):
    """The transport of a connected stream socket: ``asyncio.Transport`` with its whole contract."""

    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE
    _start_tls_compatible = True
    max_size = 256 * 1024

    def __cinit__(self):
        px_drop_dict(self)

    def __init__(self, loop, Registry registry not None, int fd, protocol, *, sock=None, bint lent=False,
                 extra=None,
                 server=None, context=None, bytes peer=None):
        self.init(loop, registry)
        self.sock = sock
        self.user_owned = sock is not None
        self.lent = self.eager = lent
        self.extra = extra
        self.context = PyContext_CopyCurrent() if context is None else context
        self.set_protocol(protocol)
        self.port.driver.note(fd, FD_OPENED)
        registry.own(fd, self)
        self.fd = fd
        try:
            if peer is None:
                peer = self.kernel_name(True)  # now: it is gone after a reset
            if peer is not None:
                self.keep_peer(PyBytes_AS_STRING(peer), PyBytes_GET_SIZE(peer))
            if server is not None:
                attach(server, self)
        except BaseException:
            self.fd = -1  # the caller still has it, and closes it
            registry.disown(fd, <void *>self)
            raise
        self.server = server

    @property
    def __class__(self):
        return TCPTransport

    # ------------------------------------------------------------------------------------- what users ask for

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
                self.sock = socket.socket(type=NONBLOCKING_STREAM, fileno=self.fd)
                if NONBLOCKING_STREAM == socket.SOCK_STREAM:
                    self.sock.setblocking(False)
            self._send_now(False)
            value = SharedSocket(self.sock, self)
        elif name == "sockname":
            value = self._name(False)
        elif name == "peername":
            value = self._name(True)
        else:
            return default
        self._remember(name, value)
        return value

    @property
    def _sock(self):
        # asyncio's own name for the socket object; None once that is closed.
        if self.fd < 0:
            return None
        self._send_now(True)
        return self.get_extra_info("socket")._sock

    def _send_now(self, bint shared):
        SendingTransport._send_now(self, shared)
        if self.raw_protocol:
            (<RawProtocol>self._protocol).flush()  # what TLS has put off
            SendingTransport._send_now(self, shared)

    cdef _remember(self, name, value):
        if self.extra is None:
            self.extra = {}
        self.extra[name] = value

    cdef bytes kernel_name(self, bint peer):
        """The peer's or our own ``struct sockaddr``, or None."""
        cdef char storage[128]
        cdef int size
        if peer and self.peer_size:
            return (<char *>self.peer)[:self.peer_size]
        if not peer and self.own_name is not None:
            return self.own_name
        size = px_name(self.fd, peer, storage, sizeof(storage)) if self.fd >= 0 else -1
        return storage[:size] if 0 < size <= <int>sizeof(storage) else None

    cdef int keep_peer(self, const char *name, Py_ssize_t size) except -1:
        self.unix_stream = size >= 2 and (<unsigned short *>name)[0] == AF_UNIX
        if size <= <Py_ssize_t>sizeof(self.peer):
            memcpy(self.peer, name, size)
            self.peer_size = <uint8_t>size
        else:
            self._remember("peername", parse_name(name[:size]))
        return 0

    cdef _name(self, bint peer):
        cdef bytes name = self.kernel_name(peer)
        value = None if name is None else parse_name(name)
        if value is None and self.fd >= 0 and name is not None:
            # Of a family that only the socket module knows.
            sock = self.get_extra_info("socket")
            with contextlib.suppress(OSError):
                value = sock.getpeername() if peer else sock.getsockname()
        return value

    def _family(self):
        return socket.AF_INET if self.own_name is None else int.from_bytes(self.own_name[:2], sys.byteorder)

    def set_protocol(self, protocol):
        """Give the bytes that come from now on to `protocol`."""
        cdef bint buffered = is_buffered(protocol)
        self._protocol = protocol
        self.reader_of_ours = protocol._stream_reader_wr if is_compiled(protocol) else None
        self.reader_protocol = self.reader_of_ours is not None or is_plain(protocol)
        self.raw_protocol = isinstance(protocol, RawProtocol)
        self.buffered_protocol = buffered
        if self.receive is not None:
            self.receive.direct = buffered

    # ------------------------------------------------------------------------------------------------ opening

    def _connection_made(self):
        self.in_callback = True
        try:
            self._protocol.connection_made(self)
        finally:
            self.in_callback = False
            try:
                # The protocol may have closed, aborted or paused; a failure is the handle's to report.
                if self.awaited:
                    self._loop.call_soon(self._read_first, context=self.context)
                else:
                    self._read_first()
            finally:
                if self.dirty:
                    self.flush()

    def _read_first(self):
        if not self.closing and self.receive is None and not self.reading_paused:
            self.start_reading()

    cdef int start_reading(self) except -1:
        if self.receive is not None or self.eof_seen or self.fd < 0:
            return 0
        return self.begin(RECV_STREAM, self.buffered_protocol)

    cdef int arrived(self, RawPacket *packet) except -1:
        if packet.flags & PACKET_READY:
            self.ready(<uint32_t>packet.res)
        elif packet.res > 0:
            self.data(packet.data, packet.res, None)
        elif packet.res == 0:
            self.eof()
        elif packet.res != -ECANCELED:
            self.receive_failed(-packet.res)
        return 0

    # ------------------------------------------------------------------------------------------------ reading

    is_reading = base.is_reading
    pause_reading = base.pause_reading
    resume_reading = base.resume_reading

    def _read_again(self):
        self.unstash()

    def _repeat_end(self):
        """For ``start_tls``: where the peer has ended already,
        the protocol that comes now is to hear of it too.
        """
        if self.eof_seen and self.stash is None:
            self.stash = [None]

    cdef int unstash(self) except -1:
        cdef list stash
        cdef object piece
        try:
            while self.stash is not None and not self.reading_paused and not self.closing:
                stash = self.stash
                piece = stash.pop(0)
                if not stash:
                    self.stash = None
                if piece is None:
                    self._eof()
                elif self.buffered_protocol:
                    self.data_buffered(PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
                elif self.raw_protocol:
                    self.data_raw(PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
                else:
                    self.data_plain(piece)
        except (SystemExit, KeyboardInterrupt):
            self._loop.call_soon(self._read_again, context=self.context)  # if the loop is run again
            raise
        finally:
            if self.dirty:
                self.flush()
        if self.stash is None and not self.reading_paused and not self.closing:
            if self.receive is not None:
                self.port.resume(self.receive)
            else:
                self.start_reading()
        return 0

    cdef int data(self, char *data, Py_ssize_t size, bytes whole) except -1:
        """Bytes have come; `whole`: as an object, which may be given on, or None."""
        if self.closing:
            return 0
        if self.reading_paused or self.stash is not None:
            if self.stash is None:
                self.stash = []
            self.stash.append(PyBytes_FromStringAndSize(data, size))
            return 0
        if self.reader_protocol and self.data_reader(data, size, whole):
            return 0
        px_enter(<PyObject *>self.context)
        try:
            if self.raw_protocol:
                self.data_raw(data, size)
            elif self.buffered_protocol:
                self.data_buffered(data, size)
            else:
                if size >= LARGE:
                    self.plan(size)
                self.data_plain(PyBytes_FromStringAndSize(data, size) if whole is None else whole)
        finally:
            px_exit(<PyObject *>self.context)
            if self.dirty:
                self.flush()
        return 0

    cdef int data_reader(self, char *data, Py_ssize_t size, bytes whole) except -1:
        """1: the bytes are in the protocol's ``StreamReader``; 0: it has to be called."""
        cdef ReadState state
        try:
            if self.reader_of_ours is None:
                return feed(self._protocol, data, size)
            state = state_of(self.reader_of_ours)
            if state is None:
                return 0
            if state.held is None and size >= LARGE:
                self.plan(size)
                if whole is not None:
                    state.adopt(whole)
                    return 1
            state.add(data, size)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.data_received() call failed.")
        return 1

    cdef int data_plain(self, object data) except -1:
        # Plain C, as Handle.run: a try statement saves and restores the exception state of the thread.
        cdef PyObject *args[2]
        cdef PyObject *result
        args[0] = <PyObject *>self._protocol
        args[1] = <PyObject *>data
        self.in_callback = True
        result = px_call_method(<PyObject *>DATA_RECEIVED, args, 2, NULL)
        if result != NULL:
            self.in_callback = False
            Py_DECREF(<object>result)
            return 0
        try:
            return self.failed("data_received")
        finally:
            self.in_callback = False

    cdef int failed(self, str method) except -1:
        """A method of the protocol has raised the exception that is set now."""
        try:
            px_raised()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, f"Fatal error: protocol.{method}() call failed.")
        return 0

    cdef int data_raw(self, char *data, Py_ssize_t size) except -1:
        self.in_callback = True
        try:
            (<RawProtocol>self._protocol).received(data, size)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal error: protocol.data_received() call failed.")
        finally:
            self.in_callback = False
        return 0

    cdef int get_buffer(self, Py_buffer *view) except -1:
        """Get a buffer of the protocol's into `view`.  0: it has none, and the connection is aborted."""
        if (<Unchecked>ask_for_buffer)(<PyObject *>self._protocol, view) < 0:
            self.failed("get_buffer")
            return 0
        return 1

    cdef int buffer_updated(self, Py_ssize_t size) except -1:
        cdef PyObject *args[2]
        cdef PyObject *result
        count = PyLong_FromSsize_t(size)
        args[0] = <PyObject *>self._protocol
        args[1] = <PyObject *>count
        result = px_call_method(<PyObject *>BUFFER_UPDATED, args, 2, NULL)
        if result == NULL:
            return self.failed("buffer_updated")
        Py_DECREF(<object>result)
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
                        self._loop.call_soon(self._read_again, context=self.context)
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
        """The socket is readable and the call is ours to make: into the protocol's buffer, or see `land`."""
        cdef Py_buffer view
        cdef Py_ssize_t n, room
        cdef int cut = 0
        if self.closing or self.fd < 0:
            return 0
        # Until it is known that nothing was left behind: a callback may end the run before that.
        self.receive.again = True
        if self.stash is not None:
            return self.unstash()
        if not self.buffered_protocol:
            return self.took(self.land(mask))
        self.in_callback = True
        px_enter(<PyObject *>self.context)
        try:
            if not self.get_buffer(&view):
                return 0
            room = view.len
            if self.receive is not None and may_stop_short(self.receive):
                n = px_recv_cut(self.fd, <char *>view.buf, room, &cut)
            else:
                n = px_recv(self.fd, <char *>view.buf, room)
            PyBuffer_Release(&view)
            self.left_behind(n, n == room or cut or mask & MORE_BEHIND != 0)
            if n > 0:
                self.buffer_updated(n)
        finally:
            px_exit(<PyObject *>self.context)
            self.in_callback = False
            if self.dirty:
                self.flush()
        return self.took(n)

    cdef int took(self, Py_ssize_t n) except -1:
        """The receive of `ready` has given `n`, and the protocol has what has come."""
        if n == 0:
            self.stop_reading()
            self.eof()
        elif n < 0 and n != -EAGAIN and n != -EWOULDBLOCK:
            self.receive_failed(<int>-n)
        return 0

    cdef void plan(self, Py_ssize_t size) noexcept:
        """The protocol is given an object of `size` bytes: choose how its next bytes are received."""
        if LARGE <= size <= LARGEST and lands and self.receive is not None:
            self.receive.direct = True
            # Rather more than the last one than less: what was too much is given back at once.
            size = (size + KIB - 1) // KIB
            self.large = <uint8_t>(size if size > self.large else self.large - (self.large - size) // 8)

    cdef Py_ssize_t land(self, uint32_t mask) except? -1:
        """Receive into a new object: after a large message, or behind one for a ``BufferedProtocol``."""
        cdef Py_ssize_t n, room = self.large * KIB or LARGE
        cdef int cut = 0
        cdef char *rest = self.port.driver.scratch
        cdef PyObject *made = px_new_bytes(NULL, room)
        cdef bytes whole
        n = px_recv_both(self.fd, PyBytes_AS_STRING(<object>made), room, rest, PX_SCRATCH_SIZE - room, &cut)
        self.left_behind(n, n == PX_SCRATCH_SIZE or cut or mask & MORE_BEHIND != 0)
        if n <= 0:
            Py_DECREF(<object>made)
            return n
        self.receive.direct = False  # unless it is a large one again
        if n != room and n >= LARGE:
            px_resize(&made, n)
        if n > room:
            memcpy(PyBytes_AS_STRING(<object>made) + room, rest, n - room)
        whole = <bytes>made
        Py_DECREF(whole)
        self.data(PyBytes_AS_STRING(whole), n, whole if n >= LARGE else None)
        return n

    cdef void left_behind(self, Py_ssize_t n, bint more) noexcept:
        """A receive has given `n`; whether there may be bytes in the socket of which no edge will tell,
        or no poll is armed that could.
        """
        if self.receive is not None:
            self.receive.found_nothing = n == -EAGAIN
            self.receive.again = (more and n != -EAGAIN) or not self.receive.armed

    cdef int eof(self) except -1:
        self.eof_seen = True
        if self.closing:
            return 0
        if self.reading_paused or self.stash is not None:
            if self.stash is None:
                self.stash = []
            self.stash.append(None)
            return 0
        px_enter(<PyObject *>self.context)
        try:
            self._eof()
        finally:
            px_exit(<PyObject *>self.context)
            if self.dirty:
                self.flush()
        return 0

    cdef _eof(self):
        self.in_callback = True
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            # It has not said whether to stay open: as on stock asyncio,
            # it is asked again if the loop is run again.
            self.stash = [None]
            self._loop.call_soon(self._read_again, context=self.context)
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
            self._fatal_error(OSError(error, strerror(error)), "Fatal read error on socket transport")
        return 0

    # ------------------------------------------------------------------------------------------------- ending

    cdef int ended(self) except -1:
        # After close(2) the kernel does not tell.  The caller has a reference, and the op that reads.
        if not counted or Py_REFCNT(self) > 1 + (self.receive is not None and self.receive.target is self):
            self.own_name = self.kernel_name(False)
        server, self.server = self.server, None
        if server is not None:
            detach(server, self)
        return SendingTransport.ended(self)


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
