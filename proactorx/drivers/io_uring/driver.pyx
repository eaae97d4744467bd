"""The io_uring driver: one ring, submitted and reaped by the thread that drives the loop.

How the kernel sees an op: the address of the ``Op`` is the ``user_data`` of at most one entry in flight.  Completions
of the driver's own entries (cancel requests, the wake-up) carry small odd or zero values, which no address can be.

How a stream is received.  Small and medium messages: a multishot receive that takes buffers from a buffer ring; they
are copied out and given back at once.  Large ones: a message that fills buffers becomes many completions, which loses
against a plain recv(2), so a connection that fills a buffer is switched to a multishot poll and recv(2) into one hot
buffer, and back when it has calmed down.  Multishot ends by itself at any time (no buffers, CQ overflow, errors); it
is re-armed from its last packet, never assumed armed.

A multishot poll reports edges, not levels: after a READY packet the driver reads until a short read, and on to EAGAIN
where that says nothing: where the peer has shut down, has sent urgent data (recv(2) stops at the mark, tcp(7)), or is
a Unix socket (recv(2) stops behind passed descriptors, unix(7)).

See io_uring_enter(2), io_uring_multishot(7), io_uring_cancelation(7), io_uring_provided_buffers(7).
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_INCREF
from proactorx.port.errnos cimport (
    EAGAIN, EBUSY, ECANCELED, EEXIST, EINPROGRESS, EINTR, EINVAL, ENOBUFS, ENOMEM, EOPNOTSUPP, ETIME,
)
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset
from posix.unistd cimport close, read
from proactorx.drivers.driver cimport Driver
from proactorx.drivers.io_uring.entries cimport arm_file
from proactorx.drivers.io_uring.ring cimport *
from proactorx.drivers.readiness cimport perform_call
from proactorx.drivers.waker cimport px_wake, px_waker, px_waker_clear, px_waker_close, px_waker_forget, px_waker_set
from proactorx.port.op cimport (
    ACCEPT, ACCEPT_ONE, CANCELLING, CONNECT, DISCONNECT, DONE, IN_FLIGHT, NAME, NEW, OPEN, Op, PACKET_BUFFER,
    PACKET_MORE, PACKET_READY, POLL, Packet, READ, RECV, RECV_DGRAMS, RECV_FROM, RECV_INTO, RECV_STREAM, SEND, SEND_TO,
    WAIT_CHILD, WRITE, queue_count,
)

import logging
import os
import time

from proactorx.drivers.io_uring.trial import feature_names, setup_names

logger = logging.getLogger("proactorx")

cdef extern from "../sockio.h":
    enum: PX_HOT_SIZE
    struct sockaddr:
        pass
    ssize_t px_recv(int fd, char *buffer, size_t size) nogil
    ssize_t px_send(int fd, const char *buffer, size_t size) nogil
    struct msghdr:
        pass
    struct sockaddr_storage:
        pass
    ctypedef struct px_message:
        msghdr header
    msghdr *px_message_set(px_message *message, char *buffer, size_t size, size_t name_size) nogil
    ssize_t px_sendmsg(int fd, const msghdr *header) nogil
    int px_connect(int fd, const sockaddr *address, unsigned int size) nogil
    int px_disconnect(int fd) nogil
    int px_is_nonblocking(int fd) nogil
    int px_is_unix(int fd) nogil
    int px_pollable(int fd) nogil
    int px_has_position(int fd) nogil

cdef extern from "../epoll/epoll.h":
    int px_eventfd() nogil
    int64_t px_now_ns() nogil

cdef extern from "<poll.h>":
    enum: POLLIN, POLLOUT, POLLERR, POLLHUP, POLLRDHUP, POLLPRI

cdef enum:
    BY_RECEIVE = 0       # Op.mode: multishot receive with the buffer ring
    BY_POLL = 1          # multishot poll and recv(2)
    CALM_BYTES = 8192    # a read of at most this much is calm
    CALM_READS = 64      # so many calm reads in a row, and a stream is received by multishot again
    SHORT_READS_END = 1  # Op.family
    SHORT_READS_LIE = 2
    WAKE = 1             # user_data of the poll on the eventfd
    ENTER_TRIES = 100
    SMALLEST_RING = 64
    FILES_AT_ONCE = 8    # entries that are submitted as soon as there are so many, when the last is a file op's
    FILE_WORKERS = 32    # of the kernel's, for file ops that wait; and as many for other calls

# How long the thread that drives the ring waits for file ops when it stops to do so.
cdef double FILES_DEADLINE = 5.0

# PACKET_READY packets that the driver makes itself say "read to the end", as if the peer had shut down.
cdef uint32_t READ_ON = POLLIN | POLLRDHUP


cdef inline object line_of(Op op):
    """Which line (see _in_line) an op belongs to."""
    return 2 * op.fd + (op.kind == SEND or op.kind == CONNECT or op.kind == SEND_TO or op.kind == DISCONNECT)


cdef class UringDriver(Driver):
    cdef px_ring ring
    cdef px_buffers buffers
    cdef list retired            # buffer memory of a ring that was replaced, while packets still point to it
    cdef char *hot
    cdef px_waker waker          # an eventfd
    cdef bint wake_over          # the poll on it has ended
    cdef dict lines              # the ops of each descriptor and direction; the first one is in the kernel
    cdef bint multishot
    cdef bint shared             # by many threads: see ring.h
    cdef uint64_t owner          # the thread that made the ring, see px_this_thread
    cdef uint32_t entries, cq_entries, buffer_count, buffer_size
    cdef int file_ops            # READ, WRITE, FSYNC, OPEN, NAME in the kernel
    cdef readonly int rebuilds
    cdef readonly int starved    # how often a receive ended for want of buffers

    def __cinit__(self, *args, **kwargs):
        px_ring_clear(&self.ring)
        memset(&self.buffers, 0, sizeof(px_buffers))
        px_waker_clear(&self.waker)
        self.name = "io_uring"
        self.edge = True
        self.hears_changes = True
        self.native_files = 0xFFFFFFFF

    def __init__(self, *, uint32_t entries=256, uint32_t cq_entries=0, uint32_t buffers=64,
                 uint32_t buffer_size=16384, bint multishot=True, bint shared=False):
        self.entries = entries
        self.cq_entries = cq_entries or 4 * entries
        self.buffer_count = buffers
        self.buffer_size = buffer_size
        self.multishot = multishot
        self.shared = shared
        self.retired = []
        self.lines = {}

    cdef int open(self) except -1:
        cdef int wake_fd
        if self.hot == NULL:
            self.hot = <char *>PyMem_Malloc(PX_HOT_SIZE)
            if self.hot == NULL:
                raise MemoryError
        self._open_ring()
        wake_fd = px_eventfd()
        if wake_fd < 0:
            px_ring_free(&self.ring, 1)
            px_buffers_free(&self.buffers, 1)
            raise OSError(-wake_fd, os.strerror(-wake_fd))
        px_waker_set(&self.waker, wake_fd)
        self.opened = True
        self._arm_wake()
        return 0

    cdef _open_ring(self):
        """A ring as large as the memory limits allow, and its buffers.  The thread that makes it owns it."""
        cdef int error
        cdef uint32_t[2] workers
        while True:
            error = px_ring_open(&self.ring, self.entries, self.cq_entries, self.shared)
            if error != -ENOMEM or self.entries <= SMALLEST_RING:
                break
            self.entries //= 2
            self.cq_entries = 4 * self.entries
        if error == 0 and self.multishot and self.buffer_count:
            error = px_buffers_open(&self.buffers, &self.ring, self.buffer_count, self.buffer_size)
            if error < 0:
                px_ring_free(&self.ring, 1)
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        # Each file op that must wait keeps one of the kernel's threads busy: without a limit there are hundreds.
        # (EINVAL before Linux 5.15: as many as the kernel likes.)
        workers[0] = workers[1] = FILE_WORKERS
        px_register(self.ring.fd, PX_REGISTER_IOWQ_MAX_WORKERS, workers, 2)
        self.owner = px_this_thread()

    # ------------------------------------------------------------------------------------------------- threads

    cdef int start(self) except -1:
        if not self.opened or self.closed or self.forked or self.shared:
            return 0
        if self.owner != px_this_thread() and self.ring.setup_flags & PX_SETUP_SINGLE_ISSUER:
            self._rebuild()  # SINGLE_ISSUER answers EEXIST to every thread but its owner
        self.owner = px_this_thread()
        px_ring_register(&self.ring)
        return 0

    cdef int stop(self) except -1:
        # A registration would keep the ring alive until the thread ends.  (The ring is another thread's still where
        # `start` has failed.)
        if self.opened and not self.closed and not self.forked and self.owner == px_this_thread():
            if self.file_ops:
                self._await_files()
            px_ring_unregister(&self.ring)
        return 0

    cdef _await_files(self):
        """Have file ops end in the thread that submitted them.

        The kernel's threads are at them, so what _rebuild says of others does not hold: they happen whoever drives the
        ring next, and only this thread can ask how they ended.
        """
        cdef double deadline = time.monotonic() + FILES_DEADLINE, left = FILES_DEADLINE
        while self.file_ops and left > 0:
            self._enter(1, <int64_t>(left * 1e9))
            left = deadline - time.monotonic()
        if self.file_ops:
            logger.warning("io_uring: %d file operations did not end within %.0f s", self.file_ops, FILES_DEADLINE)

    cdef _rebuild(self):
        """Move to a new ring, because another thread drives the loop now.  Nothing is lost.

        With DEFER_TASKRUN a request is only ever executed inside an enter of the owner.  So what is not in the
        completion ring by now has not happened, and never will: it is cancelled when the old ring goes, and is
        submitted to the new one.

        But the old ring goes in its own time, and an accept waits as an exclusive waiter: until it is gone it may take
        the one wake-up of a new connection and do nothing with it.  A poll is no exclusive waiter and always hears of
        it, so accepts that have moved go on by poll and accept4(2).
        """
        cdef Op op
        cdef Packet *packet
        cdef uint32_t i
        cdef set ended = set()
        cdef px_ring old = self.ring
        cdef px_buffers old_buffers = self.buffers
        self._reap()
        # First: where it fails, for want of descriptors, the old one is still there.
        px_ring_clear(&self.ring)
        memset(&self.buffers, 0, sizeof(px_buffers))
        try:
            self._open_ring()
        except BaseException:
            self.ring = old
            self.buffers = old_buffers
            raise
        px_ring_free(&old, 1)
        self.rebuilds += 1
        i = self.queue.head
        while i != self.queue.tail:
            packet = &self.queue.items[i & self.queue.mask]
            i += 1
            if packet.flags & PACKET_BUFFER:
                packet.flags &= ~<uint32_t>PACKET_BUFFER
            if not packet.flags & PACKET_MORE:
                ended.add(<uintptr_t>packet.op)
        if old_buffers.memory != NULL:
            self.retired.append((<uintptr_t>old_buffers.memory, old_buffers.memory_size))
        self._arm_wake()
        for op in self.inflight:
            if op.kind == ACCEPT or op.kind == ACCEPT_ONE:
                op.mode = BY_POLL
            if not op.armed or <uintptr_t><void *>op in ended:
                continue
            op.armed = op.in_kernel = False
            if op.kind >= READ:
                # See _await_files: it may still happen.  Its memory is leaked rather than given to the kernel twice.
                self.file_ops -= 1
                op.state = CANCELLING
                Py_INCREF(op)
                self.push(op, -ECANCELED, 0)
            elif op.state == IN_FLIGHT:
                if not op.quiet:
                    self.arm(op)
            else:
                self.push(op, -ECANCELED, 0)

    cdef _free_retired(self):
        cdef px_buffers old
        memset(&old, 0, sizeof(px_buffers))
        for address, size in self.retired:
            old.memory = <char *><uintptr_t>address
            old.memory_size = size
            px_buffers_free(&old, 1)
        self.retired.clear()

    # ---------------------------------------------------------------------------------------------- submission

    cdef px_sqe *sqe(self) except NULL:
        """A free entry.  When there is none, what is prepared is submitted first."""
        cdef px_sqe *entry = px_ring_sqe(&self.ring)
        cdef int tries = 0
        while entry == NULL:
            self._enter(0, 0)
            entry = px_ring_sqe(&self.ring)
            tries += 1
            if entry == NULL and tries == ENTER_TRIES:
                raise OSError(EBUSY, "the kernel takes no more submissions")
        return entry

    cdef int _enter(self, int wait, int64_t timeout_ns) except -1:
        cdef int error
        if wait:
            with nogil:
                error = px_ring_enter(&self.ring, wait, timeout_ns)
        else:
            error = px_ring_enter(&self.ring, 0, 0)
        self._reap()
        # EBUSY, EAGAIN: completions wait outside the full ring (CQ overflow), or memory is short; they have been
        # taken out now, and what was not submitted is tried again by the next enter.
        if error and error != -ETIME and error != -EINTR and error != -EBUSY and error != -EAGAIN:
            if error == -EEXIST:
                raise RuntimeError("the ring is driven by another thread")
            raise OSError(-error, f"io_uring_enter: {os.strerror(-error)}")
        return 0

    cdef _arm_wake(self):
        cdef px_sqe *entry = self.sqe()
        entry.opcode = PX_OP_POLL_ADD
        entry.fd = self.waker.fd
        entry.op_flags = POLLIN
        entry.len = PX_POLL_ADD_MULTI if self.multishot else 0
        entry.user_data = WAKE

    cdef int arm(self, Op op) except -1:
        """Prepare the entry of `op`."""
        cdef px_sqe *entry = self.sqe()
        cdef int kind = op.kind
        entry.fd = op.fd
        entry.user_data = <uint64_t><uintptr_t><void *>op
        if kind == RECV_STREAM:
            op.mode = BY_POLL if self.buffers.memory == NULL else <unsigned char>op.events
            if op.mode == BY_RECEIVE:
                entry.opcode = PX_OP_RECV
                entry.ioprio = PX_RECV_MULTISHOT
                entry.flags = PX_SQE_BUFFER_SELECT
            else:
                entry.opcode = PX_OP_POLL_ADD
                entry.op_flags = POLLIN | POLLRDHUP | POLLPRI
                entry.len = PX_POLL_ADD_MULTI if self.multishot else 0
                if not op.family:
                    op.family = SHORT_READS_LIE if px_is_unix(op.fd) else SHORT_READS_END
        elif kind == POLL:
            entry.opcode = PX_OP_POLL_ADD
            entry.op_flags = op.events
        elif kind == RECV:
            # With a buffer of its own choice the kernel takes a length of 0 for no limit.
            if self.buffers.memory != NULL and 0 < op.want() <= <ssize_t>self.buffers.size:
                op.mode = BY_RECEIVE
                entry.opcode = PX_OP_RECV
                entry.flags = PX_SQE_BUFFER_SELECT
                entry.len = <uint32_t>op.want()
            else:
                op.mode = BY_POLL
                entry.opcode = PX_OP_POLL_ADD
                entry.op_flags = POLLIN
        elif kind == RECV_INTO:
            entry.opcode = PX_OP_RECV
            entry.addr = <uint64_t><uintptr_t>op.buffer()
            entry.len = <uint32_t>min(op.want(), 0x7ffff000)
        elif kind == SEND:
            # Without MSG_WAITALL: a partial count is always reported, also to a ring that is replaced.
            entry.opcode = PX_OP_SEND
            entry.addr = <uint64_t><uintptr_t>op.buffer()
            entry.len = <uint32_t>min(op.want(), 0x7ffff000)
            entry.op_flags = MSG_NOSIGNAL
        elif kind == RECV_DGRAMS or kind == RECV_FROM or kind == SEND_TO:
            self._arm_datagrams(op, entry)
        elif kind == WAIT_CHILD:
            # WNOWAIT: as long as nobody has reaped the child its pid is its own, and a signal can reach no other.
            entry.opcode = PX_OP_WAITID
            entry.len = P_PID
            entry.file_index = WEXITED | WNOWAIT
        elif kind >= READ:
            self.file_ops += 1
            arm_file(op, entry)
        elif (kind == ACCEPT or kind == ACCEPT_ONE) and op.mode == BY_POLL:
            entry.opcode = PX_OP_POLL_ADD
            entry.op_flags = POLLIN
            entry.len = PX_POLL_ADD_MULTI if self.multishot and kind == ACCEPT else 0
        elif kind == ACCEPT or kind == ACCEPT_ONE:
            entry.opcode = PX_OP_ACCEPT
            entry.op_flags = SOCK_CLOEXEC | SOCK_NONBLOCK
            if kind == ACCEPT and self.multishot:
                entry.ioprio = PX_ACCEPT_MULTISHOT
        elif op.mode == BY_POLL:  # CONNECT, begun
            entry.opcode = PX_OP_POLL_ADD
            entry.op_flags = POLLOUT
        else:
            entry.opcode = PX_OP_CONNECT
            entry.addr = <uint64_t><uintptr_t>op.buffer()
            entry.off = <uint64_t>op.want()
        op.armed = op.in_kernel = True
        op.cancel_sent = False
        return 0

    cdef void _arm_datagrams(self, Op op, px_sqe *entry) noexcept:
        if op.kind == RECV_FROM and op.buffer() != NULL:
            entry.opcode = PX_OP_RECVMSG
            entry.addr = <uint64_t><uintptr_t>px_message_set(
                <px_message *>op.message(), op.buffer(), op.want(), sizeof(sockaddr_storage))
            entry.len = 1
            return
        # SEND_TO not by SENDMSG: a Unix socket has taken the bytes by when it finds its receiver full, and the
        # kernel's next try sends an empty datagram (seen on 6.18).  RECV_FROM not into a buffer of the ring: a
        # socket's own ENOBUFS, netlink(7), must be told from the ring's.  RECV_DGRAMS: the ring's buffers are too small
        # for the largest datagram, and a multishot RECVMSG into others came within 10% of recvmmsg(2), measured in C.
        op.mode = BY_POLL
        entry.opcode = PX_OP_POLL_ADD
        entry.op_flags = POLLOUT if op.kind == SEND_TO else POLLIN
        entry.len = PX_POLL_ADD_MULTI if self.multishot and op.kind == RECV_DGRAMS else 0

    cdef int submit(self, Op op) except -1:
        if op.state != NEW:
            raise RuntimeError("an operation is submitted once")
        if op.fd < 0 and op.kind != OPEN and op.kind != NAME:
            raise ValueError(f"Invalid file descriptor: {op.fd}")
        if (op.kind == READ or op.kind == WRITE) and op.position < 0 and px_has_position(op.fd):
            # At "the file's own" position the kernel repeats a short write where it began (seen on 6.18).
            raise ValueError("a file that has positions is read and written at one")
        op.quiet = op.pending_ready = False
        if op.kind == RECV_STREAM:
            op.events = BY_POLL if op.direct else BY_RECEIVE
        elif op.kind == POLL:
            if op.direct:
                self._check_pollable(op.fd)
        elif op.kind != ACCEPT and op.kind != RECV_DGRAMS and op.kind < WAIT_CHILD and self._in_line(op):
            return self.track(op)
        elif self._at_once(op):
            return self.track(op)
        self.arm(op)
        self.track(op)
        if op.kind >= READ and px_ring_unsent(&self.ring) >= FILES_AT_ONCE:
            self._enter(0, 0)  # not at the end of the turn: the disk would have nothing to do meanwhile
        return 0

    cdef _check_pollable(self, int fd):
        """A Watch is refused at once where no poll can help, as by a selector."""
        cdef int error = -px_pollable(fd)
        if error:
            raise OSError(error, os.strerror(error))

    cdef bint _in_line(self, Op op) except -1:
        """One op on a descriptor and direction at a time: the kernel serves several in any order, and mixes sends."""
        cdef object key = line_of(op)
        cdef list line = self.lines.get(key)
        if line is None:
            self.lines[key] = [op]
            return False
        line.append(op)
        return True

    cdef int untrack(self, Op op) except -1:
        cdef object key
        cdef list line
        cdef Op next
        Driver.untrack(self, op)
        if (op.kind == POLL or op.kind == RECV_STREAM or op.kind == ACCEPT or op.kind == RECV_DGRAMS
                or op.kind >= WAIT_CHILD):
            return 0
        key = line_of(op)
        line = self.lines[key]
        if line[0] is not op:
            line.remove(op)  # cancelled while it waited
            return 0
        del line[0]
        if not line:
            del self.lines[key]
            return 0
        next = <Op>line[0]
        # One that was cancelled has its last packet on the way, and comes back here with it.
        if next.state == IN_FLIGHT and not self._at_once(next):
            self.arm(next)
        return 0

    cdef bint _at_once(self, Op op) except -1:
        """Try what usually need not wait: the peer sees it now, and not when the turn ends."""
        cdef ssize_t n
        if op.kind == RECV or op.kind == RECV_INTO:
            if op.want():
                return False
            n = px_recv(op.fd, self.hot, 0)
            if n == -EAGAIN:
                return False
        elif op.kind == SEND_TO:
            n = px_sendmsg(op.fd, &(<px_message *>op.message()).header)
            if n == -EAGAIN:
                return False
        elif op.kind == DISCONNECT:
            n = px_disconnect(op.fd)  # IORING_OP_SHUTDOWN takes a thread of the kernel's for a call that does not wait
        elif op.kind != SEND and op.kind != CONNECT:
            return False
        elif op.kind == SEND:
            n = px_send(op.fd, op.buffer(), op.want())
            if n == -EAGAIN or (n >= 0 and op.took(n)):
                return False
        else:
            op.mode = BY_RECEIVE
            if not px_is_nonblocking(op.fd):
                return False
            n = px_connect(op.fd, <const sockaddr *>op.buffer(), <unsigned int>op.want())
            if n == -EINPROGRESS:
                op.mode = BY_POLL
                return False
            if n == -EAGAIN:
                return False  # a Unix socket whose listener's backlog is full: the kernel can wait for that
        op.armed = True
        op.in_kernel = False  # its last packet is on its way already
        self.push(op, <int>n, 0)
        return True

    cdef int _send_cancel(self, Op op) except -1:
        cdef px_sqe *entry
        if op.cancel_sent:
            return 0
        entry = self.sqe()
        entry.opcode = PX_OP_ASYNC_CANCEL
        entry.addr = <uint64_t><uintptr_t><void *>op
        if self.ring.features & PX_FEAT_CQE_SKIP:
            entry.flags = PX_SQE_CQE_SKIP_SUCCESS
        op.cancel_sent = True
        return 0

    cdef int cancel(self, Op op) except -1:
        if op.state != IN_FLIGHT:
            return 0
        op.state = CANCELLING
        if op.in_kernel:
            self._send_cancel(op)
        elif not op.armed:
            self.push(op, -ECANCELED, 0)
        return 0

    cdef int settle(self) except -1:
        if self.opened and not self.closed and not self.forked and (not self.shared or px_ring_unsent(&self.ring)):
            self._enter(0, 0)
        return 0

    # ------------------------------------------------------------------------------------------------- reaping

    cdef bint due(self, uint32_t callbacks) noexcept:
        return self.opened and (px_ring_unsent(&self.ring) or px_ring_ready(&self.ring) or px_ring_pending(&self.ring))

    cdef int wait(self, int64_t timeout_ns) except -1:
        if self.retired and not queue_count(&self.queue):
            self._free_retired()
        if timeout_ns != 0 and not px_ring_ready(&self.ring):
            if self.spin_ns and self.may_spin():
                self.spun(self._spin())
                if queue_count(&self.queue):
                    return 0
                if px_ring_ready(&self.ring) or px_ring_pending(&self.ring):
                    return self._enter(0, 0)
            return self._enter(1, timeout_ns)
        if px_ring_unsent(&self.ring) or px_ring_pending(&self.ring):
            return self._enter(0, 0)
        return self._reap()

    cdef int sleep(self, int64_t timeout_ns) except -1 nogil:
        return -px_ring_sleep(&self.ring, timeout_ns)

    cdef bint _spin(self):
        """Look at the rings, without system calls, until something comes or the time is over."""
        cdef int64_t until = px_now_ns() + self.spin_ns
        cdef bint hit = False
        if px_ring_unsent(&self.ring):
            self._enter(0, 0)
        with nogil:
            while True:
                if px_ring_ready(&self.ring) or px_ring_pending(&self.ring):
                    hit = True
                    break
                if px_now_ns() >= until:
                    break
        return hit

    cdef int _reap(self) except -1:
        cdef uint32_t head = self.ring.k_cq_head[0], tail = px_load(self.ring.k_cq_tail)
        cdef px_cqe *cqe
        if head == tail:
            return 0
        try:
            while head != tail:
                cqe = &self.ring.cqes[head & self.ring.cq_mask]
                head += 1
                if cqe.user_data > WAKE:
                    self._packet(<Op><void *><uintptr_t>cqe.user_data, cqe.res, cqe.flags)
                elif cqe.user_data == WAKE:
                    self._woken(cqe.flags)
        finally:
            px_store(self.ring.k_cq_head, head)
        if self.wake_over:
            self.wake_over = False
            self._arm_wake()  # not before: where the queue is full it enters, and reaps again
        return 0

    cdef _woken(self, uint32_t flags):
        cdef uint64_t count
        read(self.waker.fd, &count, sizeof(count))
        self.wake_over = not flags & PX_CQE_MORE

    cdef int _packet(self, Op op, int res, uint32_t cqe_flags) except -1:
        cdef uint32_t flags = PACKET_MORE if cqe_flags & PX_CQE_MORE else 0
        cdef uint32_t bid = 0
        cdef char *data = NULL
        op.in_kernel = flags != 0
        if op.kind >= READ:
            self.file_ops -= 1
        if cqe_flags & PX_CQE_BUFFER:
            bid = cqe_flags >> PX_CQE_BUFFER_SHIFT
            data = self.buffers.buffers + <size_t>bid * self.buffers.size
            flags |= PACKET_BUFFER
        if op.mode == BY_POLL:
            if res >= 0:
                flags |= PACKET_READY
        elif res > 0 and (op.kind == SEND or op.kind == RECV_INTO or op.kind == READ or op.kind == WRITE):
            op.again = op.took(res)
        return self.push(op, res, flags, data, bid)

    cdef void give_back(self, Packet *packet) noexcept:
        if self.buffers.memory != NULL:
            px_buffers_give(&self.buffers, packet.buffer)

    # -------------------------------------------------------------------------------------- finishing a packet

    cdef int perform(self, Op op, Packet *packet) except -1:
        cdef uint32_t mask = <uint32_t>packet.res
        cdef ssize_t n
        if op.kind == RECV_DGRAMS:
            packet.flags = PACKET_READY | PACKET_MORE
            if not op.armed:
                self.arm(op)
            return 1
        if op.kind != RECV_STREAM:
            return self._perform_one(op, packet)
        if op.mode == BY_RECEIVE and op.armed:
            # Left over from a poll.  The kernel receives for this stream again, and what it has may be queued behind
            # this packet: a recv(2) now would bring later bytes first.
            return 0
        if op.direct:
            packet.flags = PACKET_READY | PACKET_MORE
            if op.family == SHORT_READS_LIE:
                packet.res |= POLLRDHUP  # read on
            if not op.armed:
                self.arm(op)
            return 1
        n = px_recv(op.fd, self.hot, PX_HOT_SIZE)
        if n <= 0 and n != -EAGAIN:
            packet.res = <int>n
            if op.armed:
                # The end, of which the poll knows nothing: take it out of the kernel before the last packet.
                op.state = CANCELLING
                self._send_cancel(op)
                packet.flags = PACKET_MORE
            else:
                packet.flags = 0
            return 1
        if not op.armed:
            self.arm(op)
        if n == -EAGAIN:
            return 0
        if n == PX_HOT_SIZE or op.family == SHORT_READS_LIE or mask & (POLLRDHUP | POLLHUP | POLLERR | POLLPRI):
            self.push(op, mask, PACKET_READY | PACKET_MORE)
        self._calm(op, n)
        packet.res = <int>n
        packet.data = self.hot
        packet.flags = PACKET_MORE
        return 1

    cdef int _perform_one(self, Op op, Packet *packet) except -1:
        cdef bint told = perform_call(op, packet, self.hot)
        if not told or packet.flags & PACKET_MORE:
            if not op.armed:
                self.arm(op)
            if told:
                self.push(op, READ_ON, PACKET_READY | PACKET_MORE)  # ACCEPT: until EAGAIN
        elif op.armed:
            # ACCEPT failed, of which the poll knows nothing.
            op.state = CANCELLING
            self._send_cancel(op)
            packet.flags = PACKET_MORE
        return told

    cdef int _calm(self, Op op, ssize_t n) except -1:
        if n > CALM_BYTES or self.buffers.memory == NULL:
            op.calm = 0
            return 0
        op.calm += 1
        if op.calm == CALM_READS and op.mode == BY_POLL:
            op.events = BY_RECEIVE
            if op.armed:
                self._send_cancel(op)
        return 0

    cdef int continues(self, Op op, Packet *packet) except -1:
        cdef int kind = op.kind, res = packet.res
        if res == -ECANCELED and (kind != CONNECT or op.mode == BY_POLL):
            # Not cancelled by its owner: a change of mode, a pause, or the end of the thread that submitted it.
            return self._again(op, 2)
        if res == -EINTR and kind >= READ:
            return self._again(op, 2)
        if res == -ENOBUFS and (kind == RECV_STREAM or kind == RECV):
            # The data is still in the socket, and by now the buffers of the packets before this one are back.
            self.starved += 1
            return self._again(op, 2)
        if kind == RECV_STREAM:
            if res > 0:
                self.more_data(op, res)
                return self._again(op, 1)
            if (res == -EINVAL or res == -EOPNOTSUPP) and op.mode == BY_RECEIVE:
                logger.warning("io_uring: multishot receive: %s; polling instead", os.strerror(-res))
                op.events = BY_POLL
                return self._again(op, 2)
            return 0
        if kind == POLL and op.direct:
            return self._again(op, 1) if res >= 0 else 0
        if kind == ACCEPT:
            return self._again(op, 1) if res >= 0 else 0
        if op.again and (kind == SEND or kind == READ or kind == WRITE):
            op.again = False
            return self._again(op, 2)
        return 0

    cdef int _again(self, Op op, int answer) except -1:
        if not op.quiet:
            self.arm(op)
        return answer

    cdef int more_data(self, Op op, int res) except -1:
        # A quiet op has its cancel on the way already, and is not sent another.
        return self.prefer_direct(op) if res == <int>self.buffers.size else 0

    cdef int prefer_direct(self, Op op) except -1:
        if op.events == BY_RECEIVE:
            op.events = BY_POLL
            op.calm = 0
            if op.armed:
                self._send_cancel(op)
        return 0

    cdef int quiesce(self, Op op) except -1:
        op.quiet = True
        if op.armed and op.mode == BY_RECEIVE:
            self._send_cancel(op)
        return 0

    cdef int resume(self, Op op) except -1:
        op.quiet = False
        if op.state != IN_FLIGHT:
            op.pending_ready = False
            return 0
        if op.pending_ready:
            op.pending_ready = False
            self.push(op, READ_ON, PACKET_READY | PACKET_MORE)
        if not op.armed:
            self.arm(op)
        return 0

    # ------------------------------------------------------------------------------------------ wake and close

    cdef int wake(self) noexcept nogil:
        return px_wake(&self.waker)

    def close(self):
        self.closed = True
        if self.inflight:
            # The kernel may still write to this memory: leak it (io_uring exit is asynchronous).
            self.buffers.memory = NULL
        if self.opened:
            px_ring_unregister(&self.ring)
            px_ring_free(&self.ring, 1)
            px_buffers_free(&self.buffers, 1)
            self._free_retired()
        self._close_wake(px_waker_close(&self.waker))

    def after_fork_in_child(self):
        # The mappings were not inherited (MADV_DONTFORK); the descriptors are shared with the parent, and closing
        # ours submits nothing.
        self.forked = True
        px_ring_free(&self.ring, 0)
        memset(&self.buffers, 0, sizeof(px_buffers))
        self._close_wake(px_waker_forget(&self.waker))

    cdef _close_wake(self, int fd):
        if fd >= 0:
            close(fd)

    def __dealloc__(self):
        if not self.forked:
            px_ring_free(&self.ring, 1)
            px_buffers_free(&self.buffers, 1)
        if self.waker.fd >= 0:
            close(self.waker.fd)
        PyMem_Free(self.hot)

    def describe(self):
        """Sizes and flags of this ring, as data; empty until there is one."""
        if not self.opened or self.closed:
            return {}
        return {
            "entries": self.ring.sq_entries,
            "completions": self.ring.cq_entries,
            "buffers": self.buffers.count if self.buffers.memory != NULL else 0,
            "buffer_size": self.buffers.size if self.buffers.memory != NULL else 0,
            "setup_flags": setup_names(self.ring.setup_flags),
            "features": feature_names(self.ring.features),
        }
