/* The part of the io_uring kernel ABI that this driver uses, from the manual pages io_uring_setup(2),
 * io_uring_enter(2) and io_uring_register(2).  Own definitions, so that the headers of the build machine do
 * not decide what the program can do on the machine it runs on.  Numbers of system calls,
 * opcodes and flags never change.
 */
#ifndef PROACTORX_SYS_RING_ABI_H
#define PROACTORX_SYS_RING_ABI_H

#include <stdint.h>

#define PX_NR_SETUP 425
#define PX_NR_ENTER 426
#define PX_NR_REGISTER 427

struct px_sqe {
    uint8_t opcode;
    uint8_t flags;
    uint16_t ioprio;
    int32_t fd;
    uint64_t off;      /* also addr2 */
    uint64_t addr;
    uint32_t len;
    uint32_t op_flags; /* msg_flags, accept_flags, poll32_events, cancel_flags, ... */
    uint64_t user_data;
    uint16_t buf_index;
    uint16_t personality;
    int32_t file_index;
    uint64_t pad[2];
};

struct px_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

struct px_sq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
    uint64_t user_addr;
};

struct px_cq_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
    uint64_t user_addr;
};

struct px_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd, resv[3];
    struct px_sq_offsets sq_off;
    struct px_cq_offsets cq_off;
};

struct px_getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_size, min_wait_usec;
    uint64_t ts;
};

struct px_timespec {
    int64_t sec, nsec;
};

struct px_probe_op {
    uint8_t op, resv;
    uint16_t flags;
    uint32_t resv2;
};

struct px_probe {
    uint8_t last_op, ops_len;
    uint16_t resv;
    uint32_t resv2[3];
    struct px_probe_op ops[256];
};

struct px_restriction {
    uint16_t kind;
    uint8_t value;     /* an operation of io_uring_register(2), an opcode, or flags of entries */
    uint8_t resv;
    uint32_t resv2[3];
};

struct px_fd_update {
    uint32_t offset, resv;
    uint64_t data;
};

enum {
    /* io_uring_setup(2): flags */
    PX_SETUP_CQSIZE = 1u << 3,
    PX_SETUP_CLAMP = 1u << 4,
    PX_SETUP_R_DISABLED = 1u << 6,
    PX_SETUP_SUBMIT_ALL = 1u << 7,
    PX_SETUP_COOP_TASKRUN = 1u << 8,
    PX_SETUP_TASKRUN_FLAG = 1u << 9,
    PX_SETUP_SINGLE_ISSUER = 1u << 12,
    PX_SETUP_DEFER_TASKRUN = 1u << 13,
    PX_SETUP_NO_SQARRAY = 1u << 16,

    /* features */
    PX_FEAT_SINGLE_MMAP = 1u << 0,
    PX_FEAT_NODROP = 1u << 1,
    PX_FEAT_EXT_ARG = 1u << 8,
    PX_FEAT_CQE_SKIP = 1u << 11,
    PX_FEAT_RECVSEND_BUNDLE = 1u << 14,
    PX_FEAT_MIN_TIMEOUT = 1u << 15,
    PX_FEAT_NO_IOWAIT = 1u << 17,

    /* flags of the submission ring */
    PX_SQ_CQ_OVERFLOW = 1u << 1,
    PX_SQ_TASKRUN = 1u << 2,

    /* io_uring_enter(2) */
    PX_ENTER_GETEVENTS = 1u << 0,
    PX_ENTER_EXT_ARG = 1u << 3,
    PX_ENTER_REGISTERED_RING = 1u << 4,
    PX_ENTER_NO_IOWAIT = 1u << 7,

    /* io_uring_register(2) */
    PX_REGISTER_EVENTFD = 4,
    PX_REGISTER_PROBE = 8,
    PX_REGISTER_RESTRICTIONS = 11,
    PX_REGISTER_ENABLE_RINGS = 12,
    PX_REGISTER_IOWQ_MAX_WORKERS = 19,
    PX_REGISTER_RING_FDS = 20,
    PX_UNREGISTER_RING_FDS = 21,

    /* kinds of restriction */
    PX_RESTRICTION_REGISTER_OP = 0,
    PX_RESTRICTION_SQE_OP = 1,
    PX_RESTRICTION_SQE_FLAGS_ALLOWED = 2,

    /* flags of an entry, and of its completion */
    PX_SQE_CQE_SKIP_SUCCESS = 1u << 6,
    PX_CQE_MORE = 1u << 1,

    /* per-opcode flags */
    PX_POLL_ADD_MULTI = 1u << 0,       /* in len */

    PX_OP_SUPPORTED = 1u << 0,
};

enum px_opcode {
    PX_OP_NOP = 0,
    PX_OP_POLL_ADD = 6,
    PX_OP_FSYNC = 3,
    PX_OP_ASYNC_CANCEL = 14,
    PX_OP_FALLOCATE = 17,
    PX_OP_OPENAT = 18,
    PX_OP_READ = 22,
    PX_OP_WRITE = 23,
    PX_OP_RENAMEAT = 35,
    PX_OP_UNLINKAT = 36,
    PX_OP_WAITID = 50,
};

#endif
