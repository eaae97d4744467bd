cdef class ReadState:
    cdef public object loop
    cdef object limit            # as the user gave it, and as a number
    cdef Py_ssize_t bound
    cdef object held             # what was received and not read: bytes or bytearray; None: nothing
    cdef Py_ssize_t start        # so much of it is read already
    cdef readonly bint shown     # `held` is the bytearray that users see as ``reader._buffer``
    cdef public bint eof
    cdef public bint paused
    cdef public bint replaced    # a method of the reader, or of its protocol, was: call what is there
    cdef public object waiter
    cdef public object exception
    cdef public object transport

    cdef Py_ssize_t size(self) noexcept
    cdef char *memory(self) noexcept
    cdef bint ours(self) except -1
    cdef bytearray writable(self)
    cdef int add(self, const char *data, Py_ssize_t size) except -1
    cdef int adopt(self, bytes data) except -1
    cdef char *grow(self, Py_ssize_t size) except NULL
    cdef int grown(self, Py_ssize_t size, Py_ssize_t count) except -1
    cdef int wake(self) except -1
    cdef int added(self) except -1
    cdef bytes cut(self, Py_ssize_t size)
    cdef bytes rest(self)
    cdef Py_ssize_t find(self, bytes separator, Py_ssize_t offset, Py_ssize_t size) except -2
    cdef int resume(self) except -1

cdef bint is_compiled(protocol) except -1
cdef ReadState state_of(reference)
