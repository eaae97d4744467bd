/* An echo server of system calls and nothing else, on epoll: what loops.py calls C.
 *
 *     floor PATH | floor 0 [CERTIFICATE KEY]
 *
 * A path is that of a Unix socket; 0 asks for a port of 127.0.0.1.  Prints the address.  One connection is
 * read and answered at a time; what the peer does not take is written before anything else is read, which
 * does for a client that reads all its answers. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
#else
typedef void SSL;
#endif

enum { ROOM = 256 << 10 };

typedef struct {
    int fd;
    SSL *tls;
} connection;

static char room[ROOM];

static void wait_for(int fd, short events) {
    struct pollfd one = {.fd = fd, .events = events};
    poll(&one, 1, -1);
}

static void finish(connection *c) {
#ifdef WITH_TLS
    if (c->tls) SSL_free(c->tls);
#endif
    close(c->fd);
    free(c);
}

#ifdef WITH_TLS
static int serve_tls(connection *c) {
    for (;;) {
        int n = SSL_read(c->tls, room, ROOM), at = 0;
        if (n <= 0) return SSL_get_error(c->tls, n) == SSL_ERROR_WANT_READ;
        while (at < n) {
            int sent = SSL_write(c->tls, room + at, n - at);
            if (sent > 0) {
                at += sent;
                continue;
            }
            int why = SSL_get_error(c->tls, sent);
            if (why != SSL_ERROR_WANT_WRITE && why != SSL_ERROR_WANT_READ) return 0;
            wait_for(c->fd, why == SSL_ERROR_WANT_WRITE ? POLLOUT : POLLIN);
        }
    }
}
#endif

/* Answer what has come; 0: the connection is over. */
static int serve(connection *c) {
#ifdef WITH_TLS
    if (c->tls) return serve_tls(c);
#endif
    ssize_t n = recv(c->fd, room, ROOM, 0), at = 0;
    if (n <= 0) return n < 0 && errno == EAGAIN;
    while (at < n) {
        ssize_t sent = send(c->fd, room + at, (size_t)(n - at), MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return 0;
        if (sent < 0)
            wait_for(c->fd, POLLOUT);
        else
            at += sent;
    }
    return 1;
}

static int listen_on(const char *where) {
    struct sockaddr_un path = {.sun_family = AF_UNIX};
    struct sockaddr_in port = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int unix_path = strchr(where, '/') != NULL, fd;
    fd = socket(unix_path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (unix_path) snprintf(path.sun_path, sizeof path.sun_path, "%s", where);
    if (fd < 0 || bind(fd, unix_path ? (void *)&path : (void *)&port, unix_path ? sizeof path : sizeof port) ||
        listen(fd, 2048)) {
        perror("floor");
        exit(1);
    }
    socklen_t size = sizeof port;
    if (!unix_path) {
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
        getsockname(fd, (struct sockaddr *)&port, &size);
        printf("%d\n", ntohs(port.sin_port));
    } else
        puts(where);
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv) {
    int listener = listen_on(argc > 1 ? argv[1] : "0"), set = epoll_create1(EPOLL_CLOEXEC), one = 1;
    struct epoll_event events[256], event = {.events = EPOLLIN, .data.ptr = NULL};
#ifdef WITH_TLS
    SSL_CTX *context = argc > 3 ? SSL_CTX_new(TLS_server_method()) : NULL;
    if (context && (SSL_CTX_use_certificate_file(context, argv[2], SSL_FILETYPE_PEM) != 1 ||
                    SSL_CTX_use_PrivateKey_file(context, argv[3], SSL_FILETYPE_PEM) != 1))
        return 1;
#else
    if (argc > 3) return 1;
#endif
    epoll_ctl(set, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(set, events, 256, -1);
        for (int i = 0; i < n; i++) {
            connection *c = events[i].data.ptr;
            if (c) {
                if (!serve(c)) finish(c);
                continue;
            }
            int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd < 0) continue;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            c = calloc(1, sizeof *c);
            c->fd = fd;
#ifdef WITH_TLS
            if (context) {
                c->tls = SSL_new(context);
                SSL_set_fd(c->tls, fd);
                SSL_set_accept_state(c->tls);
            }
#endif
            event.data.ptr = c;
            epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
        }
    }
}
