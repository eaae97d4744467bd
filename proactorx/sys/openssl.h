/* The functions of libssl that the ssl module has loaded, found at run time: no header of OpenSSL is needed
 * to build, and nothing is linked.  All of them have had these signatures since OpenSSL 1.1.0 (SSL_read(3),
 * SSL_get_error(3), BIO_read(3), BIO_ctrl_pending(3), ERR_peek_error(3)), and those of BIO_meth_new(3) that
 * count in size_t since 1.1.1.
 */
#ifndef PROACTORX_SYS_OPENSSL_H
#define PROACTORX_SYS_OPENSSL_H

#include <stddef.h>
#include <stdint.h>

enum { PX_SSL_WANT_READ = 2 };          /* SSL_get_error(3) */
enum { PX_SSL_OP_ENABLE_KTLS = 8 };     /* SSL_CTX_set_options(3) */
enum { PX_SSL_CTRL_SET_DH_AUTO = 118 }; /* SSL_set_dh_auto(3) */
enum { PX_SSL_SENT_SHUTDOWN = 1 };      /* SSL_set_shutdown(3) */
enum { PX_SSL_KEY_UPDATE_NONE = -1 };   /* SSL_get_key_update_type(3) */

typedef struct {
    int (*ssl_read)(void *ssl, void *data, int size);
    int (*ssl_write)(void *ssl, const void *data, int size);
    int (*ssl_get_error)(const void *ssl, int result);
    void *(*ssl_get_ex_data)(const void *ssl, int index);
    uint64_t (*ssl_get_options)(const void *ssl);
    const void *(*ssl_get_current_cipher)(const void *ssl);
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
    /* For the keys that the kernel is given. */
    uint64_t (*ssl_set_options)(void *ssl, uint64_t options);
    int (*ssl_get_key_update_type)(const void *ssl);
    int (*ssl_get_shutdown)(const void *ssl);
    void (*ssl_set_shutdown)(void *ssl, int mode);
    long (*ssl_ctrl)(void *ssl, int command, long number, void *pointer);
    void *(*evp_cipher_ctx_new)(void);
    void (*evp_cipher_ctx_free)(void *context);
    int (*evp_cipher_ctx_ctrl)(void *context, int command, int number, void *pointer);
    const void *(*evp_aes_128_gcm)(void);
    const void *(*evp_aes_256_gcm)(void);
    const void *(*evp_chacha20_poly1305)(void);
    int (*evp_decrypt_init_ex)(void *context, const void *cipher, void *engine, const unsigned char *key,
                               const unsigned char *nonce);
    int (*evp_decrypt_update)(void *context, unsigned char *out, int *done, const unsigned char *in,
                              int size);
    int (*evp_decrypt_final_ex)(void *context, unsigned char *out, int *done);
    void (*cleanse)(void *memory, size_t size);
} px_openssl;

#ifdef _WIN32

static inline const char *px_openssl_load(px_openssl *lib, const char *path) {
    (void)lib, (void)path;
    return "Windows has no dlsym(3) that follows what a module was linked with";
}
static inline const char *px_openssl_load_bio(px_openssl *lib, const char *path) {
    return px_openssl_load(lib, path);
}
static inline const char *px_openssl_load_keys(px_openssl *lib, const char *path) {
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
    PX_FIND(ssl_get_options, "SSL_get_options")
    PX_FIND(ssl_get_current_cipher, "SSL_get_current_cipher")
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

/* The same of those for the keys; libcrypto's are found behind libssl. */
static inline const char *px_openssl_load_keys(px_openssl *lib, const char *path) {
    void *module = px_openssl_module(path);
    if (module == NULL) return "the module _ssl cannot be found in the process";
    PX_FIND(ssl_set_options, "SSL_set_options")
    PX_FIND(ssl_get_key_update_type, "SSL_get_key_update_type")
    PX_FIND(ssl_get_shutdown, "SSL_get_shutdown")
    PX_FIND(ssl_set_shutdown, "SSL_set_shutdown")
    PX_FIND(ssl_ctrl, "SSL_ctrl")
    PX_FIND(evp_cipher_ctx_new, "EVP_CIPHER_CTX_new")
    PX_FIND(evp_cipher_ctx_free, "EVP_CIPHER_CTX_free")
    PX_FIND(evp_cipher_ctx_ctrl, "EVP_CIPHER_CTX_ctrl")
    PX_FIND(evp_aes_128_gcm, "EVP_aes_128_gcm")
    PX_FIND(evp_aes_256_gcm, "EVP_aes_256_gcm")
    PX_FIND(evp_chacha20_poly1305, "EVP_chacha20_poly1305")
    PX_FIND(evp_decrypt_init_ex, "EVP_DecryptInit_ex")
    PX_FIND(evp_decrypt_update, "EVP_DecryptUpdate")
    PX_FIND(evp_decrypt_final_ex, "EVP_DecryptFinal_ex")
    PX_FIND(cleanse, "OPENSSL_cleanse")
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
