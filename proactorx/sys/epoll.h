/* epoll(7), each call returning its result or -errno. */
#ifndef PROACTORX_SYS_EPOLL_H
#define PROACTORX_SYS_EPOLL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PX_EVENTS 256

typedef struct {
    uint32_t events;
    int fd;
    uint32_t generation;
} px_event;

static inline int px_epoll_create(void) {
    int fd = epoll_create1(EPOLL_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* `generation` comes back with each event: it tells a registration from an older one of the same number. */
static inline int px_epoll_ctl(int epfd, int op, int fd, uint32_t events, uint32_t generation) {
    struct epoll_event event = {.events = events, .data.u64 = (uint64_t)generation << 32 | (uint32_t)fd};
    return epoll_ctl(epfd, op, fd, &event) < 0 ? -errno : 0;
}

/* epoll_pwait2 has the same number on every architecture (it came after the numbers were unified). */
#define PX_NR_EPOLL_PWAIT2 441

static inline int px_epoll_wait(int epfd, px_event *out, int64_t timeout_ns) {
    static int no_pwait2; /* set once, by any thread: the kernel does not have it */
    struct epoll_event events[PX_EVENTS];
    int n, i;
    if (timeout_ns > 0 && !no_pwait2) {
        /* struct __kernel_timespec: 64 bits each, on every architecture */
        struct { int64_t sec, nsec; } limit = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        n = (int)syscall(PX_NR_EPOLL_PWAIT2, epfd, events, PX_EVENTS, &limit, NULL, (size_t)0);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM)) goto done;
        no_pwait2 = 1; /* EPERM: a seccomp filter that does not know the call */
    }
    {
        int64_t ms = timeout_ns < 0 ? -1 : (timeout_ns + 999999) / 1000000;
        n = epoll_wait(epfd, events, PX_EVENTS, ms > 86400000 ? 86400000 : (int)ms);
    }
done:
    if (n < 0) return -errno;
    for (i = 0; i < n; i++) {
        out[i].events = events[i].events;
        out[i].fd = (int)(uint32_t)events[i].data.u64;
        out[i].generation = (uint32_t)(events[i].data.u64 >> 32);
    }
    return n;
}

#endif
