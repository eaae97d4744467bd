"""A TLS connection whose records the kernel makes, networking/tls.rst: from the first large file on.

``loop.sendfile`` begins it, and it cannot be undone.  The keys were noted in the handshake
(``proactorx/sys/ktls.h``); the first record of the file is made here, and shows that they are right; the rest
of it goes from the page cache into the socket, and so does, as plaintext, all that is written afterwards.
What comes is decrypted as before.

OpenSSL's own numbers are stale from then on: nothing that it makes may go out.  So close_notify is made by
the kernel, and a peer that wants other keys loses the connection.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from proactorx.sys.ktls cimport px_ktls_prepare, px_ktls_say_end, px_ktls_settled
from proactorx.transports.tls_direct cimport (
    direct_gather, direct_gathered, direct_hand_over, direct_noted, direct_prove, direct_renewing,
    direct_said_end,
)
from proactorx.transports.tls_records cimport FLUSHING, OPEN, SHUTDOWN, TLSRecords

import errno
import os
import ssl
from asyncio import SendfileNotAvailableError

cdef object Again = (ssl.SSLWantReadError, ssl.SSLSyscallError)

cdef enum:
    ROOM = 32768  # for a record and what it adds

cdef double SOON = 0.001, LATER = 0.05  # seconds between looks whether the peer has everything


cdef class TLSKernel(TLSRecords):
    """What handing a connection over to the kernel takes, and how it then ends."""

    cdef int advance(self) except -1:
        return 0  # ``TLSProtocol`` has these

    cdef int limit_shutdown(self) except -1:
        return 0

    # ---------------------------------------------------------------------------------- for ``loop.sendfile``

    cdef int begin_file(self) except -1:
        """Refuse writes from now on; what was written goes out first.

        Raises:
            RuntimeError: another file is on its way.
            SendfileNotAvailableError: the kernel cannot encrypt this connection, and nothing has changed.
        """
        cdef int error = 0
        if self.sending_file:
            raise RuntimeError("sendfile is in progress already")
        if self.state != OPEN or self.stream is None or not (self.in_kernel or direct_noted(&self.direct)):
            raise SendfileNotAvailableError("the kernel has no keys for this TLS connection")
        if not self.in_kernel:
            error = px_ktls_prepare(self.stream.fd)
        if error:
            raise SendfileNotAvailableError(f"the kernel encrypts no TLS here: {os.strerror(-error)}")
        self.send(True)
        if self.backlog_size and not self.in_kernel:
            raise SendfileNotAvailableError("the TLS connection changes its keys")
        self.sending_file = True
        return 0

    cdef int end_file(self) except -1:
        self.sending_file = False
        if self.state == FLUSHING or self.state == SHUTDOWN:
            self.advance()  # the end has waited
        return 0

    cdef bint flushed(self) except -1:
        """Return whether the kernel has taken all that went down, or the connection is lost."""
        return self.stream is None or self.stream.lost or not self.stream.buffered

    cdef object file_room(self, bint full):
        self.file_fd()
        return self.stream._room(full)

    cdef int file_fd(self) except -1:
        """Return the descriptor to send on.

        Raises:
            ConnectionError: the transport is closing, or the connection is lost.
        """
        if self.stream is None:
            raise ConnectionError("Connection is closed by peer")
        if self.state != OPEN:
            raise ConnectionError("the transport is closing")
        return self.stream._sendfile_fd()

    cdef int prove(self, bytes block) except -1:
        """Send the beginning of the file; its record is to show that the keys are right."""
        cdef object record = None
        self.file_fd()
        self.backlog.append(block)
        self.backlog_size += PyBytes_GET_SIZE(block)
        direct_gather(&self.direct, ROOM)
        try:
            self.encrypt_backlog()
        except Exception as exc:
            self.fatal(exc, "Fatal error on SSL protocol")
            raise ConnectionAbortedError("the TLS connection has failed") from exc
        finally:
            record = direct_gathered(&self.direct)
            if record is not None:
                self.pass_down(record)
        if record is not None and not self.backlog_size:
            direct_prove(&self.direct, record)
        return self.forward()

    cdef int hand_over(self) except -1:
        """After `flushed`: let the kernel encrypt from now on.

        Raises:
            SendfileNotAvailableError: it must not, or refuses to; the connection is as before.
        """
        cdef int error
        self.file_fd()
        if not self.flushed() or self.unsent() or not direct_noted(&self.direct):
            raise SendfileNotAvailableError("the TLS connection changes its keys")
        error = direct_hand_over(&self.direct, self.stream.fd)
        if error > 0:
            raise SendfileNotAvailableError("the keys of the TLS connection are in doubt")
        if error:
            raise SendfileNotAvailableError(f"the kernel refuses the TLS connection: {os.strerror(-error)}")
        self.in_kernel = True
        return 0

    # --------------------------------------------------------------------------------------------- afterwards

    cdef int check_keys(self) except -1:
        """After reading: raise if the peer wants what only OpenSSL could send."""
        if direct_renewing(&self.direct):
            raise ConnectionAbortedError(
                "the peer changes the keys of a TLS connection that the kernel encrypts: "
                "PROACTORX_TLS=direct lets no kernel encrypt")
        return 0

    cdef bint say_end(self) except -1:
        """Make our close_notify, once all that came is read:
        OpenSSL calls data that it finds then an error. Return whether it is made.
        """
        if self.in_kernel:
            return self.said_end or self.kernel_says_end()
        if not self.said_end:
            self.said_end = True
            try:
                self.sslobj.unwrap()
            except Again:
                pass  # the peer has not said his yet
        self.forward()
        return True

    cdef bint kernel_says_end(self) except -1:
        """The same where the kernel encrypts, behind all that is queued."""
        cdef int error = 0
        if self.sending_file:
            return False  # `end_file` comes back
        self.send(False)
        if self.stream is not None and not self.stream.lost:
            error = -errno.EAGAIN if self.stream.buffered else px_ktls_say_end(self.stream.fd)
        if error == -errno.EAGAIN:
            if self.end_room is None:
                self.end_room = self.stream._room(not self.stream.buffered)
                self.end_room.add_done_callback(self._end_later, context=self.context)
            return False
        self.said_end = True
        if not error:  # a connection that failed takes none
            direct_said_end(&self.direct)
        return True

    cdef bint unsettled(self) noexcept:
        """Return whether `settled` closes later."""
        return self.in_kernel and self.state == SHUTDOWN and not self.finished

    cdef bint settled(self) except -1:
        """Return whether the descriptor may be closed: the peer is to have everything."""
        if self.stream is None or self.stream.lost:
            return True
        if not self.stream.buffered and px_ktls_settled(self.stream.fd):
            return True
        if self.end_timer is None:
            self.end_delay = min(2 * self.end_delay, LATER) if self.end_delay else SOON
            self.end_timer = self._loop.call_later(self.end_delay, self._end_later, context=self.context)
            if self.shutdown_timer is None:
                self.limit_shutdown()
        return False

    def _end_later(self, _=None):
        self.end_room = None
        if self.end_timer is not None:
            self.end_timer.cancel()
            self.end_timer = None
        if self.state == SHUTDOWN:
            self.advance()
