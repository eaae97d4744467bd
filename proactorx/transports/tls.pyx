"""TLS on top of a stream transport, by the ssl module's ``SSLObject`` and ``MemoryBIO``,
and by its libssl directly (``tls_direct``).

``TLSProtocol`` is the protocol of the transport underneath; the user gets a ``TLSTransport``, see
``tls_transport``. Between them they keep the contract of asyncio's ``SSLProtocol`` and its transport.  What
differs is the way of the bytes:

* Ciphertext is read from the driver's memory, without a bytes object or a buffer per connection.
* A read asks for no more than can come of what is there, and none is made when nothing is: to be told so by
  OpenSSL is an exception.  No read allocates a large block.
* What one callback writes is encrypted together and goes down as one piece.

The states are those of a connection: nothing yet, handshake, open, flushing (the end is decided, bytes are
still to go to one of the sides), shutdown (our close_notify is made, that of the peer is awaited),
and nothing again.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.object cimport PyObject
from proactorx.transports.base cimport enter
from proactorx.transports.read_state cimport ReadState, is_compiled, state_of
from proactorx.transports.reader cimport grow, grown, is_buffered, is_plain, reader_of
from proactorx.transports.registry cimport Registry
from proactorx.transports.stream cimport StreamTransport
from proactorx.transports.tls_direct cimport direct_filled, direct_keep, direct_open
from proactorx.transports.tls_kernel cimport TLSKernel
from proactorx.transports.tls_records cimport (
    FLUSHING, HANDSHAKE, OPEN, RECORD, SHUTDOWN, UNWRAPPED, limits,
)

import asyncio
import logging
import ssl
from asyncio import constants

from proactorx.transports.tls_options import default_context, seconds

cdef extern from "Python.h":
    int PyContext_Exit(object context) except -1
    object PyContext_CopyCurrent()
    object PyObject_VectorcallMethod(object name, PyObject **args, size_t nargsf, PyObject *kwnames)

logger = logging.getLogger("asyncio")

cdef enum:
    APP_NEW
    APP_MADE
    APP_EOF
    APP_LOST

cdef enum:
    FLIGHT = 8192  # what one side of a handshake sends at once, mostly

cdef enum:
    PLAIN
    BUFFERED
    READER

cdef object DATA_RECEIVED = "data_received"
cdef object plain_read = ssl.SSLObject.read
cdef object plain_write = ssl.SSLObject.write
cdef object SSLError = ssl.SSLError
cdef object Again = (ssl.SSLWantReadError, ssl.SSLSyscallError)


cdef class TLSProtocol(TLSKernel):
    """One TLS connection: the protocol of the transport underneath.

    Args:
        app_protocol: the user's protocol, on the decrypted side.
        sslcontext: None: a client's default context.
        waiter: a future for the end of the handshake.
        call_connection_made: False where `app_protocol` is connected already (``start_tls``).
        ssl_handshake_timeout: seconds until a handshake is given up; default 60.
        ssl_shutdown_timeout: seconds until a closing that the peer does not answer is given up; default 30.

    Raises:
        ValueError: a time-out is not positive, or the context is missing.
    """

    def __init__(self, loop, Registry registry not None, app_protocol, sslcontext, waiter=None,
                 server_side=False,
                 server_hostname=None, *, call_connection_made=True, ssl_handshake_timeout=None,
                 ssl_shutdown_timeout=None):
        self.handshake_timeout = seconds(
            ssl_handshake_timeout, constants.SSL_HANDSHAKE_TIMEOUT, "ssl_handshake_timeout")
        self.shutdown_timeout = seconds(ssl_shutdown_timeout, constants.SSL_SHUTDOWN_TIMEOUT,
                                        "ssl_shutdown_timeout")
        if not sslcontext:
            sslcontext = default_context(server_side, server_hostname)
        if self.registry is not None:
            raise RuntimeError("a protocol is initialized once")
        self._loop = loop
        self.registry = registry
        self.context = PyContext_CopyCurrent()
        self.waiter = waiter
        self.server_side = server_side
        self.extra = {"sslcontext": sslcontext}
        self.app_state = APP_NEW if call_connection_made else APP_MADE
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.incoming_write = self.incoming.write
        self.outgoing_read = self.outgoing.read
        self.sslobj = sslcontext.wrap_bio(
            self.incoming, self.outgoing, server_side=server_side,
            server_hostname=server_hostname if server_hostname and not server_side else None)
        # SSLObject's methods are Python functions around those of the object inside.
        inner = getattr(self.sslobj, "_sslobj", None) or self.sslobj
        # But a class of the user's may have its own, SSLContext.sslobject_class.
        self.own_read = type(self.sslobj).read is not plain_read
        self.ssl_read = self.sslobj.read if self.own_read else inner.read
        self.ssl_write = inner.write if type(self.sslobj).write is plain_write else self.sslobj.write
        direct_open(&self.direct, self.sslobj, self.incoming, self.outgoing)
        self.backlog = []
        self.out_high, self.out_low = limits(None, None, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE)
        self.in_high, self.in_low = limits(None, None, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ)
        self.set_app(app_protocol)

    # asyncio's own names of these, which programs read.

    @property
    def _extra(self):
        return self.extra

    @property
    def _sslcontext(self):
        return None if self.extra is None else self.extra["sslcontext"]

    def preload(self, data):
        """Treat `data` as the first bytes from the peer."""
        self.incoming_write(data)
        direct_filled(&self.direct)

    cdef int set_app(self, protocol) except -1:
        self.app = protocol
        if (is_plain(protocol) or is_compiled(protocol)) and not self.own_read:
            self.kind = READER
        elif is_buffered(protocol):
            self.kind = BUFFERED
        else:
            self.kind = PLAIN
        return 0

    cdef int wake(self, exc) except -1:
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            if exc is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(exc)
        return 0

    # -------------------------------------------------------------------- what the transport underneath calls

    def connection_made(self, transport):
        """Start the handshake."""
        if self.lost:
            return  # start_tls of a connection that went meanwhile
        self.underlying = transport
        # Not isinstance: a transport says that it is one of asyncio's.
        self.stream = transport if type(transport) is StreamTransport else None
        below = getattr(transport, "_ssl_protocol", None)
        if self.stream is not None:
            self.context = self.stream.context
        elif isinstance(below, TLSProtocol):
            self.context = (<TLSProtocol>below).context  # TLS in TLS: the callbacks come from there
        self.started = None
        if self._loop.get_debug():
            logger.debug("%r starts SSL handshake", self)
            self.started = self._loop.time()
        self.state = HANDSHAKE
        self.handshake_timer = self._loop.call_later(self.handshake_timeout, self._handshake_late)
        self.handshake()

    def connection_lost(self, exc):
        """Report the end to the user, and drop all references."""
        self.backlog.clear()
        self.backlog_size = 0
        self.outgoing_read()
        self.lost = self.lost or 1
        self.closed = True
        if self.app_state == APP_MADE or self.app_state == APP_EOF:
            self.app_state = APP_LOST
            self._loop.call_soon(self.app.connection_lost, exc)
        if exc is None and (self.state == HANDSHAKE or self.underlying is None):
            exc = ConnectionAbortedError("the connection was closed before the SSL handshake ended")
        self.state = UNWRAPPED
        self.underlying = self.stream = self.user_transport = self.app = None
        self.wake(exc)
        self.stop_timers()

    cdef int received(self, char *data, Py_ssize_t size) except -1:
        if self.state == UNWRAPPED:
            return 0
        try:
            self.feed(data, size)
            return self.advance()
        finally:
            direct_keep(&self.direct)  # the memory is the loop's

    def data_received(self, data):
        """Take ciphertext from a transport of another package."""
        if type(data) is bytes:
            self.received(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        elif self.state != UNWRAPPED:
            self.preload(data)
            self.advance()

    cdef int advance(self) except -1:
        if self.state == OPEN:
            self.read()
        elif self.state == HANDSHAKE:
            self.handshake()
        elif self.state == FLUSHING:
            self.finish_writing()
        elif self.state == SHUTDOWN:
            self.shut()
        return 0

    def eof_received(self):
        """The transport underneath will bring no more.  True: it is to stay open,
        bytes for the user are left, or the kernel has bytes for the peer.
        """
        self.eof_seen = True
        try:
            if self._loop.get_debug():
                logger.debug("%r received EOF", self)
            if self.state == HANDSHAKE:
                self.handshake_done(ConnectionResetError())
            elif self.state == OPEN:
                self.state = FLUSHING
                self.finish_writing()
                return self.state == FLUSHING or self.unsettled()
            elif self.state == FLUSHING:
                self.finish_writing()
            elif self.state == SHUTDOWN:
                self.shut()
            return self.unsettled()
        except Exception:
            if self.underlying is not None:
                self.underlying.close()
            raise

    def pause_writing(self):
        """Stop passing ciphertext down: the write buffer of the transport underneath is full."""
        self.underlying_paused = True

    def resume_writing(self):
        """Pass ciphertext down again. The pause may have been reported to the protocol before this one."""
        self.underlying_paused = False
        if self.state != UNWRAPPED:
            self.forward()

    # ---------------------------------------------------------------------------------------------- handshake

    def _handshake_late(self):
        if self.state == HANDSHAKE:
            self.fatal(ConnectionAbortedError(
                f"SSL handshake is taking longer than {self.handshake_timeout} seconds: "
                "aborting the connection"
            ), "Fatal error on transport")

    cdef int handshake(self) except -1:
        failure = None
        self.gather(FLIGHT)
        try:
            self.sslobj.do_handshake()
        except SSLError as exc:
            failure = exc
        finally:
            self.gathered()  # before what did not fit
        return self.forward() if isinstance(failure, Again) else self.handshake_done(failure)

    cdef int handshake_done(self, exc) except -1:
        if self.handshake_timer is not None:
            self.handshake_timer.cancel()
            self.handshake_timer = None
        if self.state != HANDSHAKE:
            return 0  # aborted from a callback of the context
        sslobj = self.sslobj
        try:
            if exc is not None:
                raise exc
            self.state = OPEN
            certificate = sslobj.getpeercert()
        except Exception as failure:
            self.state = UNWRAPPED
            if isinstance(failure, ssl.CertificateError):
                message = "SSL handshake failed on verifying the certificate"
            else:
                message = "SSL handshake failed"
            self.fatal(failure, message)
            self.wake(failure)
            return 0
        if self.started is not None:
            logger.debug("%r: SSL handshake took %.1f ms", self, (self._loop.time() - self.started) * 1e3)
        self.extra.update(
            peercert=certificate, cipher=sslobj.cipher(), compression=sslobj.compression(), ssl_object=sslobj)
        # The peer may wait for our last handshake message, and a protocol that pauses at once reads nothing.
        self.forward()
        if self.app_state == APP_NEW:
            self.app_state = APP_MADE
            self.delivering = True  # what it writes goes out together, after what it was called for
            try:
                self.app.connection_made(self.user_transport)
            except (SystemExit, KeyboardInterrupt):
                self.interrupted()
                raise
            finally:
                self.delivering = False
        elif self.waiter is not None:
            # Data that came with the end of the handshake waits until the caller of start_tls()
            # has the transport.
            self.early = True
        self.wake(None)
        if self.early:
            self._loop.call_soon(self._started, context=self.context)
        return self.read()

    def _started(self):
        self.early = False
        self.advance()

    # ------------------------------------------------------------------------------------------------ reading

    cdef int read(self) except -1:
        """Deliver what has arrived, then send what the callbacks have written."""
        if self.delivering or self.early or (self.state != OPEN and self.state != FLUSHING):
            return 0
        try:
            while not self.app_paused and not self.discard and self.deliver():
                pass
            if self.state == OPEN and self.notified and not self.app_paused:
                self.tell_end()
                self.close()
            elif self.state == OPEN:
                self.send(True)
            elif self.state == FLUSHING and self.discard:
                self.finish_writing()  # he has closed from inside of a callback
            self.hold_underlying()
            if self.in_kernel:
                self.check_keys()
        except (SystemExit, KeyboardInterrupt):
            self.interrupted()
            raise
        except BaseException as exc:
            self.fatal(exc, "Fatal error on SSL protocol")
        return 0

    cdef int interrupted(self) except -1:
        """A callback ends the run: what it wrote goes out before that,
        what else has come waits for the next run.
        """
        if self.backlog_size and self.state == OPEN and not self.dirty:
            self.registry.mark(self)
        self._loop.call_soon(self._resumed, context=self.context)
        return 0

    cdef int deliver(self) except -1:
        """Call the user's protocol once if there is data. Return 0 if there will be no more."""
        if self.state != OPEN and self.state != FLUSHING:
            return 0
        self.delivering = True
        try:
            if self.kind == READER:
                return self.deliver_reader()
            if self.kind == BUFFERED:
                return self.deliver_buffered()
            return self.deliver_plain()
        finally:
            self.delivering = False

    cdef int deliver_plain(self) except -1:
        cdef PyObject *args[2]
        cdef bint more = False
        data = self.take()
        if data is None:
            return 0
        if self.waiting():
            more = True
            data = self.take_more(data)
        args[0] = <PyObject *>self.app
        args[1] = <PyObject *>data
        PyObject_VectorcallMethod(DATA_RECEIVED, args, 2, NULL)
        return more

    cdef int deliver_reader(self) except -1:
        """Decrypt straight into the buffer of a ``StreamReader``, or make the bytes that it is to return."""
        cdef Py_ssize_t room, count = 0
        cdef char *memory
        cdef ReadState state = None
        reader = None
        if is_compiled(self.app):
            if self.app._stream_reader_wr is not None:
                state = state_of(self.app._stream_reader_wr)
        else:
            reader = reader_of(self.app)
        if reader is None and state is None:
            return self.deliver_plain()
        if state is not None and state.held is None:
            data = self.take()
            if data is not None:
                state.adopt(data)
            return data is not None and self.waiting()
        if not self.ready():
            return 0
        room = self.room()
        memory = grow(reader, room) if state is None else state.grow(room)
        try:
            count = self.take_into(memory, room)
        finally:
            if state is None:
                grown(reader, room, count)
            else:
                state.grown(room, count)
        return count > 0 and self.waiting()

    cdef int deliver_buffered(self) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t count, done = 0
        if not self.ready():
            return 0
        buffer = self.app.get_buffer(self.unread())
        try:
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        except BufferError as exc:
            raise TypeError(f"get_buffer() returned a read-only buffer: {exc}") from None
        try:
            if not view.len:
                raise RuntimeError("get_buffer() returned an empty buffer")
            while done < view.len and self.waiting():
                count = self.take_into(<char *>view.buf + done, view.len - done)
                if not count:
                    break
                done += count
        except SSLError as exc:
            if not done:
                raise
            self.failure = exc
        finally:
            PyBuffer_Release(&view)
        if not done:
            return 0
        self.app.buffer_updated(done)
        return 1

    cdef int tell_end(self) except -1:
        if self.app_state != APP_MADE:
            return 0
        self.app_state = APP_EOF
        try:
            if self.app.eof_received():
                logger.warning("returning true from eof_received() has no effect when using ssl")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.fatal(exc, "Error calling eof_received()")
        return 0

    cdef int pause(self) except -1:
        self.app_paused = True
        if self.stream is not None:
            self.stream.layer_paused = True
        return 0

    cdef int resume(self) except -1:
        if self.app_paused:
            self.app_paused = False
            if self.stream is not None:
                self.stream.layer_paused = False
            # From the loop, as every packet: the caller may be inside a callback of the protocol.
            self._loop.call_soon(self._resumed, context=self.context)
        return 0

    def _resumed(self):
        if not self.app_paused:
            self.advance()

    # ------------------------------------------------------------------------------------------------ closing

    cdef int close(self) except -1:
        """Send close_notify after all data, wait for the peer's, then close the transport underneath."""
        if self.state == FLUSHING and not self.discard:
            # The peer has ended; the user had paused reading.
            self.discard = True
            return 0 if self.delivering else self.finish_writing()
        if self.state != OPEN and self.state != HANDSHAKE:
            return 0
        self.closed = True
        if self.state == HANDSHAKE:
            return self.abort(None)
        self.state = FLUSHING
        self.discard = True
        if self.underlying_held:
            self.underlying_held = False
            self.underlying.resume_reading()  # the peer's end is to be read, whatever comes before it
        self.limit_shutdown()
        return 0 if self.delivering else self.finish_writing()

    def _shutdown_late(self):
        if self.state == FLUSHING or self.state == SHUTDOWN:
            self.underlying._force_close(TimeoutError("SSL shutdown timed out"))

    cdef int finish_writing(self) except -1:
        if not self.discard:
            self.read()
            if self.state == FLUSHING and (self.app_paused or self.early) and not self.discard:
                return 0  # until he resumes
        if self.state != FLUSHING:
            return 0
        self.send(False)
        if self.state == FLUSHING and (not self.backlog_size or self.eof_seen):
            self.state = SHUTDOWN
            self.shut()
        return 0

    cdef int shut(self) except -1:
        cdef bint ended
        if self.finished:
            return 0
        try:
            # Not after an end without close_notify.  The kernel's may have waited for room since the peer's.
            if not self.eof_seen or (self.in_kernel and self.notified):
                ended = self.discard_rest()
                if not self.say_end() or not ended:
                    return 0
        except SSLError as exc:
            self.shut_done(exc)
        else:
            if self.in_kernel and not self.settled():
                return 0
            self.tell_end()
            self.shut_done(None)
        return 0

    cdef bint discard_rest(self) except -1:
        """Read and discard what the peer still sends, and return whether it has ended.

        Bytes left in the socket would turn close(2) into a reset, which destroys data of ours on its way.
        """
        try:
            while not self.notified:
                self.notified = not self.ssl_read(RECORD)
        except Again:
            return False
        except ssl.SSLZeroReturnError:
            self.notified = True  # what a read says of his end once we have said ours
        return True

    cdef int shut_done(self, exc) except -1:
        self.finished = True
        if exc is not None:
            return self.fatal(exc, "Fatal error on transport")
        if self.underlying is not None:
            # All of it, also where the transport underneath has asked us to wait: it sends before it closes.
            data = self.drain()
            if data:
                self.pass_down(data)
            # Now, not in the next turn as asyncio does:
            # a loop that is stopped by then would keep the connection.
            self.underlying.close()
            if (self.shutdown_timer is None and self.underlying is not None
                    and self.underlying.get_write_buffer_size()):
                self.limit_shutdown()  # the peer has ended, and does not read
        return 0

    cdef int limit_shutdown(self) except -1:
        """Until ``connection_lost``: two ends that close with much to send read nothing,
        and wait for each other.
        """
        self.shutdown_timer = self._loop.call_later(self.shutdown_timeout, self._shutdown_late)
        return 0

    cdef int abort(self, exc) except -1:
        self.send_last()
        self.state = UNWRAPPED
        if self.underlying is not None:
            self.underlying._force_close(exc)
        return 0

    cdef int stop_timers(self) except -1:
        if self.shutdown_timer is not None:
            self.shutdown_timer.cancel()
            self.shutdown_timer = None
        if self.handshake_timer is not None:
            self.handshake_timer.cancel()
            self.handshake_timer = None
        if self.end_timer is not None:
            self.end_timer.cancel()
            self.end_timer = None
        return 0

