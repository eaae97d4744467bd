/* A clock for measuring turns: what px_now_ns() says, at half the price.
 *
 * A reading of the kernel's clock takes some 18 ns, of the processor's counter of ticks 8, and a small
 * request is 3 us of CPU.  So the kernel's clock is read once a millisecond, and the ticks since then are
 * counted; how long a tick is has been measured between earlier readings.  The two clocks differ by less
 * than 1 us.  Of one px_quick_clock, which one thread at a time reads, the time does not go back.
 *
 * Only where the kernel's own clock is that counter: there the ticks are even, and the same on all
 * processors.  A virtual machine that is moved may find another counter: the next reading of the kernel's
 * clock tells, and what was told in the millisecond before it can be wrong by one. */
#ifndef PROACTORX_SYS_TICKS_H
#define PROACTORX_SYS_TICKS_H

#include <stdint.h>
#include <string.h>

#include "clock.h"

#if !defined(PX_TICKS) && defined(__linux__) && defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <fcntl.h>
#include <unistd.h>
#define PX_TICKS() ((uint64_t)__builtin_ia32_rdtsc())

static inline int px_ticks_even(void) {
    static const char file[] = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    static int known = -1;
    if (known < 0) {
        unsigned a, b, c, d;
        char name[4];
        int fd = open(file, O_RDONLY | O_CLOEXEC), even;
        even = fd >= 0 && read(fd, name, sizeof name) == sizeof name && !memcmp(name, "tsc\n", sizeof name);
        if (fd >= 0) close(fd);
        known = even && __get_cpuid(0x80000007, &a, &b, &c, &d) && d >> 8 & 1; /* "invariant TSC" */
    }
    return known;
}
#endif

enum {
    PX_QUICK_NS = 1000000,    /* so long one reading of the kernel's clock serves */
    PX_QUICK_TICKS = 4000,    /* a reading that took longer was interrupted: it says nothing about ticks */
    PX_QUICK_SHORT = 5000000, /* ns: a shorter time does not tell how long a tick is */
    PX_QUICK_LONG = 2000000000 /* ns: the measuring of a tick begins anew */
};

typedef struct {
    uint64_t ticks;      /* at the last reading of the kernel's clock, */
    int64_t ns;          /* when it was so late. */
    uint64_t room;       /* For so many ticks from then on */
    uint64_t pace;       /* each is that many ns, times 2^32, */
    int64_t most;        /* so that this is the latest time that was told. */
    double rate;         /* ns a tick; 0: not known */
    uint64_t from_ticks; /* where the measuring of that began; 0: it has not */
    int64_t from_ns;
    int even;
} px_quick_clock;

static inline void px_quick_begin(px_quick_clock *clock) {
    memset(clock, 0, sizeof *clock);
#ifdef PX_TICKS
    clock->even = px_ticks_even();
#endif
}

#ifdef PX_TICKS
/* How long a tick is, by what has passed since the measuring began. */
static inline void px_quick_measure(px_quick_clock *clock, uint64_t ticks, int64_t ns) {
    double lately = (double)(ns - clock->ns) / (double)(ticks - clock->ticks);
    int64_t span = ns - clock->from_ns;
    if (clock->rate > 0 && (lately < clock->rate * 0.98 || lately > clock->rate * 1.02))
        clock->rate = 0, clock->most = 0, clock->from_ticks = 0; /* it is another counter now */
    if (!clock->from_ticks || span > PX_QUICK_LONG) {
        clock->from_ticks = ticks;
        clock->from_ns = ns;
    } else if (span >= PX_QUICK_SHORT) {
        clock->rate = (double)span / (double)(ticks - clock->from_ticks);
    }
}

/* Read the kernel's clock. */
static int64_t px_quick_look(px_quick_clock *clock) {
    uint64_t before, ticks;
    int64_t ns, ahead;
    if (!clock->even) return px_now_ns();
    before = PX_TICKS();
    ns = px_now_ns();
    ticks = PX_TICKS();
    clock->room = 0;
    if (ticks - before > PX_QUICK_TICKS) return ns > clock->most ? ns : clock->most;
    px_quick_measure(clock, ticks, ns);
    ahead = clock->most > ns ? clock->most - ns : 0;
    clock->ticks = ticks;
    clock->ns = clock->most = ns + ahead;
    if (clock->rate > 0) { /* what we are ahead is gone when the room is */
        clock->room = (uint64_t)(PX_QUICK_NS / clock->rate);
        clock->pace = (uint64_t)(clock->rate * (1 - (double)ahead / PX_QUICK_NS) * 4294967296.0);
        clock->most += (int64_t)(clock->room * clock->pace >> 32);
    }
    return clock->ns;
}
#endif

/* What time it is, in ns of px_now_ns(). */
static inline int64_t px_quick_now(px_quick_clock *clock) {
#ifdef PX_TICKS
    uint64_t passed = PX_TICKS() - clock->ticks;
    return passed < clock->room ? clock->ns + (int64_t)(passed * clock->pace >> 32) : px_quick_look(clock);
#else
    (void)clock;
    return px_now_ns();
#endif
}

#endif
