"""What the kernel is asked for each kind of op, and what is made of its answer: two cells for each kind.

Kinds without cells (DISCONNECT, RECV_DGRAMS, and what is not Windows') wait for readiness,
or are blocking bodies.
"""

from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from proactorx.drivers.readiness.driver cimport ReadinessDriver
from proactorx.ops.kinds cimport PX_ENDS, PX_FD, PX_ON_FILE, px_kinds
from proactorx.ops.op cimport (
    ACCEPT, ACCEPT_ONE, CONNECT, FILE_STEP, IN_FLIGHT, KINDS, Op, PACKET_BUFFER, PACKET_LATE, PACKET_MORE,
    PACKET_READY, POLL, READ, RECV, RECV_FROM, RECV_INTO, RECV_STREAM, SEND, SEND_TO, TRANSMIT, WRITE,
    buffer_give_back, buffer_take,
)
from proactorx.sys.errnos cimport ECANCELED, ECONNABORTED, EWOULDBLOCK
from proactorx.sys.iocp cimport *
from proactorx.sys.socket cimport (
    POLLIN, WSAEMSGSIZE, WSAENOTSOCK, closesocket, px_message, px_pollable, px_sendmsg, sockaddr,
)

cdef enum:
    ACCEPTS_IN_A_ROW = 64  # connections of one listener that are taken without looking at anything else

#: Makes the overlapped call of an op: PX_PENDING and so on, or -errno.
ctypedef int (*Begin)(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1
#: Queues what came of it: of `count` bytes, with `error` 0 or -errno,
#: and in `buffer` where the driver lent one.
ctypedef int (*End)(OverlappedCalls driver, Op op, char *buffer, uint32_t count, int error) except -1

cdef Begin begins[KINDS]
cdef End ends[KINDS]


cdef bint has_cells(int kind) noexcept:
    """Whether the kernel does this kind of op."""
    return begins[kind] != NULL


cdef inline bint goes_on(Op op) noexcept:
    """Whether a packet is not its last."""
    return px_kinds[op.kind].goes_on != PX_ENDS


# -------------------------------------------------------------------------------------------------- receiving

cdef int begin_recv_stream(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1:
    if (op.direct or driver.buffers.lent >= driver.most) and not driver.is_file(op.fd):
        # Nothing is received: it ends when there is something to receive.
        return px_begin_recv(op.fd, flight, NULL, 0)
    return into_buffer(driver, op, flight, PX_BUFFER)


cdef int end_recv_stream(OverlappedCalls driver, Op op, char *buffer, uint32_t count, int error) except -1:
    if buffer == NULL and not error:
        if op.state == IN_FLIGHT:
            op.armed = False
            return driver.push(op, POLLIN, PACKET_READY | PACKET_MORE)
        error = -ECANCELED  # nothing was received
    if error:
        driver.put_buffer(buffer)
        return driver.end(op, error)
    if count and op.state == IN_FLIGHT:
        driver.again(op)
        return driver.push_data(op, <int>count, PACKET_BUFFER | PACKET_MORE, buffer)
    return driver.push_data(op, <int>count, PACKET_BUFFER, buffer)


cdef int begin_recv(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1:
    if not op.want():
        return px_pollable(op.fd) or PX_NO_PACKET
    return into_buffer(driver, op, flight, min(op.want(), <ssize_t>PX_BUFFER))


cdef int into_buffer(OverlappedCalls driver, Op op, px_overlapped *flight, ssize_t size) except? -1:
    flight.buffer = buffer_take(&driver.buffers, PX_BUFFER)
    if driver.is_file(op.fd):
        return px_begin_read(op.fd, flight, flight.buffer, size)
    return px_begin_recv(op.fd, flight, flight.buffer, size)


cdef int end_recv(OverlappedCalls driver, Op op, char *buffer, uint32_t count, int error) except -1:
    if error:
        driver.put_buffer(buffer)
        return driver.end(op, error)
    return driver.push_data(op, <int>count, PACKET_BUFFER, buffer)


cdef int begin_recv_into(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1:
    if not op.want():
        return px_pollable(op.fd) or PX_NO_PACKET
    if driver.is_file(op.fd):
        return px_begin_read(op.fd, flight, op.buffer(), op.want())
    return px_begin_recv(op.fd, flight, op.buffer(), op.want())


cdef int begin_recv_from(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1:
    # Always with room for the largest: a datagram that is cut off ends in an error on some paths and posts a
    # packet all the same on others.
    flight.buffer = buffer_take(&driver.buffers, PX_BUFFER)
    return px_begin_recvfrom(op.fd, flight, flight.buffer, PX_BUFFER, <px_message *>op.message())


cdef int end_recv_from(OverlappedCalls driver, Op op, char *buffer, uint32_t count, int error) except -1:
    if not error:
        error = driver.datagram(op, buffer, &count)
    if error or op.buffer() != NULL:
        driver.put_buffer(buffer)
        return driver.end(op, error or <int>count)
    return driver.push_data(op, <int>count, PACKET_BUFFER, buffer)


# ---------------------------------------------------------------------------------------------------- sending

cdef int begin_send(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1:
    return px_begin_write(op.fd, flight, op.buffer(), op.want())  # of pipes only, see IocpDriver.submit


cdef int begin_send_to(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1:
    cdef ssize_t n = px_sendmsg(op.fd, &(<px_message *>op.message()).header)
    if n != -EWOULDBLOCK:
        _set_transferred(&flight.overlapped, n if n > 0 else 0)
        return PX_NO_PACKET if n >= 0 else <int>n
    return px_begin_sendto(op.fd, flight, <px_message *>op.message())


cdef int end_moved(OverlappedCalls driver, Op op, char *buffer, uint32_t count, int error) except -1:
    """SEND, SEND_TO, RECV_INTO."""
    if not error and op.took(count) and op.state == IN_FLIGHT and count:
        op.armed = False
        return driver.begin(op)
    return driver.end(op, error or <int>count)


cdef int begin_transmit(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1:
    return px_begin_transmit(&driver.calls, op.fd, flight, op.events, op.want(), op.position)


cdef int end_transmit(OverlappedCalls driver, Op op, char *buffer, uint32_t count, int error) except -1:
    op.took(count)  # also of one that failed half-way
    return driver.end(op, error or <int>count)


# ------------------------------------------------------------------------------------------------ connections

cdef int begin_accept(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1:
    flight.buffer = buffer_take(&driver.buffers, PX_BUFFER)
    return px_begin_accept(&driver.calls, op.fd, flight, flight.buffer)


cdef int end_accept(OverlappedCalls driver, Op op, char *buffer, uint32_t count, int error) except -1:
    cdef px_overlapped *flight = flight_of(op)
    cdef int fd
    driver.put_buffer(buffer)
    if error:
        closesocket(<size_t>flight.other)
        if op.state != IN_FLIGHT or error == -WSAENOTSOCK:
            return driver.end(op, error)
    else:
        fd = px_accepted(op.fd, flight)
        if fd >= 0 and op.state == IN_FLIGHT and goes_on(op):
            op.armed = False
            return driver.push(op, fd, PACKET_MORE)
        if fd >= 0 and goes_on(op):
            driver.push(op, fd, PACKET_MORE)  # it came before the cancel
            return driver.end(op, -ECANCELED)
        if fd >= 0 or op.state != IN_FLIGHT:
            return driver.end(op, fd)
    # A client that had gone before it was accepted (ERROR_NETNAME_DELETED and others): no matter of the
    # listener's. Where it is the listener that is gone, the next call says so.
    return driver.again(op)


cdef int begin_connect(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1:
    if driver.is_file(op.fd):
        return px_begin_serve(op.fd, flight)
    return px_begin_connect(&driver.calls, op.fd, flight, <const sockaddr *>op.buffer(), <int>op.want())


cdef int end_connect(OverlappedCalls driver, Op op, char *buffer, uint32_t count, int error) except -1:
    if not error and not driver.is_file(op.fd):
        error = px_connected(op.fd)
    return driver.end(op, error)


# ------------------------------------------------------------------------------------------ files and handles

cdef int begin_read(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1:
    return px_begin_read_at(op.fd, flight, op.buffer(), min(op.want(), <ssize_t>FILE_STEP), op.position)


cdef int begin_write(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1:
    return px_begin_write_at(op.fd, flight, op.buffer(), min(op.want(), <ssize_t>FILE_STEP), op.position)


cdef int end_file(OverlappedCalls driver, Op op, char *buffer, uint32_t count, int error) except -1:
    if op.took(count) and count and not error and op.state == IN_FLIGHT:
        return driver.again(op)  # in the next turn: what the cache has was copied by this thread
    return driver.end(op, error or <int>count)


cdef int begin_poll(OverlappedCalls driver, Op op, px_overlapped *flight) except? -1:
    return px_begin_wait(driver.port, op.fd, flight)


cdef int end_poll(OverlappedCalls driver, Op op, char *buffer, uint32_t count, int error) except -1:
    px_end_wait(flight_of(op))
    return driver.end(op, POLLIN)


cdef void cells(int kind, Begin begin, End end) noexcept:
    begins[kind] = begin
    ends[kind] = end


cells(POLL, begin_poll, end_poll)
cells(RECV_STREAM, begin_recv_stream, end_recv_stream)
cells(RECV, begin_recv, end_recv)
cells(RECV_INTO, begin_recv_into, end_moved)
cells(SEND, begin_send, end_moved)
cells(ACCEPT, begin_accept, end_accept)
cells(ACCEPT_ONE, begin_accept, end_accept)
cells(CONNECT, begin_connect, end_connect)
cells(RECV_FROM, begin_recv_from, end_recv_from)
cells(SEND_TO, begin_send_to, end_moved)
cells(READ, begin_read, end_file)
cells(WRITE, begin_write, end_file)
cells(TRANSMIT, begin_transmit, end_transmit)


cdef class OverlappedCalls(ReadinessDriver):
    """The half of the iocp driver that gives ops to the kernel and takes them back."""

    def __cinit__(self, *args, **kwargs):
        self.waiting = []

    cdef bint is_file(self, int fd) noexcept:
        """Whether it is a pipe or another handle that is no socket."""
        return self.handle_count > fd and self.bound[fd] & PX_FILE

    cdef void put_buffer(self, char *buffer) noexcept:
        if buffer != NULL:
            buffer_give_back(&self.buffers, buffer)

    cdef bint skips(self, Op op) noexcept:
        """Whether no packet comes when it succeeds at once."""
        return self.skip if px_kinds[op.kind].on == PX_ON_FILE else self.bound[op.fd] & PX_SKIPS

    cdef int begin(self, Op op) except -1:
        """Give `op` to the kernel; what it answers at once is queued."""
        cdef px_overlapped *flight = flight_of(op)
        cdef int started = self.call(op, flight), tries = ACCEPTS_IN_A_ROW
        op.armed = True
        while started == PX_AT_ONCE and self.skips(op):
            self.ended(op, <uint32_t>_transferred(&flight.overlapped))
            if op.armed or not goes_on(op) or px_kinds[op.kind].brings != PX_FD:
                return 0
            # Others are likely to be in the backlog.
            tries -= 1
            if not tries:
                self.waiting.append(op)
                return 0
            started = self.call(op, flight)
            op.armed = True
        if started == PX_NO_PACKET:
            return self.end(op, <int>_transferred(&flight.overlapped))
        if started < 0:
            self.put_buffer(flight.buffer)
            flight.buffer = NULL
            return self.end(op, started)
        op.kernel.in_kernel = True
        Py_INCREF(op)  # the kernel's reference
        return 0

    cdef int call(self, Op op, px_overlapped *flight) except? -1:
        """Make the overlapped call of `op`."""
        flight.op = <void *>op
        flight.buffer = NULL
        _set_transferred(&flight.overlapped, 0)
        return begins[op.kind](self, op, flight)

    cdef int ended(self, Op op, uint32_t count) except -1:
        """The kernel has done with `op`: queue what came of it."""
        cdef px_overlapped *flight = flight_of(op)
        cdef int error = px_ended(flight.overlapped.Internal)
        cdef char *buffer = flight.buffer
        flight.buffer = NULL
        if error == -ECANCELED and op.state == IN_FLIGHT:
            error = -ECONNABORTED  # not by us: the handle was closed
        return ends[op.kind](self, op, buffer, count, error)

    cdef int end(self, Op op, int res) except -1:
        """The last packet of `op`."""
        return self.push(op, res, PACKET_LATE)

    cdef int again(self, Op op) except -1:
        """It goes to the kernel once more, before the next wait."""
        op.armed = False
        self.waiting.append(op)
        return 0

    cdef int datagram(self, Op op, char *buffer, uint32_t *count) except? -1:
        """Of RECV_FROM: its address and, where the op has memory of its own, the bytes.  0 or -errno."""
        cdef uint32_t room = <uint32_t>min(op.want(), <ssize_t>PX_BUFFER)
        (<px_message *>op.message()).header.msg_namelen = flight_of(op).name_size
        if op.buffer() != NULL:
            memcpy(op.buffer(), buffer, min(count[0], room))
        if count[0] > room:
            return -WSAEMSGSIZE  # as recvfrom() says of it
        return 0


# InternalHigh: the number of bytes that were moved.

cdef inline size_t _transferred(OVERLAPPED *overlapped) noexcept:
    return (<size_t *>overlapped)[1]


cdef inline void _set_transferred(OVERLAPPED *overlapped, size_t count) noexcept:
    (<size_t *>overlapped)[1] = count
