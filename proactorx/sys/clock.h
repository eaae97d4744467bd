/* The monotonic clock. */
#ifndef PROACTORX_SYS_CLOCK_H
#define PROACTORX_SYS_CLOCK_H

#include <stdint.h>
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
#else
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <time.h>
#endif

/* Nanoseconds since some point in the past. */
static inline int64_t px_now_ns(void) {
#ifdef _WIN32
    LARGE_INTEGER now, second; /* neither call fails from Windows XP on */
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&second);
    return now.QuadPart / second.QuadPart * 1000000000 +
           now.QuadPart % second.QuadPart * 1000000000 / second.QuadPart;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
#endif
}

/* Seconds, as time.monotonic() gives them: the clock of the loop.
 * (On Windows before Python 3.13 that is GetTickCount64, which steps by 10 to 16 ms.) */
static inline double px_monotonic(void) {
#if defined(_WIN32) && PY_VERSION_HEX < 0x030D0000
    return (double)GetTickCount64() * 1e-3;
#elif defined(_WIN32)
    /* Divided, as time.monotonic() does: a product can be later than what that says next. */
    return (double)px_now_ns() / 1e9;
#else
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
#endif
}

/* What px_monotonic would have said when px_now_ns said `ns`, to the bit.
 * (Before Python 3.13 on Windows they are two clocks: what it says now.) */
static inline double px_monotonic_at(int64_t ns) {
#if defined(_WIN32) && PY_VERSION_HEX < 0x030D0000
    (void)ns;
    return px_monotonic();
#elif defined(_WIN32)
    return (double)ns / 1e9;
#else
    return (double)(ns / 1000000000) + (double)(ns % 1000000000) * 1e-9;
#endif
}

#endif
