"""The bytes of a TLS connection: decrypting what has come, encrypting what is written and passing it down.

One callback's writes are encrypted together and go down as one piece.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from proactorx.transports.base cimport enter
from proactorx.transports.stream cimport RawProtocol, StreamTransport
from proactorx.transports.tls_direct cimport (
    AGAIN, ASK_MODULE, UNLOCKED, direct_close, direct_drain, direct_feed, direct_gather, direct_gathered,
    direct_pending, direct_read, direct_take, direct_write,
)

import asyncio
import logging
import ssl
from asyncio import constants

cdef extern from "Python.h":
    int PyContext_Exit(object context) except -1
    object PyMemoryView_FromMemory(char *memory, Py_ssize_t size, int flags)
    enum: PyBUF_READ, PyBUF_WRITE

logger = logging.getLogger("asyncio")

cdef enum:
    DELIVERY = 262144       # one data_received() gets less than this and a record
    # So much written is encrypted while the cache has it.  Less is one record, and waits for the end of the
    # callback or turn: it goes to the socket from where OpenSSL has made it.
    ENCRYPT_AT_ONCE = RECORD
    JOIN = 65536            # writes of up to so many bytes together are encrypted as one piece
    OVERHEAD = 96           # what a record adds: header, nonce, MAC of 48 bytes and padding, RFC 5246 6.2.3

cdef object SSLError = ssl.SSLError
cdef object Again = (ssl.SSLWantReadError, ssl.SSLSyscallError)
cdef unsigned int MANY_WARNINGS = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES


cdef tuple limits(high, low, Py_ssize_t kib):
    """Both limits of a buffer, as ``set_write_buffer_limits`` takes them;
    `kib` is the high one unless told.
    """
    if high is None:
        high = kib * 1024 if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return high, low


cdef class TLSRecords(RawProtocol):
    """Moves bytes between the user's protocol and the transport underneath."""

    def __dealloc__(self):
        direct_close(&self.direct)

    # -------------------------------------------------------------------------------------------- ciphertext

    cdef int feed(self, char *data, Py_ssize_t size) except -1:
        """Give ciphertext that has arrived to OpenSSL, lent until `direct_keep`, or a copy of it."""
        if self.direct.ssl != NULL:
            return direct_feed(&self.direct, data, size)
        self.incoming_write(PyMemoryView_FromMemory(data, size, PyBUF_READ))
        return 0

    cdef Py_ssize_t unread(self) except -1:
        """Return the number of received bytes that OpenSSL has not read."""
        if self.direct.ssl != NULL:
            return direct_pending(&self.direct)
        return self.incoming.pending

    cdef object drain(self):
        """Return the ciphertext to send, or something false if there is none."""
        return direct_drain(&self.direct) if self.direct.ssl != NULL else self.outgoing_read()

    cdef bint gather(self, Py_ssize_t room) except -1:
        """Lend OpenSSL memory for `room` bytes of ciphertext, until `gathered`.  0: it uses its own."""
        return not self.underlying_paused and direct_gather(&self.direct, room)

    cdef int gathered(self) except -1:
        """Pass down what OpenSSL has written to the lent memory."""
        cdef object data = direct_gathered(&self.direct)
        return 0 if data is None else self.pass_down(data)

    cdef int hold_underlying(self) except -1:
        """While the user reads nothing, keep no more ciphertext than the limits say."""
        cdef Py_ssize_t size
        if self.underlying is None or not (self.app_paused or self.underlying_held):
            return 0
        size = self.unread()
        if not self.underlying_held:
            if size and size >= self.in_high:
                self.underlying_held = True
                self.underlying.pause_reading()
        elif size <= self.in_low:
            self.underlying_held = False
            self.underlying.resume_reading()
        return 0

    # --------------------------------------------------------------------------------------------- decrypting

    cdef bint waiting(self) except -1:
        """Return whether a read may bring data: there is ciphertext, or the rest of a decrypted record."""
        if self.rest:
            return True
        self.pending = self.unread()
        return self.pending != 0

    cdef bint ready(self) except -1:
        """Return whether to read at all, or raise an error that was kept until now."""
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        return not self.notified and self.waiting()

    cdef Py_ssize_t room(self) except -1:
        """After `ready`: ask for no more than a record has,
        nor than can come of the ciphertext that is there.
        """
        return RECORD if self.rest or self.partial else min(self.pending, RECORD)

    cdef int was_read(self, Py_ssize_t room, Py_ssize_t count) except -1:
        """Note how a read ended; -1: with no complete record."""
        self.partial = count < 0
        self.rest = count == room or (self.own_read and count > 0)
        if not count:
            self.notified = True
        return 0

    cdef object take(self):
        """Return the data of the next record, or None if there is none or the peer has ended."""
        cdef Py_ssize_t room, count
        cdef bytes data
        if not self.ready():
            return None
        room = self.room()
        if self.direct.ssl != NULL:
            data = direct_take(&self.direct, room, &count)
            if count != ASK_MODULE:
                self.was_read(room, count)
                return data
        try:
            data = self.ssl_read(room)
        except Again:
            self.was_read(room, -1)
            return None
        self.was_read(room, PyBytes_GET_SIZE(data))
        return data if PyBytes_GET_SIZE(data) else None

    cdef Py_ssize_t take_into(self, char *memory, Py_ssize_t room) except -1:
        """After `ready`: decrypt into `memory`, and return the number of bytes, which may be 0."""
        cdef Py_ssize_t count = ASK_MODULE
        if self.direct.ssl != NULL:
            count = direct_read(&self.direct, memory, room)
        if count == ASK_MODULE:
            try:
                count = self.ssl_read(room, PyMemoryView_FromMemory(memory, room, PyBUF_WRITE))
            except Again:
                count = AGAIN
        self.was_read(room, count)
        return max(count, 0)

    cdef object take_more(self, first):
        """`first` and what all other complete records hold, or as much of it as one call is to be given."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(first)
        cdef list pieces = [first]
        while size < DELIVERY:
            try:
                piece = self.take()
            except SSLError as exc:
                self.failure = exc
                break
            if piece is None:
                break
            pieces.append(piece)
            size += PyBytes_GET_SIZE(piece)
        return b"".join(pieces) if len(pieces) > 1 else first

    # --------------------------------------------------------------------------------------------- encrypting

    cdef int write(self, data) except -1:
        """`data` is bytes, and not empty."""
        if self.state != OPEN and self.state != HANDSHAKE:
            if self.lost >= MANY_WARNINGS:
                logger.warning("SSL connection is closed")
            else:
                self.lost += 1
            return 0
        if self.sending_file:
            raise RuntimeError("unable to write; sendfile is in progress")
        self.backlog.append(data)
        self.backlog_size += PyBytes_GET_SIZE(data)
        if self.stream is not None:
            self.stream.layer_unsent += PyBytes_GET_SIZE(data)
        if self.state == OPEN:
            if self.backlog_size >= ENCRYPT_AT_ONCE:
                self.send(False)
            elif not self.registry.running or (self.stream is not None and self.stream.eager):
                self.flush()
            elif not self.delivering and not self.dirty:
                self.registry.mark(self)
        return 0

    cdef int flush(self) except -1:
        self.dirty = False
        if self.backlog_size and self.state == OPEN and self.may_send():
            self.send(True)
        return 0

    cdef bint may_send(self) noexcept:
        """Return whether to send now: no callback may add to it, or other code may use the descriptor."""
        return not self.delivering or (self.stream is not None and self.stream.eager)

    cdef int send_last(self) except -1:
        """At the end, try to send the written data and the alert with the reason: RFC 8446 section 6.2."""
        if self.underlying is None or self.underlying_paused or (self.stream is not None
                                                                 and self.stream.lost):
            return 0
        if self.backlog_size and (self.state == OPEN or self.state == FLUSHING):
            try:
                self.encrypt(False)
            except Exception as exc:
                logger.debug("%r: the last bytes could not be encrypted: %s", self, exc)
        data = self.drain()
        if data:
            self.pass_down(data)
        return 0

    cdef int send(self, bint now) except -1:
        """Encrypt what was written and pass it down. `now`: no more is to be sent with it."""
        try:
            if self.backlog_size:
                self.encrypt(now)
            self.forward()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.fatal(exc, "Fatal error on SSL protocol")
        return 0

    cdef int encrypt(self, bint now) except -1:
        cdef Py_ssize_t size = self.backlog_size
        if len(self.backlog) > 1 and size <= JOIN:
            # One record, not one for each write.
            self.backlog = [b"".join(self.backlog)]
        if self.in_kernel:
            return self.pass_plain()
        if self.direct.wire == NULL or self.underlying is None:
            return self.encrypt_backlog()
        if not self.underlying_paused:
            data = self.drain()  # what OpenSSL has written on its own comes first
            if data:
                self.pass_down(data)
        if (now and size < UNLOCKED and not self.underlying_paused and self.stream is not None
                and self.stream.sends_now()):
            self.direct.wire.fd = self.stream.fd
        else:
            self.gather(size + (size // RECORD + len(self.backlog)) * OVERHEAD)
        try:
            self.encrypt_backlog()
        finally:
            self.direct.wire.fd = -1
            self.gathered()
        return 0

    cdef int encrypt_backlog(self) except -1:
        cdef Py_ssize_t count, done = 0
        cdef list backlog = self.backlog
        cdef bytes piece
        try:
            for piece in backlog:
                count = 0
                try:
                    self.encrypt_all(piece, &count)
                finally:
                    self.backlog_size -= count
                    if 0 < count < PyBytes_GET_SIZE(piece):
                        backlog[done] = piece[count:]
                done += 1
        except Again:
            pass  # a renegotiation: goes on with what the peer sends
        if done == len(backlog):
            backlog.clear()
        elif done:
            del backlog[:done]
        return 0

    cdef int encrypt_all(self, bytes piece, Py_ssize_t *done) except -1:
        """Encrypt `piece`. `done` counts the bytes, also if this raises."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece), count
        while done[0] < size:
            count = ASK_MODULE
            if self.direct.ssl != NULL:
                count = direct_write(&self.direct, PyBytes_AS_STRING(piece) + done[0], size - done[0])
            if count < 0:
                # (AGAIN too: it is an exception then, as below)
                count = self.ssl_write(piece[done[0]:] if done[0] else piece)
            done[0] += count
        return 0

    cdef int pass_plain(self) except -1:
        """Pass down what was written: the kernel encrypts it. While the transport underneath takes no more,
        it stays here, for the user's limits; but not once he has closed.
        """
        cdef list backlog
        if self.underlying_paused and self.state == OPEN:
            return 0
        backlog, self.backlog = self.backlog, []
        self.backlog_size = 0
        for piece in backlog:
            self.pass_down(piece)
        return 0

    cdef int forward(self) except -1:
        if not self.underlying_paused:
            if self.in_kernel and self.backlog_size:
                self.pass_plain()  # the transport underneath takes more again
            data = self.drain()
            if data:
                self.pass_down(data)
        return self.tell_app()

    cdef int pass_down(self, data) except -1:
        cdef StreamTransport stream = self.stream
        if stream is not None and not stream.lost and not stream.eof_written:
            stream.enqueue(data, PyBytes_GET_SIZE(data))
        elif self.underlying is not None:
            self.underlying.write(data)
        return 0

    cdef Py_ssize_t unsent(self) except -1:
        cdef Py_ssize_t pending = self.outgoing.pending
        return pending + self.backlog_size

    cdef int tell_app(self) except -1:
        """``pause_writing`` or ``resume_writing``, when it is time."""
        cdef Py_ssize_t size = self.unsent() if self.underlying_paused else self.backlog_size
        cdef bint entered
        if self.stream is not None:
            self.stream.layer_unsent = size
        if self.app is None:
            return 0
        if not self.app_told:
            if not size or size < self.out_high:
                return 0
            name = "pause_writing"
        elif size <= self.out_low:
            name = "resume_writing"
        else:
            return 0
        self.app_told = not self.app_told
        if self.stream is not None:
            self.stream.layer_told = self.app_told
        entered = enter(self.context)
        try:
            getattr(self.app, name)()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self._loop.call_exception_handler({
                "message": f"protocol.{name}() failed",
                "exception": exc,
                "transport": self.user_transport,
                "protocol": self,
            })
        finally:
            if entered:
                PyContext_Exit(self.context)
        return 0

    cdef int fatal(self, exc, str message) except -1:
        if self.underlying is not None:
            self.send_last()
            self.underlying._force_close(exc)
        if isinstance(exc, OSError):
            if self._loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=True)
        elif not isinstance(exc, asyncio.CancelledError):
            self._loop.call_exception_handler({
                "message": message,
                "exception": exc,
                "transport": self.underlying,
                "protocol": self,
            })
        return 0
