/* What one thread can learn of another, and of the kernel's side of a listener.
 * -1: this system does not say. */
#ifndef PROACTORX_SYS_WATCH_H
#define PROACTORX_SYS_WATCH_H

#include <stdint.h>
#include <string.h>
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
#else
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <time.h>
#endif
#ifdef __linux__
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#endif

/* The CPU time of a thread of this process in ns, by its native id (threading.get_native_id()).
 * The thread may have ended, and its id may be another's: ask only of one that is known to live. */
static inline int64_t px_thread_cpu_ns(uint64_t native_id) {
#if defined(_WIN32)
    HANDLE thread = OpenThread(THREAD_QUERY_LIMITED_INFORMATION, FALSE, (DWORD)native_id);
    FILETIME created, ended, kernel, user;
    int64_t ns = -1;
    if (thread == NULL) return -1;
    if (GetThreadTimes(thread, &created, &ended, &kernel, &user))
        ns = 100 * (int64_t)((((uint64_t)kernel.dwHighDateTime << 32) | kernel.dwLowDateTime) +
                             (((uint64_t)user.dwHighDateTime << 32) | user.dwLowDateTime));
    CloseHandle(thread);
    return ns;
#elif defined(__linux__)
    /* The clock of a thread by its id, as pthread_getcpuclockid(3) makes it, which needs a pthread_t. */
    clockid_t clock = (clockid_t)((~(unsigned int)native_id << 3) | 6);
    struct timespec used;
    if (clock_gettime(clock, &used)) return -1;
    return (int64_t)used.tv_sec * 1000000000 + used.tv_nsec;
#else
    (void)native_id;
    return -1;
#endif
}

/* Connections that wait for an accept on a listener, and how many there may be.  0, or -1. */
static inline int px_listen_queue(int fd, int *waiting, int *limit) {
#ifdef __linux__
    struct tcp_info info;
    socklen_t size = sizeof info;
    memset(&info, 0, sizeof info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) || info.tcpi_state != 10 /* TCP_LISTEN */)
        return -1;
    *waiting = (int)info.tcpi_unacked;
    *limit = (int)info.tcpi_sacked;
    return 0;
#else
    (void)fd, (void)waiting, (void)limit;
    return -1;
#endif
}

#endif
