/* Words and pointers that several threads read and write:
   all atomic accesses of this package go through these calls.
 *
 * A word is an `int` or a `uint32_t` (elsewhere than on MSVC, any integer).  What was written before
 * px_store_release is seen by a thread that has seen the value with px_load_acquire.  The calls without an
 * order in their names are sequentially consistent: all threads agree on the order of all of them. */
#ifndef PROACTORX_SYS_ATOMIC_H
#define PROACTORX_SYS_ATOMIC_H

#include <stddef.h>

#ifdef _MSC_VER
#include <intrin.h>

#define px_load(place) _InterlockedOr((volatile long *)(place), 0)
#define px_load_acquire(place) px_load(place)
#define px_load_relaxed(place) (*(volatile long *)(place))
#define px_store_release(place, value) ((void)_InterlockedExchange((volatile long *)(place), (long)(value)))
#define px_store_relaxed(place, value) ((void)(*(volatile long *)(place) = (long)(value)))
#define px_exchange(place, value) _InterlockedExchange((volatile long *)(place), (long)(value))
#define px_add_fetch(place, change) (_InterlockedExchangeAdd((volatile long *)(place), (change)) + (change))
#define px_compare_exchange(place, old, value) \
    (_InterlockedCompareExchange((volatile long *)(place), (long)(value), (long)(old)) == (long)(old))

#define px_load_pointer(place) _InterlockedCompareExchangePointer((void *volatile *)(place), NULL, NULL)
#define px_load_pointer_relaxed(place) (*(void *volatile *)(place))
#define px_store_pointer(place, value) ((void)_InterlockedExchangePointer((void *volatile *)(place), (value)))
#define px_exchange_pointer(place, value) _InterlockedExchangePointer((void *volatile *)(place), (value))

/* Whether *place was *old, and is `value` now; else *old is what it was. */
static inline int px_compare_exchange_pointer(void **place, void **old, void *value) {
    void *was = _InterlockedCompareExchangePointer((void *volatile *)place, value, *old);
    int same = was == *old;
    *old = was;
    return same;
}

#else

#define px_load(place) __atomic_load_n((place), __ATOMIC_SEQ_CST)
#define px_load_acquire(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)
#define px_load_relaxed(place) __atomic_load_n((place), __ATOMIC_RELAXED)
#define px_store_release(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
#define px_store_relaxed(place, value) __atomic_store_n((place), (value), __ATOMIC_RELAXED)

/* The value before. */
#define px_exchange(place, value) __atomic_exchange_n((place), (value), __ATOMIC_SEQ_CST)

/* The value after. */
#define px_add_fetch(place, change) __atomic_add_fetch((place), (change), __ATOMIC_SEQ_CST)

/* Whether it was `old`, and is `value` now. */
#define px_compare_exchange(place, old, value) \
    __extension__({ \
        __typeof__(*(place)) px_old = (old); \
        __atomic_compare_exchange_n((place), &px_old, (value), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    })

#define px_load_pointer(place) __atomic_load_n((place), __ATOMIC_SEQ_CST)
#define px_load_pointer_relaxed(place) __atomic_load_n((place), __ATOMIC_RELAXED)
#define px_store_pointer(place, value) __atomic_store_n((place), (value), __ATOMIC_SEQ_CST)
#define px_exchange_pointer(place, value) __atomic_exchange_n((place), (value), __ATOMIC_SEQ_CST)

/* Whether *place was *old, and is `value` now; else *old is what it was.  It may fail for no reason: loop. */
static inline int px_compare_exchange_pointer(void **place, void **old, void *value) {
    return __atomic_compare_exchange_n(place, old, value, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

#endif
#endif
