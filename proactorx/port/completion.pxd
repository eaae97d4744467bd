from proactorx.port.op cimport Packet
from proactorx.port.shared cimport SharedOp, SharedPort

cdef class Overlapped(SharedOp):
    cdef int descriptor      # an accepted one that nobody has taken
    cdef object connection   # made of it
    cdef int body            # of a blocking body: see Body
    cdef int run_body(self) except -1
    cdef int end_body(self, int res) except -1

cdef class CompletionPort(SharedPort):
    cdef set bodies          # operations that IO threads have
    cdef Overlapped _new(self, int kind, object file)
    cdef int _start_file(self, Overlapped op) except -1
