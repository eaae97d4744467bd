/* Single words that several threads read and write. */
#ifndef PROACTORX_PORT_ATOMICS_H
#define PROACTORX_PORT_ATOMICS_H

#ifdef _MSC_VER
#include <intrin.h>
#include <stddef.h>

static __inline int px_see(int *place) { return _InterlockedOr((volatile long *)place, 0); }
static __inline void px_show(int *place, int value) { _InterlockedExchange((volatile long *)place, value); }
static __inline int px_change(int *place, int old, int value) {
    return _InterlockedCompareExchange((volatile long *)place, value, old) == old;
}
static __inline int px_add(int *place, int change) {
    return _InterlockedExchangeAdd((volatile long *)place, change) + change;
}
static __inline void *px_pointed(void **place) {
    return _InterlockedCompareExchangePointer((void *volatile *)place, NULL, NULL);
}
static __inline void px_point(void **place, void *value) {
    _InterlockedExchangePointer((void *volatile *)place, value);
}

#else

/* What was written before px_show is seen by who has seen its value. */
static inline int px_see(int *place) { return __atomic_load_n(place, __ATOMIC_ACQUIRE); }
static inline void px_show(int *place, int value) { __atomic_store_n(place, value, __ATOMIC_RELEASE); }

/* Whether it was `old`, and is `value` now. */
static inline int px_change(int *place, int old, int value) {
    return __atomic_compare_exchange_n(place, &old, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* What it is then. */
static inline int px_add(int *place, int change) { return __atomic_add_fetch(place, change, __ATOMIC_ACQ_REL); }

/* A pointer, read and written in one order that all threads agree on. */
static inline void *px_pointed(void **place) { return __atomic_load_n(place, __ATOMIC_SEQ_CST); }
static inline void px_point(void **place, void *value) { __atomic_store_n(place, value, __ATOMIC_SEQ_CST); }

#endif
#endif
