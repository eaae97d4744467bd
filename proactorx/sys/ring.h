/* One ring: set-up, submission, reaping.  No Python here.
 *
 * A loop's ring: everything runs in the thread that drives the loop (SINGLE_ISSUER); other threads only write
 * to an eventfd in an epoll set that the ring polls.  With DEFER_TASKRUN completions appear only while that
 * thread is inside io_uring_enter with GETEVENTS, so the kernel never interrupts Python; TASKRUN_FLAG says
 * whether such a call would bring anything.
 *
 * A shared ring: any thread submits and reaps, one at a time (its user has a lock), while another one sleeps
 * on the ring's descriptor, which touches neither queue.  None of those flags, and no COOP_TASKRUN: what
 * completes is finished by the thread that submitted it,
 * which may be busy for long and must be interrupted for it.
 */
#ifndef PROACTORX_SYS_RING_H
#define PROACTORX_SYS_RING_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "atomic.h"
#include "clock.h"
#include "ring_abi.h"

typedef struct {
    int fd;            /* -1: no ring */
    int enter_fd;      /* fd, or its index when it is registered with this thread */
    int shared;
    uint32_t setup_flags, features, enter_flags;
    uint32_t sq_entries, sq_mask, cq_entries, cq_mask;
    uint32_t sq_tail;  /* ours; published to the kernel before an enter */
    uint32_t sq_sent;  /* what the kernel has consumed of it */
    uint32_t *k_sq_head, *k_sq_tail, *k_sq_flags, *k_cq_head, *k_cq_tail, *k_sq_array;
    struct px_sqe *sqes;
    struct px_cqe *cqes;
    void *rings, *cq_rings;
    size_t rings_size, cq_rings_size, sqes_size;
} px_ring;

/* A number of the calling thread that no other one of this process has, had or will have:
 * thread ids come again. */
static inline uint64_t px_this_thread(void) {
    static uint64_t last;
    static __thread uint64_t mine;
    if (!mine) mine = px_add_fetch(&last, 1);
    return mine;
}

static inline int px_setup(uint32_t entries, struct px_params *params) {
    long fd = syscall(PX_NR_SETUP, entries, params);
    return fd < 0 ? -errno : (int)fd;
}

static inline int px_register(int fd, unsigned op, void *arg, unsigned count) {
    long n = syscall(PX_NR_REGISTER, fd, op, arg, count);
    return n < 0 ? -errno : (int)n;
}

static inline void px_ring_clear(px_ring *r) {
    memset(r, 0, sizeof *r);
    r->fd = r->enter_fd = -1;
}

static void px_ring_free(px_ring *r, int unmap) {
    if (r->fd < 0) return;
    if (unmap) {
        if (r->sqes) munmap(r->sqes, r->sqes_size);
        if (r->cq_rings && r->cq_rings != r->rings) munmap(r->cq_rings, r->cq_rings_size);
        if (r->rings) munmap(r->rings, r->rings_size);
    }
    close(r->fd);
    px_ring_clear(r);
}

static void *px_ring_map(int fd, size_t size, uint64_t offset) {
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)offset);
    if (p == MAP_FAILED) return NULL;
    (void)madvise(p, size, MADV_DONTFORK); /* a forked child must not touch the parent's ring */
    return p;
}

static int px_ring_map_all(px_ring *r, struct px_params *p) {
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct px_cqe);
    char *s, *c;
    r->rings_size = (p->features & PX_FEAT_SINGLE_MMAP) && cq > sq ? cq : sq;
    if (!(r->rings = px_ring_map(r->fd, r->rings_size, 0))) return -errno;
    if (p->features & PX_FEAT_SINGLE_MMAP) r->cq_rings = r->rings;
    else {
        r->cq_rings_size = cq;
        if (!(r->cq_rings = px_ring_map(r->fd, cq, 0x8000000ull))) return -errno;
    }
    r->sqes_size = p->sq_entries * sizeof(struct px_sqe);
    if (!(r->sqes = px_ring_map(r->fd, r->sqes_size, 0x10000000ull))) return -errno;
    s = r->rings, c = r->cq_rings;
    r->k_sq_head = (uint32_t *)(s + p->sq_off.head);
    r->k_sq_tail = (uint32_t *)(s + p->sq_off.tail);
    r->k_sq_flags = (uint32_t *)(s + p->sq_off.flags);
    r->k_sq_array = (uint32_t *)(s + p->sq_off.array);
    r->k_cq_head = (uint32_t *)(c + p->cq_off.head);
    r->k_cq_tail = (uint32_t *)(c + p->cq_off.tail);
    r->cqes = (struct px_cqe *)(c + p->cq_off.cqes);
    r->sq_entries = p->sq_entries, r->sq_mask = p->sq_entries - 1;
    r->cq_entries = p->cq_entries, r->cq_mask = p->cq_entries - 1;
    return 0;
}

/* All that this driver asks of a ring. */
static const uint8_t px_used_ops[] = {
    PX_OP_NOP, PX_OP_FSYNC, PX_OP_POLL_ADD, PX_OP_ASYNC_CANCEL, PX_OP_OPENAT,
    PX_OP_READ, PX_OP_WRITE, PX_OP_RENAMEAT, PX_OP_UNLINKAT, PX_OP_WAITID, PX_OP_FALLOCATE,
};
static const uint8_t px_used_registrations[] = {
    PX_REGISTER_IOWQ_MAX_WORKERS, PX_REGISTER_RING_FDS, PX_UNREGISTER_RING_FDS,
};

/* Enable a ring that was made disabled, for the above and nothing else: whatever is refused ends with
 * -EACCES.  An opcode that this kernel does not know is left out, as it would refuse the whole list. */
static int px_ring_restrict(px_ring *r) {
    struct px_restriction list[sizeof px_used_ops + sizeof px_used_registrations + 1];
    struct px_probe known;
    uint32_t i, n = 0;
    int error;
    memset(&known, 0, sizeof known);
    memset(list, 0, sizeof list);
    if ((error = px_register(r->fd, PX_REGISTER_PROBE, &known, 256)) < 0) return error;
    for (i = 0; i < sizeof px_used_ops; i++)
        if (px_used_ops[i] <= known.last_op) {
            list[n].kind = PX_RESTRICTION_SQE_OP;
            list[n++].value = px_used_ops[i];
        }
    for (i = 0; i < sizeof px_used_registrations; i++) {
        list[n].kind = PX_RESTRICTION_REGISTER_OP;
        list[n++].value = px_used_registrations[i];
    }
    list[n].kind = PX_RESTRICTION_SQE_FLAGS_ALLOWED;
    list[n++].value = PX_SQE_CQE_SKIP_SUCCESS;
    if ((error = px_register(r->fd, PX_REGISTER_RESTRICTIONS, list, n)) < 0) return error;
    return px_register(r->fd, PX_REGISTER_ENABLE_RINGS, NULL, 0);
}

/* Create a ring of `entries` with as many of the wanted flags as this kernel has: on EINVAL they are given up
 * in the order DEFER_TASKRUN (with SINGLE_ISSUER, which it needs), NO_SQARRAY, COOP_TASKRUN.  A `restricted`
 * ring does only what px_ring_restrict allows.  0 or -errno. */
static int px_ring_open(px_ring *r, uint32_t entries, uint32_t cq_entries, int shared, int restricted) {
    static const uint32_t steps[] = {
        0,
        PX_SETUP_NO_SQARRAY,
        PX_SETUP_NO_SQARRAY | PX_SETUP_DEFER_TASKRUN | PX_SETUP_SINGLE_ISSUER,
        PX_SETUP_NO_SQARRAY | PX_SETUP_DEFER_TASKRUN | PX_SETUP_SINGLE_ISSUER | PX_SETUP_COOP_TASKRUN
            | PX_SETUP_TASKRUN_FLAG | PX_SETUP_SUBMIT_ALL,
    };
    const uint32_t base = PX_SETUP_CQSIZE | PX_SETUP_CLAMP | (restricted ? PX_SETUP_R_DISABLED : 0);
    const uint32_t single = PX_SETUP_DEFER_TASKRUN | PX_SETUP_SINGLE_ISSUER | PX_SETUP_COOP_TASKRUN
        | PX_SETUP_TASKRUN_FLAG;
    const uint32_t wanted = PX_SETUP_NO_SQARRAY | PX_SETUP_SUBMIT_ALL | (shared ? 0 : single);
    struct px_params p;
    uint32_t i;
    int fd = -EINVAL, error;
    px_ring_clear(r);
    for (i = 0; i < sizeof steps / sizeof *steps && fd == -EINVAL; i++) {
        memset(&p, 0, sizeof p);
        p.flags = base | (wanted & ~steps[i]);
        p.cq_entries = cq_entries;
        fd = px_setup(entries, &p);
    }
    if (fd < 0) return fd;
    r->fd = r->enter_fd = fd;
    r->setup_flags = p.flags;
    r->features = p.features;
    r->shared = shared;
    if ((error = px_ring_map_all(r, &p)) < 0 || (restricted && (error = px_ring_restrict(r)) < 0)) {
        px_ring_free(r, 1);
        return error;
    }
    if (!(p.flags & PX_SETUP_NO_SQARRAY))
        for (i = 0; i < r->sq_entries; i++) r->k_sq_array[i] = i;
    if (r->features & PX_FEAT_NO_IOWAIT) r->enter_flags = PX_ENTER_NO_IOWAIT;
    return 0;
}

/* A registered ring costs a fifth less per enter; the registration belongs to the thread. */
static void px_ring_register(px_ring *r) {
    struct px_fd_update u = {.offset = (uint32_t)-1, .data = (uint64_t)r->fd};
    if (r->enter_fd == r->fd && px_register(r->fd, PX_REGISTER_RING_FDS, &u, 1) == 1) {
        r->enter_fd = (int)u.offset;
        r->enter_flags |= PX_ENTER_REGISTERED_RING;
    }
}

static void px_ring_unregister(px_ring *r) {
    struct px_fd_update u = {.offset = (uint32_t)r->enter_fd};
    if (!(r->enter_flags & PX_ENTER_REGISTERED_RING)) return;
    (void)px_register(r->fd, PX_UNREGISTER_RING_FDS, &u, 1);
    r->enter_fd = r->fd;
    r->enter_flags &= ~(uint32_t)PX_ENTER_REGISTERED_RING;
}

static inline uint32_t px_ring_unsent(px_ring *r) { return r->sq_tail - r->sq_sent; }
static inline uint32_t px_ring_ready(px_ring *r) { return px_load_acquire(r->k_cq_tail) - *r->k_cq_head; }

/* Whether an enter could bring completions that are not in the ring yet. */
static inline int px_ring_pending(px_ring *r) {
    if (!(r->setup_flags & PX_SETUP_TASKRUN_FLAG) && !r->shared) return 1;
    return (px_load_acquire(r->k_sq_flags) & (PX_SQ_TASKRUN | PX_SQ_CQ_OVERFLOW)) != 0;
}

/* Look for completions, without system calls, until px_now_ns() is `until`; whether there are some. */
static inline int px_ring_spin(px_ring *r, int64_t until) {
    do {
        if (px_ring_ready(r) || px_ring_pending(r)) return 1;
    } while (px_now_ns() < until);
    return 0;
}

/* Whether completions wait outside the ring, which is full: an enter brings them. */
static inline int px_ring_overflowed(px_ring *r) {
    return (px_load_acquire(r->k_sq_flags) & PX_SQ_CQ_OVERFLOW) != 0;
}

/* The next free entry, zeroed; NULL when the submission ring is full. */
static inline struct px_sqe *px_ring_sqe(px_ring *r) {
    struct px_sqe *sqe;
    if (r->sq_tail - px_load_acquire(r->k_sq_head) >= r->sq_entries) return NULL;
    sqe = &r->sqes[r->sq_tail & r->sq_mask];
    r->sq_tail++;
    memset(sqe, 0, sizeof *sqe);
    return sqe;
}

/* The place of the entry that was prepared last. */
static inline uint32_t px_ring_last(px_ring *r) { return r->sq_tail - 1; }

/* Turn the entry at `place` into a no-op with the same user_data, where the kernel has not taken it yet: 1,
 * else 0. */
static inline int px_ring_withdraw(px_ring *r, uint32_t place, uint64_t user_data) {
    struct px_sqe *sqe = &r->sqes[place & r->sq_mask];
    if (place - px_load_acquire(r->k_sq_head) >= r->sq_tail - px_load_acquire(r->k_sq_head)) return 0;
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = PX_OP_NOP;
    sqe->user_data = user_data;
    return 1;
}

/* Submit what is prepared and collect completions; wait for one when `wait` is set, at most `timeout_ns` (<
 * 0: without limit).  0, or -errno: -ETIME and -EINTR are normal ends of a wait. */
static int px_ring_enter(px_ring *r, int wait, int64_t timeout_ns) {
    struct px_timespec ts = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    struct px_getevents_arg arg = {.ts = (uint64_t)(uintptr_t)&ts};
    uint32_t flags = PX_ENTER_GETEVENTS | r->enter_flags;
    long n;
    px_store_release(r->k_sq_tail, r->sq_tail);
    if (wait && timeout_ns >= 0)
        n = syscall(PX_NR_ENTER, r->enter_fd, px_ring_unsent(r), 1, flags | PX_ENTER_EXT_ARG, &arg,
                    sizeof arg);
    else
        n = syscall(PX_NR_ENTER, r->enter_fd, px_ring_unsent(r), wait, flags, NULL, (size_t)8);
    if (n < 0) {
        int error = errno;
        r->sq_sent = px_load_acquire(r->k_sq_head);
        return -error;
    }
    r->sq_sent = px_load_acquire(r->k_sq_head);
    return 0;
}

/* Look at the rings, without system calls, until something is there (1) or the time is over (0). */
static int px_ring_watch(px_ring *r, int64_t until) {
    do {
        if (px_ring_ready(r) || px_ring_pending(r)) return 1;
    } while (px_now_ns() < until);
    return 0;
}

#endif
