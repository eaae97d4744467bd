/* The BIO of a TLS connection whose ciphertext is never copied to be kept, BIO_meth_new(3).
 *
 * What OpenSSL reads comes from memory that the caller lends for the length of a call: the buffer that all
 * connections of a loop receive into.  What it writes goes into memory that is lent likewise, or at once
 * into a socket.  All else, and what is read or written while nothing is lent, is that of two memory BIOs,
 * those of the ssl module's MemoryBIO objects: to the module, and to who calls its methods, nothing has
 * changed.
 *
 * The order of the bytes: memory is lent to read from only while the memory BIO is empty; and once something
 * was written to the other one, all that follows is, until the caller has emptied it and lends anew.
 */
#ifndef PROACTORX_SYS_WIRE_H
#define PROACTORX_SYS_WIRE_H

#include <stdlib.h>
#include <string.h>

#include "ktls.h"
#include "openssl.h"
#include "socket.h"

typedef struct {
    void *in, *out;     /* the memory BIOs, of which this holds a reference each */
    const char *source; /* ciphertext lent to read from */
    size_t left;        /* so much of it is not read */
    char *sink;         /* memory lent to write to, */
    size_t room, used;
    int fd;             /* or a socket; -1: none */
    char kept, spilled; /* whether the memory BIOs may hold anything, `in` and `out` */
    char noting;        /* the keys are to be noted, for the kernel: `keys`, if that was done */
    char handed;        /* the kernel encrypts: nothing that OpenSSL makes may go out any more, */
    char refused;       /* and it has made something */
    px_keys *keys;
} px_wire;

enum { PX_BIO_SOURCE_SINK = 0x400, PX_BIO_RETRY = 0x0f, PX_BIO_WAIT_READ = 0x09 }; /* openssl/bio.h */
enum { PX_BIO_CTRL_EOF = 2, PX_BIO_CTRL_PENDING = 10, PX_BIO_CTRL_FLUSH = 11, PX_BIO_CTRL_SET_KTLS = 72 };

/* Of the process, as libssl is: the functions, and the kind of BIO that they have made. */
static const px_openssl *px_wire_lib;
static void *px_wire_method;

/* What the memory BIO says of trying again is what SSL_get_error(3) is to be told. */
static inline int px_wire_passed(void *bio, void *memory, int count, size_t *done) {
    px_wire_lib->bio_clear_flags(bio, PX_BIO_RETRY);
    if (count > 0) {
        *done = (size_t)count;
        return 1;
    }
    *done = 0;
    px_wire_lib->bio_set_flags(bio, px_wire_lib->bio_test_flags(memory, PX_BIO_RETRY));
    return count;
}

static int px_wire_read(void *bio, char *data, size_t size, size_t *done) {
    px_wire *w = px_wire_lib->bio_get_data(bio);
    if (w->left == 0) {
        int most = size > 1 << 30 ? 1 << 30 : (int)size;
        return px_wire_passed(bio, w->in, px_wire_lib->bio_read(w->in, data, most), done);
    }
    *done = size < w->left ? size : w->left;
    memcpy(data, w->source, *done);
    w->source += *done;
    w->left -= *done;
    return 1;
}

static int px_wire_put(px_wire *w, void *bio, const char *data, size_t size, size_t *done) {
    if (w->fd >= 0) {
        ssize_t n = px_send(w->fd, data, size);
        if (n != (ssize_t)size) w->fd = -1; /* the rest comes again, and is the caller's to send or fail */
        if (n > 0) {
            *done = (size_t)n;
            return 1;
        }
    } else if (size <= w->room - w->used) {
        memcpy(w->sink + w->used, data, size);
        w->used += size;
        *done = size;
        return 1;
    }
    w->room = w->used; /* nothing that comes later overtakes this */
    w->spilled = 1;
    return px_wire_passed(bio, w->out, px_wire_lib->bio_write(w->out, data,
                          size > 1 << 30 ? 1 << 30 : (int)size), done);
}

static int px_wire_write(void *bio, const char *data, size_t size, size_t *done) {
    px_wire *w = px_wire_lib->bio_get_data(bio);
    int result;
    if (w->keys == NULL) return px_wire_put(w, bio, data, size, done);
    if (w->handed) {
        w->refused = 1;
        *done = 0;
        px_wire_lib->bio_set_flags(bio, PX_BIO_WAIT_READ); /* not failed: who reads sees `refused` */
        return 0;
    }
    result = px_wire_put(w, bio, data, size, done);
    px_keys_count(w->keys, data, *done);
    return result;
}

static long px_wire_ctrl(void *bio, int command, long number, void *pointer) {
    px_wire *w;
    if (command == PX_BIO_CTRL_FLUSH) return 1;
    if (command != PX_BIO_CTRL_PENDING && command != PX_BIO_CTRL_EOF && command != PX_BIO_CTRL_SET_KTLS)
        return 0; /* also to whether the kernel encrypts, which is asked several times for each record */
    w = px_wire_lib->bio_get_data(bio);
    if (command == PX_BIO_CTRL_SET_KTLS) {
        if (number && w->noting) { /* the keys to write with */
            px_keys_forget(px_wire_lib, w->keys);
            w->keys = px_keys_note(pointer);
        }
        return 0; /* OpenSSL goes on by itself */
    }
    if (command == PX_BIO_CTRL_PENDING) return (long)(w->left + px_wire_lib->bio_ctrl_pending(w->in));
    return w->left == 0 && px_wire_lib->bio_ctrl(w->in, command, number, pointer);
}

static int px_wire_destroy(void *bio) {
    px_wire *w = px_wire_lib->bio_get_data(bio);
    if (w != NULL) {
        px_wire_lib->bio_free(w->in);
        px_wire_lib->bio_free(w->out);
        px_keys_forget(px_wire_lib, w->keys);
        free(w);
    }
    return 1;
}

/* Once, with functions that stay where they are.  0: OpenSSL has no memory for it. */
static inline int px_wire_init(const px_openssl *lib) {
    int index = lib->bio_get_new_index();
    void *method = index < 0 ? NULL : lib->bio_meth_new(index | PX_BIO_SOURCE_SINK, "loop's memory");
    if (method == NULL || !lib->bio_meth_set_read_ex(method, px_wire_read)
        || !lib->bio_meth_set_write_ex(method, px_wire_write) || !lib->bio_meth_set_ctrl(method, px_wire_ctrl)
        || !lib->bio_meth_set_destroy(method, px_wire_destroy))
        return 0;
    px_wire_lib = lib;
    px_wire_method = method;
    return 1;
}

/* Put a BIO in the place of the two of a connection, which were `in` and `out`.  The connection owns it, and
 * the caller one reference more, BIO_free(3).  NULL: there is no memory, and nothing has changed. */
static inline px_wire *px_wire_open(void *ssl, void *in, void *out, void **made) {
    const px_openssl *lib = px_wire_lib;
    px_wire *w = calloc(1, sizeof *w);
    void *bio = w == NULL ? NULL : lib->bio_new(px_wire_method);
    if (bio == NULL) {
        free(w);
        return NULL;
    }
    /* Before the connection gives up its own: the MemoryBIO objects may be gone before the connection is. */
    lib->bio_up_ref(w->in = in);
    lib->bio_up_ref(w->out = out);
    w->fd = -1;
    lib->bio_set_data(bio, w);
    lib->bio_set_init(bio, 1);
    lib->bio_up_ref(bio);
    lib->bio_up_ref(bio);
    lib->ssl_set0_rbio(ssl, bio);
    lib->ssl_set0_wbio(ssl, bio);
    *made = bio;
    return w;
}
#endif
