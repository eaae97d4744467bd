from proactorx.files.access cimport Access

cdef bytes kernel_name(Access access, path)
