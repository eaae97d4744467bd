from proactorx.transports.tls_records cimport TLSRecords

cdef class TLSKernel(TLSRecords):
    cdef object end_room         # the future of our end that waits for room, or None
    cdef object end_timer        # looks again whether the peer has everything
    cdef double end_delay

    cdef int begin_file(self) except -1
    cdef int end_file(self) except -1
    cdef bint flushed(self) except -1
    cdef object file_room(self, bint full)
    cdef int file_fd(self) except -1
    cdef int prove(self, bytes block) except -1
    cdef int hand_over(self) except -1
    cdef int check_keys(self) except -1
    cdef bint say_end(self) except -1
    cdef bint kernel_says_end(self) except -1
    cdef bint unsettled(self) noexcept
    cdef bint settled(self) except -1
    cdef int advance(self) except -1
    cdef int limit_shutdown(self) except -1
