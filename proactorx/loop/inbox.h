/* What other threads do to a loop: push a handle on a stack, and wake it where it sleeps.  Lock-free, with and
 * without the GIL; all operations are sequentially consistent, because the sleeper and the poster each write one
 * word and then read the other's. */
#ifndef PROACTORX_INBOX_H
#define PROACTORX_INBOX_H

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <stddef.h>
#include <time.h>

static inline void px_inbox_push(void **head, void *item, void **next) {
    void *old = __atomic_load_n(head, __ATOMIC_RELAXED);
    do *next = old; while (!__atomic_compare_exchange_n(head, &old, item, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
}

static inline void *px_inbox_take(void **head) {
    return __atomic_load_n(head, __ATOMIC_RELAXED) ? __atomic_exchange_n(head, NULL, __ATOMIC_SEQ_CST) : NULL;
}

static inline void *px_peek(void **head) { return __atomic_load_n(head, __ATOMIC_SEQ_CST); }

static inline int px_exchange(int *flag, int value) { return __atomic_exchange_n(flag, value, __ATOMIC_SEQ_CST); }

static inline double px_monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#endif
