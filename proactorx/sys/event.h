/* How other threads end a wait: they write to a descriptor that the waiting thread listens to.
   No Python here.
 *
 * Three things may happen at the same time as a wake-up, and none of them needs a lock:
 *
 *  - The descriptor is made.  Who comes before that has posted first and finds none afterwards;
 * who makes it stores it
 *    first and looks at what was posted afterwards, without sleeping in between (see Port.wait).
 * All four accesses are
 *    sequentially consistent, so one of the two sees the other.
 *  - The descriptor is closed.  Its number may belong to another file a moment later,
 * which must not be written to.
 *    Who wakes says so in `users` before it reads `fd`,
 * and px_waker_close takes `fd` away before it reads `users`, and
 *    waits until nobody is left who may have read it: for the time of one system call that never waits.
 *  - The process forks.  The child has one thread, and whoever was counted is not in it: px_waker_forget.
 */
#ifndef PROACTORX_SYS_EVENT_H
#define PROACTORX_SYS_EVENT_H

#include <errno.h>
#include <stdint.h>
#include "atomic.h"
#include "socket.h"
#ifdef _WIN32
#define px_let_run() SwitchToThread()
#else
#include <sched.h>
#define px_let_run() sched_yield()
#endif
#ifdef __linux__
#include <sys/eventfd.h>
#endif

typedef struct {
    int fd;    /* -1: there is none */
    int users; /* threads that are about to write to it, or do */
} px_waker;

static inline void px_waker_clear(px_waker *w) { w->fd = -1, w->users = 0; }

static inline void px_waker_set(px_waker *w, int fd) { (void)px_exchange(&w->fd, fd); }

/* The descriptor, which stays what it is until px_waker_leave; -1: there is none. */
static inline int px_waker_enter(px_waker *w) {
    (void)px_add_fetch(&w->users, 1);
    return px_load(&w->fd);
}

static inline void px_waker_leave(px_waker *w) { (void)px_add_fetch(&w->users, -1); }

#ifdef __linux__
static inline int px_eventfd(void) {
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

/* It was written to, and is as if it had not been. */
static inline void px_eventfd_drain(int fd) {
    uint64_t count;
    (void)!read(fd, &count, sizeof count);
}

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

/* End the wait of who listens at the other end of a socket pair.  0, or -1 where that failed. */
static inline int px_wake_socket(px_waker *w) {
    int fd = px_waker_enter(w);
    long long n = fd >= 0 ? px_send(fd, "", 1) : 1;
    px_waker_leave(w);
    /* Full: a wake-up is pending. */
    return n == 1 || n == -EAGAIN || n == -EWOULDBLOCK || n == -ENOBUFS ? 0 : -1;
}

/* Take the descriptor away; it is the caller's to close.  -1: there is none. */
static inline int px_waker_close(px_waker *w) {
    int fd = px_exchange(&w->fd, -1);
    while (px_load(&w->users)) px_let_run();
    return fd;
}

/* The same in a forked child. */
static inline int px_waker_forget(px_waker *w) {
    int fd = w->fd;
    px_waker_clear(w);
    return fd;
}

#endif
