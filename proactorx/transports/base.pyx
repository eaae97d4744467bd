"""What every transport has: a descriptor, a protocol, perhaps an op that reads, and an end.

One owner per descriptor: the transport, until a Python object exists for it (a socket or file given by the
user, or a socket made for ``get_extra_info("socket")``); then that object, and the transport closes through
it.  The descriptor is closed when its last op has ended, never before.
"""

from proactorx.drivers.driver cimport FD_CLOSING
from proactorx.ops.op cimport IN_FLIGHT, Op, PACKET_MORE, RawPacket
from proactorx.sys.socket cimport px_close
from proactorx.transports.registry cimport Flushable, Registry

import socket
import warnings
import weakref

cdef object Socket = socket.socket
cdef object number_of = socket.SocketType.fileno  # unbound: without a look for the method

cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    bint PyWeakref_CheckRefExact(object target)


cdef class NoRegistry(Registry):
    """Of a transport that was made without its ``__init__``."""

    cdef int mark(self, Flushable item) except -1:
        raise RuntimeError("no __init__ has given this transport a registry")

    cdef int own(self, int fd, object owner) except -1:
        raise RuntimeError("no __init__ has given this transport a registry")


cdef Registry no_registry = NoRegistry.__new__(NoRegistry)


cdef class ReadOp(Op):
    """What a transport reads with."""

    cdef BaseTransport reader(self):
        """The transport; None where it was paused, and has been collected."""
        return self.target() if PyWeakref_CheckRefExact(self.target) else self.target

    cdef int on_packet(self, RawPacket *packet) except -1:
        cdef BaseTransport transport
        if PyWeakref_CheckRefExact(self.target):
            transport = self.target()
        else:
            transport = <BaseTransport>self.target
        if transport is None:
            return 0
        try:
            if not transport.port.closing:  # else, as on stock asyncio, protocols hear no more
                transport.arrived(packet)
        finally:
            if not packet.flags & PACKET_MORE:
                self.target = None
                transport.receive_done()
        return 0

    cdef object subject(self):
        return self.reader()

    cdef int owner_failed(self, exc) except -1:
        cdef BaseTransport transport = self.reader()
        if transport is not None:
            transport._force_close(exc)
        return 0

    cdef bint stale(self) except -1:
        cdef BaseTransport transport
        if self.target is None or PyWeakref_CheckRefExact(self.target):
            return False
        transport = <BaseTransport>self.target
        return transport.lent and not holds(transport.sock, self.fd)


cdef class BaseTransport(Flushable):
    """The common part of all transports; a subclass says what its op's packets mean,
    and what else it does.
    """

    def __cinit__(self):
        self.fd = -1
        self.registry = no_registry
        self.port = no_registry.port

    cdef int init(self, object loop, Registry registry) except -1:
        """What every ``__init__`` does first."""
        if self.registry is not no_registry:
            raise RuntimeError("a transport is initialized once")
        self._loop = loop
        self.registry = registry
        self.port = registry.port
        return 0

    # ------------------------------------------------------------------------------------- what users ask for

    def get_extra_info(self, name, default=None):
        """Return the information `name` about the transport, or `default` if there is none."""
        return default if self.extra is None else self.extra.get(name, default)

    def set_protocol(self, protocol):
        """Call `protocol` from now on."""
        self._protocol = protocol

    def get_protocol(self):
        """Return the current protocol."""
        return self._protocol

    def is_closing(self):
        """Return whether the transport is closing or closed."""
        return self.closing

    # asyncio's own names of these, which programs read.

    @property
    def _closing(self):
        return self.closing

    @property
    def _paused(self):
        return self.reading_paused

    def __repr__(self):
        info = [self.__class__.__name__]
        if self.fd < 0:
            info.append("closed")
        elif self.closing:
            info.append("closing")
        info.append(f"fd={self.fd}")
        if self.fd >= 0:
            info += self.states()
        return "<{}>".format(" ".join(info))

    cdef list states(self):
        """What ``repr`` says of an open transport."""
        return []

    # ------------------------------------------------------------------------------------------------ opening

    def _start(self, waiter=None):
        """Call ``connection_made``, wake the task that waits for the transport, then read or watch.

        In this order, as on stock asyncio: the task has the transport and the protocol before any data
        arrives.
        """
        self.awaited = waiter is not None
        self._loop.call_soon(self._connection_made, context=self.context)
        if waiter is not None:
            self._loop.call_soon(_set_result_unless_done, waiter)

    cdef int begin(self, int kind, bint direct) except -1:
        """Submit the op that reads."""
        cdef ReadOp op = ReadOp.__new__(ReadOp)
        op.kind = <unsigned char>kind
        op.fd = self.fd
        op.direct = direct
        op.owned = not self.lent
        op.unix_stream = self.unix_stream
        op.target = self
        self.receive = op
        try:
            self.port.submit(op)
        except BaseException:
            self.receive = None
            raise
        return 0

    cdef int arrived(self, RawPacket *packet) except -1:
        """A packet of the op that reads."""
        raise NotImplementedError("BaseTransport.arrived")

    cdef int receive_done(self) except -1:
        """The op that reads has had its last packet."""
        self.receive = None
        return self.release_fd()

    # ------------------------------------------------------------------------------------------------- ending

    cdef bint busy(self) noexcept:
        """Whether an op on the descriptor is in flight."""
        return self.receive is not None

    cdef int stop_reading(self) except -1:
        """The transport is closing: cancel what reads."""
        self.stash = None
        if self.receive is not None:
            self.receive.target = self  # until its last packet, where the descriptor is closed
            self.port.cancel(self.receive)
        return 0

    cdef int ended(self) except -1:
        """``connection_lost`` was called, or never will be: drop what only an open transport needs."""
        self.stash = None
        return 0

    def _report(self, message, exc):
        self._loop.call_exception_handler({
            "message": message,
            "exception": exc,
            "transport": self,
            "protocol": self._protocol,
        })

    cdef int finish(self, exc) except -1:
        """Read no more, and call ``connection_lost``."""
        self.closing = True
        self.stop_reading()
        self._loop.call_soon(self._call_connection_lost, exc, context=self.context)
        return 0

    cdef bint stranded(self) except -1:
        """If the loop is closed, close the descriptor now: the protocol will not be called any more."""
        if not self._loop.is_closed():
            return False
        self.closing = self.connection_lost_called = True
        self.release_fd()
        return True

    def _call_connection_lost(self, exc):
        try:
            self._protocol.connection_lost(exc)
        finally:
            self.connection_lost_called = True
            self._protocol = None
            self.ended()
            self.release_fd()

    cdef int release_fd(self) except -1:
        """Close the descriptor once the connection is lost and the last op on it has ended."""
        cdef int fd = self.fd
        if fd < 0 or not self.connection_lost_called or self.busy():
            return 0
        self.fd = -1
        if self.user_owned and not holds(self.sock, fd):
            self.registry.disown(fd, <void *>self)
            return 0  # closed by its other owner: the number is not ours any more
        self.port.driver.note(fd, FD_CLOSING)
        self.registry.disown(fd, <void *>self)
        if self.sock is not None:
            self.sock.close()
        else:
            px_close(fd)
        return 0

    def __dealloc__(self):
        if self.fd >= 0 and self.registry is not None:
            self.registry.disown(self.fd, <void *>self)

    cdef object reference(self):
        if self.weak is None:
            self.weak = weakref.ref(self)
        return self.weak

    def __del__(self):
        cdef int fd = self.fd
        if fd < 0:
            return
        try:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
        finally:  # also where warnings are errors
            self.fd = -1
            self.registry.disown(fd, <void *>self)
            try:
                self.forsake(fd)
            finally:
                self.ended()  # a server may wait for it

    cdef int forsake(self, int fd) except -1:
        """Close the descriptor of a garbage-collected transport,
        which was paused or had not begun to read.
        """
        cdef ReadOp op = self.receive
        if op is not None and op.state == IN_FLIGHT and not self.port.end_now(op):
            # Another thread drives the loop: it closes the descriptor there.
            self._loop.call_soon_threadsafe(_forsaken, self, fd)
            return 0
        self.receive = None
        if self.sock is not None:
            self.sock.close()
        else:
            px_close(fd)
        return 0


cdef int fd_of(object sock) except? -1:
    """The descriptor of a socket, or of a wrapper around one; -1: it is closed."""
    return number_of(sock) if type(sock) is Socket else sock.fileno()


cdef bint holds(object sock, int fd) except -1:
    """Whether `sock`, which may have been closed behind our back, still has `fd`.

    A wrapper of the user's may raise what it likes once it is closed: it is asked here only,
    and has nothing then.
    """
    try:
        return fd_of(sock) == fd
    except Exception:
        return False


cdef bint enter(object context) except -1:
    """Enter a connection's context, which the caller then exits; False:
    one of its callbacks is running in it.
    """
    try:
        PyContext_Enter(context)
    except RuntimeError:
        return False
    return True


# The methods of those that read.  Not in the class, because a transport that only writes has none.

def is_reading(BaseTransport self):
    """Whether the protocol may be given anything: neither closing nor paused."""
    return not self.closing and not self.reading_paused


def pause_reading(BaseTransport self):
    """Give the protocol nothing until ``resume_reading``; no effect when paused or closing."""
    if self.closing or self.reading_paused:
        return
    self.reading_paused = True
    if self.receive is not None:
        self.receive.paused = True
        # A transport that reads lives as long as its connection; one that does not,
        # only as long as somebody keeps it.
        self.receive.target = self.reference()


def resume_reading(BaseTransport self):
    """Undo ``pause_reading``; data received meanwhile is delivered first."""
    if self.closing or not self.reading_paused:
        return
    self.reading_paused = False
    if self.receive is not None:
        self.receive.target = self
    if self.receive is not None and self.stash is None:
        self.port.resume(self.receive)
    else:
        # From the loop, as every packet: the caller may be inside a callback of the protocol.
        self._loop.call_soon(self._read_again, context=self.context)


def _forsaken(BaseTransport transport, int fd):
    transport.forsake(fd)


def _set_result_unless_done(future):
    if not future.done():
        future.set_result(None)
