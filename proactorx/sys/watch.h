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
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
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

#ifndef _WIN32
/* This thread takes no signals: they are for the threads of the program. */
static inline void px_take_no_signals(void) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
}

/* Append one line on a thread to a file: `what` of it in /proc, as the kernel has it. */
static inline void px_copy_view(int fd, uint64_t native_id, const char *what) {
    char text[512];
    int source, used, count;
    snprintf(text, sizeof text, "/proc/self/task/%llu/%s", (unsigned long long)native_id, what);
    source = open(text, O_RDONLY | O_CLOEXEC);
    if (source < 0) return;
    used = snprintf(text, sizeof text, "  %s: ", what);
    count = (int)read(source, text + used, sizeof text - (size_t)used - 1);
    close(source);
    if (count <= 0) return; /* without the right to look, or with nothing to say */
    used += count;
    text[used] = 0;
    if (!strcmp(what, "stat") && strrchr(text, ')') != NULL) /* the state is the letter behind the name */
        used = snprintf(text, sizeof text, "  state: %c", strrchr(text, ')')[2]);
    if (text[used - 1] != '\n') text[used++] = '\n';
    if (write(fd, text, (size_t)used) < 0) return;
}

/* Append the kernel's view of a thread to a file: its state, its system call, and where it waits. */
static inline void px_kernel_view(int fd, uint64_t native_id) {
#ifdef __linux__
    static const char title[] = "The kernel of this thread:\n";
    if (write(fd, title, sizeof title - 1) < 0) return;
    px_copy_view(fd, native_id, "stat");
    px_copy_view(fd, native_id, "syscall");
    px_copy_view(fd, native_id, "wchan");
#else
    (void)fd, (void)native_id;
#endif
}

/* Copy what a file has from `start` on to another one. */
static inline void px_copy_rest(int from, int64_t start, int to) {
    char text[4096];
    ssize_t count;
    while ((count = pread(from, text, sizeof text, (off_t)start)) > 0) {
        if (write(to, text, (size_t)count) < 0) return;
        start += count;
    }
}

static inline int64_t px_file_end(int fd) { return (int64_t)lseek(fd, 0, SEEK_END); }
static inline void px_say(int fd, const char *text) {
    if (write(fd, text, strlen(text)) < 0) return;
}
#else
static inline void px_take_no_signals(void) {}
static inline void px_kernel_view(int fd, uint64_t native_id) { (void)fd, (void)native_id; }
static inline void px_copy_rest(int from, int64_t start, int to) { (void)from, (void)start, (void)to; }
static inline int64_t px_file_end(int fd) { (void)fd; return -1; }
static inline void px_say(int fd, const char *text) { (void)fd, (void)text; }
#endif

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
