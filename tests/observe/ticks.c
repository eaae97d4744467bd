/* The quick clock beside the clock that it stands for: on made-up hardware, or, with -DREAL, on this machine.
 * Prints the largest error in ns; see test_clock.py. */
#include <stdio.h>
#include <stdlib.h>

#include "proactorx/sys/clock.h"

#ifdef REAL
static int64_t kernel_now(void) { return px_now_ns(); }
#else
static int64_t now = 1000000000;      /* ns */
static double ticks = 1e12, rate = 2; /* the counter, and its ticks in a ns */

static uint64_t state = 1;
static uint64_t next_random(uint64_t below) {
    state = state * 6364136223846793005 + 1442695040888963407;
    return (state >> 33) % below;
}
static void let_pass(int64_t ns) { now += ns, ticks += (double)ns * rate; }
static int64_t kernel_now(void) {
    let_pass(8);
    if (!next_random(50)) let_pass(300000); /* the thread was preempted */
    return now;
}
static uint64_t read_ticks(void) { let_pass(8); return (uint64_t)ticks; }
static int px_ticks_even(void) { return 1; }
#define px_now_ns kernel_now
#define PX_TICKS() read_ticks()
#endif
#include "proactorx/sys/ticks.h"

static px_quick_clock quick;
static int64_t last, worst;

/* Read both clocks.  Within 300 ns, or somebody else had the processor. */
static void compare(int back_too) {
    int64_t before = kernel_now(), told = px_quick_now(&quick), after = kernel_now();
    if (told < last && !back_too) printf("went back by %lld\n", (long long)(last - told)), exit(1);
    last = told;
    if (before - told > worst) worst = before - told;
    if (told - after > worst) worst = told - after;
}

#ifdef REAL
int main(void) {
    int64_t until = px_now_ns() + 300000000;
    px_quick_begin(&quick);
    while (px_now_ns() < until) compare(0);
    printf("%lld\n", (long long)worst);
    return 0;
}
#else
static void run(int64_t ns, int64_t longest, int back_too) {
    int64_t until = now + ns;
    while (now < until) let_pass((int64_t)next_random((uint64_t)longest)), compare(back_too);
}

int main(void) {
    int i;
    px_quick_begin(&quick);
    for (i = 0; i < 200; i++) {
        rate *= 1 + ((double)next_random(1000) - 500) * 2e-7; /* 100 parts in a million, as ntpd corrects a clock */
        run(10000000, 5000, 0);    /* busy */
        run(200000000, 3000000, 0); /* with sleeps */
        if (i % 10 == 0) let_pass(60000000000);
    }
    printf("%lld", (long long)worst);
    for (i = 0; i < 50; i++) { /* moved to another machine: wrong for at most two milliseconds */
        ticks = (double)next_random(1000000000000000);
        rate = 0.5 + (double)next_random(1000) / 200;
        run(2 * PX_QUICK_NS, 5000, 1);
        worst = 0;
        run(200000000, 100000, 0);
        if (worst > 1000) printf("wrong by %lld after a move\n", (long long)worst), exit(1);
    }
    printf("\n");
    return 0;
}
#endif
