/* Many datagrams in one system call where there is one for that (recvmmsg(2), sendmmsg(2): Linux, FreeBSD),
 * else one call each.  As in socket.h: the result, or -errno. */
#ifndef PROACTORX_SYS_DATAGRAM_H
#define PROACTORX_SYS_DATAGRAM_H

#include "socket.h"

#ifndef _WIN32
#include <arpa/inet.h>
#include <netinet/in.h>
#endif
#include <stdlib.h>

#if defined(__linux__) || defined(__FreeBSD__)
#define PX_HAS_MMSG 1
#else
#define PX_HAS_MMSG 0
struct mmsghdr {
    struct msghdr msg_hdr;
    unsigned int msg_len;
};
#endif

enum {
    PX_TAKEN = 16,             /* datagrams in one receive */
    PX_SENT = 64,              /* datagrams in one send */
    PX_ARENA = 1024 * 1024,    /* for received ones: touched as far as they reach, so mostly address space */
    PX_CONTROL = 256,          /* bytes for the control messages of one datagram, see trains.h */
    PX_NAME = 28,              /* a struct sockaddr_in6 */
    PX_HOST = 46               /* an address as text, with its end: INET6_ADDRSTRLEN, but for Windows' 65 */
};

typedef struct {
    char *memory;
    int late;                  /* -errno of what came behind the datagrams that were taken */
    struct mmsghdr headers[PX_TAKEN];
    struct iovec vectors[PX_TAKEN];
    struct sockaddr_storage names[PX_TAKEN];
    /* Control messages, for which others ask: size_t, because that is how they are aligned. */
    size_t controls[PX_TAKEN][PX_CONTROL / sizeof(size_t)];
} px_arena;

static inline px_arena *px_arena_new(void) {
    px_arena *arena = calloc(1, sizeof *arena);
    if (arena == NULL) return NULL;
    arena->memory = malloc(PX_ARENA);
    if (arena->memory == NULL) {
        free(arena);
        return NULL;
    }
    for (int i = 0; i < PX_TAKEN; i++) {
        arena->headers[i].msg_hdr.msg_iov = &arena->vectors[i];
        arena->headers[i].msg_hdr.msg_iovlen = 1;
        arena->headers[i].msg_hdr.msg_name = &arena->names[i];
    }
    return arena;
}

static inline void px_arena_free(px_arena *arena) {
    if (arena == NULL) return;
    free(arena->memory);
    free(arena);
}

#if !PX_HAS_MMSG
static inline ssize_t px_take_one(int fd, struct msghdr *header) {
#ifdef _WIN32
    return px_recvfrom(fd, (char *)header->msg_iov->iov_base, header->msg_iov->iov_len, header->msg_name,
                       &header->msg_namelen);
#else
    ssize_t size;
    do size = recvmsg(fd, header, MSG_DONTWAIT); while (size < 0 && errno == EINTR);
    return size < 0 ? -errno : size;
#endif
}
#endif

/* Take what there is, at most `most` (PX_TAKEN) and PX_ARENA / `each` datagrams of at most `each` bytes; how
 * many there were. */
static inline int px_recv_batch(int fd, px_arena *arena, size_t each, int most) {
    int count = (int)(PX_ARENA / each), n;
    if (count > most) count = most;
    for (int i = 0; i < count; i++) {
        arena->vectors[i].iov_base = arena->memory + (size_t)i * each;
        arena->vectors[i].iov_len = each;
        arena->headers[i].msg_hdr.msg_namelen = sizeof arena->names[i];
    }
#if PX_HAS_MMSG
    do n = recvmmsg(fd, arena->headers, (unsigned int)count, MSG_DONTWAIT,
                    NULL); while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
#else
    for (n = 0; n < count; n++) {
        ssize_t size = px_take_one(fd, &arena->headers[n].msg_hdr);
        if (size < 0) {
            /* The system has told of this error now, and will not tell again. */
            if (n && size != -EAGAIN && size != -EWOULDBLOCK) arena->late = (int)size;
            return n ? n : (int)size;
        }
        arena->headers[n].msg_len = (unsigned int)size;
    }
    return n;
#endif
}

/* The error that `px_recv_batch` found behind the last datagram it took: -errno, or 0. */
static inline int px_late_error(px_arena *arena) {
    int error = arena->late;
    arena->late = 0;
    return error;
}

static inline char *px_taken_data(px_arena *arena, int i) { return arena->vectors[i].iov_base; }
static inline unsigned int px_taken_size(px_arena *arena, int i) { return arena->headers[i].msg_len; }
static inline unsigned char *px_taken_name(px_arena *arena,
                                           int i) { return (unsigned char *)&arena->names[i]; }
static inline unsigned int px_taken_name_size(px_arena *arena,
                                              int i) { return arena->headers[i].msg_hdr.msg_namelen; }

typedef struct {
    char *data;
    size_t size;
    void *name;
    socklen_t name_size;
} px_outgoing;

/* Send as many as the socket takes; how many those were, at least one, or why not even the first. */
static inline int px_send_batch(int fd, const px_outgoing *list, int count) {
    int n;
#if PX_HAS_MMSG
    if (count > 1) {
        struct mmsghdr headers[PX_SENT];
        struct iovec vectors[PX_SENT];
        if (count > PX_SENT) count = PX_SENT;
        memset(headers, 0, (size_t)count * sizeof headers[0]);
        for (int i = 0; i < count; i++) {
            vectors[i].iov_base = list[i].data;
            vectors[i].iov_len = list[i].size;
            headers[i].msg_hdr.msg_iov = &vectors[i];
            headers[i].msg_hdr.msg_iovlen = 1;
            headers[i].msg_hdr.msg_name = list[i].name;
            headers[i].msg_hdr.msg_namelen = list[i].name_size;
        }
        do n = sendmmsg(fd, headers, (unsigned int)count, MSG_DONTWAIT | MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : n;
    }
#endif
    for (n = 0; n < count; n++) {
        ssize_t size = px_sendto(fd, list[n].data, list[n].size, list[n].name, list[n].name_size);
        if (size < 0) return n ? n : (int)size;
    }
    return n;
}

/* A numeric address as a struct sockaddr_in or sockaddr_in6; its size,
 * or 0 where `host` is not a numeric address. */
static inline int px_pack(int family, const char *host, int port, uint32_t flow, uint32_t scope, void *name) {
    if (family == AF_INET) {
        struct sockaddr_in *in = name;
        memset(in, 0, sizeof *in);
        if (inet_pton(AF_INET, host, &in->sin_addr) != 1) return 0;
        in->sin_family = AF_INET;
        in->sin_port = htons((uint16_t)port);
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__)
        in->sin_len = sizeof *in;
#endif
        return sizeof *in;
    }
    struct sockaddr_in6 *in6 = name;
    memset(in6, 0, sizeof *in6);
    if (inet_pton(AF_INET6, host, &in6->sin6_addr) != 1) return 0;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons((uint16_t)port);
    in6->sin6_flowinfo = htonl(flow);
    in6->sin6_scope_id = scope;
#if defined(__APPLE__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__)
    in6->sin6_len = sizeof *in6;
#endif
    return sizeof *in6;
}

/* The other way: `host` needs PX_HOST bytes.  The family, or 0 where it is neither. */
static inline int px_unpack(const void *name, size_t size, char *host, int *port, uint32_t *flow,
                            uint32_t *scope) {
    const struct sockaddr *any = name;
    if (size >= sizeof(struct sockaddr_in) && any->sa_family == AF_INET) {
        const struct sockaddr_in *in = name;
        *port = ntohs(in->sin_port);
        return inet_ntop(AF_INET, &in->sin_addr, host, PX_HOST) ? AF_INET : 0;
    }
    if (size >= sizeof(struct sockaddr_in6) && any->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = name;
        *port = ntohs(in6->sin6_port);
        *flow = ntohl(in6->sin6_flowinfo);
        *scope = in6->sin6_scope_id;
        return inet_ntop(AF_INET6, &in6->sin6_addr, host, PX_HOST) ? AF_INET6 : 0;
    }
    return 0;
}

/* Where in a table of addresses (of a power of two) this one is looked for: mostly its port. */
static inline unsigned int px_place(const unsigned char *name, size_t size, unsigned int mask) {
    return (name[3] + 7u * name[2] + 31u * name[size == sizeof(struct sockaddr_in) ? 7 : 23]) & mask;
}

#endif
