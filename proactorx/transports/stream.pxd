cimport cython
from libc.stdint cimport uint8_t, uint32_t
from proactorx.ops.op cimport RawPacket
from proactorx.sys.flag cimport flag
from proactorx.transports.registry cimport Flushable
from proactorx.transports.sending cimport SendingTransport

cdef class RawProtocol(Flushable):
    cdef int received(self, char *data, Py_ssize_t size) except -1

cdef class StreamTransport(SendingTransport):
    cdef object server
    cdef object reader_of_ours   # the weak reference to it, where it is one of `streams`; else None
    cdef flag buffered_protocol
    cdef flag reader_protocol    # asyncio's own, see `reader`
    cdef flag raw_protocol       # a layer of this package, see RawProtocol
    cdef uint8_t large           # KiB: of the large messages that came last, see `plan`
    # What the user of the layer above has said and was told, for `observe`: it is the layer's to write.
    cdef flag layer_paused       # ``pause_reading``
    cdef flag layer_told         # ``pause_writing``
    cdef Py_ssize_t layer_unsent # bytes that the layer has kept back
    # The peer's address as the kernel gave it: 28 bytes have room for IPv6.  A longer one is in `extra`.
    cdef uint8_t peer_size
    cdef unsigned char peer[28]
    cdef bytes own_name          # ours, kept when the connection has ended
    cdef dict __dict__

    cdef _remember(self, name, value)
    cdef bytes kernel_name(self, bint peer)
    cdef _name(self, bint peer)
    cdef int keep_peer(self, const char *name, Py_ssize_t size) except -1
    @cython.final
    cdef int failed(self, str method) except -1
    @cython.final
    cdef int get_buffer(self, Py_buffer *view) except -1
    @cython.final
    cdef int buffer_updated(self, Py_ssize_t size) except -1
    cdef _eof(self)
    cdef int start_reading(self) except -1
    @cython.final
    cdef void plan(self, Py_ssize_t size) noexcept
    @cython.final
    cdef Py_ssize_t land(self, uint32_t mask) except? -1
    cdef void left_behind(self, Py_ssize_t n, bint more) noexcept
    @cython.final
    cdef int data(self, char *data, Py_ssize_t size, bytes whole) except -1
    @cython.final
    cdef int data_reader(self, char *data, Py_ssize_t size, bytes whole) except -1
    @cython.final
    cdef int data_plain(self, object data) except -1
    @cython.final
    cdef int data_raw(self, char *data, Py_ssize_t size) except -1
    @cython.final
    cdef int data_buffered(self, char *data, Py_ssize_t size) except -1
    @cython.final
    cdef int ready(self, uint32_t mask) except -1
    @cython.final
    cdef int took(self, Py_ssize_t n) except -1
    @cython.final
    cdef int eof(self) except -1
    cdef int receive_failed(self, int error) except -1
    cdef int unstash(self) except -1
