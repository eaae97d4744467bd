"""The iocp driver: Windows' own completion port, driven by the thread that drives the loop.

How the kernel sees an op.  Its OVERLAPPED is part of the op (``Op.flight``), so the op must outlive the
operation: from the call until its packet the kernel holds one reference of its own (``in_kernel``).  Neither
the end of the interpreter nor the garbage collector can free it before;
a port that is closed cancels nothing, and leaves such ops alone.

One op, one packet.  A call that succeeds at once posts a packet too, unless the handle was told to skip it.
Only where that was granted (system handles, not those of layered providers) the op is finished on the spot.

A handle belongs to the port it was first bound to, for good.  One that belongs to another port (it was used
by another loop, or comes from another process that accepts on it as well) is served by readiness:
that needs no binding.

Readiness (add_reader, writable transports, datagrams) is a poll request on the socket driver, see
``sys/afd.h``, or a thread that waits in select(), see ``sys/pollthread.h``.  Both answer with a packet, once:
levels are made by asking again before the next wait,
so that what callbacks have changed meanwhile costs nothing.

What the kernel is asked for each kind of op, and how that ends, is in ``encode.pyx``.

See "I/O Completion Ports", GetQueuedCompletionStatusEx, SetFileCompletionNotificationModes,
CancelIoEx (Microsoft).
"""

from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t, uint32_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from proactorx.drivers.driver cimport Change, Closing, FD_CLOSING, FD_FOR_FILE_OPS, FOR_GOOD, check_resumed
from proactorx.drivers.iocp.encode cimport OverlappedCalls, flight_of, has_cells
from proactorx.drivers.readiness.driver cimport FdSlot, LARGEST_FD, ReadinessDriver, perform_call
from proactorx.ops.kinds cimport PX_AS_EVENTS, PX_FD, PX_ON_FILE, px_done_when_ready, px_kind, px_kinds
from proactorx.ops.op cimport (
    CANCELLING, DISCONNECT, IN_FLIGHT, NEW, Op, PACKET_LATE, PACKET_MORE, PACKET_READY, READ, RawPacket, SEND,
    WRITE, queue_count, set_state,
)
from proactorx.sys.afd cimport PX_AFD_SHARE, PX_POLL_CLOSED, px_afd_answer, px_afd_ask, px_afd_open, px_poll
from proactorx.sys.clock cimport px_now_ns
from proactorx.sys.errnos cimport ECANCELED, EOPNOTSUPP
from proactorx.sys.iocp cimport *
from proactorx.sys.pollthread cimport (
    px_thread, px_thread_ask, px_thread_cancel, px_thread_new, px_thread_stop,
)
from proactorx.sys.socket cimport POLLERR, POLLHUP, POLLIN, POLLOUT, PX_SOCKET, px_pollable

import ctypes
import time

cdef enum:
    BY_PACKET = 0          # Op.kernel.mode: the kernel does it
    BY_READINESS = 1       # it is polled, and the system call is made here

# How long close() waits for the answers of polls that it has cancelled.
CLOSE_DEADLINE = 2.0


cdef class IocpDriver(OverlappedCalls):
    cdef OVERLAPPED_ENTRY entries[PX_ENTRIES]
    cdef px_poll **polls         # of each handle, as many as `bound`
    cdef list asking             # handles whose polls are to be asked
    cdef list afds               # (HANDLE, number of sockets)
    cdef px_thread *thread
    cdef readonly int polls_in_kernel
    cdef bint use_afd
    cdef int wakers              # threads that are about to wake this one
    cdef int waking              # a wake-up's packet is on the way
    cdef public bint binds

    def __cinit__(self, *args, **kwargs):
        self.name = "iocp"
        self.native_files = 1 << READ | 1 << WRITE
        self.asking = []
        self.afds = []

    def __init__(self, *, bint afd=True, bint skip=True, int buffers=256, bint binds=True):
        self.use_afd = afd
        self.skip = skip
        self.most = buffers
        self.binds = binds

    cdef int open(self) except -1:
        cdef HANDLE port
        cdef int error
        if self.opened:
            return 0
        error = px_load_calls(&self.calls)
        if error:
            raise OSError(-error, ctypes.FormatError(-error))
        # One thread drives it; posts come from any.
        port = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1)
        if port == NULL:
            raise ctypes.WinError(GetLastError())
        ReadinessDriver.open(self)
        px_show_port(&self.port, port)
        return 0

    # --------------------------------------------------------------------------------------------- the tables

    cdef int room_for(self, int fd) except -1:
        cdef int size = self.handle_count or 256
        cdef void *memory
        if fd < self.handle_count:
            return 0
        while size <= fd:
            size *= 2
        memory = PyMem_Realloc(self.bound, size)
        if memory == NULL:
            raise MemoryError
        self.bound = <unsigned char *>memory
        memory = PyMem_Realloc(self.polls, size * sizeof(px_poll *))
        if memory == NULL:
            raise MemoryError
        self.polls = <px_poll **>memory
        memset(&self.bound[self.handle_count], 0, size - self.handle_count)
        memset(&self.polls[self.handle_count], 0, (size - self.handle_count) * sizeof(px_poll *))
        self.handle_count = size
        return 0

    cdef bint bind(self, int fd) except -1:
        """Whether operations on `fd` are answered by this port."""
        cdef int bits
        self.room_for(fd)
        # Asked each time: the number may belong to another handle by now, which is not bound.
        bits = px_bind(self.port, fd, self.skip) if self.binds else PX_UNBOUND
        if bits:
            self.bound[fd] = <unsigned char>bits
        return bits or self.bound[fd]

    # --------------------------------------------------------------------------------------------- submission

    cdef int submit(self, Op op) except -1:
        cdef const px_kind *row = &px_kinds[op.kind]
        if op.state != NEW:
            return self.go_on(op)
        op.kernel.mode = BY_READINESS
        if row.on == PX_ON_FILE and has_cells(op.kind):
            return self.start_packet(op)
        if op.fd < 0 or op.fd > LARGEST_FD or not has_cells(op.kind) or (
                row.direction == PX_AS_EVENTS and (op.direct or not px_is_file(op.fd))):
            # DISCONNECT has none: behind the sends, which are made here, shutdown() has nothing to wait for.
            # And under Wine 8 DisconnectEx says it is pending when it is done,
            # so where packets are skipped its own never comes.
            return ReadinessDriver.submit(self, op)
        self.slot_of(op.fd)
        if row.direction != PX_AS_EVENTS and not self.bind(op.fd):
            if not px_done_when_ready(row):
                raise OSError(EOPNOTSUPP, "TransmitFile on a socket that belongs to another completion port")
            return ReadinessDriver.submit(self, op)
        if row.whole and not self.bound[op.fd] & PX_FILE:
            # SEND, and not by WSASend: one that is cancelled half-way leaves the stream in an unknown state.
            # As transports do it, a send is made when there is room for it,
            # so that nbytes is right whatever happens.
            return ReadinessDriver.submit(self, op)
        return self.start_packet(op)

    cdef int start_packet(self, Op op) except -1:
        op.kernel.mode = BY_PACKET
        op.suspended = op.pending_ready = False
        self.track(op)
        return self.begin(op)

    # --------------------------------------------------------------------------------------------- cancelling

    cdef int cancel(self, Op op, bint now) except -1:
        if op.kernel.mode == BY_READINESS:
            ReadinessDriver.cancel(self, op, now)
        else:
            self.cancel_call(op)
        return self.reap(0) if now else 0

    cdef int cancel_call(self, Op op) except -1:
        if op.state != IN_FLIGHT:
            return 0
        set_state(op, CANCELLING)
        if not op.kernel.in_kernel:
            if not op.armed:
                self.push(op, -ECANCELED, PACKET_LATE)
        elif px_kinds[op.kind].direction == PX_AS_EVENTS:
            if not px_end_wait(flight_of(op)):
                op.kernel.in_kernel = False
                Py_DECREF(op)
                self.push(op, -ECANCELED, PACKET_LATE)
        else:
            # Where it finds nothing, the packet is on the way.
            CancelIoEx(<HANDLE>PX_SOCKET(op.fd), &flight_of(op).overlapped)
        return 0

    cdef int go_on(self, Op op) except -1:
        if op.kernel.mode == BY_READINESS:
            return self.resume(op)
        check_resumed(op)
        op.suspended = op.pending_ready = False
        self.waiting.append(op)
        return 0

    cdef int perform(self, Op op, RawPacket *packet) except -1:
        cdef int told
        if op.kernel.mode == BY_READINESS:
            return ReadinessDriver.perform(self, op, packet)
        if not packet.flags & PACKET_READY:
            return 1  # it is over
        if op.paused:
            op.pending_ready = op.suspended = True
            return 0
        told = perform_call(op, &px_kinds[op.kind], packet, self.scratch)
        if not told or packet.flags & PACKET_MORE:
            self.waiting.append(op)
        return told

    # ------------------------------------------------------------------------------------------------ waiting

    cdef int wait(self, int64_t timeout_ns, int callbacks) except -1:
        if self.waiting:
            self.begin_waiting()
        if self.asking:
            self.ask_polls()
        return self.reap(0 if queue_count(&self.queue) or self.waiting else timeout_ns)

    cdef int begin_waiting(self) except -1:
        cdef list waiting = self.waiting
        cdef Op op
        self.waiting = []
        for op in waiting:
            if op.state != IN_FLIGHT or op.armed:
                continue
            if op.paused:
                op.suspended = True  # `go_on` comes back here
            elif not op.suspended:
                self.begin(op)
        return 0

    cdef int reap(self, int64_t timeout_ns) except -1:
        cdef int count, i
        if timeout_ns == 0:
            count = px_get(self.port, self.entries, 0)
        else:
            with nogil:
                count = px_get(self.port, self.entries, timeout_ns)
                self.woke_at = px_now_ns()
        if count < 0:
            raise ctypes.WinError(-count)
        for i in range(count):
            self.packet(&self.entries[i])
        return 0

    cdef int packet(self, OVERLAPPED_ENTRY *entry) except -1:
        cdef px_overlapped *flight
        cdef Op op
        if entry.lpCompletionKey == <size_t>PX_KEY_OP:
            flight = <px_overlapped *>entry.lpOverlapped
            op = <Op>flight.op
            op.kernel.in_kernel = False
            Py_DECREF(op)  # the kernel's; `op` holds one
            self.ended(op, entry.dwNumberOfBytesTransferred)
            if px_kinds[op.kind].brings == PX_FD and not op.armed and op.state == IN_FLIGHT:
                self.waiting.append(op)
        elif entry.lpCompletionKey == <size_t>PX_KEY_POLL:
            self.answered(<px_poll *>entry.lpOverlapped, px_afd_answer(<px_poll *>entry.lpOverlapped))
        elif entry.lpCompletionKey == <size_t>PX_KEY_THREAD:
            self.answered(<px_poll *>entry.lpOverlapped, entry.dwNumberOfBytesTransferred)
        else:
            px_woken(&self.waking)
        return 0

    cdef int wake(self) noexcept nogil:
        return px_wake_port(&self.port, &self.wakers, &self.waking)

    # ---------------------------------------------------------------------------------------------- readiness

    cdef int set_interest(self, int fd, uint32_t before, uint32_t after) except -1:
        cdef int error
        self.room_for(fd)
        if after & ~before or before == after:
            error = px_pollable(fd)
            if error and before == after:
                return 0  # closed by its owner
            if error:
                raise OSError(-error, ctypes.FormatError(-error))
        if after:
            self.asking.append(fd)
        elif self.polls[fd] != NULL:
            self.cancel_poll(self.polls[fd])
        return 0

    cdef int ask_polls(self) except -1:
        cdef list asking = self.asking
        cdef px_poll *poll
        cdef uint32_t mask
        cdef int fd, error
        self.asking = []
        for fd in asking:
            mask = self.slots[fd].registered
            if not mask:
                continue
            poll = self.poll_of(fd)
            if poll.asked:
                if mask & ~poll.asked:
                    self.cancel_poll(poll)  # and ask again when its answer comes
                continue
            error = self.ask(poll, mask)
            if error:
                # Its ops make their calls, and are told what the matter is.
                self.slots[fd].registered = 0
                self.ready(fd, POLLIN | POLLOUT | POLLERR)
            else:
                self.polls_in_kernel += 1
        return 0

    cdef px_poll *poll_of(self, int fd) except NULL:
        cdef px_poll *poll = self.polls[fd]
        if poll == NULL:
            poll = <px_poll *>calloc(1, sizeof(px_poll))
            if poll == NULL:
                raise MemoryError
            poll.fd = fd
            poll.group = -1
            self.polls[fd] = poll
        return poll

    cdef int ask(self, px_poll *poll, uint32_t mask) except? -1:
        cdef HANDLE afd
        cdef int error
        if self.use_afd:
            if poll.group < 0:
                poll.group = self.group()
            if poll.group >= 0:
                afd = <HANDLE><uintptr_t>self.afds[poll.group][0]
                error = px_afd_ask(afd, poll, mask)
                if not error or px_pollable(poll.fd):
                    return error
                self.leave(poll)  # a provider without a base socket
        if self.thread == NULL:
            self.thread = px_thread_new(self.port)
            if self.thread == NULL:
                raise ctypes.WinError(GetLastError())
        return px_thread_ask(self.thread, poll, mask)

    cdef int group(self) except -2:
        """A handle of the socket driver's with room for one more socket; -1: there is none to be had."""
        cdef HANDLE afd
        cdef int i
        for i in range(len(self.afds)):
            if self.afds[i][1] < PX_AFD_SHARE:
                self.afds[i][1] += 1
                return i
        afd = px_afd_open(self.port)
        if afd == NULL:
            self.use_afd = False
            return -1
        self.afds.append([<uintptr_t>afd, 1])
        return <int>len(self.afds) - 1

    cdef int leave(self, px_poll *poll) except -1:
        if poll.group >= 0:
            self.afds[poll.group][1] -= 1
            poll.group = -1
        return 0

    cdef int cancel_poll(self, px_poll *poll) except -1:
        if not poll.asked or poll.cancelled:
            return 0
        poll.cancelled = True
        if poll.group >= 0:
            CancelIoEx(<HANDLE><uintptr_t>self.afds[poll.group][0], &poll.overlapped)
        else:
            px_thread_cancel(self.thread, poll)
        return 0

    cdef int answered(self, px_poll *poll, uint32_t mask) except -1:
        cdef int fd = poll.fd
        self.polls_in_kernel -= 1
        poll.asked = 0
        if fd < 0 or not self.slots[fd].registered:
            self.drop_poll(poll)
            return 0
        if mask == <uint32_t>PX_POLL_CLOSED:
            if not px_pollable(fd):
                mask = 0  # another socket has its number already
            else:
                self.slots[fd].registered = 0
                mask = POLLIN | POLLOUT | POLLERR | POLLHUP
        if mask:
            self.ready(fd, mask)
        self.asking.append(fd)
        return 0

    cdef int drop_poll(self, px_poll *poll) except -1:
        if poll.fd >= 0 and self.polls[poll.fd] == poll:
            self.polls[poll.fd] = NULL
        self.leave(poll)
        free(poll)
        return 0

    cdef bint note(self, int fd, Change change) except -1:
        cdef px_poll *poll
        if change == FD_FOR_FILE_OPS:
            return self.binds and px_adopt(self.port, fd, self.skip)
        ReadinessDriver.note(self, fd, change)
        if change == FD_CLOSING and fd < self.handle_count:
            self.bound[fd] = PX_UNBOUND
            poll = self.polls[fd]
            self.polls[fd] = NULL
            if poll != NULL and poll.asked:
                poll.fd = -1  # freed when its answer comes
            elif poll != NULL:
                poll.fd = -1
                self.drop_poll(poll)
        return True

    # ------------------------------------------------------------------------------------------------ closing

    cdef int close(self, Closing closing) except -1:
        cdef int fd
        if self.closed or closing != FOR_GOOD:
            return 0
        self.closed = True
        if not self.opened:
            return 0
        self.waiting.clear()
        for fd in range(self.handle_count):
            if self.polls[fd] != NULL:
                self.slots[fd].registered = 0
                if self.polls[fd].asked:
                    self.cancel_poll(self.polls[fd])
                else:
                    self.drop_poll(self.polls[fd])
        deadline = time.monotonic() + CLOSE_DEADLINE
        while self.polls_in_kernel and time.monotonic() < deadline:
            self.reap(100_000_000)
        self._drop()
        return 0

    cdef _drop(self):
        cdef HANDLE port = px_hide_port(&self.port, &self.wakers)
        if self.thread != NULL:
            px_thread_stop(self.thread)
            self.thread = NULL
        for afd, _ in self.afds:
            CloseHandle(<HANDLE><uintptr_t>afd)
        self.afds.clear()
        if port != NULL:
            CloseHandle(port)

    def __del__(self):
        # A loop that nobody has closed.  The memory of ops in flight and of polls may still be written, and
        # stays; but they are not to take anything any more.
        cdef Op op
        if self.closed or not self.opened:
            return
        for op in self.inflight:
            if op.kernel.in_kernel and px_kinds[op.kind].direction != PX_AS_EVENTS:
                CancelIoEx(<HANDLE>PX_SOCKET(op.fd), &flight_of(op).overlapped)
        self._drop()

    def __dealloc__(self):
        if self.port != NULL:
            CloseHandle(self.port)
        PyMem_Free(self.bound)
        PyMem_Free(self.polls)
