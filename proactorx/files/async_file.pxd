from proactorx.files.disk_calls cimport DiskCalls

cdef class AsyncBase(DiskCalls):
    cdef bint free_now(self) except -1
    cdef object put(self, data)
    cdef object call_stack(self, name, args)
    cdef object line_now(self, tuple args)
