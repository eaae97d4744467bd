from libc.stdint cimport uint32_t
from proactorx.ops.op cimport Op, RawPacket
from proactorx.transports.base cimport BaseTransport
from proactorx.transports.sending cimport SendingTransport, iovec

cdef class PipeFile:
    cdef object loop
    cdef object pipe

cdef class ReadPipeTransport(BaseTransport):
    cdef bytearray memory        # where read(2) puts its bytes: one for all pipes of the loop
    cdef bint character          # a terminal or another character device
    cdef bint unpollable         # a device that poll(2) says nothing of, and that never keeps one waiting
    cdef dict __dict__

    cdef int start_reading(self) except -1
    cdef int ready(self) except -1
    cdef int data(self, bytes data) except -1
    cdef int eof(self) except -1
    cdef int not_pollable(self, int error) except -1

cdef class PeerOp(Op):
    cdef WritePipeTransport transport

cdef class WritePipeTransport(SendingTransport):
    cdef PeerOp peer             # waits for the other end to go away
    cdef uint32_t refused        # writes after the end
    cdef bint is_socket
    cdef bint watches            # the other end can be seen to go away
    cdef dict __dict__

    cdef int watch_peer(self) except -1
    cdef int peer_event(self) except -1
