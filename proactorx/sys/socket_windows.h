/* socket.h for Windows: the same calls on Winsock, with the same convention.
 *
 * A SOCKET is kept as an int, as the number that Python's `fileno()` gives: handles have 32 significant bits
 * on 64-bit Windows too (Microsoft, "Interprocess Communication Between 32-bit and 64-bit Applications").
 * Errors are the numbers of Python's `errno` module, see errnos.h. */
#ifndef PROACTORX_SYS_SOCKET_WINDOWS_H
#define PROACTORX_SYS_SOCKET_WINDOWS_H

#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <winsock2.h>
#include <ws2tcpip.h>
#include <windows.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "errnos.h"

#ifdef _MSC_VER
typedef SSIZE_T ssize_t;
#endif

#ifndef SHUT_WR
#define SHUT_WR SD_SEND
#endif

/* The bits that Python code and the drivers agree on (ops/constants.py), not those of WSAPoll. */
#undef POLLIN
#undef POLLPRI
#undef POLLOUT
#undef POLLERR
#undef POLLHUP
#define POLLIN 1
#define POLLPRI 2
#define POLLOUT 4
#define POLLERR 8
#define POLLHUP 16
#define POLLRDHUP 0

#define PX_SOCKET(fd) ((SOCKET)(intptr_t)(fd))
#define PX_LARGEST_CALL (1 << 30) /* bytes in one call: its counts are 32 bits wide */

static inline int px_errno(int winsock) {
    switch (winsock) {
    case WSAEINTR: case WSAEBADF: case WSAEACCES: case WSAEFAULT: case WSAEINVAL: case WSAEMFILE:
        return winsock - WSABASEERR;
    default:
        return winsock;
    }
}

static inline int px_socket_failure(void) { return -px_errno(WSAGetLastError()); }

static inline int px_close(int fd) { return closesocket(PX_SOCKET(fd)) ? px_socket_failure() : 0; }
static inline int px_shutdown(int fd, int how) {
    return shutdown(PX_SOCKET(fd), how) ? px_socket_failure() : 0;
}
static inline int px_disconnect(int fd) { return shutdown(PX_SOCKET(fd), SD_BOTH) ? px_socket_failure() : 0; }

static inline int px_clamp(size_t size) { return (int)(size < PX_LARGEST_CALL ? size : PX_LARGEST_CALL); }

static inline ssize_t px_recv(int fd, char *buffer, size_t size);

static inline ssize_t px_recv_cut(int fd, char *buffer, size_t size, int *cut) {
    *cut = 0;
    return px_recv(fd, buffer, size);
}

static inline ssize_t px_recv_both(int fd, char *buffer, size_t size, char *rest, size_t more, int *cut) {
    ssize_t n = px_recv(fd, buffer, size);
    (void)rest;
    *cut = more && n == (ssize_t)size;
    return n;
}

static inline ssize_t px_recv(int fd, char *buffer, size_t size) {
    int n = recv(PX_SOCKET(fd), buffer, px_clamp(size), 0);
    return n < 0 ? px_socket_failure() : n;
}

static inline ssize_t px_send(int fd, const char *buffer, size_t size) {
    int n = send(PX_SOCKET(fd), buffer, px_clamp(size), 0);
    return n < 0 ? px_socket_failure() : n;
}

struct iovec {
    void *iov_base;
    size_t iov_len;
};

struct msghdr {
    void *msg_name;
    int msg_namelen;
    struct iovec *msg_iov;
    size_t msg_iovlen;
};

static inline ssize_t px_sendv(int fd, struct iovec *vector, int count) {
    WSABUF buffers[64];
    DWORD sent;
    int i;
    for (i = 0; i < count && i < 64; i++) {
        buffers[i].buf = (char *)vector[i].iov_base;
        buffers[i].len = (ULONG)px_clamp(vector[i].iov_len);
        /* What follows must not overtake the rest of it. */
        if (vector[i].iov_len > buffers[i].len) count = i + 1;
    }
    if (WSASend(PX_SOCKET(fd), buffers, (DWORD)i, &sent, 0, NULL, NULL)) return px_socket_failure();
    return (ssize_t)sent;
}

/* One datagram and the address it came from, or goes to:
 * memory that may be in the kernel's hands for a while. */
typedef struct {
    struct msghdr header;
    struct iovec vector;
    struct sockaddr_storage name;
} px_message;

static inline struct msghdr *px_message_set(px_message *message, char *buffer, size_t size,
                                            size_t name_size) {
    memset(&message->header, 0, sizeof message->header);
    message->vector.iov_base = buffer;
    message->vector.iov_len = size;
    message->header.msg_iov = &message->vector;
    message->header.msg_iovlen = 1;
    message->header.msg_name = name_size ? &message->name : NULL;
    message->header.msg_namelen = (int)name_size;
    return &message->header;
}

/* One datagram: its size, or -errno (of one larger than `size`: WSAEMSGSIZE, and its end is lost). */
static inline ssize_t px_recvfrom(int fd, char *buffer, size_t size, void *name, int *name_size) {
    int n = recvfrom(PX_SOCKET(fd), buffer, px_clamp(size), 0, (struct sockaddr *)name, name_size);
    return n < 0 ? px_socket_failure() : n;
}

static inline ssize_t px_recvmsg(int fd, px_message *message, char *buffer, size_t size) {
    px_message_set(message, buffer, size, sizeof message->name);
    return px_recvfrom(fd, buffer, size, &message->name, &message->header.msg_namelen);
}

static inline ssize_t px_sendto(int fd, const char *data, size_t size, const void *name, int name_size) {
    int n = sendto(PX_SOCKET(fd), data, px_clamp(size), 0, (const struct sockaddr *)name,
                   name == NULL ? 0 : name_size);
    return n < 0 ? px_socket_failure() : n;
}

static inline ssize_t px_sendmsg(int fd, const struct msghdr *header) {
    return px_sendto(fd, (const char *)header->msg_iov->iov_base, header->msg_iov->iov_len, header->msg_name,
                     header->msg_namelen);
}

/* What every socket of ours is: non-blocking, and not inherited by children. */
static inline void px_own_manners(SOCKET sock) {
    u_long one = 1;
    ioctlsocket(sock, FIONBIO, &one);
    SetHandleInformation((HANDLE)sock, HANDLE_FLAG_INHERIT, 0);
}

/* Who has connected.  Only accept can tell it of a client that was reset before it was accepted. */
typedef struct {
    int size;
    struct sockaddr_storage name;
} px_client;

static inline int px_accept(int fd, px_client *client) {
    SOCKET sock;
    client->size = sizeof client->name;
    sock = accept(PX_SOCKET(fd), (struct sockaddr *)&client->name, &client->size);
    if (sock == INVALID_SOCKET) return px_socket_failure();
    px_own_manners(sock);
    return (int)sock;
}

static inline int px_connect(int fd, const struct sockaddr *address, int size) {
    if (connect(PX_SOCKET(fd), address, size) == 0) return 0;
    return WSAGetLastError() == WSAEWOULDBLOCK ? -EINPROGRESS : px_socket_failure();
}

static inline int px_socket_error(int fd) {
    int error = 0, size = sizeof error;
    if (getsockopt(PX_SOCKET(fd), SOL_SOCKET, SO_ERROR, (char *)&error, &size)) return px_socket_failure();
    return -px_errno(error);
}

/* Until `fd` can be read, or the time is over (< 0: without limit).  0 or an errno. */
static inline int px_sleep_on(int fd, long long timeout_ns) {
    long long us = timeout_ns < 0 || timeout_ns > 86400000000000 ? 86400000000 : (timeout_ns + 999) / 1000;
    struct timeval limit = {(long)(us / 1000000), (long)(us % 1000000)};
    fd_set read;
    FD_ZERO(&read);
    FD_SET(PX_SOCKET(fd), &read);
    return select(0, &read, NULL, NULL, timeout_ns < 0 ? NULL : &limit) < 0 ? -px_socket_failure() : 0;
}

/* Whether a read would not wait: not known, so the read is what finds out. */
static inline int px_has_bytes(int fd) {
    (void)fd;
    return 1;
}

/* Whether readiness can be told of this handle: 0, or -WSAENOTSOCK. */
static inline int px_pollable(int fd) {
    int type, size = sizeof type;
    return getsockopt(PX_SOCKET(fd), SOL_SOCKET, SO_TYPE, (char *)&type, &size) ? px_socket_failure() : 0;
}

static inline int px_name(int fd, int peer, void *name, size_t room) {
    int size = (int)room, n;
    n = peer ? getpeername(PX_SOCKET(fd), (struct sockaddr *)name, &size)
             : getsockname(PX_SOCKET(fd), (struct sockaddr *)name, &size);
    return n ? px_socket_failure() : size;
}

#endif
