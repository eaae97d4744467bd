"""Accepting: one op on a listening socket, and the transports of the connections that it brings."""

from libc.stdint cimport int64_t
from proactorx.drivers.driver cimport FD_CLOSING, FD_OPENED
from proactorx.sys.errnos cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTO
from proactorx.ops.op cimport ACCEPT, IN_FLIGHT, NEW, Op, PACKET_MORE, RawPacket, client_of, set_state
from proactorx.port.loop_port cimport LoopPort
from proactorx.transports.base cimport holds
from proactorx.transports.registry cimport Registry
from proactorx.transports.stream cimport StreamTransport
from proactorx.sys.clock cimport px_now_ns
from proactorx.sys.socket cimport px_close

from asyncio import constants, trsock
from weakref import WeakSet

from proactorx.sys.errors import strerror
from proactorx.sys import python
from proactorx.transports.tls_transport import TLSTransport

cdef extern from "Python.h":
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    object PyContext_CopyCurrent()
    object PyContext_Copy(object context)


cdef class Clients:
    """The transports of asyncio's server, in place of its set of weak references, which takes 145 bytes for
    each: only counted here, because the registry knows them.
    """

    cdef Registry registry
    cdef Py_ssize_t count

    def add(self, StreamTransport transport not None):
        """`transport` is one of them now; called once for each."""
        self.count += 1

    def discard(self, StreamTransport transport not None):
        """`transport` is not one of them any more."""
        self.count -= 1

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter(self.copy())

    def copy(self):
        """Return a list of them."""
        cdef list found = []
        cdef int fd
        for fd in range(self.registry.owner_count):
            transport = self.registry.owner_of(fd)
            if isinstance(transport, StreamTransport):
                server = (<StreamTransport>transport).server
                if server is not None and server._clients is self:
                    found.append(transport)
        return found


cdef count_clients(server, Registry registry):
    """From Python 3.13 on a server has such a set."""
    cdef Clients clients
    present = getattr(server, "_clients", None)
    # On free-threaded builds another thread may be freeing a transport that is looked up by its descriptor.
    if type(present) is WeakSet and not present and not python.FREE_THREADED:
        clients = Clients.__new__(Clients)
        clients.registry = registry
        server._clients = clients


cdef class Listener(Op):
    """Accepts the connections of one listening socket and makes their transports."""

    cdef object loop
    cdef Registry registry
    cdef LoopPort port
    cdef readonly object sock
    cdef object factory
    cdef object server
    cdef object context
    cdef object make_tls         # puts TLS under a protocol; or None
    cdef object retry            # the timer of a pause for want of descriptors
    cdef bint closed
    cdef bint kept               # the socket is not ours to close
    cdef int error               # why accepting has stopped, where that is known before the op ends
    cdef bint starved            # said already that there are no descriptors

    def __init__(self, loop, Registry registry not None, sock, factory, server, make_tls=None, context=None):
        if self.registry is not None:
            raise RuntimeError("a listener is initialized once")
        self.kind = ACCEPT
        self.loop = loop
        self.registry = registry
        self.port = registry.port
        self.sock = sock
        self.factory = factory
        self.server = server
        self.make_tls = make_tls
        self.context = PyContext_CopyCurrent() if context is None else context
        self.fd = sock.fileno()
        self.port.driver.note(self.fd, FD_OPENED)
        count_clients(server, registry)

    def start(self):
        """Accept from now on."""
        self.retry = None
        if self.closed or not holds(self.sock, self.fd):
            return
        set_state(self, NEW)
        self.port.submit(self)

    def close(self, bint keep=False):
        """Accept no more; the socket is closed when the kernel has let go of it, unless it is to be kept."""
        if self.closed:
            return
        self.kept = keep
        self.closed = True
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        if self.state == IN_FLIGHT:
            # From now on clients are to be refused: have the kernel let go at once.
            if not self.port.end_now(self):
                self.port.cancel(self)
        if not self.kernel.in_kernel:
            self._release()

    def _release(self):
        if not self.kept and holds(self.sock, self.fd):
            self.port.driver.note(self.fd, FD_CLOSING)
            self.sock.close()

    cdef object subject(self):
        return trsock.TransportSocket(self.sock)

    cdef bint stale(self) except -1:
        return not holds(self.sock, self.fd)

    cdef int on_packet(self, RawPacket *packet) except -1:
        cdef int res = packet.res
        if res >= 0:
            if self.closed:
                px_close(res)
            else:
                self.starved = False
                self.note_accepted(res, client_of(packet))
        elif packet.flags & PACKET_MORE:
            self.error = -res
        if not packet.flags & PACKET_MORE:
            if self.closed:
                self._release()
                self.loop = self.factory = self.server = self.make_tls = None
            elif res < 0 and holds(self.sock, self.fd):
                res, self.error = self.error or -res, 0
                self._failed(res)
        return 0

    cdef int note_accepted(self, int fd, bytes peer) except -1:
        cdef int64_t began = px_now_ns()
        self.accepted(fd, peer)
        self.registry.note_accepted(self.fd, fd, began, px_now_ns())
        return 0

    cdef int accepted(self, int fd, bytes peer) except -1:
        cdef StreamTransport transport
        context = PyContext_Copy(self.context)
        PyContext_Enter(context)
        try:
            protocol = self.factory()
            if self.make_tls is not None:
                protocol = self.make_tls(protocol)
            transport = StreamTransport(
                self.loop, self.registry, fd, protocol, server=self.server, context=context, peer=peer)
            fd = -1
            if self.make_tls is not None:
                TLSTransport(self.loop, protocol)  # the protocol keeps it
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
                px_close(fd)
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
                    "exception": OSError(error, strerror(error)),
                    "socket": trsock.TransportSocket(self.sock),
                })
            self.retry = self.loop.call_later(constants.ACCEPT_RETRY_DELAY, self.start)
        else:
            self.loop.call_exception_handler({
                "message": "Accepting connections failed",
                "exception": OSError(error, strerror(error)),
                "socket": trsock.TransportSocket(self.sock),
            })
            # Network errors that were pending on the new connection, accept(2): the listener itself is fine.
            self.retry = self.loop.call_later(constants.ACCEPT_RETRY_DELAY, self.start)
