/* How other threads end a wait: they write to a descriptor that the waiting thread listens to.  No Python here.
 *
 * Three things may happen at the same time as a wake-up, and none of them needs a lock:
 *
 *  - The descriptor is made.  Who comes before that has posted first and finds none afterwards; who makes it stores it
 *    first and looks at what was posted afterwards, without sleeping in between (see Port.wait).  All four accesses are
 *    sequentially consistent, so one of the two sees the other.
 *  - The descriptor is closed.  Its number may belong to another file a moment later, which must not be written to.
 *    Who wakes says so in `users` before it reads `fd`, and px_waker_close takes `fd` away before it reads `users`, and
 *    waits until nobody is left who may have read it: for the time of one system call that never waits.
 *  - The process forks.  The child has one thread, and whoever was counted is not in it: px_waker_forget.
 */
#ifndef PROACTORX_WAKER_H
#define PROACTORX_WAKER_H

#include <errno.h>
#include <stdint.h>
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <winsock2.h>
#include <windows.h>
#define px_let_run() SwitchToThread()
#else
#include <sched.h>
#include <unistd.h>
#define px_let_run() sched_yield()
#endif

/* Sequentially consistent, all of them. */
#ifdef _MSC_VER
static __inline int px_waker_load(int *place) { return _InterlockedOr((volatile long *)place, 0); }
static __inline int px_waker_swap(int *place, int value) { return _InterlockedExchange((volatile long *)place, value); }
static __inline void px_waker_add(int *place, int change) { _InterlockedExchangeAdd((volatile long *)place, change); }
#else
static inline int px_waker_load(int *place) { return __atomic_load_n(place, __ATOMIC_SEQ_CST); }
static inline int px_waker_swap(int *place, int value) { return __atomic_exchange_n(place, value, __ATOMIC_SEQ_CST); }
static inline void px_waker_add(int *place, int change) { (void)__atomic_add_fetch(place, change, __ATOMIC_SEQ_CST); }
#endif

typedef struct {
    int fd;    /* -1: there is none */
    int users; /* threads that are about to write to it, or do */
} px_waker;

static inline void px_waker_clear(px_waker *w) { w->fd = -1, w->users = 0; }

static inline void px_waker_set(px_waker *w, int fd) { (void)px_waker_swap(&w->fd, fd); }

/* The descriptor, which stays what it is until px_waker_leave; -1: there is none. */
static inline int px_waker_enter(px_waker *w) {
    px_waker_add(&w->users, 1);
    return px_waker_load(&w->fd);
}

static inline void px_waker_leave(px_waker *w) { px_waker_add(&w->users, -1); }

#ifndef _WIN32
/* End a wait on an eventfd.  0, or -1 where that failed. */
static inline int px_wake(px_waker *w) {
    uint64_t one = 1;
    int fd = px_waker_enter(w);
    /* EAGAIN: the counter is full, so the wake-up is pending anyway, eventfd(2). */
    int failed = fd >= 0 && write(fd, &one, sizeof one) != sizeof one && errno != EAGAIN;
    px_waker_leave(w);
    return -failed;
}
#endif

/* Take the descriptor away; it is the caller's to close.  -1: there is none. */
static inline int px_waker_close(px_waker *w) {
    int fd = px_waker_swap(&w->fd, -1);
    while (px_waker_load(&w->users)) px_let_run();
    return fd;
}

/* The same in a forked child. */
static inline int px_waker_forget(px_waker *w) {
    int fd = w->fd;
    px_waker_clear(w);
    return fd;
}

#endif
