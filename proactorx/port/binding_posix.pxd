from proactorx.port.operations cimport Binding

cdef class FileBinding(Binding):
    cdef object identity     # device, inode and mode
    # no call on this file waits for another machine or process, or for news of the kernel
    cdef bint at_once
    cdef bint stands(self) except -1
    cdef bint is_of(self, object file, object port) except -1

cdef FileBinding binding_of(object file, object port)
cdef FileBinding bind(object file, object port, object key)
cdef int unbind(object file, object port) except -1
cdef int rebind(object file, object port, object other, object key) except -1
cdef int let_go(object port) except -1
