/* How long a number is. */
#ifndef PROACTORX_SYS_BITS_H
#define PROACTORX_SYS_BITS_H

#include <stdint.h>
#ifdef _MSC_VER
#include <intrin.h>
#endif

/* How many bits `value` takes: 0 for 0, 1 for 1, 2 for 2 and 3. */
static inline int px_bit_length(uint64_t value) {
#ifdef _MSC_VER
    unsigned long place;
    return _BitScanReverse64(&place, value) ? (int)place + 1 : 0;
#else
    return value ? 64 - __builtin_clzll(value) : 0;
#endif
}

#endif
