"""What an entry of the ring says of an op on files: see io_uring_enter(2)."""

from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport strlen
from proactorx.sys.file cimport AT_FDCWD
from proactorx.sys.ring cimport *
from proactorx.ops.op cimport (
    FILE_STEP, FSYNC, NAME, NAME_RENAME, NAME_RMDIR, OPEN, Op, READ,
)

cdef enum:
    AT_REMOVEDIR = 0x200
    NEW_FILE_MODE = 0o666  # OPEN: less the umask


cdef inline int arm_file(Op op, px_sqe *entry) except -1:
    """READ, WRITE, FSYNC, OPEN, NAME."""
    if op.kind == FSYNC:
        entry.opcode = PX_OP_FSYNC
        entry.op_flags = op.events
    elif op.kind == OPEN:
        entry.opcode = PX_OP_OPENAT
        entry.addr = <uint64_t><uintptr_t>op.buffer()
        entry.op_flags = op.events
        entry.len = NEW_FILE_MODE
    elif op.kind == NAME:
        arm_name(op, entry)
    else:
        entry.opcode = PX_OP_READ if op.kind == READ else PX_OP_WRITE
        entry.addr = <uint64_t><uintptr_t>op.buffer()
        entry.len = <uint32_t>min(op.want(), FILE_STEP)
        entry.off = <uint64_t>op.position
    return 0


cdef inline void arm_name(Op op, px_sqe *entry) noexcept:
    entry.fd = AT_FDCWD
    entry.addr = <uint64_t><uintptr_t>op.buffer()
    if op.events == NAME_RENAME:
        entry.opcode = PX_OP_RENAMEAT
        entry.len = <uint32_t>AT_FDCWD
        entry.off = entry.addr + strlen(op.buffer()) + 1
    else:
        entry.opcode = PX_OP_UNLINKAT
        entry.op_flags = AT_REMOVEDIR if op.events == NAME_RMDIR else 0
