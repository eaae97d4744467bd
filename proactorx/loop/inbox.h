/* What other threads do to a loop: push a handle on a stack, and wake it where it sleeps.  Lock-free, with and
 * without the GIL; all operations are sequentially consistent, because the sleeper and the poster each write one
 * word and then read the other's. */
#ifndef PROACTORX_INBOX_H
#define PROACTORX_INBOX_H

#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
#else
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <time.h>
#endif
#include <stddef.h>

#ifdef _MSC_VER

static inline void px_inbox_push(void **head, void *item, void **next) {
    void *old;
    do *next = old = *(void *volatile *)head;
    while (InterlockedCompareExchangePointer(head, item, old) != old);
}

static inline void *px_inbox_take(void **head) {
    return *(void *volatile *)head ? InterlockedExchangePointer(head, NULL) : NULL;
}

static inline void *px_peek(void **head) { return InterlockedCompareExchangePointer(head, NULL, NULL); }

static inline int px_exchange(int *flag, int value) { return (int)InterlockedExchange((volatile LONG *)flag, value); }
static inline int px_is_set(int *flag) { return *(volatile int *)flag; }

#else

static inline void px_inbox_push(void **head, void *item, void **next) {
    void *old = __atomic_load_n(head, __ATOMIC_RELAXED);
    do *next = old; while (!__atomic_compare_exchange_n(head, &old, item, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
}

static inline void *px_inbox_take(void **head) {
    return __atomic_load_n(head, __ATOMIC_RELAXED) ? __atomic_exchange_n(head, NULL, __ATOMIC_SEQ_CST) : NULL;
}

static inline void *px_peek(void **head) { return __atomic_load_n(head, __ATOMIC_SEQ_CST); }

static inline int px_exchange(int *flag, int value) { return __atomic_exchange_n(flag, value, __ATOMIC_SEQ_CST); }

/* For the thread that sets the flag: it need not see at once that another one has cleared it. */
static inline int px_is_set(int *flag) { return __atomic_load_n(flag, __ATOMIC_RELAXED); }

#endif

#ifdef _WIN32
static inline double px_monotonic(void) {
#if PY_VERSION_HEX < 0x030D0000
    return (double)GetTickCount64() * 1e-3; /* what time.monotonic() is before Python 3.13 */
#else
    LARGE_INTEGER now, second; /* neither call fails from Windows XP on */
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&second);
    return (double)now.QuadPart / (double)second.QuadPart;
#endif
}
#else
static inline double px_monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
#endif

#endif
