"""The io_uring driver: a ring for what the loop owns, and an epoll set for what it does not.

What the ring does.  A request in a ring keeps its file open, and may take something of it at any time.  So
the ring gets only what is the loop's own: operations on files, waiting for children, and the polls of the
connections that the loop has accepted or made.  All the rest (listeners, ``sock_*``, ``add_reader``,
datagrams, sockets that the user has given, waiting for room to send) waits in an epoll set, as on the epoll
driver: it keeps no file open, takes nothing, and is not first in anybody's line.

How the two wait together.  With nothing in flight in the ring the driver sleeps in the epoll set.  Else it
sleeps in the ring, which polls the set: a one-shot poll, armed again before each sleep, because a poll that
is armed looks first.  A ring that threads share lies in the set instead, on which any thread may sleep.

How the kernel sees an op: the address of the ``Op`` is the ``user_data`` of at most one entry in flight.
Completions of the driver's own entries (cancels, the poll of the set) carry small values, no addresses.

How a stream is received: a multishot poll, and recv(2) into one hot buffer.  The bytes stay in the socket
until then, so a paused connection takes none.  A multishot poll reports edges, not levels: after a READY
packet the driver reads until a short read, and on to EAGAIN where that says nothing: where the peer has shut
down, has sent urgent data (recv(2) stops at the mark, tcp(7)), or has passed descriptors (recv(2) stops
behind them, unix(7)).  It reads once in a turn, so that each connection has its share and the end of a stream
is told in a later turn than its last bytes. Multishot ends by itself at any time (CQ overflow, errors);
it is re-armed from its last packet, never assumed armed.  Which poll is next, or none, and what a mask says
of urgent data: ``encode.pxd``.

See io_uring_enter(2), io_uring_multishot(7), io_uring_cancelation(7), epoll(7).
"""

from cpython.ref cimport Py_INCREF
from proactorx.sys.errnos cimport EAGAIN, EBUSY, ECANCELED, EEXIST, EINTR, ENOMEM, ETIME
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from proactorx.drivers.readiness.epollset cimport EpollSet
from proactorx.drivers.driver cimport (
    ASK_ANYWAY, CREDENTIALS, Change, Closing, FOR_THIS_THREAD, IN_FORKED_CHILD, MOST_CHECKED, check_resumed,
)
from proactorx.drivers.io_uring.encode cimport (
    encode, encode_cancel, encode_poll, has_cell, moves_file, next_is_eager, on_file, polls_begin,
)
from proactorx.sys.ring cimport *
from proactorx.ops.checks cimport PX_CHECKS, px_check
from proactorx.ops.kinds cimport PX_ON_PATH, PX_PACKETS, px_kinds
from proactorx.ops.op cimport (
    CANCELLING, IN_FLIGHT, NEW, Op, PACKET_MORE, PACKET_READY, RawPacket, may_stop_short, queue_count,
    queue_postpone, set_state,
)
from proactorx.sys.atomic cimport load_acquire_u32, store_release_u32
from proactorx.sys.clock cimport px_now_ns
from proactorx.sys.event cimport px_waker_forget
from proactorx.sys.socket cimport (
    POLLERR, POLLHUP, POLLIN, POLLPRI, POLLRDBAND, POLLRDHUP, PX_SCRATCH_SIZE, px_has_position, px_recv,
    px_recv_cut,
)
from proactorx.sys.ticks cimport px_quick_now

import logging
import os
import time

from proactorx.drivers.io_uring.features import feature_names, setup_names

logger = logging.getLogger("proactorx")

cdef enum:
    SET = 1              # user_data of the poll on the epoll set
    ENTER_TRIES = 100
    SMALLEST_RING = 64
    COMPLETED_AT_ONCE = 20 # by io_uring_enter, however many wait, since Linux 6.13 (IO_LOCAL_TW_DEFAULT_MAX)
    FILES_AT_ONCE = 8    # entries, the last one a file op's, that are submitted without waiting for more
    FILE_WORKERS = 32    # of the kernel's, for file ops that wait; and as many for other calls

# How long the thread that drives the ring waits for file ops when it stops to do so.
cdef double FILES_DEADLINE = 5.0
# PACKET_READY packets that the driver makes itself say "read to the end", as if the peer had shut down.
cdef uint32_t READ_ON = POLLIN | POLLRDHUP
# After these a short read is not the last.
cdef uint32_t MORE_BEHIND = POLLRDHUP | POLLHUP | POLLERR | POLLPRI


cdef class UringDriver(EpollSet):
    cdef px_ring ring
    cdef bint multishot
    cdef bint streams            # the ring polls the connections that the loop owns; else the epoll set does
    cdef bint shared             # by many threads: see sys/ring.h
    cdef bint restricted         # to what the driver uses: see px_ring_restrict
    cdef uint64_t owner          # the thread that made the ring, see px_this_thread
    cdef readonly uint32_t entries, cq_entries
    cdef readonly int in_flight  # ops that have an entry in the ring
    cdef int file_ops            # those on files and paths among them
    cdef bint set_polled         # the ring polls the epoll set
    cdef bint plain_wakes        # a mask with POLLRDBAND says what woke the poll, see the top
    cdef bint set_ready          # that poll has ended: look into the set
    # How often: a new ring, no entry left in it, completions that had to wait outside of it.
    cdef readonly int rebuilds, starved, overflows

    def __cinit__(self, *args, **kwargs):
        px_ring_clear(&self.ring)
        self.name = "io_uring"
        self.native_files = 0xFFFFFFFF

    def __init__(self, *, uint32_t entries=256, uint32_t cq_entries=0, bint multishot=True, bint streams=True,
                 bint shared=False, bint restricted=False):
        self.entries = entries
        self.cq_entries = cq_entries or 4 * entries
        self.multishot, self.streams = multishot, streams
        self.shared, self.restricted = shared, restricted

    cdef int open(self) except -1:
        if self.opened:
            return self._take_over()
        self._open_ring()
        try:
            EpollSet.open(self)
            if self.shared:
                self.set_interest(self.ring.fd, 0, POLLIN)
        except BaseException:
            px_ring_free(&self.ring, 1)
            self._drop(px_waker_forget(&self.waker))
            self.opened = False
            raise
        return 0

    cdef _open_ring(self):
        """A ring as large as the memory limits allow.  The thread that makes it owns it."""
        cdef int error
        cdef uint32_t[2] workers
        while True:
            error = px_ring_open(&self.ring, self.entries, self.cq_entries, self.shared, self.restricted)
            if error != -ENOMEM or self.entries <= SMALLEST_RING:
                break
            self.entries //= 2
            self.cq_entries = 4 * self.entries
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        # A file op that waits keeps a thread of the kernel's: hundreds, without a limit (Linux 5.15).
        workers[0] = workers[1] = FILE_WORKERS
        px_register(self.ring.fd, PX_REGISTER_IOWQ_MAX_WORKERS, workers, 2)
        self.owner = px_this_thread()
        self.plain_wakes = self.ring.setup_flags & PX_SETUP_DEFER_TASKRUN != 0

    # ------------------------------------------------------------------------------------------------ threads

    cdef int _take_over(self) except -1:
        if self.shared:
            return 0
        if self.owner != px_this_thread() and self.ring.setup_flags & PX_SETUP_SINGLE_ISSUER:
            self._rebuild()  # SINGLE_ISSUER answers EEXIST to every thread but its owner
        self.owner = px_this_thread()
        px_ring_register(&self.ring)
        return 0

    cdef int _leave(self) except -1:
        # A registration keeps the ring until the thread ends.  (Where `open` has failed it is another's.)
        if self.opened and self.owner == px_this_thread():
            if self.file_ops:
                self._await_files()
            else:
                self.waited = 0
            px_ring_unregister(&self.ring)
        return 0

    cdef _await_files(self):
        """Have file ops end in the thread that submitted them.

        The kernel's threads are at them: unlike others (see _rebuild) they happen whoever drives the ring.
        """
        cdef double left = FILES_DEADLINE - self.waited, deadline = time.monotonic() + left
        if left <= 0:
            return  # they have had their time, at the end of an earlier run
        while self.file_ops and left > 0:
            self._enter(1, <int64_t>(left * 1e9))
            left = deadline - time.monotonic()
        if self.file_ops:
            logger.warning("io_uring: %d file operations did not end within %.0f s", self.file_ops,
                           FILES_DEADLINE)
        self.waited = FILES_DEADLINE if self.file_ops else 0

    cdef bint note(self, int fd, Change change) except -1:
        cdef bint registered
        # Requests keep the credentials of their submission: file ops end, all others are submitted again.
        if change == CREDENTIALS and not self.shared:
            if self.file_ops and self.owner == px_this_thread():
                self._await_files()
            registered = self.ring.enter_fd != self.ring.fd
            px_ring_unregister(&self.ring)
            try:
                self._rebuild()
            finally:
                if registered:
                    px_ring_register(&self.ring)
        return EpollSet.note(self, fd, change)

    cdef _rebuild(self):
        """Move to a new ring, for another thread or with other credentials.  Nothing is lost.

        With DEFER_TASKRUN a request is executed only inside an enter of the owner: what is not in the
        completion ring by now never happens, is cancelled with the old ring, and submitted to the new one.
        """
        cdef Op op
        cdef RawPacket *packet
        cdef uint32_t i
        cdef set ended = set()
        cdef px_ring old = self.ring
        self._reap()
        px_ring_clear(&self.ring)  # first: where opening fails, for want of descriptors, this one is there
        try:
            self._open_ring()
        except BaseException:
            self.ring = old
            raise
        px_ring_free(&old, 1)
        self.rebuilds += 1
        self.set_polled = False
        i = self.queue.head
        while i != self.queue.tail:
            packet = &self.queue.items[i & self.queue.mask]
            i += 1
            if not packet.flags & PACKET_MORE:
                ended.add(<uintptr_t>packet.op)
        for op in self.inflight:
            if not op.ring.used or not op.armed or <uintptr_t><void *>op in ended:
                continue
            self._out(op)
            op.armed = False
            if on_file(op):
                # It may still happen, see _await_files: its memory is leaked, not given to the kernel twice.
                if op.state == IN_FLIGHT:
                    set_state(op, CANCELLING)
                Py_INCREF(op)
                self.push(op, -ECANCELED, 0)
            elif op.state == IN_FLIGHT:
                if not op.suspended:
                    self.arm(op)
            else:
                self.push(op, -ECANCELED, 0)

    # --------------------------------------------------------------------------------------------- submission

    cdef px_sqe *sqe(self) except NULL:
        """A free entry.  When there is none, what is prepared is submitted first."""
        cdef px_sqe *entry = px_ring_sqe(&self.ring)
        cdef int tries = 0
        while entry == NULL:
            self.starved += tries == 0
            self._enter(0, 0)
            entry = px_ring_sqe(&self.ring)
            tries += 1
            if entry == NULL and tries == ENTER_TRIES:
                raise OSError(EBUSY, "the kernel takes no more submissions")
        return entry

    cdef int _enter(self, int wait, int64_t timeout_ns) except -1:
        cdef int error
        self.overflows += px_ring_overflowed(&self.ring)
        if wait:
            with nogil:
                error = px_ring_enter(&self.ring, wait, timeout_ns)
                self.woke_at = px_quick_now(&self.clock)
            self.woke()
        else:
            error = px_ring_enter(&self.ring, 0, 0)
        self._reap()
        # EBUSY, EAGAIN: CQ overflow, or memory is short: the next enter tries what was not submitted again.
        if error and error != -ETIME and error != -EINTR and error != -EBUSY and error != -EAGAIN:
            if error == -EEXIST:
                raise RuntimeError("the ring is driven by another thread")
            raise OSError(-error, f"io_uring_enter: {os.strerror(-error)}")
        return 0

    cdef int _poll_set(self) except -1:
        encode_poll(self.sqe(), self.epfd, SET)
        self.set_polled = True
        return 0

    cdef int arm(self, Op op) except -1:
        """Prepare the entry of `op`."""
        cdef px_sqe *entry = self.sqe()
        encode(op, entry)
        if op.edge and not self.multishot:
            entry.len = 0
        if on_file(op):
            self.file_ops += 1
        self.in_flight += 1
        op.ring.entry = px_ring_last(&self.ring)
        op.armed = op.ring.in_kernel = True
        op.cancel_sent = False
        if self.shared:
            self._send()
        return 0

    cdef int _send(self) except -1:
        """Submit to a ring that threads share: they may be asleep in the set, and prepare nothing more."""
        try:
            self._enter(0, 0)
        except OSError:
            return 0  # the next wait tries again, and raises
        return 0

    cdef void _out(self, Op op) noexcept:
        """The ring has said its last word on the entry of `op`."""
        op.ring.in_kernel = False
        self.in_flight -= 1
        if on_file(op):
            self.file_ops -= 1

    cdef int submit(self, Op op) except -1:
        if op.state != NEW:
            return self._go_on(op)
        if not self.streams:
            op.owned = False
        op.ring.used = has_cell(op.kind) and (px_kinds[op.kind].brings != PX_PACKETS or op.owned)
        if not op.ring.used:
            return EpollSet.submit(self, op)
        if op.fd < 0 and px_kinds[op.kind].on != PX_ON_PATH:
            raise ValueError(f"Invalid file descriptor: {op.fd}")
        if moves_file(op) and op.position < 0 and px_has_position(op.fd):
            # At "the file's own" position the kernel repeats a short write where it began (seen on 6.18).
            raise ValueError("a file that has positions is read and written at one")
        op.suspended = op.pending_ready = False
        polls_begin(op, self.shared)
        self.arm(op)
        self.track(op)
        if on_file(op) and px_ring_unsent(&self.ring) >= FILES_AT_ONCE:
            self._enter(0, 0)  # not at the end of the turn: the disk would have nothing to do meanwhile
        return 0

    cdef int _send_cancel(self, Op op) except -1:
        cdef px_sqe *entry
        if op.cancel_sent:
            return 0
        if px_ring_withdraw(&self.ring, op.ring.entry, <uint64_t><uintptr_t><void *>op):
            # The kernel has not seen it, and must not by then: the descriptor may be another file's.
            op.cancel_sent = op.ring.withdrawn = True
            return 0
        entry = self.sqe()
        encode_cancel(entry, <uint64_t><uintptr_t><void *>op)
        if self.ring.features & PX_FEAT_CQE_SKIP:
            entry.flags = PX_SQE_CQE_SKIP_SUCCESS
        op.cancel_sent = True
        if self.shared:
            self._send()
        return 0

    cdef int cancel(self, Op op, bint now) except -1:
        if not op.ring.used:
            return EpollSet.cancel(self, op, now)
        if op.state == IN_FLIGHT:
            set_state(op, CANCELLING)
            if op.ring.in_kernel:
                self._send_cancel(op)
            elif not op.armed:
                self.push(op, -ECANCELED, 0)
        if now and px_ring_unsent(&self.ring):
            self._enter(0, 0)
        return 0

    # ------------------------------------------------------------------------------------------------ waiting

    cdef bint is_due(self, uint32_t callbacks) noexcept:
        if px_ring_unsent(&self.ring) or px_ring_ready(&self.ring) or px_ring_pending(&self.ring):
            return True
        return not self.set_polled and EpollSet.is_due(self, callbacks)

    cdef int wait(self, int64_t timeout_ns, int callbacks) except -1:
        cdef uint32_t before = queue_count(&self.queue)
        if callbacks >= 0 and not self.is_due(callbacks):
            return 0
        self._wait(timeout_ns)
        if before and queue_count(&self.queue) != before:
            queue_postpone(&self.queue, before)
        if PX_CHECKS:
            self.check_counters()
        return 0

    cdef int _wait(self, int64_t timeout_ns) except -1:
        cdef int64_t until
        cdef bint busy = timeout_ns == 0
        cdef int rounds
        if self.shared:
            if px_ring_unsent(&self.ring) or px_ring_pending(&self.ring):
                self._enter(0, 0)
            EpollSet.wait(self, timeout_ns if not queue_count(&self.queue) else 0, ASK_ANYWAY)
            return self._reap()
        if not self.in_flight and not self.set_polled:
            if px_ring_unsent(&self.ring) or px_ring_ready(&self.ring) or px_ring_pending(&self.ring):
                self._enter(0, 0)
            return EpollSet.wait(self, timeout_ns if not queue_count(&self.queue) else 0, ASK_ANYWAY)
        if not self.set_polled:
            self._poll_set()
        if queue_count(&self.queue):
            timeout_ns = 0
        if timeout_ns != 0 and not px_ring_ready(&self.ring):
            until = self.look_until(timeout_ns)
            if (until or (self.spin_ns and self.may_spin())) and self._watch(until):
                timeout_ns = 0
            self._enter(timeout_ns != 0, timeout_ns)
        else:
            self._reap()
            rounds = self.in_flight // COMPLETED_AT_ONCE + 1
            while rounds and (px_ring_unsent(&self.ring) or px_ring_pending(&self.ring)):
                rounds -= 1
                self._enter(0, 0)
        # A busy loop asks the set itself: through the ring's poll it would hear of it a turn later.
        if self.set_ready or busy:
            self.set_ready = False
            EpollSet.wait(self, 0, ASK_ANYWAY)
        return 0

    cdef bint _watch(self, int64_t until) except -1:
        """Look at the rings until then; 0: for a spin, without the GIL.  Say whether to go on."""
        cdef bint hit
        if px_ring_unsent(&self.ring):
            self._enter(0, 0)
        if until:
            hit = px_ring_watch(&self.ring, until)
            self.looked(hit)
        else:
            with nogil:
                hit = px_ring_watch(&self.ring, px_now_ns() + self.spin_ns)
            self.spun(hit)
        return hit or self.set_ready or queue_count(&self.queue) != 0

    cdef int _reap(self) except -1:
        cdef uint32_t head = self.ring.k_cq_head[0], tail = load_acquire_u32(self.ring.k_cq_tail)
        cdef px_cqe *cqe
        if head == tail:
            return 0
        try:
            while head != tail:
                cqe = &self.ring.cqes[head & self.ring.cq_mask]
                head += 1
                if cqe.user_data > SET:
                    self._packet(<Op><void *><uintptr_t>cqe.user_data, cqe.res, cqe.flags)
                elif cqe.user_data == SET:
                    self.set_polled = False
                    self.set_ready = True
        finally:
            store_release_u32(self.ring.k_cq_head, head)
        return 0

    cdef int _packet(self, Op op, int res, uint32_t cqe_flags) except -1:
        cdef uint32_t flags = PACKET_MORE if cqe_flags & PX_CQE_MORE else 0
        if not flags:
            self._out(op)
        if op.ring.withdrawn:
            op.ring.withdrawn = False
            res = -ECANCELED
        if op.edge:
            if res >= 0:
                if flags and op.ready:
                    op.events |= <uint32_t>res  # one is in the queue already: see perform
                    return 0
                if res & POLLRDBAND and self.plain_wakes and not op.found_nothing:
                    res &= ~POLLPRI
                flags |= PACKET_READY
        elif res > 0 and moves_file(op):
            op.again = op.took(res)
        return self.push(op, res, flags)

    cdef int check_counters(self) except -1:
        cdef int in_kernel = 0, files = 0
        cdef Op op
        EpollSet.check_counters(self)
        if len(self.inflight) <= MOST_CHECKED:
            for op in self.inflight:
                in_kernel += op.ring.in_kernel
                files += op.ring.in_kernel and on_file(op)
            px_check(in_kernel == self.in_flight, "the ring has more or fewer ops than are counted")
            px_check(files == self.file_ops, "the ring has more or fewer file ops than are counted")
        return 0

    # ------------------------------------------------------------------------------------- finishing a packet

    cdef int perform(self, Op op, RawPacket *packet) except -1:
        cdef uint32_t mask = <uint32_t>packet.res
        cdef ssize_t n
        cdef int cut = 0
        cdef bint eager = False, missed
        if not op.ring.used:
            return EpollSet.perform(self, op, packet)
        if not packet.flags & PACKET_READY:
            return self._ended(op, packet)
        if op.paused:
            return self._pause(op)
        # What was reported since the packet was queued counts too: a shutdown, for one.
        mask |= op.events
        op.events = 0
        if op.ready:
            op.events = mask
            return 0  # another one, made of the same readiness, is behind it in the queue
        # A poll that has ended looks first when it is armed again, so that nothing can be left behind unseen.
        if not op.armed:
            mask &= ~MORE_BEHIND
            eager = packet.flags & PACKET_MORE != 0  # not a poll's packet, but pushed by the receive before
        packet.res = <int>mask
        if op.direct:
            packet.flags = PACKET_READY | PACKET_MORE
            missed = eager and op.found_nothing  # by the owner, in the last turn
            if not op.armed and not next_is_eager(op, eager, not missed, queue_count(&self.queue)):
                self.arm(op)
            return not missed
        if may_stop_short(op):
            n = px_recv_cut(op.fd, self.scratch, PX_SCRATCH_SIZE, &cut)
        else:
            n = px_recv(op.fd, self.scratch, PX_SCRATCH_SIZE)
        if n <= 0 and n != -EAGAIN:
            packet.res = <int>n
            if op.armed:
                # The end, of which the poll knows nothing: take it out of the kernel before the last packet.
                set_state(op, CANCELLING)
                self._send_cancel(op)
                packet.flags = PACKET_MORE
            else:
                packet.flags = 0
            return 1
        if n == PX_SCRATCH_SIZE or (op.armed and n != -EAGAIN and (cut or mask & MORE_BEHIND)):
            self.push(op, mask, PACKET_READY | PACKET_MORE)
        elif not op.armed:
            if next_is_eager(op, eager, n > 0, queue_count(&self.queue)):
                self.push(op, 0, PACKET_READY | PACKET_MORE)
            else:
                self.arm(op)
        op.found_nothing = n == -EAGAIN
        if n == -EAGAIN:
            return 0
        packet.res = <int>n
        packet.data = self.scratch
        packet.flags = PACKET_MORE
        return 1

    cdef int _ended(self, Op op, RawPacket *packet) except -1:
        """The kernel has done with the entry of `op`.  0: the op goes on."""
        cdef int res = packet.res
        if op.again and moves_file(op):
            op.again = False
        elif res != -ECANCELED and (res != -EINTR or not on_file(op)):
            return 1
        # Else it was not cancelled by its owner: a pause, or the end of the thread that submitted it.
        if not op.suspended:
            self.arm(op)
        return 0

    cdef int _pause(self, Op op) except -1:
        op.pending_ready = op.suspended = True
        if op.ring.in_kernel:
            self._send_cancel(op)
        return 0

    cdef int _go_on(self, Op op) except -1:
        if not op.ring.used:
            return self.resume(op)
        check_resumed(op)
        op.suspended = False
        if op.pending_ready and op.armed and not op.cancel_sent and not op.ready:
            self.push(op, READ_ON, PACKET_READY | PACKET_MORE)  # the edge was reported, and not acted on
        op.pending_ready = False
        if not op.armed:
            self.arm(op)
        return 0

    # ----------------------------------------------------------------------------------------- sets and close

    cdef int renew(self) except -1:
        # The ring's poll stays with the old set, to which nothing happens any more.
        EpollSet.renew(self)
        if self.shared:
            self.set_interest(self.ring.fd, 0, POLLIN)
        elif self.set_polled:
            encode_cancel(self.sqe(), SET)
            self.set_polled = False
        return 0

    cdef int close(self, Closing closing) except -1:
        if closing == FOR_THIS_THREAD:
            return self._leave()
        EpollSet.close(self, closing)
        if closing == IN_FORKED_CHILD:
            # The mappings were not inherited (MADV_DONTFORK); the descriptors are shared with the parent, and
            # closing ours submits nothing.
            px_ring_free(&self.ring, 0)
        elif self.opened:
            px_ring_unregister(&self.ring)
            px_ring_free(&self.ring, 1)
        return 0

    def __dealloc__(self):
        if not self.forked:
            px_ring_free(&self.ring, 1)

    def describe(self):
        """Sizes and flags of this ring, as data; empty until there is one."""
        if not self.opened or self.closed:
            return {}
        return {
            "entries": self.ring.sq_entries, "completions": self.ring.cq_entries,
            "multishot": self.multishot, "streams": self.streams, "restricted": self.restricted,
            "setup_flags": setup_names(self.ring.setup_flags),
            "features": feature_names(self.ring.features),
        }
