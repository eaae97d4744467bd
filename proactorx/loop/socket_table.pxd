from libc.stdint cimport uint64_t
from proactorx.loop.core cimport LoopCore
from proactorx.ops.op cimport Overlapped
from proactorx.port.loop_port cimport LoopPort
from proactorx.transports.registry cimport Registry

cdef class SocketOp(Overlapped):
    cdef SocketTable table
    cdef readonly object future
    cdef object sock
    cdef bytes client        # of an accepted connection: its address, where the driver knows
    cdef list line           # the futures of those who wait behind this one, or None
    cdef bint over           # `ended` was called
    cdef int unwanted(self) except -1
    cdef int left(self) except -1

cdef class Accepted:
    cdef list waiting        # (descriptor, address or None)

cdef struct Seen:
    void *reference          # a weak reference to the socket that last had an op on this number; or NULL
    bint stream
    uint64_t drained         # the turn in which a receive brought less than it had room for

cdef class SocketTable:
    cdef LoopCore loop
    cdef LoopPort port
    cdef Registry registry
    cdef dict receiving      # descriptor: the receive in flight on it, or one that is over, see `offer`
    cdef dict accepting      # the same of accepts
    cdef dict sending        # the same of `sock_sendall`
    cdef object received     # socket: what a cancelled receive has brought, (bytes, struct sockaddr), or None
    cdef object accepted     # socket: Accepted
    cdef Seen *seen          # by descriptor
    cdef int seen_count
    cdef char *scratch       # where `receive_now` receives; NULL: not yet needed
    cdef int check(self, sock) except -2
    cdef SocketOp start(self, int kind, int fd, sock, Py_ssize_t size, data=*, unsigned int events=*,
                        address=*)
    cdef bint is_seen(self, int fd, sock) noexcept
    cdef int see(self, int fd, sock) except -1
    cdef int received_less(self, SocketOp op, Py_ssize_t count) except -1
    cdef bint may_look(self, int fd, sock) except -1
    cdef int drop_stale(self, dict ops, int fd) except -1
    cdef dict line_of(self, int kind)
    cdef int ended(self, SocketOp op) except -1
    cdef int offer(self, dict ops, SocketOp op) except -1
    cdef int keep(self, sock, bytes data, bytes name) except -1
    cdef int keep_connection(self, sock, int fd, int accepted, bytes client) except -1
    cdef tuple kept_connection(self, sock)
    cdef bint has_left_over(self, sock) except -1
    cdef tuple left_over(self, sock, Py_ssize_t nbytes)
    cdef Py_ssize_t left_over_into(self, sock, buf) except -1
    cdef bytes receive_now(self, int fd, Py_ssize_t size)
    cdef Py_ssize_t receive_into_now(self, int fd, buf) except -2
    cdef tuple accept_now(self, int fd)
    cdef Py_ssize_t send_now(self, int fd, data, Py_ssize_t *size) except -1
