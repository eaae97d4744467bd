from proactorx.sys.trains cimport px_datagram_info
from proactorx.transports.datagram cimport DatagramTransport

cdef class InformedDatagramTransport(DatagramTransport):
    cdef px_datagram_info told   # of the last datagram
    cdef object told_info        # the same as the protocol sees it; None: before the first one
    cdef bint whole              # the protocol wants batches

    cdef object info_of(self, px_datagram_info *told)
    cdef int hand_over(self, list taken) except -1
    cdef int deliver_batch(self, list taken) except -1
