/* A loop beside threads that compute.
 *
 * A thread that waits for I/O gives up Python's lock (the GIL), and gets it back from a thread that computes
 * only after the switch interval, 5 ms: each wait of a loop then costs that much, also where the answer comes
 * after a few microseconds.  So, after a wait in which taking the lock back was slow, the next waits first
 * look for a moment without giving it up.
 *
 * Fairness: a loop that has had the lock for a switch interval gives it up as ever; beside one busy thread
 * each has half of the time.  Looks that find nothing get shorter, down to a quarter.  A few waits after the
 * last slow one nothing is looked for any more, and without busy threads nothing ever is.
 *
 * The threads of our pools do not compute: they want the lock for a moment, to bring a result, and a look
 * keeps them from it.  While they have calls to run, only a wait of half the interval counts as slow. */
#ifndef PROACTORX_CONVOY_H
#define PROACTORX_CONVOY_H

#include <stdint.h>

enum {
    PX_CONVOY_SLOW = 200000,   /* ns: taking the lock back took so long because a thread computed */
    PX_CONVOY_LOOK = 200000,   /* ns: the longest look */
    PX_CONVOY_AWAY = 1000000,  /* ns between two waits: most likely somebody else has had the lock */
    PX_CONVOY_TRUST = 64,      /* halved with each quick wait, down to 0: no looks */
    PX_CONVOY_MISSES = 2       /* in a row: looks get no shorter from here on */
};

typedef struct {
    int64_t hold;              /* ns: the switch interval */
    int64_t since;             /* when the lock was taken */
    int64_t left;              /* when the last wait ended */
    int trust, misses;
} px_convoy;

/* A wait has ended at `woken`, and the lock was back at `now`.  Whether that was slow. */
static inline int px_convoy_woke(px_convoy *convoy, int64_t woken, int64_t now) {
    if (now - woken >= PX_CONVOY_SLOW) return 1;
    convoy->trust >>= 1;
    convoy->since = convoy->left = now;
    return 0;
}

/* That was a busy thread's doing: look from now on. */
static inline void px_convoy_begin(px_convoy *convoy, int64_t hold, int64_t now) {
    convoy->hold = hold;
    convoy->trust = PX_CONVOY_TRUST;
    convoy->since = convoy->left = now;
}

/* Until when the wait that begins now may look; 0: not at all. */
static inline int64_t px_convoy_until(px_convoy *convoy, int64_t now) {
    if (now - convoy->left >= PX_CONVOY_AWAY) convoy->since = now;
    if (now - convoy->since >= convoy->hold) return 0;
    return now + (PX_CONVOY_LOOK >> convoy->misses);
}

static inline void px_convoy_looked(px_convoy *convoy, int hit, int64_t now) {
    convoy->left = now;
    if (!hit && convoy->misses < PX_CONVOY_MISSES) convoy->misses++;
    if (hit && convoy->misses > 0) convoy->misses--;
}

#endif
