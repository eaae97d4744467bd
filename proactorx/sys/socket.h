/* The system calls that drivers and transports make on non-blocking sockets, with one convention:
 * the result, or -errno.  EINTR is retried here: none of these calls waits.  For Windows see
 * socket_windows.h. */
#ifndef PROACTORX_SYS_SOCKET_H
#define PROACTORX_SYS_SOCKET_H

/* The size of a driver's buffer for receives.  All share it, so it stays in the cache. */
#define PX_SCRATCH_SIZE (256 * 1024)

#ifdef _WIN32
#include "socket_windows.h"
#else

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif
#ifndef POLLRDHUP
#define POLLRDHUP 0
#endif

static inline int px_close(int fd) { return close(fd) < 0 ? -errno : 0; }

static inline int px_shutdown(int fd, int how) { return shutdown(fd, how) < 0 ? -errno : 0; }

static inline int px_disconnect(int fd) { return shutdown(fd, SHUT_RDWR) < 0 ? -errno : 0; }

static inline ssize_t px_recv(int fd, char *buffer, size_t size) {
    ssize_t n;
    do n = recv(fd, buffer, size, MSG_DONTWAIT); while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* As px_recv, on a Unix socket.  A receive stops behind passed descriptors, unix(7): *cut says that it may
 * have left bytes although it fell short.  (What was passed is dropped, which the kernel tells by MSG_CTRUNC,
 * recvmsg(2).) */
static inline ssize_t px_recv_cut(int fd, char *buffer, size_t size, int *cut) {
    struct iovec vector = {.iov_base = buffer, .iov_len = size};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    ssize_t n;
    do n = recvmsg(fd, &message, MSG_DONTWAIT); while (n < 0 && errno == EINTR);
    *cut = n >= 0 && (message.msg_flags & MSG_CTRUNC) != 0;
    return n < 0 ? -errno : n;
}

/* As px_recv_cut, on any stream: what finds no room in `buffer` comes into `rest`. */
static inline ssize_t px_recv_both(int fd, char *buffer, size_t size, char *rest, size_t more, int *cut) {
    struct iovec vector[2] = {{.iov_base = buffer, .iov_len = size}, {.iov_base = rest, .iov_len = more}};
    struct msghdr message = {.msg_iov = vector, .msg_iovlen = 2};
    ssize_t n;
    do n = recvmsg(fd, &message, MSG_DONTWAIT); while (n < 0 && errno == EINTR);
    *cut = n >= 0 && (message.msg_flags & MSG_CTRUNC) != 0;
    return n < 0 ? -errno : n;
}

/* What a receive would find, without taking it: 1, 0 at the end, or -errno. */
static inline ssize_t px_peek(int fd) {
    char byte;
    ssize_t n;
    do n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT); while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static inline ssize_t px_send(int fd, const char *buffer, size_t size) {
    ssize_t n;
    do n = send(fd, buffer, size, MSG_DONTWAIT | MSG_NOSIGNAL); while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static inline ssize_t px_sendv(int fd, struct iovec *vector, int count) {
    struct msghdr message = {.msg_iov = vector, .msg_iovlen = (size_t)count};
    ssize_t n;
    do n = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL); while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* Of files that are no sockets; the caller has set O_NONBLOCK. */
static inline ssize_t px_read(int fd, char *buffer, size_t size) {
    ssize_t n;
    do n = read(fd, buffer, size); while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static inline ssize_t px_write(int fd, const char *buffer, size_t size) {
    ssize_t n;
    do n = write(fd, buffer, size); while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static inline ssize_t px_writev(int fd, const struct iovec *vector, int count) {
    ssize_t n;
    do n = writev(fd, vector, count); while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* One datagram and the address it came from, or goes to:
 * memory that may be in the kernel's hands for a while. */
typedef struct {
    struct msghdr header;
    struct iovec vector;
    struct sockaddr_storage name;
} px_message;

/* Point `message` at `buffer`.  `name_size`: how much of the name counts, or how much room there is for one.
 * */
static inline struct msghdr *px_message_set(px_message *message, char *buffer, size_t size,
                                            size_t name_size) {
    memset(&message->header, 0, sizeof message->header);
    message->vector.iov_base = buffer;
    message->vector.iov_len = size;
    message->header.msg_iov = &message->vector;
    message->header.msg_iovlen = 1;
    message->header.msg_name = name_size ? &message->name : NULL;
    message->header.msg_namelen = (socklen_t)name_size;
    return &message->header;
}

static inline ssize_t px_recvmsg(int fd, px_message *message, char *buffer, size_t size) {
    ssize_t n;
    do {
        px_message_set(message, buffer, size, sizeof message->name);
        n = recvmsg(fd, &message->header, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static inline ssize_t px_sendto(int fd, const char *data, size_t size, const void *name,
                                socklen_t name_size) {
    ssize_t n;
    do n = sendto(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL, name,
                  name_size); while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static inline ssize_t px_sendmsg(int fd, const struct msghdr *header) {
    ssize_t n;
    do n = sendmsg(fd, header, MSG_DONTWAIT | MSG_NOSIGNAL); while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* Who has connected.  Only accept(2) can tell it of a client that was reset before it was accepted. */
typedef struct {
    socklen_t size;
    struct sockaddr_storage name;
} px_client;

static inline int px_accept(int fd, px_client *client) {
    struct sockaddr *name = (struct sockaddr *)&client->name;
    int n;
    do {
        client->size = sizeof client->name;
#ifdef __linux__
        n = accept4(fd, name, &client->size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (n < 0 && errno == EINTR);
#else
        n = accept(fd, name, &client->size);
    } while (n < 0 && errno == EINTR);
    if (n >= 0) {
        (void)fcntl(n, F_SETFD, FD_CLOEXEC);
        (void)fcntl(n, F_SETFL, fcntl(n, F_GETFL) | O_NONBLOCK);
    }
#endif
    return n < 0 ? -errno : n;
}

static inline int px_connect(int fd, const struct sockaddr *address, socklen_t size) {
    int n = connect(fd, address, size);
    /* EINTR: the attempt goes on in the kernel, connect(2); its outcome is in SO_ERROR when writable. */
    if (n < 0) return errno == EINTR ? -EINPROGRESS : -errno;
    return 0;
}

/* Until `fd` can be read, or the time is over (< 0: without limit).  0 or an errno. */
static inline int px_sleep_on(int fd, long long timeout_ns) {
    struct pollfd one = {.fd = fd, .events = POLLIN};
    long long ms = timeout_ns < 0 ? -1 : (timeout_ns + 999999) / 1000000;
    return poll(&one, 1, ms > 86400000 ? 86400000 : (int)ms) < 0 ? errno : 0;
}

/* Whether a read would not wait.  (Of regular files only the kernel's own ever do, and those say so:
 * /proc/kmsg.) */
static inline int px_has_bytes(int fd) {
    struct pollfd one = {.fd = fd, .events = POLLIN};
    return poll(&one, 1, 0) > 0;
}

static inline int px_has_position(int fd) { return lseek(fd, 0, SEEK_CUR) >= 0; }

static inline int px_socket_error(int fd) {
    int error = 0;
    socklen_t size = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 ? -errno : -error;
}

/* getpeername(2) or getsockname(2); the size of the address, or -errno. */
static inline int px_name(int fd, int peer, void *name, size_t room) {
    socklen_t size = (socklen_t)room;
    int n = peer ? getpeername(fd, (struct sockaddr *)name, &size)
                 : getsockname(fd, (struct sockaddr *)name, &size);
    return n < 0 ? -errno : (int)size;
}

#endif

#endif
