/* What the pool needs of the system: a clock, and a thread's name where the system shows it. */
#ifndef PROACTORX_POOL_THREAD_H
#define PROACTORX_POOL_THREAD_H

#if defined(_WIN32)
#include <windows.h>
/* GetTickCount64 steps by 10 to 16 ms (MSDN): a packet that waits would be told to have waited for no time. */
static double px_pool_clock(void) {
    LARGE_INTEGER ticks, frequency;
    QueryPerformanceFrequency(&frequency); /* neither can fail since Windows XP (MSDN) */
    QueryPerformanceCounter(&ticks);
    return (double)ticks.QuadPart / (double)frequency.QuadPart;
}
static void px_name_thread(const char *name) { (void)name; }
#else
#include <time.h>
static double px_pool_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}
#if defined(__linux__)
#include <sys/prctl.h>
/* The kernel takes the first 15 bytes, prctl(2). */
static void px_name_thread(const char *name) { prctl(PR_SET_NAME, name, 0, 0, 0); }
#elif defined(__APPLE__)
int pthread_setname_np(const char *);
static void px_name_thread(const char *name) { pthread_setname_np(name); }
#else
static void px_name_thread(const char *name) { (void)name; }
#endif
#endif

#endif
