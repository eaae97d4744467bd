from proactorx.port.op cimport Packet
from proactorx.port.shared cimport SharedOp, SharedPort

cdef class Overlapped(SharedOp):
    cdef int descriptor      # an accepted one that nobody has taken
    cdef object connection   # made of it

cdef class CompletionPort(SharedPort):
    cdef Overlapped _new(self, int kind, object file)
