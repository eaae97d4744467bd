cdef bint is_plain(protocol) except -1
cdef int feed(protocol, char *data, Py_ssize_t size) except -1
