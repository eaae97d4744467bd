from proactorx.files.transfer cimport Transfer

cdef class DiskCalls(Transfer):
    pass
