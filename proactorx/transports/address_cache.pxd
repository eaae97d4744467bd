from libc.stdint cimport uint32_t
from proactorx.sys.datagram cimport PX_NAME

cdef enum:
    PLAIN = 0xff                 # Outgoing.size: only the socket module knows the address

cdef struct Outgoing:
    void *data                   # bytes; a reference of its own
    # the same: NULL, bytes of a long struct sockaddr, or what only the socket module reads
    void *address
    unsigned char size           # of the name, 0: none, or see `address`
    unsigned char name[PX_NAME]

cdef struct Known:
    void *address                # a reference of its own, or NULL
    unsigned char size
    unsigned char name[PX_NAME]

cdef class AddressCache:
    cdef int family
    cdef Known *known            # addresses that datagrams came from
    cdef Known *recent           # that of the last one
    cdef Known sent_to           # the last address that was given to sendto()
    cdef object address_of(self, unsigned char *name, uint32_t size)
    cdef int name_of(self, object address, Outgoing *out) except -1
