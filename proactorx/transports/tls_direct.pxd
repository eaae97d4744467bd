cdef struct Direct:
    void *ssl    # NULL: the connection goes through the ssl module
    void *rbio
    void *wbio

cdef enum:
    AGAIN = -1       # the peer has to send more first
    ASK_MODULE = -2  # the ssl module says what is wrong

cdef int direct_open(Direct *direct, object sslobj, object incoming, object outgoing) except -1
cdef Py_ssize_t direct_read(Direct *direct, char *memory, Py_ssize_t room) noexcept
cdef object direct_take(Direct *direct, Py_ssize_t room, Py_ssize_t *count)
cdef Py_ssize_t direct_write(Direct *direct, const char *memory, Py_ssize_t size) noexcept
cdef int direct_feed(Direct *direct, const char *memory, Py_ssize_t size) except -1
cdef Py_ssize_t direct_pending(Direct *direct) noexcept
cdef object direct_drain(Direct *direct)
