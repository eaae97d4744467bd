from libc.stdint cimport uint8_t
from proactorx.transports.registry cimport Registry
from proactorx.transports.stream cimport RawProtocol, StreamTransport
from proactorx.transports.tls_direct cimport Direct

# The states of a connection, see ``tls``.
cdef enum:
    UNWRAPPED
    HANDSHAKE
    OPEN
    FLUSHING
    SHUTDOWN

cdef enum:
    RECORD = 16384  # the plaintext of the largest record, RFC 8446 section 5.1

cdef class TLSRecords(RawProtocol):
    cdef object _loop
    cdef Registry registry
    cdef object app              # the user's protocol
    cdef object user_transport   # the user's transport, until the connection is lost
    cdef object underlying       # the transport underneath, while there is one
    cdef StreamTransport stream  # the same, where it is one of ours
    cdef object context          # what callbacks run in
    cdef object waiter
    cdef dict extra
    # The ssl module's side, and its methods that run per packet.
    cdef object sslobj, incoming, outgoing
    cdef object ssl_read, ssl_write, incoming_write, outgoing_read
    cdef Direct direct           # the way past them, where there is one
    cdef object failure          # an error that came after bytes which are still to be delivered
    cdef list backlog            # what the user has written and is not encrypted yet
    cdef Py_ssize_t backlog_size
    cdef Py_ssize_t pending      # what the incoming BIO held when that was last asked
    cdef Py_ssize_t out_high, out_low, in_high, in_low
    cdef object handshake_timeout, shutdown_timeout, handshake_timer, shutdown_timer, started
    cdef unsigned int lost       # 1: the connection is lost; more: writes since then, or since it was closed
    cdef uint8_t state, app_state, kind
    cdef bint server_side
    # a class of the user's decrypts, and may give less or more than it was asked for
    cdef bint own_read
    cdef bint partial            # a piece of a record is inside OpenSSL
    cdef bint rest               # the end of a decrypted record may be
    cdef bint notified           # the peer's close_notify was read
    cdef bint eof_seen           # the end of the transport underneath
    cdef bint delivering         # inside a callback that gives bytes to the user's protocol
    cdef bint discard            # the user has closed: what still comes is nobody's
    cdef bint closed             # the user has closed, or the connection is lost
    cdef bint early              # the handshake is done, and who awaits start_tls() does not know yet
    cdef bint said_end           # our close_notify is made
    cdef bint finished           # the closing of the transport underneath is arranged
    cdef bint app_paused         # the user wants no bytes
    cdef bint app_told           # the user was asked not to write
    cdef bint underlying_paused       # the transport underneath asked us not to write
    cdef bint underlying_held         # we asked the transport underneath not to read
    cdef bint in_kernel          # the kernel encrypts: what goes down is plaintext
    cdef bint sending_file       # ``loop.sendfile`` has the connection to write to

    cdef int feed(self, char *data, Py_ssize_t size) except -1
    cdef int hold_underlying(self) except -1
    cdef bint gather(self, Py_ssize_t room) except -1
    cdef int gathered(self) except -1
    cdef Py_ssize_t unread(self) except -1
    cdef object drain(self)
    cdef object take(self)
    cdef Py_ssize_t take_into(self, char *memory, Py_ssize_t room) except -1
    cdef object take_more(self, first)
    cdef bint waiting(self) except -1
    cdef bint ready(self) except -1
    cdef Py_ssize_t room(self) except -1
    cdef int was_read(self, Py_ssize_t room, Py_ssize_t count) except -1
    cdef int write(self, data) except -1
    cdef int send(self, bint now) except -1
    cdef int encrypt(self, bint now) except -1
    cdef int encrypt_backlog(self) except -1
    cdef int encrypt_all(self, bytes piece, Py_ssize_t *done) except -1
    cdef int pass_plain(self) except -1
    cdef int forward(self) except -1
    cdef int pass_down(self, data) except -1
    cdef int tell_app(self) except -1
    cdef Py_ssize_t unsent(self) except -1
    cdef int send_last(self) except -1
    cdef bint may_send(self) noexcept
    cdef int fatal(self, exc, str message) except -1

cdef tuple limits(high, low, Py_ssize_t kib)
