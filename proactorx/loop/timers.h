/* A binary heap of timers: the first one due is at the top,
 * and of those due at one time the one that was set first. */
#ifndef PROACTORX_TIMERS_H
#define PROACTORX_TIMERS_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    double when;
    uint64_t order;
    void *handle;
} px_timer;

/* Without a branch, which the processor would guess wrong every second time. */
static inline int px_timer_earlier(const px_timer *a, const px_timer *b) {
    return (a->when < b->when) | ((a->when == b->when) & (a->order < b->order));
}

static inline void px_timer_up(px_timer *heap, ptrdiff_t i) {
    px_timer item = heap[i];
    for (ptrdiff_t parent; i > 0 && px_timer_earlier(&item, &heap[parent = (i - 1) >> 1]); i = parent)
        heap[i] = heap[parent];
    heap[i] = item;
}

static inline void px_timer_down(px_timer *heap, ptrdiff_t count, ptrdiff_t i) {
    px_timer item = heap[i];
    for (ptrdiff_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count) child += px_timer_earlier(&heap[child + 1], &heap[child]);
        if (!px_timer_earlier(&heap[child], &item)) break;
        heap[i] = heap[child];
    }
    heap[i] = item;
}

/* Take off the first one; `count` are left.  The last one takes its place, and belongs at the bottom most
 * often: so the way down is the one of the earlier children, and it is looked for from below. */
static inline void px_timer_pop(px_timer *heap, ptrdiff_t count) {
    ptrdiff_t i = 0;
    for (ptrdiff_t child; (child = 2 * i + 2) < count; i = child) {
        child -= px_timer_earlier(&heap[child - 1], &heap[child]);
        heap[i] = heap[child];
    }
    if (2 * i + 1 < count) {
        heap[i] = heap[2 * i + 1];
        i = 2 * i + 1;
    }
    heap[i] = heap[count];
    px_timer_up(heap, i);
}

#endif
