/* The functions of libssl that the ssl module has loaded, found at run time: no header of OpenSSL is needed
 * to build, and nothing is linked.  All of them have had these signatures since OpenSSL 1.1.0 (SSL_read(3),
 * SSL_get_error(3), BIO_read(3), BIO_ctrl_pending(3), ERR_clear_error(3)).
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
    void (*err_clear_error)(void);
} px_openssl;

#ifdef _WIN32

static inline const char *px_openssl_load(px_openssl *lib, const char *path) {
    (void)lib, (void)path;
    return "Windows has no dlsym(3) that follows what a module was linked with";
}
static inline int px_readable(const void *address, size_t size) { (void)address, (void)size; return 0; }

#else

#include <dlfcn.h>
#include <unistd.h>

/* NULL, or why they cannot be used.  `path` is the file of the module _ssl, "" where it is in the program.
 * dlsym(3) on its handle looks in the module and then in what it was linked with: so another libssl that
 * somebody has loaded is never taken. */
static inline const char *px_openssl_load(px_openssl *lib, const char *path) {
    void *module = dlopen(*path ? path : NULL, RTLD_NOW | RTLD_NOLOAD);
    if (module == NULL) return "the module _ssl cannot be found in the process";
#define PX_FIND(member, name)                                         \
    if ((*(void **)&lib->member = dlsym(module, name)) == NULL) {     \
        dlclose(module);                                              \
        return "no " name "() in the process";                        \
    }
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
    PX_FIND(err_clear_error, "ERR_clear_error")
#undef PX_FIND
    return NULL; /* the handle stays open: modules are not unloaded */
}

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
