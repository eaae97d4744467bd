from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "proactorx/sys/ring.h":
    struct px_sqe:
        uint8_t opcode
        uint8_t flags
        uint16_t ioprio
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        uint32_t op_flags
        uint64_t user_data
        uint16_t buf_index
        int file_index
    struct px_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags
    ctypedef struct px_ring:
        int fd, enter_fd
        uint32_t setup_flags, features, sq_entries, cq_entries, cq_mask
        uint32_t *k_cq_head
        uint32_t *k_cq_tail
        px_cqe *cqes
    struct px_probe_op:
        uint8_t op
        uint16_t flags
    struct px_probe:
        uint8_t last_op, ops_len
        px_probe_op *ops

    int px_ring_open(px_ring *ring, uint32_t entries, uint32_t cq_entries, int shared, int restricted) nogil
    uint64_t px_this_thread() nogil
    void px_ring_clear(px_ring *ring) nogil
    void px_ring_free(px_ring *ring, int unmap) nogil
    void px_ring_register(px_ring *ring) nogil
    void px_ring_unregister(px_ring *ring) nogil
    px_sqe *px_ring_sqe(px_ring *ring) nogil
    uint32_t px_ring_last(px_ring *ring) nogil
    int px_ring_withdraw(px_ring *ring, uint32_t place, uint64_t user_data) nogil
    int px_ring_enter(px_ring *ring, int wait, int64_t timeout_ns) nogil
    bint px_ring_watch(px_ring *ring, int64_t until) nogil
    uint32_t px_ring_unsent(px_ring *ring) nogil
    uint32_t px_ring_ready(px_ring *ring) nogil
    int px_ring_pending(px_ring *ring) nogil
    int px_ring_spin(px_ring *ring, int64_t until) nogil
    int px_ring_overflowed(px_ring *ring) nogil
    int px_register(int fd, unsigned int op, void *arg, unsigned int count) nogil

    enum:
        PX_SETUP_NO_SQARRAY, PX_SETUP_SINGLE_ISSUER, PX_SETUP_DEFER_TASKRUN, PX_SETUP_COOP_TASKRUN
        PX_SETUP_TASKRUN_FLAG, PX_SETUP_SUBMIT_ALL
        PX_FEAT_NODROP, PX_FEAT_EXT_ARG, PX_FEAT_CQE_SKIP, PX_FEAT_RECVSEND_BUNDLE, PX_FEAT_MIN_TIMEOUT
        PX_FEAT_NO_IOWAIT, PX_FEAT_SINGLE_MMAP
        PX_SETUP_R_DISABLED, PX_REGISTER_PROBE, PX_REGISTER_IOWQ_MAX_WORKERS
        PX_SQE_CQE_SKIP_SUCCESS, PX_CQE_MORE, PX_POLL_ADD_MULTI, PX_OP_SUPPORTED
        PX_OP_FSYNC, PX_OP_POLL_ADD, PX_OP_ASYNC_CANCEL, PX_OP_OPENAT, PX_OP_READ, PX_OP_WRITE, PX_OP_RENAMEAT
        PX_OP_UNLINKAT, PX_OP_WAITID, PX_OP_FALLOCATE
    enum: P_PID, WEXITED, WNOWAIT
