from cpython.object cimport PyObject
from proactorx.sys.wire cimport px_wire

cdef struct Direct:
    void *ssl        # NULL: the connection goes through the ssl module
    void *rbio       # the memory BIOs of the module's objects
    void *wbio
    px_wire *wire    # of the BIO in their place; NULL: there is none
    void *bio
    PyObject *sink   # the bytes object that is lent to it

cdef enum:
    AGAIN = -1       # the peer has to send more first
    ASK_MODULE = -2  # the ssl module says what is wrong

cdef enum:
    # A record of so much or more takes longer to encrypt than other threads take to get the interpreter.
    UNLOCKED = 16384

cdef int direct_open(Direct *direct, object sslobj, object incoming, object outgoing) except -1
cdef void direct_close(Direct *direct) noexcept
cdef Py_ssize_t direct_read(Direct *direct, char *memory, Py_ssize_t room) noexcept
cdef object direct_take(Direct *direct, Py_ssize_t room, Py_ssize_t *count)
cdef Py_ssize_t direct_write(Direct *direct, const char *memory, Py_ssize_t size) noexcept
cdef int direct_feed(Direct *direct, const char *memory, Py_ssize_t size) except -1
cdef int direct_keep(Direct *direct) except -1
cdef void direct_filled(Direct *direct) noexcept
cdef Py_ssize_t direct_pending(Direct *direct) noexcept
cdef object direct_drain(Direct *direct)
cdef bint direct_gather(Direct *direct, Py_ssize_t room) except -1
cdef object direct_gathered(Direct *direct)
cdef bint direct_noted(Direct *direct) noexcept
cdef bint direct_prove(Direct *direct, bytes record) except -1
cdef int direct_hand_over(Direct *direct, int fd) noexcept
cdef bint direct_renewing(Direct *direct) noexcept
cdef void direct_said_end(Direct *direct) noexcept
