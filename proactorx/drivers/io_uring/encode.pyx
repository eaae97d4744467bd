"""What an entry of the ring says of an op: a cell for each kind that the ring does.
See io_uring_enter(2).
"""

from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport strlen
from proactorx.ops.op cimport (
    CHANGE_RENAME, CHANGE_RMDIR, FILE_STEP, FSYNC, KINDS, OPEN, Op, PATH_CHANGE, READ, RECV_STREAM,
    WAIT_CHILD, WRITE,
)
from proactorx.ops.kinds cimport PUNCH
from proactorx.sys.file cimport AT_FDCWD, PX_PUNCH
from proactorx.sys.ring cimport *
from proactorx.sys.socket cimport POLLIN, POLLPRI, POLLRDBAND, POLLRDHUP

cdef enum:
    AT_REMOVEDIR = 0x200
    NEW_FILE_MODE = 0o666  # OPEN: less the umask

ctypedef void (*Encoder)(Op op, px_sqe *entry) noexcept


cdef void encode_recv_stream(Op op, px_sqe *entry) noexcept:
    entry.opcode = PX_OP_POLL_ADD
    entry.op_flags = POLLIN | POLLRDHUP | POLLPRI | POLLRDBAND
    op.edge = True
    if not next_is_single(op):
        entry.len = PX_POLL_ADD_MULTI


cdef void encode_wait_child(Op op, px_sqe *entry) noexcept:
    # WNOWAIT: as long as nobody has reaped the child its pid is its own, and a signal can reach no other.
    entry.opcode = PX_OP_WAITID
    entry.len = P_PID
    entry.file_index = WEXITED | WNOWAIT


cdef void encode_read(Op op, px_sqe *entry) noexcept:
    entry.opcode = PX_OP_READ
    transfer(op, entry)


cdef void encode_write(Op op, px_sqe *entry) noexcept:
    entry.opcode = PX_OP_WRITE
    transfer(op, entry)


cdef void transfer(Op op, px_sqe *entry) noexcept:
    entry.addr = <uint64_t><uintptr_t>op.buffer()
    entry.len = <uint32_t>min(op.want(), FILE_STEP)
    entry.off = <uint64_t>op.position


cdef void encode_fsync(Op op, px_sqe *entry) noexcept:
    entry.opcode = PX_OP_FSYNC
    entry.op_flags = op.events


cdef void encode_punch(Op op, px_sqe *entry) noexcept:
    entry.opcode = PX_OP_FALLOCATE
    entry.len = PX_PUNCH
    entry.off = <uint64_t>op.position
    entry.addr = <uint64_t>op.want()


cdef void encode_open(Op op, px_sqe *entry) noexcept:
    entry.opcode = PX_OP_OPENAT
    entry.addr = <uint64_t><uintptr_t>op.buffer()
    entry.op_flags = op.events
    entry.len = NEW_FILE_MODE


cdef void encode_path_change(Op op, px_sqe *entry) noexcept:
    entry.fd = AT_FDCWD
    entry.addr = <uint64_t><uintptr_t>op.buffer()
    if op.events == CHANGE_RENAME:
        entry.opcode = PX_OP_RENAMEAT
        entry.len = <uint32_t>AT_FDCWD
        entry.off = entry.addr + strlen(op.buffer()) + 1
    else:
        entry.opcode = PX_OP_UNLINKAT
        entry.op_flags = AT_REMOVEDIR if op.events == CHANGE_RMDIR else 0


cdef Encoder encoders[KINDS]
encoders[RECV_STREAM] = encode_recv_stream
encoders[WAIT_CHILD] = encode_wait_child
encoders[READ] = encode_read
encoders[WRITE] = encode_write
encoders[FSYNC] = encode_fsync
encoders[OPEN] = encode_open
encoders[PUNCH] = encode_punch
encoders[PATH_CHANGE] = encode_path_change


cdef bint has_cell(int kind) noexcept:
    """Whether the ring does this kind of op; else the epoll set waits for it."""
    return encoders[kind] != NULL


cdef void encode(Op op, px_sqe *entry) noexcept:
    """Fill the entry of an op whose kind has a cell."""
    entry.fd = op.fd
    entry.user_data = <uint64_t><uintptr_t><void *>op
    encoders[op.kind](op, entry)


cdef void encode_poll(px_sqe *entry, int fd, uint64_t user_data) noexcept:
    """Fill an entry of the driver's own: `fd` is readable."""
    entry.opcode = PX_OP_POLL_ADD
    entry.fd = fd
    entry.op_flags = POLLIN
    entry.user_data = user_data


cdef void encode_cancel(px_sqe *entry, uint64_t user_data) noexcept:
    """Fill an entry of the driver's own: end the one with this `user_data`."""
    entry.opcode = PX_OP_ASYNC_CANCEL
    entry.addr = user_data


def cells():
    """The kinds of op that the ring does, by their numbers in ``constants``."""
    return [kind for kind in range(KINDS) if has_cell(kind)]
