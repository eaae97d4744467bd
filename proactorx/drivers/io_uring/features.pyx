"""What a ring can do here, tried on a small one of its own; and the names of its flags."""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset
from proactorx.sys.ring cimport *
from proactorx.sys.atomic cimport load_acquire_u32, store_release_u32
from proactorx.sys.socket cimport POLLIN

import os
import socket

_SETUP = {
    "SUBMIT_ALL": PX_SETUP_SUBMIT_ALL,
    "COOP_TASKRUN": PX_SETUP_COOP_TASKRUN,
    "TASKRUN_FLAG": PX_SETUP_TASKRUN_FLAG,
    "SINGLE_ISSUER": PX_SETUP_SINGLE_ISSUER,
    "DEFER_TASKRUN": PX_SETUP_DEFER_TASKRUN,
    "NO_SQARRAY": PX_SETUP_NO_SQARRAY,
    "R_DISABLED": PX_SETUP_R_DISABLED,
}
_FEATURES = {
    "SINGLE_MMAP": PX_FEAT_SINGLE_MMAP,
    "NODROP": PX_FEAT_NODROP,
    "EXT_ARG": PX_FEAT_EXT_ARG,
    "CQE_SKIP": PX_FEAT_CQE_SKIP,
    "RECVSEND_BUNDLE": PX_FEAT_RECVSEND_BUNDLE,
    "MIN_TIMEOUT": PX_FEAT_MIN_TIMEOUT,
    "NO_IOWAIT": PX_FEAT_NO_IOWAIT,
}


cdef _names(uint32_t bits, dict table):
    return tuple([name for name, bit in table.items() if bits & <uint32_t>bit])


def setup_names(uint32_t bits):
    """The flags that a ring was made with, by name."""
    return _names(bits, _SETUP)


def feature_names(uint32_t bits):
    """The features that the kernel says it has, by name."""
    return _names(bits, _FEATURES)


def probe_ring():
    """Make a small ring and ask it what it can do.

    Returns a dict: ``setup_flags``, ``features`` (names), ``ops`` (opcodes), ``multishot_poll``.

    Raises:
        OSError: io_uring_setup or a needed step failed, with the kernel's errno.
    """
    cdef px_ring ring
    cdef px_probe *probe = <px_probe *>PyMem_Malloc(sizeof(px_probe))
    cdef int error, i
    cdef list ops = []
    if probe == NULL:
        raise MemoryError
    memset(probe, 0, sizeof(px_probe))
    error = px_ring_open(&ring, 8, 32, 0, 0)
    try:
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        if px_register(ring.fd, PX_REGISTER_PROBE, probe, 256) >= 0:
            for i in range(probe.ops_len):
                if probe.ops[i].flags & PX_OP_SUPPORTED:
                    ops.append(probe.ops[i].op)
        return {
            "setup_flags": setup_names(ring.setup_flags),
            "features": feature_names(ring.features),
            "ops": tuple(ops),
            "multishot_poll": _try_multishot_poll(&ring),
        }
    finally:
        px_ring_free(&ring, 1)
        PyMem_Free(probe)


def answer_to(int opcode, int flags=0):
    """What a restricted ring says to an entry with this opcode and these flags: 0 or more, or -errno.

    Raises:
        OSError: the ring could not be made, or does not answer.
    """
    cdef px_ring ring
    cdef px_sqe *entry
    cdef int error = px_ring_open(&ring, 8, 32, 0, 1)
    if error < 0:
        raise OSError(-error, os.strerror(-error))
    try:
        entry = px_ring_sqe(&ring)
        entry.opcode = <uint8_t>opcode
        entry.flags = <uint8_t>flags
        entry.fd = -1
        error = px_ring_enter(&ring, 1, 1_000_000_000)
        if not px_ring_ready(&ring):
            raise OSError(-error, os.strerror(-error))
        return ring.cqes[ring.k_cq_head[0] & ring.cq_mask].res
    finally:
        px_ring_free(&ring, 1)


cdef bint _more(px_ring *ring):
    """Whether the first completion that comes says that more will follow."""
    cdef uint32_t head
    cdef px_cqe *cqe
    px_ring_enter(ring, 1, 1_000_000_000)
    if not px_ring_ready(ring):
        return False
    head = ring.k_cq_head[0]
    cqe = &ring.cqes[head & ring.cq_mask]
    more = cqe.res >= 0 and cqe.flags & PX_CQE_MORE != 0
    store_release_u32(ring.k_cq_head, head + 1)
    return more


cdef _try_multishot_poll(px_ring *ring):
    # There is no feature bit: submit one and look for MORE.
    cdef px_sqe *entry
    a, b = socket.socketpair()
    with a, b:
        a.send(b"x")
        entry = px_ring_sqe(ring)
        entry.opcode = PX_OP_POLL_ADD
        entry.fd = b.fileno()
        entry.op_flags = POLLIN
        entry.len = PX_POLL_ADD_MULTI
        entry.user_data = 1
        more = _more(ring)
        _end(ring, 1)
        return more


cdef _end(px_ring *ring, uint64_t user_data):
    """Cancel the multishot before its sockets go; done when the answer to the cancel is there."""
    cdef px_sqe *entry = px_ring_sqe(ring)
    entry.opcode = PX_OP_ASYNC_CANCEL
    entry.addr = user_data
    px_ring_enter(ring, 1, 1_000_000_000)
    store_release_u32(ring.k_cq_head, load_acquire_u32(ring.k_cq_tail))
