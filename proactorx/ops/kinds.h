/* What each kind of operation is: one row of px_kinds,
   which says everything that does not depend on a driver.
 *
 * To add a kind: a name in the enum, a row in the table, its name in kinds.pxd (and in constants.py, where
 * code that is not compiled starts it), and a cell
 * in each driver that has more to offer than the row: `encoders` of io_uring, `cells` of iocp. */
#ifndef PROACTORX_OPS_KINDS_H
#define PROACTORX_OPS_KINDS_H

#include <stdint.h>
#include <string.h>
#include "proactorx/sys/file.h"
#include "proactorx/sys/socket.h"

enum {
    PX_KIND_POLL,        /* wait until the fd is ready for `events` */
    PX_KIND_RECV_STREAM, /* multishot: bytes as they come, in memory of the driver's */
    PX_KIND_RECV,        /* one receive of at most `size` bytes, as a new bytes object */
    PX_KIND_RECV_INTO,   /* one receive into the op's own buffer */
    PX_KIND_SEND,        /* the whole of the op's own buffer */
    PX_KIND_ACCEPT,      /* multishot: connected descriptors */
    PX_KIND_ACCEPT_ONE,  /* one connected descriptor */
    PX_KIND_CONNECT,     /* to the op's own address */
    PX_KIND_RECV_DGRAMS, /* multishot: PACKET_READY whenever datagrams are there; the owner takes them */
    PX_KIND_RECV_FROM,   /* one datagram and its address, into the op's own buffer or as a new bytes object */
    PX_KIND_SEND_TO,     /* one datagram, the op's own buffer, to an address or to the peer of the socket */
    PX_KIND_DISCONNECT,  /* a stream, both ways, behind the sends before it */
    PX_KIND_WAIT_CHILD,  /* until the child whose pid is in place of the fd has ended; it is not reaped */
    PX_KIND_READ,        /* of a file, at `position`: at most `size` bytes, as new bytes or into a buffer */
    PX_KIND_WRITE,       /* to a file, at `position`: the whole of the op's own buffer */
    PX_KIND_FSYNC,       /* a file's data, and its attributes unless `events` says otherwise, to the disk */
    PX_KIND_OPEN,        /* the path that is the op's own buffer, with the flags `events`: a descriptor */
    PX_KIND_TRANSMIT,    /* Windows: `size` bytes of the file `events`, from `position` on, to a socket */
    PX_KIND_PATH_CHANGE, /* a change in a directory: `events` is one of CHANGE_*; the buffer has the paths */
    PX_KIND_PUNCH,       /* of a file: from `position` on, `size` bytes' blocks go back to the disk */
    PX_KINDS
};

/* PATH_CHANGE, `events`: which call; of two paths, each ends with a null. */
enum { PX_CHANGE_UNLINK, PX_CHANGE_RMDIR, PX_CHANGE_RENAME };

/* What one system call of an op needs.  The op owns the memory; `scratch` has PX_SCRATCH_SIZE bytes,
 * of the driver's. */
typedef struct {
    int fd;
    uint32_t events;
    char *buffer;        /* what is left of the op's own; NULL: it has none */
    size_t size;         /* of that, or at most so many bytes */
    int64_t position;    /* of a file; < 0: it has none */
    px_message *message; /* of a datagram */
    char *scratch;
    char *data;          /* set by the call: what was received, where that is not in `buffer` */
} px_call;

enum { PX_NEITHER, PX_IN, PX_OUT, PX_AS_EVENTS };       /* px_kind.direction */
enum {                                                  /* px_kind.brings: what a result is */
    PX_NOTHING,
    PX_VALUE,   /* the number that the call returns */
    PX_COUNT,   /* how many bytes were moved */
    PX_BYTES,   /* what was received; a count where the op has a buffer of its user's */
    PX_FD,      /* a descriptor, which is closed where nobody wants it */
    PX_PACKETS  /* there is no end to it: each packet is for the owner */
};
/* px_kind.line: in which the ops of sock_* stand, of which one at a time is in flight on a socket.  What a
 * cancelled one has brought is kept for the next of its line. */
enum { PX_NO_LINE, PX_RECEIVERS, PX_SENDERS, PX_ACCEPTORS };
enum { PX_ON_SOCKET, PX_ON_CHILD, PX_ON_FILE, PX_ON_PATH }; /* px_kind.on */
enum { PX_ENDS = 0x7fffffff };                          /* px_kind.goes_on */

typedef struct {
    const char *name;
    unsigned char direction; /* which readiness lets it go on */
    unsigned char on;
    unsigned char serial;    /* of those on one descriptor and direction, only the first is served */
    unsigned char eager;     /* tried when it is submitted; the others wait for readiness first */
    unsigned char buffered;  /* the call reads `buffer` and `size` (and `message`) */
    unsigned char moves;     /* Op.took counts the bytes of each call; a short one may go on */
    unsigned char whole;     /* all of its buffer, or an error that says how far it came */
    unsigned char addressed; /* it has a px_message: an address goes with the bytes */
    unsigned char brings;
    unsigned char line;
    unsigned char burst;     /* a call that succeeds is made again in the same turn, so often at most */
    int goes_on;             /* a result of at least this leaves the op in flight: multishot */
    ssize_t (*attempt)(px_call *);  /* made when ready, never waits; NULL: the owner makes it */
    ssize_t (*blocking)(px_call *); /* one call of the blocking body, on an IO thread; NULL: there is none */
    ssize_t (*start)(px_call *);    /* made at submission; -EINPROGRESS: and then wait for readiness */
} px_kind;

static ssize_t px_try_poll(px_call *c) { return (ssize_t)c->events; }

static ssize_t px_try_recv_stream(px_call *c) {
    c->data = c->scratch;
    return px_recv(c->fd, c->scratch, PX_SCRATCH_SIZE);
}

static ssize_t px_try_recv(px_call *c) {
    c->data = c->scratch;
    return px_recv(c->fd, c->scratch, c->size < PX_SCRATCH_SIZE ? c->size : PX_SCRATCH_SIZE);
}

static ssize_t px_try_recv_into(px_call *c) { return px_recv(c->fd, c->buffer, c->size); }
static ssize_t px_try_send(px_call *c) { return px_send(c->fd, c->buffer, c->size); }

static ssize_t px_try_recv_from(px_call *c) {
    if (c->buffer != NULL) return px_recvmsg(c->fd, c->message, c->buffer, c->size);
    c->data = c->scratch;
    return px_recvmsg(c->fd, c->message, c->scratch, c->size < PX_SCRATCH_SIZE ? c->size : PX_SCRATCH_SIZE);
}

static ssize_t px_try_send_to(px_call *c) { return px_sendmsg(c->fd, &c->message->header); }
static ssize_t px_try_disconnect(px_call *c) { return px_disconnect(c->fd); }

static ssize_t px_try_accept(px_call *c) {
    c->data = c->scratch;
    return px_accept(c->fd, (px_client *)c->scratch);
}

static ssize_t px_start_connect(px_call *c) {
    return px_connect(c->fd, (const struct sockaddr *)c->buffer, (unsigned int)c->size);
}

static ssize_t px_try_connected(px_call *c) { return px_socket_error(c->fd); }

static ssize_t px_block_read(px_call *c) { return px_file_read(c->fd, c->buffer, c->size, c->position); }
static ssize_t px_block_write(px_call *c) { return px_file_write(c->fd, c->buffer, c->size, c->position); }
static ssize_t px_block_fsync(px_call *c) { return px_file_sync(c->fd, (int)c->events); }
static ssize_t px_block_punch(px_call *c) { return px_file_punch(c->fd, c->position, (int64_t)c->size); }
static ssize_t px_block_open(px_call *c) { return px_file_open(c->buffer, (int)c->events); }

static ssize_t px_block_path(px_call *c) {
    switch (c->events) {
    case PX_CHANGE_RENAME: return px_path_rename(c->buffer, c->buffer + strlen(c->buffer) + 1);
    case PX_CHANGE_RMDIR: return px_path_rmdir(c->buffer);
    default: return px_path_unlink(c->buffer);
    }
}

#define PX_ROW(kind, name, direction, on, ...) \
    [PX_KIND_##kind] = {name, PX_##direction, PX_ON_##on, __VA_ARGS__}

/* clang-format off */
static const px_kind px_kinds[PX_KINDS] = {
    /* kind, name, direction, on, serial, eager, buffered, moves, whole, addressed, brings, line,
       burst, goes_on, attempt, blocking, start */
    PX_ROW(POLL,        "poll",        AS_EVENTS, SOCKET, 0, 0, 0, 0, 0, 0, PX_VALUE,   PX_NO_LINE,  
           0, PX_ENDS, px_try_poll, NULL),
    PX_ROW(RECV_STREAM, "recv_stream", IN,        SOCKET, 1, 0, 0, 0, 0, 0, PX_PACKETS, PX_NO_LINE,  
           0, 1, px_try_recv_stream, NULL),
    PX_ROW(RECV,        "recv",        IN,        SOCKET, 1, 1, 1, 0, 0, 0, PX_BYTES,   PX_RECEIVERS,
           0, PX_ENDS, px_try_recv, NULL),
    PX_ROW(RECV_INTO,   "recv_into",   IN,        SOCKET, 1, 1, 1, 1, 0, 0, PX_COUNT,   PX_RECEIVERS,
           0, PX_ENDS, px_try_recv_into, NULL),
    PX_ROW(SEND,        "send",        OUT,       SOCKET, 1, 1, 1, 1, 1, 0, PX_COUNT,   PX_SENDERS,  
           0, PX_ENDS, px_try_send, NULL),
    PX_ROW(ACCEPT,      "accept",      IN,        SOCKET, 1, 1, 0, 0, 0, 0, PX_FD,      PX_NO_LINE,  
           32, 0, px_try_accept, NULL),
    PX_ROW(ACCEPT_ONE,  "accept",      IN,        SOCKET, 1, 1, 0, 0, 0, 0, PX_FD,      PX_ACCEPTORS,
           0, PX_ENDS, px_try_accept, NULL),
    PX_ROW(CONNECT,     "connect",     OUT,       SOCKET, 1, 0, 1, 0, 0, 0, PX_NOTHING, PX_NO_LINE,  
           0, PX_ENDS, px_try_connected, NULL, px_start_connect),
    PX_ROW(RECV_DGRAMS, "recv_dgrams", IN,        SOCKET, 1, 0, 0, 0, 0, 0, PX_PACKETS, PX_NO_LINE,  
           0, 0, NULL, NULL),
    PX_ROW(RECV_FROM,   "recvfrom",    IN,        SOCKET, 1, 1, 1, 0, 0, 1, PX_BYTES,   PX_RECEIVERS,
           0, PX_ENDS, px_try_recv_from, NULL),
    PX_ROW(SEND_TO,     "sendto",      OUT,       SOCKET, 1, 1, 1, 0, 0, 1, PX_COUNT,   PX_NO_LINE,  
           0, PX_ENDS, px_try_send_to, NULL),
    PX_ROW(DISCONNECT,  "disconnect",  OUT,       SOCKET, 1, 1, 0, 0, 0, 0, PX_NOTHING, PX_NO_LINE,  
           0, PX_ENDS, px_try_disconnect, NULL),
    PX_ROW(WAIT_CHILD,  "wait_child",  NEITHER,   CHILD,  0, 0, 0, 0, 0, 0, PX_VALUE,   PX_NO_LINE,  
           0, PX_ENDS, NULL, NULL),
    PX_ROW(READ,        "read",        IN,        FILE,   0, 0, 1, 1, 0, 0, PX_BYTES,   PX_NO_LINE,  
           0, PX_ENDS, NULL, px_block_read),
    PX_ROW(WRITE,       "write",       OUT,       FILE,   0, 0, 1, 1, 1, 0, PX_COUNT,   PX_NO_LINE,  
           0, PX_ENDS, NULL, px_block_write),
    PX_ROW(FSYNC,       "fsync",       NEITHER,   FILE,   0, 0, 0, 0, 0, 0, PX_NOTHING, PX_NO_LINE,  
           0, PX_ENDS, NULL, px_block_fsync),
    PX_ROW(OPEN,        "open",        NEITHER,   PATH,   0, 0, 1, 0, 0, 0, PX_FD,      PX_NO_LINE,  
           0, PX_ENDS, NULL, px_block_open),
    PX_ROW(TRANSMIT,    "transmit",    OUT,       SOCKET, 1, 0, 1, 0, 0, 0, PX_COUNT,   PX_NO_LINE,  
           0, PX_ENDS, NULL, NULL),
    PX_ROW(PATH_CHANGE, "path_change", NEITHER,   PATH,   0, 0, 1, 0, 0, 0, PX_NOTHING, PX_NO_LINE,  
           0, PX_ENDS, NULL, px_block_path),
    PX_ROW(PUNCH,       "punch",       NEITHER,   FILE,   0, 0, 1, 0, 0, 0, PX_NOTHING, PX_NO_LINE,
           0, PX_ENDS, NULL, px_block_punch),
};
/* clang-format on */

/* Whether a driver that knows readiness only can do it: by `attempt`,
 * or by telling the owner when to make the call. */
static inline int px_done_when_ready(const px_kind *row) {
    return row->attempt != NULL || (row->on == PX_ON_SOCKET && row->goes_on != PX_ENDS);
}

#endif
