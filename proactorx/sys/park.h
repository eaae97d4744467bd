/* Where a waiting thread sleeps, and what can be known of one that sleeps elsewhere.
 *
 * Linux: futex(2), and the state and CPU clock of a thread.  Elsewhere: a condition variable,
 * and nothing is known. */
#ifndef PROACTORX_SYS_PARK_H
#define PROACTORX_SYS_PARK_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#ifdef __linux__
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include "atomic.h"
#include "clock.h"

/* PX_PARKED: it waits, and sleeps or is about to. */
enum { PX_RUNS, PX_WAITING, PX_PARKED, PX_LEAD, PX_RELEASED, PX_CLOSED };

typedef struct {
    uint32_t signal;
#ifndef __linux__
    pthread_mutex_t mutex;
    pthread_cond_t cond;
#endif
} px_parking;

static inline uint32_t px_signal_of(px_parking *k) { return px_load_acquire(&k->signal); }
static inline void px_wait(px_parking *k) { px_store_relaxed(&k->signal, PX_WAITING); }
static inline int px_is_waiting(px_parking *k) {
    uint32_t signal = px_signal_of(k);
    return signal == PX_WAITING || signal == PX_PARKED;
}

#ifdef __linux__

static inline void px_parking_init(px_parking *k) { k->signal = PX_RUNS; }
static inline void px_parking_free(px_parking *k) { (void)k; }

static inline void px_signal(px_parking *k, uint32_t signal) {
    /* The thread may be gone when the futex is woken, as after any unlock: then nobody waits at that address.
     * */
    if (px_exchange(&k->signal, signal) == PX_PARKED)
        syscall(SYS_futex, &k->signal, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Sleep until there is a signal; at most until `deadline` (px_now_ns(); < 0: without limit).
 * 0, -ETIMEDOUT or -EINTR. */
static int px_park(px_parking *k, int64_t deadline) {
    struct timespec until = {deadline / 1000000000, deadline % 1000000000};
    (void)px_compare_exchange(&k->signal, PX_WAITING, PX_PARKED);
    while (px_signal_of(k) == PX_PARKED) {
        /* _BITSET takes a point in time of CLOCK_MONOTONIC, futex(2). */
        long n = syscall(SYS_futex, &k->signal, FUTEX_WAIT_BITSET_PRIVATE, PX_PARKED,
                         deadline < 0 ? NULL : &until,
                         NULL, FUTEX_BITSET_MATCH_ANY);
        if (n < 0 && (errno == ETIMEDOUT || errno == EINTR)) return -errno;
    }
    return 0;
}

/* Of a thread: the clock of its CPU time, and its number. */
typedef struct {
    clockid_t id;
    long tid;
} px_clock;

#define PX_CAN_WATCH 1

static inline px_clock px_clock_of_this_thread(void) {
    px_clock clock = {.tid = syscall(SYS_gettid)};
    pthread_getcpuclockid(pthread_self(), &clock.id);
    return clock;
}

static inline int64_t px_cpu_time(px_clock clock) {
    struct timespec used = {0, 0};
    clock_gettime(clock.id, &used);
    return (int64_t)used.tv_sec * 1000000000 + used.tv_nsec;
}

/* Whether it sleeps in the kernel: the state in proc_pid_stat(5), after the name in brackets. */
static int px_sleeps(px_clock clock) {
    char text[256], *state;
    int fd;
    ssize_t n;
    snprintf(text, sizeof text, "/proc/self/task/%ld/stat", clock.tid);
    if ((fd = open(text, O_RDONLY | O_CLOEXEC)) < 0) return 0;
    n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = 0;
    state = strrchr(text, ')');
    return state && state[1] == ' ' && (state[2] == 'S' || state[2] == 'D');
}

#else

static inline void px_parking_init(px_parking *k) {
    k->signal = PX_RUNS;
    pthread_mutex_init(&k->mutex, NULL);
    pthread_cond_init(&k->cond, NULL);
}

static inline void px_parking_free(px_parking *k) {
    pthread_cond_destroy(&k->cond);
    pthread_mutex_destroy(&k->mutex);
}

static inline void px_signal(px_parking *k, uint32_t signal) {
    pthread_mutex_lock(&k->mutex);
    px_store_release(&k->signal, signal);
    pthread_cond_signal(&k->cond);
    pthread_mutex_unlock(&k->mutex);
}

static int px_park(px_parking *k, int64_t deadline) {
    int error = 0;
    pthread_mutex_lock(&k->mutex);
    while (px_signal_of(k) == PX_WAITING && !error) {
        if (deadline < 0) error = pthread_cond_wait(&k->cond, &k->mutex);
        else {
            /* Of the wall clock: the monotonic one cannot be had everywhere (macOS). */
            struct timespec until;
            int64_t left = deadline - px_now_ns();
            clock_gettime(CLOCK_REALTIME, &until);
            left = left > 0 ? left + until.tv_nsec : until.tv_nsec;
            until.tv_sec += left / 1000000000, until.tv_nsec = left % 1000000000;
            error = pthread_cond_timedwait(&k->cond, &k->mutex, &until);
        }
    }
    pthread_mutex_unlock(&k->mutex);
    return -error;
}

typedef int px_clock;

#define PX_CAN_WATCH 0

static inline px_clock px_clock_of_this_thread(void) { return 0; }
static inline int64_t px_cpu_time(px_clock clock) { (void)clock; return 0; }
static inline int px_sleeps(px_clock clock) { (void)clock; return 0; }

#endif
#endif
