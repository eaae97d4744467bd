/* The functions of libssl that the ssl module has loaded, found at run time: no header of OpenSSL is needed
 * to build, and nothing is linked.  All of them have had these signatures since OpenSSL 1.1.0 (SSL_read(3),
 * SSL_get_error(3), BIO_read(3), BIO_ctrl_pending(3), ERR_peek_error(3)), and those of BIO_meth_new(3) that
 * count in size_t since 1.1.1.
 */
#ifndef PROACTORX_SYS_OPENSSL_H
#define PROACTORX_SYS_OPENSSL_H

#include <stddef.h>
#include <stdint.h>

enum { PX_SSL_WANT_READ = 2 }; /* SSL_get_error(3) */

typedef struct {
    int (*ssl_read)(void *ssl, void *data, int size);
    int (*ssl_write)(void *ssl, const void *data, int size);
    int (*ssl_get_error)(const void *ssl, int result);
    void *(*ssl_get_ex_data)(const void *ssl, int index);
    const char *(*ssl_get_version)(const void *ssl);
    void *(*ssl_get_rbio)(const void *ssl);
    void *(*ssl_get_wbio)(const void *ssl);
    int (*bio_read)(void *bio, void *data, int size);
    int (*bio_write)(void *bio, const void *data, int size);
    size_t (*bio_ctrl_pending)(void *bio);
    unsigned long (*err_peek_error)(void);
    void (*err_clear_error)(void);
    /* For a BIO of ours. */
    void (*ssl_set0_rbio)(void *ssl, void *bio);
    void (*ssl_set0_wbio)(void *ssl, void *bio);
    int (*bio_get_new_index)(void);
    void *(*bio_meth_new)(int type, const char *name);
    int (*bio_meth_set_read_ex)(void *method, int (*call)(void *bio, char *data, size_t size, size_t *done));
    int (*bio_meth_set_write_ex)(void *method,
                                 int (*call)(void *bio, const char *data, size_t size, size_t *done));
    int (*bio_meth_set_ctrl)(void *method, long (*call)(void *bio, int command, long number, void *pointer));
    int (*bio_meth_set_destroy)(void *method, int (*call)(void *bio));
    void *(*bio_new)(const void *method);
    int (*bio_up_ref)(void *bio);
    int (*bio_free)(void *bio);
    void (*bio_set_data)(void *bio, void *data);
    void *(*bio_get_data)(void *bio);
    void (*bio_set_init)(void *bio, int ready);
    void (*bio_set_flags)(void *bio, int flags);
    void (*bio_clear_flags)(void *bio, int flags);
    int (*bio_test_flags)(const void *bio, int flags);
    long (*bio_ctrl)(void *bio, int command, long number, void *pointer);
} px_openssl;

#ifdef _WIN32

static inline const char *px_openssl_load(px_openssl *lib, const char *path) {
    (void)lib, (void)path;
    return "Windows has no dlsym(3) that follows what a module was linked with";
}
static inline const char *px_openssl_load_bio(px_openssl *lib, const char *path) {
    return px_openssl_load(lib, path);
}
static inline int px_readable(const void *address, size_t size) { (void)address, (void)size; return 0; }

#else

#include <dlfcn.h>
#include <unistd.h>

/* dlsym(3) on the handle of the module _ssl looks in it and then in what it was linked with: so another
 * libssl that somebody has loaded is never taken.  `path` is the module's file, "" where it is in the
 * program. */
static inline void *px_openssl_module(const char *path) {
    return dlopen(*path ? path : NULL, RTLD_NOW | RTLD_NOLOAD);
}

#define PX_FIND(member, name)                                         \
    if ((*(void **)&lib->member = dlsym(module, name)) == NULL) {     \
        dlclose(module);                                              \
        return "no " name "() in the process";                        \
    }

/* NULL, or why they cannot be used. */
static inline const char *px_openssl_load(px_openssl *lib, const char *path) {
    void *module = px_openssl_module(path);
    if (module == NULL) return "the module _ssl cannot be found in the process";
    PX_FIND(ssl_read, "SSL_read")
    PX_FIND(ssl_write, "SSL_write")
    PX_FIND(ssl_get_error, "SSL_get_error")
    PX_FIND(ssl_get_ex_data, "SSL_get_ex_data")
    PX_FIND(ssl_get_version, "SSL_get_version")
    PX_FIND(ssl_get_rbio, "SSL_get_rbio")
    PX_FIND(ssl_get_wbio, "SSL_get_wbio")
    PX_FIND(bio_read, "BIO_read")
    PX_FIND(bio_write, "BIO_write")
    PX_FIND(bio_ctrl_pending, "BIO_ctrl_pending")
    PX_FIND(err_peek_error, "ERR_peek_error")
    PX_FIND(err_clear_error, "ERR_clear_error")
    return NULL; /* the handle stays open: modules are not unloaded */
}

/* The same of those for a BIO of ours. */
static inline const char *px_openssl_load_bio(px_openssl *lib, const char *path) {
    void *module = px_openssl_module(path);
    if (module == NULL) return "the module _ssl cannot be found in the process";
    PX_FIND(ssl_set0_rbio, "SSL_set0_rbio")
    PX_FIND(ssl_set0_wbio, "SSL_set0_wbio")
    PX_FIND(bio_get_new_index, "BIO_get_new_index")
    PX_FIND(bio_meth_new, "BIO_meth_new")
    PX_FIND(bio_meth_set_read_ex, "BIO_meth_set_read_ex")
    PX_FIND(bio_meth_set_write_ex, "BIO_meth_set_write_ex")
    PX_FIND(bio_meth_set_ctrl, "BIO_meth_set_ctrl")
    PX_FIND(bio_meth_set_destroy, "BIO_meth_set_destroy")
    PX_FIND(bio_new, "BIO_new")
    PX_FIND(bio_up_ref, "BIO_up_ref")
    PX_FIND(bio_free, "BIO_free")
    PX_FIND(bio_set_data, "BIO_set_data")
    PX_FIND(bio_get_data, "BIO_get_data")
    PX_FIND(bio_set_init, "BIO_set_init")
    PX_FIND(bio_set_flags, "BIO_set_flags")
    PX_FIND(bio_clear_flags, "BIO_clear_flags")
    PX_FIND(bio_test_flags, "BIO_test_flags")
    PX_FIND(bio_ctrl, "BIO_ctrl")
    return NULL;
}
#undef PX_FIND

/* Whether there is memory at `address`: the kernel says EFAULT instead of sending a signal, write(2). */
static inline int px_readable(const void *address, size_t size) {
    int ends[2], found;
    if (pipe(ends)) return 0;
    found = size <= 4096 && write(ends[1], address, size) == (ssize_t)size;
    close(ends[0]);
    close(ends[1]);
    return found;
}

#endif
#endif
