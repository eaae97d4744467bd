"""Datagram transports: UDP, Unix datagrams, and what else a socket of the user's may be.

Receiving.  An op says when datagrams are there, and this module takes them, many in one recvmmsg(2) (of a
socket that the user has given, one), into memory that all datagram transports of a port share: room for the
largest datagram there is, so none is cut off.

Sending.  ``sendto`` sends at once; what the callbacks of protocols send goes out in one sendmmsg(2), see
``sending``. A datagram that the system refuses is reported to ``error_received`` and the next one is tried:
one that cannot be sent holds up no other.  Datagrams of one size to one address leave as trains, see
``trains.h``; where those are refused, as single ones again.

Closing: see ``sending``.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from proactorx.drivers.driver cimport FD_OPENED
from proactorx.sys.errnos cimport (
    EAGAIN, EBADF, ECANCELED, EINVAL, EIO, EMSGSIZE, EOPNOTSUPP, EWOULDBLOCK,
)
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from proactorx.ops.op cimport PACKET_READY, RECV_DGRAMS, RawPacket
from proactorx.transports.base cimport holds, px_drop_dict
from proactorx.transports.registry cimport Registry
from proactorx.transports.sending cimport SEND_AT_ONCE, SendingTransport, UNLOCKED_SEND
from proactorx.sys.datagram cimport (
    AF_INET, AF_INET6, AF_UNIX, PX_NAME, PX_SENT, PX_TAKEN, px_arena, px_arena_free, px_arena_new,
    px_late_error, px_outgoing, px_recv_batch, px_send_batch, px_taken_data, px_taken_name,
    px_taken_name_size, px_taken_size,
)
from proactorx.sys.trains cimport PX_TRAIN_BYTES, px_may_train, px_recv_informed, px_send_trains
from proactorx.transports.address_cache cimport AddressCache, Known, Outgoing, PLAIN

import asyncio
import socket

from proactorx.sys.errors import strerror
from proactorx.transports import base
from proactorx.transports.shared_socket import SharedSocket
from proactorx.transports.udp import udp_features

cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_CopyCurrent()
    object PyObject_VectorcallMethod(object name, PyObject **args, size_t nargsf, PyObject *kwnames)

cdef enum:
    LARGEST = 65536        # an IP datagram carries less, RFC 768 and RFC 8200; 65,507 bytes over IPv4
    LARGEST_UNIX = 262144  # stock asyncio's limit; the system's is net.core.wmem_max
    HEADER = 8             # what a datagram counts in the buffer besides its bytes, as on stock asyncio
    # so many "writable" without room for a datagram, and the next try waits for a timer
    LYING = 3
    SEND_TRAIN = 61440     # as SEND_AT_ONCE, where datagrams may leave in trains: a long one is cheap

cdef object DATAGRAM_RECEIVED = "datagram_received"


class UDPTransport(asyncio.DatagramTransport, asyncio.Transport):
    """What ``isinstance`` sees of a datagram transport: it is an ``asyncio.DatagramTransport``.

    And an ``asyncio.Transport``, as on stock asyncio, on whose word programs (and asyncio's own tests)
    may rely.
    """


cdef class Arena:
    """Where the datagrams of a port are received: lent to one transport at a time."""

    def __cinit__(self):
        self.memory = px_arena_new()
        if self.memory == NULL:
            raise MemoryError

    def __dealloc__(self):
        px_arena_free(self.memory)


cdef class DatagramTransport(SendingTransport):
    """The transport of a datagram socket: ``asyncio.DatagramTransport`` with its whole contract."""

    max_size = 256 * 1024

    def __cinit__(self):
        px_drop_dict(self)

    def __init__(self, loop, Registry registry not None, sock, protocol, *, bint lent=False, address=None,
                 extra=None,
                 context=None):
        cdef Outgoing out
        cdef int fd
        self.init(loop, registry)
        self.sock = sock
        self.user_owned = True
        self.lent = self.eager = lent
        self.context = PyContext_CopyCurrent() if context is None else context
        self._protocol = protocol
        self.extra = {"socket": SharedSocket(sock, self), "sockname": _name(sock.getsockname)}
        self.extra["peername"] = _name(sock.getpeername)
        if extra is not None:
            self.extra.update(extra)
        self.family = sock.family
        self.addresses = AddressCache.__new__(AddressCache)
        self.addresses.family = self.family
        self.plain = self.family not in (AF_INET, AF_INET6, AF_UNIX)
        self.connected = self.extra["peername"] is not None
        self.remote = address or None
        if self.remote is not None and not self.connected and not self.plain:
            self.addresses.name_of(self.remote, &out)
            Py_XDECREF(<PyObject *>out.address)
            if out.address == NULL and out.size != PLAIN:
                self.fixed.size = out.size
                memcpy(self.fixed.name, out.name, PX_NAME)
        fd = sock.fileno()
        self.port.driver.note(fd, FD_OPENED)
        registry.own(fd, self)
        self.shown = lent
        if self.family in (AF_INET, AF_INET6) and "gso" in udp_features() and px_may_train(fd):
            self.train_limit = PX_TRAIN_BYTES
        self.fd = fd  # last: if anything before raises, the caller closes it

    @property
    def __class__(self):
        return UDPTransport

    # ------------------------------------------------------------------------------------- what users ask for

    @property
    def _sock(self):
        # asyncio's own name for the socket object; None once that is closed.
        if self.fd < 0:
            return None
        self._send_now(True)
        self.shown = True
        return self.sock

    def get_extra_info(self, name, default=None):
        """``socket``, ``sockname``, ``peername``, and what the maker of the transport gave."""
        if name == "socket":
            self._send_now(False)
            self.shown = True
        return SendingTransport.get_extra_info(self, name, default)

    # What a stream transport has and this one has not; stock asyncio's says the same.

    def write(self, data):
        """Raise NotImplementedError: datagrams are sent by ``sendto``."""
        raise NotImplementedError

    def writelines(self, list_of_data):
        """Raise NotImplementedError: datagrams are sent by ``sendto``."""
        raise NotImplementedError

    def can_write_eof(self):
        """Raise NotImplementedError: a datagram socket has no end of stream."""
        raise NotImplementedError

    def write_eof(self):
        """Raise NotImplementedError: a datagram socket has no end of stream."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------ opening

    def _connection_made(self):
        self.in_callback = True
        try:
            self._protocol.connection_made(self)
        finally:
            self.in_callback = False
            # The protocol may have closed, aborted or paused; a failure is the handle's to report.
            if self.awaited:
                self._loop.call_soon(self._read_first, context=self.context)
            else:
                self._read_first()
            if self.dirty:
                self.flush()

    def _read_first(self):
        if not self.closing and not self.reading_paused:
            self.start_reading()

    cdef int start_reading(self) except -1:
        if self.receive is not None or self.fd < 0:
            return 0
        return self.begin(RECV_DGRAMS, False)

    cdef int arrived(self, RawPacket *packet) except -1:
        if packet.flags & PACKET_READY:
            self.ready()
        elif packet.res < 0 and packet.res != -ECANCELED and not self.closing:
            self._fatal_error(OSError(-packet.res, strerror(-packet.res)),
                              "Fatal read error on datagram transport")
        return 0

    # ---------------------------------------------------------------------------------------------- receiving

    is_reading = base.is_reading
    pause_reading = base.pause_reading
    resume_reading = base.resume_reading

    def _read_again(self):
        self.unstash()
        if self.dirty:
            self.flush()

    cdef int unstash(self) except -1:
        cdef list stash
        if self.stash is not None:
            self.in_callback = True
            try:
                while self.stash is not None and not self.reading_paused and not self.closing:
                    stash = self.stash
                    data, address = stash.pop(0)
                    if not stash:
                        self.stash = None
                    self.deliver(data, address)
            finally:
                self.in_callback = False
        if not self.reading_paused and not self.closing:
            if self.receive is not None:
                self.port.resume(self.receive)
            else:
                self.start_reading()
        return 0

    cdef int ready(self) except -1:
        """Datagrams are there, or an error is."""
        cdef Arena arena
        cdef int n, late, most
        cdef size_t each
        if self.closing or self.fd < 0:
            return 0
        if not holds(self.sock, self.fd):
            self.stop_reading()  # the user has closed the socket, and its number may be another file's
            return 0
        if self.plain:
            return self.ready_plain()
        # Taken out for the time being: a callback that runs the loop (it may not) would find another one.
        arena = self.registry.arena
        self.registry.arena = None
        if arena is None:
            arena = Arena.__new__(Arena)
        # Of the user's own socket no more is taken than is delivered: others may receive from it, and what is
        # taken is lost to them when the protocol closes.
        each = LARGEST_UNIX if self.family == AF_UNIX else LARGEST
        most = 1 if self.lent else PX_TAKEN
        if self.informed:
            n = px_recv_informed(self.fd, arena.memory, each, most)
        else:
            n = px_recv_batch(self.fd, arena.memory, each, most)
        if n == -EAGAIN or n == -EWOULDBLOCK:
            self.registry.arena = arena
            return 0
        self.in_callback = True
        PyContext_Enter(self.context)
        try:
            if self.stash is not None:
                self.unstash()
                self.in_callback = True
            if n < 0:
                self._error_received(OSError(-n, strerror(-n)))
            else:
                self.take_in(arena.memory, n)
                late = px_late_error(arena.memory)
                if late:
                    self._error_received(OSError(-late, strerror(-late)))
        finally:
            PyContext_Exit(self.context)
            self.in_callback = False
            self.registry.arena = arena
            if self.dirty:
                self.flush()
        return 0

    cdef int take_in(self, px_arena *arena, int count) except -1:
        cdef int i = 0
        cdef object data, address
        try:
            while i < count and not self.closing:
                data = PyBytes_FromStringAndSize(px_taken_data(arena, i), px_taken_size(arena, i))
                address = self.addresses.address_of(px_taken_name(arena, i), px_taken_name_size(arena, i))
                i += 1
                if self.reading_paused or self.stash is not None:
                    if self.stash is None:
                        self.stash = []
                    self.stash.append((data, address))
                else:
                    self.deliver(data, address)
        except BaseException:
            # The loop is being stopped from inside a callback:
            # the rest is given to the protocol when it runs again.
            if i < count and not self.closing:
                if self.stash is None:
                    self.stash = []
                for i in range(i, count):
                    data = PyBytes_FromStringAndSize(px_taken_data(arena, i), px_taken_size(arena, i))
                    address = self.addresses.address_of(px_taken_name(arena, i), px_taken_name_size(arena, i))
                    self.stash.append((data, address))
                self._loop.call_soon(self._read_again, context=self.context)
            raise
        return 0

    cdef int ready_plain(self) except -1:
        self.in_callback = True
        PyContext_Enter(self.context)
        try:
            data, address = self.sock.recvfrom(self.max_size)
            self.deliver(data, address)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as exc:
            self._error_received(exc)
        finally:
            PyContext_Exit(self.context)
            self.in_callback = False
            if self.dirty:
                self.flush()
        return 0

    cdef int deliver(self, object data, object address) except -1:
        cdef PyObject *args[3]
        args[0] = <PyObject *>self._protocol
        args[1] = <PyObject *>data
        args[2] = <PyObject *>address
        try:
            PyObject_VectorcallMethod(DATAGRAM_RECEIVED, args, 3, NULL)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._callback_failed("datagram_received", exc)
        return 0

    def _error_received(self, exc):
        if self._protocol is None:
            return
        try:
            self._protocol.error_received(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as failure:
            self._callback_failed("error_received", failure)

    def _callback_failed(self, str name, exc):
        """As on stock asyncio: reported, and the endpoint goes on."""
        self._report(f"Exception in callback protocol.{name}()", exc)

    # ------------------------------------------------------------------------------------------------ sending

    def sendto(self, data, addr=None):
        """Send `data` as one datagram to `addr`, or to the remote address of the endpoint.

        bytes are kept until they are sent, anything mutable may be changed after the call.  Nothing is lost
        silently: what the system refuses goes to the protocol's ``error_received``.

        Raises:
            TypeError: `data` is not bytes, bytearray or memoryview.
            ValueError: the endpoint has a remote address, and `addr` is another one.
        """
        cdef Outgoing out
        cdef Known *recent
        if type(data) is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
            data = bytes(data)
        if self.remote is not None:
            if addr is not None and addr != self.remote:
                raise ValueError(f"Invalid address: must be None or {self.remote}")
            addr = self.remote
        if self.lost:
            self.refuse()
            return
        out.address = NULL
        out.size = 0
        if self.plain:
            out.size = PLAIN
        elif not self.connected:
            recent = self.addresses.recent
            if recent != NULL and recent.address == <void *>addr:
                out.size = recent.size
                memcpy(out.name, recent.name, PX_NAME)
            elif self.fixed.size:
                out.size = self.fixed.size
                memcpy(out.name, self.fixed.name, PX_NAME)
            else:
                self.addresses.name_of(addr, &out)
        if out.size == PLAIN:
            if self.dirty:
                self.flush()
            if not self.buffered and not self.lost and self.send_plain(data, addr) != -EAGAIN:
                return
            Py_INCREF(addr)
            out.address = <void *>addr
        self.push_out(data, &out)

    cdef int push_out(self, object data, Outgoing *out) except -1:
        """Queue a datagram, and send what is queued when that is much."""
        cdef Outgoing *place
        cdef Py_ssize_t enough
        cdef bint much
        if self.count == self.room:
            self.grow()
        place = &self.queue[(self.head + self.count) & (self.room - 1)]
        place[0] = out[0]
        Py_INCREF(data)
        place.data = <void *>data
        self.count += 1
        self.buffered += PyBytes_GET_SIZE(data) + HEADER
        if self.writable is None and self.retry is None:
            enough = SEND_TRAIN if self.train_limit else SEND_AT_ONCE
            much = self.buffered >= enough or self.count >= PX_SENT or self.buffered > self.high
            if much or self.eager or not (self.in_callback or self.registry.running):
                self.flush()
            elif self.in_callback:
                self.dirty = True
            elif not self.dirty:
                self.registry.mark(self)
        if self.buffered > self.high and not self.protocol_paused:
            self._pause_protocol()
        return 0

    cdef int grow(self) except -1:
        cdef uint32_t room = 2 * self.room or 8, i
        cdef Outgoing *queue = <Outgoing *>PyMem_Malloc(room * sizeof(Outgoing))
        if queue == NULL:
            raise MemoryError
        for i in range(self.count):
            queue[i] = self.queue[(self.head + i) & (self.room - 1)]
        PyMem_Free(self.queue)
        self.queue = queue
        self.room = room
        self.head = 0
        return 0

    cdef int drop(self, uint32_t count) noexcept:
        """The first `count` datagrams are sent, or given up."""
        cdef Outgoing *first
        while count:
            count -= 1
            first = &self.queue[self.head]
            self.head = (self.head + 1) & (self.room - 1)
            self.count -= 1
            self.buffered -= PyBytes_GET_SIZE(<object>first.data) + HEADER
            Py_DECREF(<object>first.data)
            Py_XDECREF(<PyObject *>first.address)
        return 0

    cdef int flush(self) except -1:
        cdef uint32_t left = self.count
        cdef int n
        self.dirty = False
        if self.count and not holds(self.sock, self.fd):
            self._fatal_error(OSError(EBADF, strerror(EBADF)), "Fatal write error on datagram transport")
        while self.count and self.writable is None and self.retry is None:
            n = self.send_batch()
            if n == -EAGAIN or n == -EWOULDBLOCK:
                if left != self.count:
                    self.stalls = 0
                self.stalled()
                break
            if n < 0:
                self.drop(1)
                self.failed(-n)
            else:
                self.drop(min(<uint32_t>n, self.count))
        if not self.count:
            self.stalls = 0
        if self.protocol_paused and self.buffered <= self.low and not self.lost:
            self._resume_protocol()
        if not self.count and self.closing:
            self.drained()
        return 0

    cdef int send_batch(self) except? -1:
        """Send the first datagrams of the queue: how many, or -errno of the first."""
        cdef px_outgoing batch[PX_SENT]
        cdef Outgoing *item
        cdef int count = 0, n, tried = 1
        cdef size_t total = 0, limit = self.train_limit
        item = &self.queue[self.head]
        if item.size == PLAIN:
            return self.send_plain(<object>item.data, <object>item.address)
        while count < PX_SENT and <uint32_t>count < self.count:
            item = &self.queue[(self.head + count) & (self.room - 1)]
            if item.size == PLAIN:
                break
            batch[count].data = PyBytes_AS_STRING(<object>item.data)
            batch[count].size = PyBytes_GET_SIZE(<object>item.data)
            total += batch[count].size
            if item.address != NULL:
                batch[count].name = PyBytes_AS_STRING(<object>item.address)
                batch[count].name_size = <unsigned int>PyBytes_GET_SIZE(<object>item.address)
            else:
                batch[count].name = item.name if item.size else NULL
                batch[count].name_size = item.size
            count += 1
        if limit and count > 1 and self.shown and not px_may_train(self.fd):
            limit = 0
        if total < UNLOCKED_SEND:
            n = px_send_trains(self.fd, batch, count, limit, &tried)
        else:
            with nogil:
                n = px_send_trains(self.fd, batch, count, limit, &tried)
        return self.train_refused(-n, batch, count) if n < 0 and tried > 1 else n

    cdef int train_refused(self, int error, px_outgoing *batch, int count) noexcept:
        """Try without trains; if that is not refused, go on without.

        EMSGSIZE: the path takes datagrams of this size only in fragments; shorter ones may go in trains.
        """
        cdef int n
        if error not in (EINVAL, EIO, EMSGSIZE, EOPNOTSUPP):
            return -error
        n = px_send_batch(self.fd, batch, count)
        if n != -error:
            self.train_limit = batch[0].size if error == EMSGSIZE else 0
        return n

    cdef int send_plain(self, object data, object address) except? -1:
        """Send one datagram through the socket module: 1, or -EAGAIN.  Errors are dealt with."""
        try:
            if not holds(self.sock, self.fd):
                raise OSError(EBADF, strerror(EBADF))
            if self.connected:
                self.sock.send(data)
            else:
                self.sock.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            return -EAGAIN
        except OSError as exc:
            self._loop.call_soon(self._error_received, exc, context=self.context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._fatal_error(exc, "Fatal write error on datagram transport")
        return 1

    cdef int stalled(self) except -1:
        """The socket takes no more: wait until it does.

        A Unix socket that is not connected says that it is writable while its receiver's queue is full,
        unix(7) has no event for that: then a timer must do.
        """
        self.stalls += 1
        if self.stalls <= LYING:
            return self.wait_writable()
        delay = 0.001 * (1 << min(self.stalls - LYING - 1, 5))
        self.retry = self._loop.call_later(delay, self._retry, context=self.context)
        return 0

    def _retry(self):
        self.retry = None
        self.flush()
        self.release_fd()

    cdef int failed(self, int error) except -1:
        # From the loop: a protocol that answers an error with another datagram would come back here without
        # end.
        self._loop.call_soon(self._error_received, OSError(error, strerror(error)), context=self.context)
        return 0

    # ------------------------------------------------------------------------------------------------- ending

    cdef int last_send(self) except -1:
        return self.flush()

    cdef int clear_buffer(self) except -1:
        self.drop(self.count)
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        if self.writable is not None:
            self.port.cancel(self.writable)
        return 0

    def __dealloc__(self):
        self.drop(self.count)
        PyMem_Free(self.queue)


cdef _name(ask):
    try:
        return ask()
    except OSError:
        return None
