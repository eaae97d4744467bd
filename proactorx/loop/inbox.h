/* What other threads do to a loop where there is no GIL: push a handle on a stack, and wake the loop where
 * it sleeps.  Lock-free; all operations are sequentially consistent, because the sleeper and the poster each
 * write one word and then read the other's. */
#ifndef PROACTORX_LOOP_INBOX_H
#define PROACTORX_LOOP_INBOX_H

#include "proactorx/sys/atomic.h"

static inline void px_inbox_push(void **head, void *item, void **next) {
    void *old = px_load_pointer_relaxed(head);
    do *next = old; while (!px_compare_exchange_pointer(head, &old, item));
}

static inline void *px_inbox_take(void **head) {
    return px_load_pointer_relaxed(head) ? px_exchange_pointer(head, NULL) : NULL;
}

#endif
