from libc.stdint cimport uint64_t

cdef extern from "proactorx/sys/openssl.h":
    enum: PX_SSL_WANT_READ, PX_SSL_OP_ENABLE_KTLS, PX_SSL_CTRL_SET_DH_AUTO, PX_SSL_SENT_SHUTDOWN
    enum: PX_SSL_KEY_UPDATE_NONE
    ctypedef struct px_openssl:
        int (*ssl_read)(void *ssl, void *data, int size) nogil
        int (*ssl_write)(void *ssl, const void *data, int size) nogil
        int (*ssl_get_error)(const void *ssl, int result) nogil
        void *(*ssl_get_ex_data)(const void *ssl, int index) nogil
        uint64_t (*ssl_get_options)(const void *ssl) nogil
        const void *(*ssl_get_current_cipher)(const void *ssl) nogil
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
        uint64_t (*ssl_set_options)(void *ssl, uint64_t options) nogil
        int (*ssl_get_key_update_type)(const void *ssl) nogil
        int (*ssl_get_shutdown)(const void *ssl) nogil
        void (*ssl_set_shutdown)(void *ssl, int mode) nogil
        long (*ssl_ctrl)(void *ssl, int command, long number, void *pointer) nogil
    const char *px_openssl_load(px_openssl *lib, const char *path) nogil
    const char *px_openssl_load_bio(px_openssl *lib, const char *path) nogil
    const char *px_openssl_load_keys(px_openssl *lib, const char *path) nogil
    bint px_readable(const void *address, size_t size) nogil
