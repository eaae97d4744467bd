from libc.stdint cimport intptr_t
from proactorx.port.operations cimport Binding
from proactorx.sys.iocp cimport HANDLE

cdef class _Opened:
    cdef int fd

cdef class HandleBinding(Binding):
    cdef intptr_t handle     # the file's own: where it was opened once more, not the one that is bound
    cdef int crt             # the C library's number of a file that it has opened, or -1
    cdef _Opened opened      # a file of the C library's, once more
    cdef bint overlapped     # what is bound is for overlapped use
    cdef bint is_socket
    cdef bint is_datagram
    cdef bint stands(self) except -1
    cdef bint is_of(self, object file, object port) except -1

cdef HandleBinding binding_of(object file, object port)
cdef int bind(object file, object port, HANDLE handle, object key) except -1
cdef int unbind(object file, object port) except -1
cdef int rebind(object file, object port, object other, HANDLE handle, object key) except -1
cdef int let_go(object port) except -1
cdef int family_of(int fd) except -1
cdef bint is_disk(int fd) noexcept
