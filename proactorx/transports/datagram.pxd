from libc.stdint cimport uint32_t
from proactorx.transports.sending cimport SendingTransport
from proactorx.transports.address_cache cimport AddressCache, Known, Outgoing
from proactorx.sys.datagram cimport px_arena, px_outgoing

cdef class Arena:
    cdef px_arena *memory

cdef class DatagramTransport(SendingTransport):
    cdef object remote           # the address that sendto() may name, of an endpoint made with remote_addr
    cdef object retry            # a timer: the socket says that it takes more, and does not
    cdef Outgoing *queue
    cdef uint32_t head, count, room
    cdef AddressCache addresses
    cdef Known fixed             # `remote`, where the socket is not connected
    cdef int family
    cdef int stalls
    cdef size_t train_limit      # datagrams of fewer bytes may leave in trains; 0: none do
    cdef bint shown              # somebody has had the socket, and may have set options on it
    cdef bint informed           # receive what the kernel tells of datagrams, too
    cdef bint connected
    cdef bint plain              # a family whose addresses only the socket module knows
    cdef dict __dict__

    cdef int start_reading(self) except -1
    cdef int ready(self) except -1
    cdef int ready_plain(self) except -1
    cdef int take_in(self, px_arena *arena, int count) except -1
    cdef int deliver(self, object data, object address) except -1
    cdef int unstash(self) except -1
    cdef int push_out(self, object data, Outgoing *out) except -1
    cdef int grow(self) except -1
    cdef int drop(self, uint32_t count) noexcept
    cdef int send_batch(self) except? -1
    cdef int train_refused(self, int error, px_outgoing *batch, int count) noexcept
    cdef int send_plain(self, object data, object address) except? -1
    cdef int stalled(self) except -1
    cdef int failed(self, int error) except -1
