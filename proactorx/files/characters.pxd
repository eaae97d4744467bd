cdef class Characters:
    cdef object decoder
    cdef str newline         # as it was given to open: None, "", LF, CR or CR LF
    cdef str text            # text[at:] has not been read yet
    cdef Py_ssize_t at
    cdef Py_ssize_t seen     # no line ends before it
    cdef Py_ssize_t left(self) noexcept
    cdef int feed(self, bytes data, bint end) except -1
    cdef int put_back(self, str text) except -1
    cdef str take(self, Py_ssize_t n)
    cdef Py_ssize_t line(self) except -2
    cdef int drop(self) except -1
