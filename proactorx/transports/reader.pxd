from cpython.object cimport PyObject

cdef bint is_buffered(protocol) except -1
cdef int ask_for_buffer(PyObject *protocol, Py_buffer *view) except -1
cdef bint is_plain(protocol) except -1
cdef int feed(protocol, char *data, Py_ssize_t size) except -1
cdef object reader_of(protocol)
cdef char *grow(reader, Py_ssize_t size) except NULL
cdef int grown(reader, Py_ssize_t size, Py_ssize_t count) except -1
