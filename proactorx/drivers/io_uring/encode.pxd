from libc.stdint cimport uint32_t, uint64_t
from proactorx.ops.kinds cimport PX_ON_FILE, px_kinds
from proactorx.ops.op cimport Op
from proactorx.sys.ring cimport px_sqe

cdef bint has_cell(int kind) noexcept
cdef void encode(Op op, px_sqe *entry) noexcept
cdef void encode_poll(px_sqe *entry, int fd, uint64_t user_data) noexcept
cdef void encode_cancel(px_sqe *entry, uint64_t user_data) noexcept


cdef inline bint on_file(Op op) noexcept:
    """Whether it is an op on a file or a path: one of the kernel's threads may be at it."""
    return px_kinds[op.kind].on >= PX_ON_FILE


cdef inline bint moves_file(Op op) noexcept:
    """READ, WRITE."""
    return px_kinds[op.kind].on == PX_ON_FILE and px_kinds[op.kind].moves


# How a stream of the ring waits for its next bytes: by a one-shot poll, by a multishot one, or by none.
#
# The first polls are one-shot: a short connection then ends without one to be cancelled. A multishot poll
# needs no entry for each message, and stays until the end.
#
# Eager: while other packets keep the loop busy, a peer that has been answered has often sent more by the
# next turn. It is then received without a poll, which would cost the kernel more than a receive that finds
# nothing: a wake-up for each arrival, its completion and an entry. Nothing is armed meanwhile, so nothing
# is taken either. One that finds nothing arms a poll. Luck counts the hits and the misses, and a loop that
# has nothing else to do; without luck the poll is multishot for good.
#
# Urgent data: recv(2) stops at its mark, so a short read is not the last. A poll that was woken once since
# the last look says with what, and the kernel's data_ready() always wakes with POLLPRI and POLLRDBAND,
# while tcp_poll() never says POLLRDBAND: such a mask does not speak of urgent data. The segment that brings
# some wakes twice, before its bytes are queued and after. Both fall into one look, which then asks
# tcp_poll(); or the receive after the first one finds nothing, and the next mask is believed; or the second
# one meets a packet that is queued, and is believed. (io_uring/poll.c, net/ipv4/tcp_input.c,
# net/core/sock.c, Linux 6.1 to 6.18.)

cdef enum:
    MOST_LUCK = 8
    LUCK = 4          # to begin with
    ENOUGH_LUCK = 2
    COST_OF_MISS = 2
    BUSY = 2          # packets that wait
    FIRST_POLLS = 3   # a handshake, a request, and the end: so many above MOST_LUCK


cdef inline void polls_begin(Op op, bint shared) noexcept:
    """A new op.  What threads share is served by whoever wakes, not in turns."""
    op.ring.polls = 0 if shared else MOST_LUCK + FIRST_POLLS


cdef inline bint next_is_single(Op op) noexcept:
    """Whether the poll that is armed now is one-shot."""
    if op.ring.polls > MOST_LUCK:
        op.ring.polls -= 1
        if op.ring.polls == MOST_LUCK:
            op.ring.polls = LUCK
        return True
    return op.ring.polls >= ENOUGH_LUCK


cdef inline bint next_is_eager(Op op, bint eager, bint found, uint32_t waiting) noexcept:
    """All that had come is received, and no poll is armed: whether to receive again in the next turn instead.

    `eager`: the last one was, too; `found`: it has found bytes.
    """
    if op.ring.polls > MOST_LUCK:
        return False
    if not found:
        if eager:
            op.ring.polls = op.ring.polls - COST_OF_MISS if op.ring.polls > COST_OF_MISS else 0
        return False
    if op.ring.polls < ENOUGH_LUCK:
        return False
    if waiting < BUSY:
        op.ring.polls -= 1
        return False
    if eager and op.ring.polls < MOST_LUCK:
        op.ring.polls += 1
    return True
