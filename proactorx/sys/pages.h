/* Whole pages of memory, which the system gives when they are first written, mmap(2).
 *
 * Not malloc(3): a large block that it has had before is part of its heap, where calloc(3) writes all of it,
 * and a huge page would be given as a whole. */
#ifndef PROACTORX_SYS_PAGES_H
#define PROACTORX_SYS_PAGES_H

#include <stddef.h>

#ifdef _WIN32

#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <windows.h>
/* Zeros; NULL: there is no memory. */
static inline void *px_pages(size_t size) {
    return VirtualAlloc(NULL, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}
static inline void px_pages_free(void *pages, size_t size) {
    (void)size;
    if (pages != NULL) VirtualFree(pages, 0, MEM_RELEASE);
}

#else

#include <sys/mman.h>

#ifndef MAP_ANONYMOUS
#define MAP_ANONYMOUS MAP_ANON
#endif

static inline void *px_pages(size_t size) {
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) return NULL;
#ifdef MADV_NOHUGEPAGE
    (void)madvise(pages, size, MADV_NOHUGEPAGE);
#endif
    return pages;
}
static inline void px_pages_free(void *pages, size_t size) {
    if (pages != NULL) munmap(pages, size);
}

#endif
#endif
