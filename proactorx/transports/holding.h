/* Bytes that the kernel has and does not send yet, because more are to come: MSG_MORE, tcp(7).
 *
 * They are the kernel's: the end of the process, shutdown(2) and what others write to the socket all come after them.
 * They leave with the next bytes that are sent without the flag, when told to, or after 200 ms. */
#ifndef PROACTORX_HOLDING_H
#define PROACTORX_HOLDING_H

#include "../drivers/sockio.h"

#ifdef __linux__
#include <netinet/in.h>
#include <netinet/tcp.h>

/* Whether the protocol of a stream socket can: SCTP, for one, can hold but not be told to send. */
static inline int px_can_hold(int fd) {
    int protocol = 0;
    socklen_t size = sizeof(protocol);
    return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 && protocol == IPPROTO_TCP;
}

static inline ssize_t px_hold(int fd, const char *buffer, size_t size) {
    ssize_t n;
    do n = send(fd, buffer, size, MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE); while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

static inline void px_release(int fd) {
    int off = 0;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_CORK, &off, sizeof(off)); /* fails with the connection: nothing is to go */
}
#else
static inline int px_can_hold(int fd) { (void)fd; return 0; }
static inline ssize_t px_hold(int fd, const char *buffer, size_t size) { return px_send(fd, buffer, size); }
static inline void px_release(int fd) { (void)fd; }
#endif

#endif
