/* The keys of a TLS connection, as the kernel takes them to encrypt by itself: networking/tls.rst.
 *
 * OpenSSL offers a connection's keys to the BIO that it writes to, once, when they come into use.  They are
 * noted there, and its records are counted from then on.  Whether key and count are right must not be
 * guessed: a number that comes twice gives away AES-GCM's key for authentication (RFC 8446 section 5.3,
 * NIST SP 800-38D section 8).  So the last record that OpenSSL has made is decrypted with the noted key and
 * its number: only if that succeeds, the next number is the kernel's.
 */
#ifndef PROACTORX_SYS_KTLS_H
#define PROACTORX_SYS_KTLS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "openssl.h"
#include "socket.h"

enum { PX_TLS_HEADER = 5, PX_TLS_TAG = 16, PX_TLS_NONCE = 12 }; /* RFC 8446 sections 5.1 and 5.2 */
enum { PX_TLS_1_2 = 0x0303, PX_TLS_1_3 = 0x0304 };
enum { PX_EVP_SET_TAG = 0x11 }; /* EVP_CTRL_AEAD_SET_TAG, openssl/evp.h */

/* linux/tls.h, whose newer parts may be missing where this is built: a version and a cipher of two bytes
 * each, then what the cipher's row says, then the number of the next record. */
typedef struct {
    uint16_t cipher;
    unsigned char iv, key, salt;
} px_tls_layout;

static const px_tls_layout px_tls_layouts[] = {
    {51, 8, 16, 4}, /* TLS_CIPHER_AES_GCM_128 */
    {52, 8, 32, 4}, /* TLS_CIPHER_AES_GCM_256 */
    {54, 12, 32, 0} /* TLS_CIPHER_CHACHA20_POLY1305 */
};

typedef struct {
    unsigned char info[56]; /* the largest of linux/tls.h's: struct tls12_crypto_info_aes_gcm_256 */
    size_t size;            /* of those in use */
    uint16_t version;
    const px_tls_layout *layout;
    uint64_t records;       /* made since the number in `info` was right */
    size_t ahead;           /* bytes that the last of them still has */
    unsigned char head[PX_TLS_HEADER], headed; /* the part of a header that was written */
    char proved;            /* it is right, as the record before it has shown, and none was made since */
} px_keys;

static inline unsigned char *px_keys_iv(px_keys *k) { return k->info + 4; }
static inline unsigned char *px_keys_key(px_keys *k) { return px_keys_iv(k) + k->layout->iv; }
static inline unsigned char *px_keys_salt(px_keys *k) { return px_keys_key(k) + k->layout->key; }
static inline unsigned char *px_keys_number(px_keys *k) { return px_keys_salt(k) + k->layout->salt; }

static inline uint64_t px_big(const unsigned char *bytes) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value = value << 8 | bytes[i];
    return value;
}

static inline void px_put_big(unsigned char *bytes, uint64_t value) {
    for (int i = 7; i >= 0; i--, value >>= 8) bytes[i] = (unsigned char)value;
}

static inline void px_keys_forget(const px_openssl *lib, px_keys *k) {
    if (k == NULL) return;
    lib->cleanse(k, sizeof *k);
    free(k);
}

/* What OpenSSL offers, BIO_CTRL_SET_KTLS: copied; NULL: a cipher that is not used here, or no memory. */
static inline px_keys *px_keys_note(const void *offered) {
    uint16_t head[2]; /* version, cipher */
    px_keys *k;
    memcpy(head, offered, sizeof head);
    for (size_t i = 0; i < sizeof px_tls_layouts / sizeof *px_tls_layouts; i++) {
        const px_tls_layout *layout = &px_tls_layouts[i];
        if (layout->cipher != head[1] || (head[0] != PX_TLS_1_2 && head[0] != PX_TLS_1_3)) continue;
        if ((k = calloc(1, sizeof *k)) == NULL) return NULL;
        k->layout = layout;
        k->version = head[0];
        k->size = 4 + (size_t)layout->iv + layout->key + layout->salt + 8;
        memcpy(k->info, offered, k->size);
        return k;
    }
    return NULL;
}

/* What OpenSSL has written: whole records mostly, but those of a handshake as its buffer was full. */
static inline void px_keys_count(px_keys *k, const char *data, size_t size) {
    while (size > 0) {
        size_t step = 1;
        if (k->ahead > 0) {
            step = size < k->ahead ? size : k->ahead;
            k->ahead -= step;
        } else {
            k->head[k->headed++] = (unsigned char)*data;
            if (k->headed == PX_TLS_HEADER) {
                k->ahead = (size_t)k->head[3] << 8 | k->head[4];
                k->headed = 0;
                k->records++;
                k->proved = 0;
            }
        }
        data += step;
        size -= step;
    }
}

/* Decrypt what follows a record's header; true: the tag is right. */
static inline int px_keys_open(const px_openssl *lib, px_keys *k, const unsigned char *nonce,
                               const unsigned char *about, int about_size, const unsigned char *text,
                               int size) {
    void *tag = (void *)(text + size);
    void *context = lib->evp_cipher_ctx_new();
    unsigned char *plain = malloc((size_t)size + 1);
    const void *cipher = k->layout->cipher == 51   ? lib->evp_aes_128_gcm()
                         : k->layout->cipher == 52 ? lib->evp_aes_256_gcm()
                                                   : lib->evp_chacha20_poly1305();
    int done, right = context != NULL && plain != NULL
                      && lib->evp_decrypt_init_ex(context, cipher, NULL, px_keys_key(k), nonce) > 0
                      && lib->evp_decrypt_update(context, NULL, &done, about, about_size) > 0
                      && lib->evp_decrypt_update(context, plain, &done, text, size) > 0
                      && lib->evp_cipher_ctx_ctrl(context, PX_EVP_SET_TAG, PX_TLS_TAG, tag) > 0
                      && lib->evp_decrypt_final_ex(context, plain + size, &done) > 0;
    if (plain != NULL) lib->cleanse(plain, (size_t)size + 1);
    free(plain);
    lib->evp_cipher_ctx_free(context);
    lib->err_clear_error();
    return right;
}

/* Whether `record`, the last one that was counted, opens with what was noted.  Then `info` is what the kernel
 * needs for the next one. */
static inline int px_keys_prove(const px_openssl *lib, px_keys *k, const unsigned char *record, size_t size) {
    const unsigned char *text = record + PX_TLS_HEADER;
    unsigned char nonce[PX_TLS_NONCE], about[13];
    int explicit_size = k->version == PX_TLS_1_2 ? k->layout->iv % PX_TLS_NONCE : 0; /* 8 of AES-GCM's */
    int about_size = PX_TLS_HEADER, length;
    uint64_t number = px_big(px_keys_number(k)) + k->records - 1;
    if (size < (size_t)(PX_TLS_HEADER + explicit_size + PX_TLS_TAG)) return 0;
    length = (int)size - PX_TLS_HEADER - explicit_size - PX_TLS_TAG;
    if (size != (size_t)PX_TLS_HEADER + (record[3] << 8 | record[4])) return 0; /* not one record */
    memcpy(nonce, px_keys_salt(k), k->layout->salt);
    memcpy(nonce + k->layout->salt, explicit_size ? text : px_keys_iv(k), k->layout->iv);
    if (!explicit_size) { /* RFC 8446 section 5.3, RFC 7905 section 2 */
        unsigned char counter[8];
        px_put_big(counter, number);
        for (int i = 0; i < 8; i++) nonce[PX_TLS_NONCE - 8 + i] ^= counter[i];
    }
    memcpy(about, record, PX_TLS_HEADER);
    if (k->version == PX_TLS_1_2) { /* RFC 5246 section 6.2.3.3 */
        px_put_big(about, number);
        memcpy(about + 8, record, 3);
        about[11] = (unsigned char)(length >> 8);
        about[12] = (unsigned char)length;
        about_size = 13;
    }
    if (!px_keys_open(lib, k, nonce, about, about_size, text + explicit_size, length)) return 0;
    px_put_big(px_keys_number(k), number + 1);
    if (explicit_size) px_put_big(px_keys_iv(k), px_big(text) + 1); /* the kernel counts on from it */
    k->records = 0;
    k->proved = 1;
    return 1;
}

#ifdef __linux__

#include <netinet/in.h>
#include <sys/ioctl.h>

enum { PX_TCP_ULP = 31, PX_SOL_TLS = 282, PX_TLS_TX = 1, PX_TLS_SET_RECORD_TYPE = 1 };
enum { PX_ALERT = 21 };        /* the type of its records, RFC 8446 section 5.1 */
enum { PX_TLS_ROOM = 131072 }; /* of a send buffer: more than a record and an alert need there */

/* Whether the kernel can encrypt on this socket, 0 or -errno.  Nothing is encrypted yet. */
static inline int px_ktls_prepare(int fd) {
    char name[8] = "";
    socklen_t size = sizeof name - 1;
    if (setsockopt(fd, IPPROTO_TCP, PX_TCP_ULP, "tls", sizeof "tls") == 0) return 0;
    if (errno != EEXIST) return -errno; /* else there from an earlier try, or another's */
    if (getsockopt(fd, IPPROTO_TCP, PX_TCP_ULP, name, &size) < 0) return -errno;
    return strcmp(name, "tls") ? -EEXIST : 0;
}

/* All that is written from now on is plaintext, and the kernel's to encrypt. */
static inline int px_ktls_start(int fd, const px_keys *k) {
    return setsockopt(fd, PX_SOL_TLS, PX_TLS_TX, k->info, (socklen_t)k->size) < 0 ? -errno : 0;
}

/* close_notify, RFC 8446 section 6.1: 0 or -errno. */
static inline int px_ktls_say_end(int fd) {
    char alert[2] = {1, 0}; /* a warning, close_notify */
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(1)];
    } control;
    struct iovec vector = {.iov_base = alert, .iov_len = sizeof alert};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control.room};
    memset(&control, 0, sizeof control);
    control.header.cmsg_level = PX_SOL_TLS;
    control.header.cmsg_type = PX_TLS_SET_RECORD_TYPE;
    control.header.cmsg_len = CMSG_LEN(1);
    *CMSG_DATA(&control.header) = PX_ALERT;
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* Whether close(2) will drop nothing.  The kernel keeps a record that it has made and TCP had no room for;
 * close(2) tries once more, and frees what has no room then (Linux' net/tls/tls_sw.c).  So: when the peer has
 * acknowledged all that TCP has, TIOCOUTQ in tcp(7), and with a buffer that has room for the rest. */
static inline int px_ktls_settled(int fd) {
    int queued = 0, buffer = 0, room = PX_TLS_ROOM;
    socklen_t size = sizeof buffer;
    if (ioctl(fd, TIOCOUTQ, &queued) < 0) return 1; /* the connection is gone */
    if (queued > 0) return 0;
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, &size) == 0 && buffer < PX_TLS_ROOM)
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    return 1;
}

#else

static inline int px_ktls_prepare(int fd) { (void)fd; return -1; }
static inline int px_ktls_start(int fd, const px_keys *k) { (void)fd, (void)k; return -1; }
static inline int px_ktls_say_end(int fd) { (void)fd; return -1; }
static inline int px_ktls_settled(int fd) { (void)fd; return 1; }

#endif
#endif
