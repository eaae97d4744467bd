from libc.stdint cimport uint8_t, uint16_t, uint32_t
from proactorx.port.op cimport Op, Packet
from proactorx.port.port cimport Flushable, Port

cdef class ReceiveOp(Op):
    cdef StreamTransport transport

cdef class WritableOp(Op):
    cdef StreamTransport transport

cdef class StreamTransport(Flushable):
    cdef object _loop
    cdef Port port
    cdef object _protocol
    cdef object server
    cdef object context
    cdef object sock             # the Python socket that owns fd, once there is one; else the transport owns it
    cdef dict extra              # get_extra_info() values given or already asked for
    cdef ReceiveOp receive
    cdef WritableOp writable
    # Queued writes: the first one here, the others in `more`; `offset` bytes of the first are sent.
    cdef object first
    cdef list more
    cdef Py_ssize_t offset
    cdef Py_ssize_t buffered
    cdef Py_ssize_t high, low
    cdef list stash              # received while paused
    cdef int fd
    cdef uint16_t lost           # writes after the connection was lost, plus one; 0: alive
    cdef uint8_t flags
    cdef bint closing
    cdef bint buffered_protocol
    cdef bint reading_paused
    cdef bint protocol_paused
    cdef bint eof_written
    cdef bint eof_seen
    cdef bint in_callback
    cdef bint given              # the socket was the user's: it may be closed behind our back
    cdef bint connection_lost_called
    cdef uint8_t name_sizes[2]   # sockname, peername: as the kernel gave them, see remember_name
    cdef unsigned char names[2][28]
    cdef object __weakref__
    cdef dict __dict__

    cdef _remember(self, name, value)
    cdef _name(self, bint peer)
    cdef int get_buffer(self, Py_buffer *view) except -1
    cdef int buffer_updated(self, Py_ssize_t size) except -1
    cdef _eof(self)
    cdef object _keep(self, data, Py_ssize_t size)
    cdef bint _may_send(self) except -1
    cdef int start_reading(self) except -1
    cdef int stop_reading(self) except -1
    cdef int data(self, char *data, Py_ssize_t size) except -1
    cdef int data_plain(self, object data) except -1
    cdef int data_buffered(self, char *data, Py_ssize_t size) except -1
    cdef int ready(self, uint32_t mask) except -1
    cdef int eof(self) except -1
    cdef int receive_failed(self, int error) except -1
    cdef int receive_done(self) except -1
    cdef int unstash(self) except -1
    cdef int enqueue(self, object data, Py_ssize_t size) except -1
    cdef int wait_writable(self) except -1
    cdef ssize_t send_some(self, Py_ssize_t *tried) except? -1
    cdef int consume(self, Py_ssize_t size) except -1
    cdef int drained(self) except -1
    cdef int clear_buffer(self) except -1
    cdef int force_close(self, exc) except -1
    cdef int release_fd(self) except -1
    cdef int remember_name(self, bint peer) except -1
