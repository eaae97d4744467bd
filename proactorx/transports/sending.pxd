cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from proactorx.ops.op cimport Op, RawPacket
from proactorx.transports.base cimport BaseTransport
from proactorx.sys.flag cimport flag
from proactorx.sys.socket cimport iovec

cdef enum:
    SEND_AT_ONCE = 32768   # so many bytes queued are sent without waiting for the end of the turn
    UNLOCKED_SEND = 65536  # a send this large copies long enough for other threads to run meanwhile

cdef class WritableOp(Op):
    cdef SendingTransport transport

cdef class SendingTransport(BaseTransport):
    cdef WritableOp writable
    cdef object room             # the future of a sendfile that waits, or None
    # Queued writes: the first one here, the others in `more`; `offset` bytes of the first are sent.
    cdef object first
    cdef list more
    cdef Py_ssize_t offset
    cdef Py_ssize_t buffered
    cdef Py_ssize_t high, low
    # writes after the connection was lost, plus one, as far as `refuse` counts; 0: alive
    cdef uint16_t lost
    cdef flag protocol_paused
    cdef flag eof_written
    cdef flag shut               # shutdown(2) was called
    cdef flag sending_file
    cdef flag in_callback
    cdef flag eager              # others may use the descriptor: no write is put off, not even in a callback

    cdef ssize_t put(self, const char *data, size_t size) noexcept nogil
    cdef ssize_t putv(self, iovec *vector, int count) noexcept nogil
    cdef object _keep(self, data, Py_ssize_t size)
    cdef int refuse(self) except -1
    cdef bint _may_send(self) except -1
    @cython.final
    cdef bint sends_now(self) except -1
    @cython.final
    cdef int enqueue(self, object data, Py_ssize_t size) except -1
    cdef int wait_writable(self) except -1
    @cython.final
    cdef ssize_t send_some(self, Py_ssize_t *tried) except? -1
    cdef int send_failed(self, int error) except -1
    cdef int has_room(self) except -1
    @cython.final
    cdef int consume(self, Py_ssize_t size) except -1
    cdef int drained(self) except -1
    cdef int clear_buffer(self) except -1
    cdef int last_send(self) except -1
    cdef int force_close(self, exc) except -1
