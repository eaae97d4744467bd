cdef extern from "proactorx/sys/openssl.h":
    enum: PX_SSL_WANT_READ
    ctypedef struct px_openssl:
        int (*ssl_read)(void *ssl, void *data, int size) nogil
        int (*ssl_write)(void *ssl, const void *data, int size) nogil
        int (*ssl_get_error)(const void *ssl, int result) nogil
        void *(*ssl_get_ex_data)(const void *ssl, int index) nogil
        const char *(*ssl_get_version)(const void *ssl) nogil
        void *(*ssl_get_rbio)(const void *ssl) nogil
        void *(*ssl_get_wbio)(const void *ssl) nogil
        int (*bio_read)(void *bio, void *data, int size) nogil
        int (*bio_write)(void *bio, const void *data, int size) nogil
        size_t (*bio_ctrl_pending)(void *bio) nogil
        unsigned long (*err_peek_error)() nogil
        void (*err_clear_error)() nogil
        void (*ssl_set0_rbio)(void *ssl, void *bio) nogil
        void (*ssl_set0_wbio)(void *ssl, void *bio) nogil
        int (*bio_up_ref)(void *bio) nogil
        int (*bio_free)(void *bio) nogil
    const char *px_openssl_load(px_openssl *lib, const char *path) nogil
    const char *px_openssl_load_bio(px_openssl *lib, const char *path) nogil
    bint px_readable(const void *address, size_t size) nogil
