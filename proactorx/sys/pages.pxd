cdef extern from "proactorx/sys/pages.h":
    void *px_pages(size_t size) nogil
    void px_pages_free(void *pages, size_t size) nogil
