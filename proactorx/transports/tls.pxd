from proactorx.transports.tls_kernel cimport TLSKernel

cdef class TLSProtocol(TLSKernel):
    cdef int set_app(self, protocol) except -1
    cdef int wake(self, exc) except -1
    cdef int handshake(self) except -1
    cdef int handshake_done(self, exc) except -1
    cdef int read(self) except -1
    cdef int deliver(self) except -1
    cdef int deliver_plain(self) except -1
    cdef int deliver_reader(self) except -1
    cdef int deliver_buffered(self) except -1
    cdef int tell_end(self) except -1
    cdef int pause(self) except -1
    cdef int resume(self) except -1
    cdef int close(self) except -1
    cdef int finish_writing(self) except -1
    cdef int shut(self) except -1
    cdef bint discard_rest(self) except -1
    cdef int interrupted(self) except -1
    cdef int shut_done(self, exc) except -1
    cdef int abort(self, exc) except -1
    cdef int stop_timers(self) except -1
