from proactorx.port.shared_driver cimport SharedPort

cdef class CompletionPort(SharedPort):
    pass
