"""The transport that the user of a TLS connection gets; ``tls`` does the work."""

from cpython.bytes cimport PyBytes_GET_SIZE
from proactorx.transports.base cimport px_drop_dict
from proactorx.transports.tls cimport TLSProtocol
from proactorx.transports.tls_direct cimport direct_noted
from proactorx.transports.tls_records cimport limits

import warnings
from asyncio import constants, sslproto, streams

cdef object Drainable = streams.FlowControlMixin
cdef object TRY_NATIVE = constants._SendfileMode.TRY_NATIVE
cdef object FALLBACK = constants._SendfileMode.FALLBACK


class SSLTransport(sslproto._SSLProtocolTransport):
    """What ``isinstance`` sees of a TLS transport: it is asyncio's own, and an ``asyncio.Transport``."""

    _closed = True  # nobody makes one: nothing to warn of


cdef class NoTLS(TLSProtocol):
    """Of a transport that was made without its ``__init__``."""

    cdef refuse(self):
        raise RuntimeError("no __init__ has given this transport a connection")

    cdef int set_app(self, protocol) except -1:
        self.refuse()

    cdef int pause(self) except -1:
        self.refuse()

    cdef int resume(self) except -1:
        self.refuse()

    cdef int write(self, data) except -1:
        self.refuse()

    cdef Py_ssize_t unsent(self) except -1:
        self.refuse()

    cdef int close(self) except -1:
        self.refuse()

    cdef int abort(self, exc) except -1:
        self.refuse()


cdef TLSProtocol no_tls = NoTLS.__new__(NoTLS)


cdef class TLSTransport:
    """The user's side of a TLS connection: ``asyncio.Transport`` with its whole contract.

    Made with the protocol, before that is given to the transport underneath.
    """

    cdef object _loop
    cdef TLSProtocol tls
    cdef object __weakref__
    cdef dict __dict__

    _start_tls_compatible = True

    def __cinit__(self):
        self.tls = no_tls
        px_drop_dict(self)

    def __init__(self, loop, TLSProtocol tls not None):
        if self.tls is not no_tls:
            raise RuntimeError("a transport is initialized once")
        self._loop = loop
        self.tls = tls
        tls.user_transport = self

    @property
    def __class__(self):
        return SSLTransport

    @property
    def _sendfile_compatible(self):
        # Another's transport underneath, or TLS, need not even have a socket.
        if self.tls.stream is None or not (self.tls.in_kernel or direct_noted(&self.tls.direct)):
            return FALLBACK
        return TRY_NATIVE

    @property
    def _ssl_protocol(self):
        return self.tls

    @property
    def _protocol_paused(self):
        return self.tls.app_told

    def get_extra_info(self, name, default=None):
        """Return ``sslcontext`` or, after the handshake, ``ssl_object``, ``peercert``, ``cipher`` or
        ``compression``; any other name is asked of the transport underneath.
        """
        if name in self.tls.extra:
            return self.tls.extra[name]
        if self.tls.underlying is not None:
            return self.tls.underlying.get_extra_info(name, default)
        return default

    def set_protocol(self, protocol):
        """Set the protocol that receives from now on."""
        self.tls.set_app(protocol)

    def get_protocol(self):
        """Return the current protocol, or None after the connection is lost."""
        return self.tls.app

    def is_closing(self):
        """Return whether the transport is closing or closed."""
        if isinstance(self.tls.app, Drainable):
            self._send_now(False)  # see SendingTransport.is_closing
        return self.tls.closed or (self.tls.underlying is not None and self.tls.underlying.is_closing())

    def _send_now(self, bint shared):
        self.tls.flush()
        if self.tls.underlying is not None:
            self.tls.underlying._send_now(shared)

    def is_reading(self):
        """Return whether reading is not paused."""
        return not self.tls.app_paused

    def pause_reading(self):
        """Stop calling ``data_received`` until ``resume_reading``."""
        self.tls.pause()

    def resume_reading(self):
        """Undo ``pause_reading``."""
        self.tls.resume()

    # ------------------------------------------------------------------------------------------------ writing

    def write(self, data):
        """Send `data`; bytes are kept until they are sent, anything mutable may be changed after the call.

        Raises:
            TypeError: `data` is not bytes, bytearray or memoryview.
        """
        if type(data) is not bytes:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
            data = bytes(data)
        if PyBytes_GET_SIZE(data):
            self.tls.write(data)

    def writelines(self, list_of_data):
        """Write all items, joined.

        Raises:
            TypeError: an item is not bytes-like.
        """
        self.write(b"".join(list_of_data))

    def write_eof(self):
        """Raise NotImplementedError: TLS has no half-close, as in asyncio.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError

    def can_write_eof(self):
        """Return False: both directions of a TLS connection close together."""
        return False

    def get_write_buffer_size(self):
        """Return the number of bytes that the transport underneath has not taken."""
        if self.tls.dirty:
            self.tls.flush()
        return self.tls.unsent()

    def get_write_buffer_limits(self):
        """Return (low, high), in bytes."""
        return (self.tls.out_low, self.tls.out_high)

    def set_write_buffer_limits(self, high=None, low=None):
        """Set when to call ``pause_writing`` (`high` bytes wait) and ``resume_writing`` (at most `low`). The
        default is 512 KiB and a quarter of it.

        Raises:
            ValueError: not ``high >= low >= 0``.
        """
        self.tls.out_high, self.tls.out_low = limits(high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE)
        if self.tls.dirty:
            self.tls.flush()
        self.tls.tell_app()

    def get_read_buffer_size(self):
        """Return the number of received bytes that are not decrypted yet."""
        return self.tls.unread()

    def get_read_buffer_limits(self):
        """Return (low, high), in bytes."""
        return (self.tls.in_low, self.tls.in_high)

    def set_read_buffer_limits(self, high=None, low=None):
        """Set how many bytes may wait to be decrypted while reading is paused. The default is 256 KiB, and a
        quarter of it.

        Raises:
            ValueError: not ``high >= low >= 0``.
        """
        self.tls.in_high, self.tls.in_low = limits(high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ)
        self.tls.hold_underlying()

    # ------------------------------------------------------------------ for ``loop.sendfile``, see tls_kernel

    @property
    def _in_kernel(self):
        return self.tls.in_kernel

    def _begin_sendfile(self):
        self.tls.begin_file()

    def _end_sendfile(self):
        self.tls.end_file()

    def _flushed(self):
        return self.tls.flushed()

    def _room(self, bint full):
        return self.tls.file_room(full)

    def _sendfile_fd(self):
        return self.tls.file_fd()

    def _prove(self, bytes block not None):
        self.tls.prove(block)

    def _hand_over(self):
        self.tls.hand_over()

    def _test__append_write_backlog(self, bytes data not None):
        # CPython's own tests fill the queue through this.
        self.tls.backlog.append(data)
        self.tls.backlog_size += PyBytes_GET_SIZE(data)

    # ------------------------------------------------------------------------------------------------ closing

    def close(self):
        """Send the buffer and close_notify, wait for the peer's, then call ``connection_lost(None)``."""
        self.tls.closed = True
        self.tls.close()

    def abort(self):
        """Discard the write buffer and call ``connection_lost(None)``."""
        self._force_close(None)

    def _force_close(self, exc):
        self.tls.closed = True
        self.tls.abort(exc)

    def __del__(self):
        if self.tls is not None and self.tls is not no_tls and not self.tls.closed:
            self.tls.closed = True  # before what may be an error
            warnings.warn("unclosed transport <asyncio._SSLProtocolTransport object>", ResourceWarning,
                          source=self)
