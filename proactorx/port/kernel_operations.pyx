"""How the operations of a ``CompletionPort`` go to the Windows kernel, and come back.

How the kernel sees an operation.  Its OVERLAPPED is part of the op (``Op.flight``), so the op must outlive
the operation: the port's set ``ops`` holds it until its packet has been taken.  What does not end before the
port is closed is never freed, also not at the end of the interpreter.

One operation, one packet: handles are not told to skip those of operations that succeed at once, since any
thread may be the one that is to hear of it.  What the kernel refuses to begin is answered by a packet of
ours.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, intptr_t, uint32_t
from proactorx.sys.atomic cimport store_release
from proactorx.sys.iocp cimport *
from proactorx.sys.errnos cimport ECANCELED, ECONNABORTED, ENOMEM
from proactorx.ops.kinds cimport KINDS, PX_BYTES, PX_FD, px_call, px_kind, px_kinds
from proactorx.ops.op cimport (
    ACCEPT_ONE, CANCELLING, CONNECT, DISCONNECT, DONE, FILE_STEP, IN_FLIGHT, READ, RECV, RECV_FROM, RECV_INTO,
    RawPacket, SEND, SEND_TO, WRITE, set_state,
)
from proactorx.port.binding_windows cimport HandleBinding, family_of, is_disk
from proactorx.sys.file cimport px_fsync_blocking
from proactorx.sys.socket cimport PX_SOCKET, closesocket, px_message, sockaddr

import ctypes
import os
import time

from proactorx.port.packet import PortClosed

cdef extern from "scheduler_windows.h":
    int px_begin_send(int fd, px_overlapped *flight, const char *buffer, size_t size) nogil
    uint32_t px_answer_it(px_port *port, px_overlapped *flight, int n) nogil
    int px_outcome(const px_overlapped *flight, int is_file) nogil
    int px_read_blocking(intptr_t handle, char *buffer, size_t size, int64_t position) nogil
    int px_write_blocking(intptr_t handle, const char *buffer, size_t size, int64_t position) nogil

cdef px_calls calls
cdef bint calls_loaded = False


cdef int load_calls() except -1:
    """Look up the functions that Winsock gives out by their identifiers.  Once."""
    global calls_loaded
    cdef int error
    if not calls_loaded:
        error = px_load_calls(&calls)
        if error:
            raise OSError(-error, ctypes.FormatError(-error))
        calls_loaded = True
    return 0


cdef inline px_overlapped *flight_of(Overlapped op) noexcept:
    return <px_overlapped *>&op.flight


# The overlapped call of each kind: PX_PENDING and so on, or -errno.

ctypedef int (*Begin)(px_overlapped *flight, const px_call *call, bint datagram) noexcept nogil


cdef int begin_recv(px_overlapped *flight, const px_call *call, bint datagram) noexcept nogil:
    return px_begin_recv(call.fd, flight, flight.buffer, call.size)


cdef int begin_recv_into(px_overlapped *flight, const px_call *call, bint datagram) noexcept nogil:
    return px_begin_recv(call.fd, flight, call.buffer, call.size)


cdef int begin_recv_from(px_overlapped *flight, const px_call *call, bint datagram) noexcept nogil:
    if not datagram:
        return begin_recv(flight, call, datagram)
    return px_begin_recvfrom(call.fd, flight, flight.buffer, PX_BUFFER, call.message)


cdef int begin_send(px_overlapped *flight, const px_call *call, bint datagram) noexcept nogil:
    return px_begin_send(call.fd, flight, call.buffer, call.size)


cdef int begin_send_to(px_overlapped *flight, const px_call *call, bint datagram) noexcept nogil:
    return px_begin_sendto(call.fd, flight, call.message)


cdef int begin_read(px_overlapped *flight, const px_call *call, bint datagram) noexcept nogil:
    return px_begin_read_at(call.fd, flight, call.buffer, call.size, call.position)


cdef int begin_write(px_overlapped *flight, const px_call *call, bint datagram) noexcept nogil:
    return px_begin_write_at(call.fd, flight, call.buffer, call.size, call.position)


cdef int begin_connect(px_overlapped *flight, const px_call *call, bint datagram) noexcept nogil:
    return px_begin_connect(&calls, call.fd, flight, <const sockaddr *>call.buffer, <int>call.size)


cdef int begin_disconnect(px_overlapped *flight, const px_call *call, bint datagram) noexcept nogil:
    return px_begin_disconnect(&calls, call.fd, flight)


cdef int begin_accept(px_overlapped *flight, const px_call *call, bint datagram) noexcept nogil:
    return px_begin_accept(&calls, call.fd, flight, flight.buffer)


cdef Begin begins[KINDS]
begins[RECV] = begin_recv
begins[RECV_INTO] = begin_recv_into
begins[RECV_FROM] = begin_recv_from
begins[SEND] = begin_send
begins[SEND_TO] = begin_send_to
begins[READ] = begin_read
begins[WRITE] = begin_write
begins[CONNECT] = begin_connect
begins[DISCONNECT] = begin_disconnect
begins[ACCEPT_ONE] = begin_accept


cdef class KernelOperations(Operations):
    """Operations on files that are bound to a port of the kernel's."""

    def __cinit__(self, *args, **kwargs):
        self.ops = set()

    cdef int refuse_unusable(self) except -1:
        if self.port == NULL:
            raise RuntimeError("the port has not been initialized")
        if self.closed:
            raise PortClosed("the port is closed")
        return 0

    cdef int family_of(self, object file, int fd) except -1:
        return family_of(fd)

    cdef int submit(self, Overlapped op) except -1:
        cdef HandleBinding binding = <HandleBinding>op.binding
        cdef px_overlapped *flight = flight_of(op)
        cdef const px_kind *row = &px_kinds[op.kind]
        cdef Py_ssize_t room = 0
        if row.brings == PX_BYTES and not row.moves:
            # Datagrams always find room: one that is cut off ends in an error on some paths and posts a
            # packet all the same on others.  A stream gives no more than is asked for.
            room = PX_BUFFER if row.addressed and binding.is_datagram else op.want()
        elif row.brings == PX_FD:
            room = 2 * PX_ADDRESS
        flight.buffer = <char *>PyMem_Malloc(room) if room else NULL
        if room and flight.buffer == NULL:
            raise MemoryError
        set_state(op, IN_FLIGHT)
        self.ops.add(op)
        try:
            self.begin(op)
        except BaseException:
            self.ops.discard(op)
            set_state(op, DONE)
            self.free_buffer(flight)
            raise
        return 0

    cdef int free_buffer(self, px_overlapped *flight) except -1:
        PyMem_Free(flight.buffer)
        flight.buffer = NULL
        return 0

    cdef int begin(self, Overlapped op) except -1:
        """Give `op` to the kernel.  Another thread may have its packet before this returns."""
        cdef px_overlapped *flight = flight_of(op)
        cdef Begin cell = begins[op.kind]
        cdef bint datagram = (<HandleBinding>op.binding).is_datagram
        cdef px_call call
        cdef int started
        cdef uint32_t error
        flight.op = <void *>op
        flight.posted = 0
        call.fd = op.fd
        op.fill(&call)
        with nogil:
            started = cell(flight, &call, datagram)
        if started == PX_PENDING or started == PX_AT_ONCE:
            if op.state == CANCELLING:
                # By another thread, while this one was on its way to the kernel:
                # CancelIoEx has found nothing then.
                CancelIoEx(<HANDLE>PX_SOCKET(op.fd), &flight.overlapped)
            return 0
        error = px_answer_it(self.port, flight, 0 if started == PX_NO_PACKET else started)
        if error:
            raise ctypes.WinError(error)
        return 0

    cdef bint ended(self, Overlapped op, uint32_t count) except -1:
        """The kernel has done with `op`; False: there is more of it to do."""
        cdef HandleBinding binding = <HandleBinding>op.binding
        cdef px_overlapped *flight = flight_of(op)
        cdef RawPacket packet
        cdef const px_kind *row = &px_kinds[op.kind]
        cdef int error = px_outcome(flight, not binding.is_socket)
        cdef bint again
        if error == -ECANCELED and op.state == IN_FLIGHT:
            error = -ECONNABORTED  # not by us: the handle was closed
        packet.op = <void *>op
        packet.data = NULL
        packet.flags = 0
        packet.res = error
        if row.brings == PX_BYTES and not row.moves:
            packet.data = flight.buffer
            count = <uint32_t>min(<Py_ssize_t>count, op.want())
            if row.addressed and binding.is_datagram:
                (<px_message *>op.message()).header.msg_namelen = flight.name_size
        elif row.brings == PX_FD:
            if not error:
                packet.res = error = px_accepted(op.fd, flight)
            elif not flight.posted:
                closesocket(<size_t>flight.other)
        elif row.start != NULL:
            packet.res = error = error or (0 if flight.posted else px_connected(op.fd))
        else:
            again = op.took(count)
            if again and count and not error and op.state == IN_FLIGHT:
                return self.goes_on(op)
        if not error:
            packet.res = <int>count
        set_state(op, DONE)
        op.on_packet(&packet)
        self.free_buffer(flight)
        return True

    cdef bint goes_on(self, Overlapped op) except -1:
        """What it has done was not all: False, or True and `op` has ended with an error."""
        try:
            self.begin(op)
        except OSError:
            set_state(op, DONE)
            op.error = ENOMEM
            self.finish(op, True)
            return True
        return False

    cdef int stop(self, Overlapped op) except -1:
        if op.state != IN_FLIGHT or op.is_finished():
            return 0
        set_state(op, CANCELLING)
        # Where it finds nothing, the packet is queued already.
        return 1 if CancelIoEx(<HANDLE>PX_SOCKET(op.fd), &flight_of(op).overlapped) else 0

    cdef int finish(self, Overlapped op, bint driven) except -1:
        op.file = None
        store_release(&op.finished, 1)
        if not driven:
            self.ops.add(op)
            flight_of(op).op = <void *>op
            while px_answer_it(self.port, flight_of(op), 0) and not self.closed:
                time.sleep(0.01)  # there is no memory for the packet just now
        return 0

    # -------------------------------------------------------------------------------------------------- files

    cdef int submit_file(self, Overlapped op) except -1:
        cdef HandleBinding binding = <HandleBinding>op.binding
        if not px_kinds[op.kind].moves or not binding.overlapped or (op.position < 0 and binding.crt >= 0):
            return self.queue_body(op)
        if op.position < 0 and is_disk(op.fd):
            raise ValueError("a handle that was opened for overlapped use has no position of its own: "
                             "pass the offset")
        return self.submit(op)

    cdef int begin_body(self) except -1:
        return 0

    cdef int undo_body(self) except -1:
        return 0

    cdef Py_ssize_t blocking_call(self, Overlapped op) except? -1:
        cdef const px_kind *row = &px_kinds[op.kind]
        cdef intptr_t handle = (<HandleBinding>op.binding).handle
        cdef int crt = (<HandleBinding>op.binding).crt
        cdef char *place = op.buffer()
        cdef Py_ssize_t size = min(op.want(), FILE_STEP)
        cdef int n
        if row.whole and op.position < 0 and crt >= 0:
            # By the C library, which knows of files that are opened to be appended to.
            try:
                return os.write(crt, memoryview(op.view).cast("B")[op.offset : op.offset + size])
            except OSError as exc:
                return -exc.errno
        with nogil:
            if not row.moves:
                n = px_fsync_blocking(handle)
            elif not row.whole:
                n = px_read_blocking(handle, place, size, op.position)
            else:
                n = px_write_blocking(handle, place, size, op.position)
        return n
