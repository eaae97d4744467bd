from proactorx.sys.openssl cimport px_openssl

cdef extern from "proactorx/sys/ktls.h":
    ctypedef struct px_keys:
        bint proved
    bint px_keys_prove(const px_openssl *lib, px_keys *keys, const unsigned char *record, size_t size) nogil
    int px_ktls_prepare(int fd) nogil
    int px_ktls_start(int fd, const px_keys *keys) nogil
    int px_ktls_say_end(int fd) nogil
    bint px_ktls_settled(int fd) nogil
