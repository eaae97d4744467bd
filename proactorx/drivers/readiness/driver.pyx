"""Completions made of readiness: what epoll and select have in common.

An op is tried at once; where the kernel answers EAGAIN it waits in line on its descriptor and direction.
When the descriptor is ready, the first in line gets a PACKET_READY, and the system call is made when that
packet's turn comes (``perform``), so that received bytes pass through one hot buffer and never wait in memory
of the driver's.

Readiness is level-triggered: an op that is not served in this turn is reported again in the next one.  An op
has at most one PACKET_READY in the queue, so each has one system call in a turn,
however often it is reported.

A descriptor may be closed by its owner while ops wait on it, and its number given to another file.  These ops
must get nothing of that file: they end with EBADF when the facility turns out to know nothing of the number
(``set_interest``), when somebody knows the file to be new (``note``),
or when the op finds that its socket is gone (``Op.stale``).
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.bytes cimport PyBytes_AS_STRING
from proactorx.sys.errnos cimport EAGAIN, EBADF, ECANCELED, EINPROGRESS, EWOULDBLOCK
from libc.string cimport memset
from proactorx.ops.kinds cimport (
    PX_AS_EVENTS, PX_ENDS, PX_IN, PX_ON_FILE, PX_OUT, PX_PACKETS, px_call, px_done_when_ready, px_kind,
    px_kinds,
)
from proactorx.drivers.driver cimport (
    Change, Closing, FD_CLOSING, FD_OPENED, FOR_GOOD, FOR_THIS_THREAD, check_resumed,
)
from proactorx.ops.op cimport (
    CANCELLING, IN_FLIGHT, NEW, PACKET_LATE, PACKET_MORE, PACKET_READY, POLL, set_state,
)
from proactorx.sys.event cimport px_wake_socket, px_waker_clear, px_waker_close, px_waker_forget, px_waker_set
from proactorx.sys.socket cimport POLLERR, POLLHUP, POLLIN, POLLOUT, PX_SCRATCH_SIZE, px_sleep_on

cdef inline bint waits_for_events(Op op) noexcept:
    """POLL: any number of them wait for the same, and each is told."""
    return px_kinds[op.kind].direction == PX_AS_EVENTS


cdef inline bint waits_to_write(Op op) noexcept:
    if waits_for_events(op):
        return not op.events & POLLIN
    return px_kinds[op.kind].direction == PX_OUT


cdef int perform_call(Op op, const px_kind *row, RawPacket *packet, char *scratch) except -1:
    """Make the system call of a ready op.  0: nothing came of it; 1: `packet` tells what."""
    cdef px_call call
    cdef ssize_t n
    if not op.owned and op.stale():
        packet.res = -EBADF
        packet.flags = 0
        return 1
    if row.attempt == NULL or (op.direct and row.goes_on != PX_ENDS):
        packet.flags = PACKET_READY | PACKET_MORE  # the owner makes the call
        return 1
    call.fd = op.fd
    call.events = <uint32_t>packet.res
    call.scratch = scratch
    call.data = packet.data
    if row.buffered:
        op.fill(&call)
    n = row.attempt(&call)
    if n == -EAGAIN or n == -EWOULDBLOCK or (row.moves and n >= 0 and op.took(n)):
        return 0
    packet.data = call.data
    packet.flags = PACKET_MORE if n >= row.goes_on or op.direct else 0
    packet.res = <int>n
    return 1


cdef class ReadinessDriver(Driver):
    """A driver whose facility says which descriptors are ready."""

    def __cinit__(self, *args, **kwargs):
        self.slot_count = 64
        self.slots = <FdSlot *>PyMem_Calloc(self.slot_count, sizeof(FdSlot))
        if self.slots == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.slots)
        PyMem_Free(self.scratch)

    cdef int open(self) except -1:
        if self.scratch == NULL:
            self.scratch = <char *>PyMem_Malloc(PX_SCRATCH_SIZE)
            if self.scratch == NULL:
                raise MemoryError
        self.opened = True
        return 0

    cdef int set_interest(self, int fd, uint32_t before, uint32_t after) except -1:
        """Ask the facility for `after` (POLLIN, POLLOUT) on `fd`, where it was asked for `before`.

        Where it turns out not to know the file any more, another one has the number:
        the slot is marked `renumbered`.
        """
        raise NotImplementedError("ReadinessDriver.set_interest")

    cdef FdSlot *slot_of(self, int fd) except NULL:
        cdef int size = self.slot_count
        cdef FdSlot *slots
        if fd < 0 or fd > LARGEST_FD:
            raise ValueError(f"Invalid file descriptor: {fd}")
        if fd >= size:
            while size <= fd:
                size *= 2
            slots = <FdSlot *>PyMem_Realloc(self.slots, size * sizeof(FdSlot))
            if slots == NULL:
                raise MemoryError
            memset(&slots[self.slot_count], 0, (size - self.slot_count) * sizeof(FdSlot))
            self.slots = slots
            self.slot_count = size
        return &self.slots[fd]

    cdef int update(self, int fd) except -1:
        """Bring the facility's idea of `fd` in line with the ops that wait on it."""
        self.match(fd)
        if self.slots[fd].renumbered:
            self.end_stale(fd, NULL)
        return 0

    cdef int match(self, int fd) except -1:
        """Ask the facility for what the ops on `fd` wait for, where it was asked for something else."""
        cdef FdSlot *slot = &self.slots[fd]
        cdef uint32_t mask = POLLOUT if slot.writers != NULL else 0, before = slot.registered
        cdef void *item = slot.readers
        while item != NULL:
            if not (<Op>item).suspended:
                mask |= (<Op>item).events & (POLLIN | POLLOUT) if waits_for_events(<Op>item) else POLLIN
            item = (<Op>item).line.next
        if mask != before:
            self.set_interest(fd, before, mask)
            self.slots[fd].registered = mask
        return 0

    cdef bint note(self, int fd, Change change) except -1:
        if not 0 <= fd < self.slot_count:
            return True
        if change == FD_OPENED and (self.slots[fd].readers != NULL or self.slots[fd].writers != NULL):
            self.end_stale(fd, NULL)
        elif change == FD_CLOSING and self.slots[fd].registered:
            # A duplicate of the descriptor would keep the registration alive after close(2), epoll(7).
            self.set_interest(fd, self.slots[fd].registered, 0)
            self.slots[fd].registered = 0
        return True

    cdef int end_stale(self, int fd, void *fresh) except -1:
        """The file that the ops on `fd` were for is gone: end all but `fresh`, which is for the new one."""
        cdef FdSlot *slot = &self.slots[fd]
        cdef void *item
        cdef void *next
        cdef Op op
        cdef int i
        for i in range(2):
            item = slot.writers if i else slot.readers
            while item != NULL:
                op = <Op>item
                next = op.line.next
                op.line.next = NULL
                if item != fresh:
                    op.armed = False
                    if op.state == IN_FLIGHT:
                        set_state(op, CANCELLING)
                    # A Watch calls back at any error, as readiness: not for a file that nobody has asked for.
                    self.push(op, -ECANCELED if waits_for_events(op) and op.direct else -EBADF, PACKET_LATE)
                item = next
        slot.readers = slot.writers = NULL
        slot.renumbered = False
        if fresh != NULL:
            op = <Op>fresh
            if waits_to_write(op):
                slot.writers = fresh
            else:
                slot.readers = fresh
        return self.update(fd)

    cdef int enqueue(self, Op op) except -1:
        cdef FdSlot *slot = self.slot_of(op.fd)
        cdef void **place = &slot.writers if waits_to_write(op) else &slot.readers
        cdef uint32_t before
        op.line.next = NULL
        while place[0] != NULL:
            place = &(<Op>place[0]).line.next
        place[0] = <void *>op
        op.armed = True
        before = slot.registered
        try:
            self.match(op.fd)
            if before and self.slots[op.fd].registered == before and not op.same_file:
                # Others wait already.  If they do so on a file that was closed, and this is another one with
                # its number, the facility has forgotten it: say it again.
                self.set_interest(op.fd, before, before)
        except BaseException:
            place[0] = NULL
            op.armed = False
            raise
        if self.slots[op.fd].renumbered:
            self.end_stale(op.fd, <void *>op)
        return 0

    cdef int unlink(self, Op op, bint lazily=False) except -1:
        cdef FdSlot *slot
        cdef void **place
        if not op.armed:
            return 0
        slot = &self.slots[op.fd]
        place = &slot.writers if waits_to_write(op) else &slot.readers
        while place[0] != NULL and place[0] != <void *>op:
            place = &(<Op>place[0]).line.next
        if place[0] != NULL:
            place[0] = op.line.next
        op.line.next = NULL
        op.armed = False
        if not lazily or slot.readers != NULL or not slot.registered & POLLIN:
            self.update(op.fd)
        return 0

    cdef int submit(self, Op op) except -1:
        cdef FdSlot *slot
        cdef const px_kind *row = &px_kinds[op.kind]
        cdef px_call call
        cdef bint first
        cdef ssize_t n
        if op.state != NEW:
            return self.resume(op)
        if not px_done_when_ready(row):
            # A file, for one, is always ready, poll(2), and its read waits for the disk all the same.
            what = "no file operations" if row.on == PX_ON_FILE else f"no operation {row.name.decode()}"
            raise NotImplementedError(f"the {self.name} driver has {what} (see Driver.native_files)")
        if op.fd > LARGEST_FD:
            self.track(op)
            return self.push(op, -EBADF, PACKET_LATE)
        slot = self.slot_of(op.fd)
        first = (slot.writers if waits_to_write(op) else slot.readers) == NULL
        op.cancel_sent = op.suspended = op.pending_ready = False
        if row.start != NULL:
            call.fd = op.fd
            op.fill(&call)
            n = row.start(&call)
            if n != -EINPROGRESS:
                self.track(op)
                return self.push(op, <int>n, PACKET_LATE)
        elif first and row.eager and not (
                self.lazy and slot.registered & POLLIN and not waits_to_write(op)):
            # In line already, and tried as a packet of this turn: the call is made when its turn comes.
            try:
                self.enqueue(op)
            except OSError as exc:
                return self._refused(op, exc.errno)
            self.track(op)
            return self.push(op, 0, PACKET_READY | PACKET_MORE)
        try:
            self.enqueue(op)
        except OSError as exc:
            if waits_for_events(op) and op.direct:
                raise  # a Watch: its owner is told at once, as by a selector
            return self._refused(op, exc.errno)
        return self.track(op)

    cdef int _refused(self, Op op, int error) except -1:
        """The facility does not take this descriptor:
        what the op's own system call says of it is the better answer.
        """
        cdef RawPacket packet
        packet.res = 0
        packet.flags = 0
        packet.data = NULL
        if px_kinds[op.kind].serial and perform_call(op, &px_kinds[op.kind], &packet,
                                                     self.scratch) and packet.res < 0:
            error = -packet.res
        self.track(op)
        return self.push(op, -error, PACKET_LATE)

    cdef int cancel(self, Op op, bint now) except -1:
        if op.state != IN_FLIGHT:
            return 0
        set_state(op, CANCELLING)
        if op.armed:
            self.unlink(op)
            self.push(op, -ECANCELED, PACKET_LATE)
        return 0

    cdef int ready(self, int fd, uint32_t mask) except -1:
        """`fd` is ready: all polls, and the first other op in line of each direction, get their packets."""
        cdef FdSlot *slot
        if fd >= self.slot_count:
            return 0
        slot = &self.slots[fd]
        self._tell(slot.readers, mask, POLLIN)
        if slot.writers != NULL:
            self._tell(slot.writers, mask, POLLOUT)
        if slot.readers == NULL and slot.registered & POLLIN:
            self.update(fd)  # it was left there by a receive that is over
        return 0

    cdef int _tell(self, void *item, uint32_t mask, uint32_t direction) except -1:
        cdef bint served = False
        while item != NULL:
            # (No push frees an op: the driver has a reference.)
            if waits_for_events(<Op>item):
                if not (<Op>item).ready and mask & ((<Op>item).events | POLLERR | POLLHUP):
                    self.push(<Op>item, mask, PACKET_READY | PACKET_MORE)
            elif not served and mask & (direction | POLLERR | POLLHUP):
                served = True
                if not (<Op>item).ready:
                    self.push(<Op>item, mask, PACKET_READY | PACKET_MORE)
            item = (<Op>item).line.next
        return 0

    cdef int perform(self, Op op, RawPacket *packet) except -1:
        cdef const px_kind *row = &px_kinds[op.kind]
        cdef int told
        if not packet.flags & PACKET_READY:
            return 1  # it is over
        if op.paused:
            return self.pause(op)
        if not op.armed:
            return 0
        told = perform_call(op, row, packet, self.scratch)
        if told and packet.flags & PACKET_MORE and not row.burst:
            return 1
        if row.burst:
            # Others are likely to be in the backlog: some are served in the same turn.  Not until EAGAIN:
            # others may share the listener, and its connections are one source among others.
            op.events = op.events + 1 if told and packet.flags & PACKET_MORE else 0
            if op.events % row.burst:
                self.push_next(op, 0, PACKET_READY | PACKET_MORE)
        if not told:
            return 0
        if not packet.flags & PACKET_MORE:
            # After a receive comes another one, most of the time: what the facility was asked for stays.
            self.unlink(op, self.lazy and row.direction == PX_IN and row.brings != PX_PACKETS)
        return 1

    cdef int pause(self, Op op) except -1:
        """Stop listening for a paused op that is ready.  0: there is nothing to tell it."""
        op.pending_ready = op.suspended = True
        if op.armed:
            self.update(op.fd)
        return 0

    cdef int resume(self, Op op) except -1:
        check_resumed(op)
        op.suspended = op.pending_ready = False
        if op.armed:
            self.update(op.fd)
        return 0


cdef class PythonReadinessDriver(ReadinessDriver):
    """A readiness driver written in Python: subclasses give ``_open``, ``_interest``,
    ``_poll``, ``_sleep`` and ``_close``.
    """

    def __cinit__(self, *args, **kwargs):
        self.sleep_fd = -1
        px_waker_clear(&self.waker)

    cdef int set_interest(self, int fd, uint32_t before, uint32_t after) except -1:
        if self._interest(fd, before, after):
            self.slots[fd].renumbered = True
        return 0

    cdef int open(self) except -1:
        if not self.opened:
            self._open()
        return ReadinessDriver.open(self)

    cdef int close(self, Closing closing) except -1:
        if closing == FOR_GOOD:
            self.closed = True
        if closing != FOR_THIS_THREAD:
            self._close()
        return 0

    cdef int wait(self, int64_t timeout_ns, int callbacks) except -1:
        for fd, mask in self._poll(None if timeout_ns < 0 else timeout_ns / 1e9):
            self.ready(fd, mask)
        return 0

    cdef int wake(self) noexcept nogil:
        return px_wake_socket(&self.waker)

    cdef int sleep(self, int64_t timeout_ns) except -1 nogil:
        if self.sleep_fd >= 0:
            return px_sleep_on(self.sleep_fd, timeout_ns)
        with gil:
            self._sleep(None if timeout_ns < 0 else timeout_ns / 1e9)
        return 0

    def _sleep_on(self, int fd):
        """`fd` can be polled itself, and is ready when something is to be found."""
        self.sleep_fd = fd
        self.hears_changes = True

    def _wake_through(self, int fd):
        """Other threads send to this socket to end a wait; -1: it is about to be closed."""
        if fd >= 0:
            px_waker_set(&self.waker, fd)
        elif self.forked:
            px_waker_forget(&self.waker)
        else:
            px_waker_close(&self.waker)
