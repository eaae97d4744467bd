from proactorx.port.shared cimport SharedPort

cdef class CompletionPort(SharedPort):
    pass
