cdef extern from "proactorx/sys/atomic.h" nogil:
    int load "px_load"(int *place)
    int load_acquire "px_load_acquire"(int *place)
    int load_relaxed "px_load_relaxed"(int *place)
    void store_release "px_store_release"(int *place, int value)
    int exchange "px_exchange"(int *place, int value)
    bint compare_exchange "px_compare_exchange"(int *place, int old, int value)
    void *load_pointer "px_load_pointer"(void **place)
    void store_pointer "px_store_pointer"(void **place, void *value)

    # Of other words.
    void store_relaxed_u32 "px_store_relaxed"(unsigned int *place, unsigned int value)
    unsigned int load_acquire_u32 "px_load_acquire"(unsigned int *place)
    void store_release_u32 "px_store_release"(unsigned int *place, unsigned int value)
    unsigned long load_relaxed_ulong "px_load_relaxed"(unsigned long *place)
    void store_relaxed_ulong "px_store_relaxed"(unsigned long *place, unsigned long value)
