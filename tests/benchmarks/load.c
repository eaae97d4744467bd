/* The client of loops.py: one thread on epoll.
 *
 *     load MODE ADDRESS SIZE CONNECTIONS DEPTH WARMUP SECONDS PID
 *
 * MODE: echo (what was sent comes back), http (one request again and again), udp, churn (connect, one echo,
 * close), tls (echo over TLS), handshake (TLS connections one after another, each with one echo).  A
 * connection has DEPTH requests under way.  ADDRESS is a port of 127.0.0.1 or the path of a Unix socket.
 * In the WARMUP every byte of the answers is compared; of HTTP, where they have a date, their length.  A wrong
 * byte, an end or two seconds without an answer ends the program with a message.  PID is the server's: CPU time
 * of all its threads, the kernel's helpers included (clock_getcpuclockid(3)), is read at both ends of the
 * measurement.  Prints a line of JSON. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/ssl.h>
#else
typedef void SSL;
#endif

enum { ECHO, HTTP, UDP, CHURN, TLS, HANDSHAKE, MODES };
static const char *const MODE_NAMES[MODES] = {"echo", "http", "udp", "churn", "tls", "handshake"};
static const char REQUEST[] = "GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n";
enum { ROOM = 1 << 20, BUCKETS = 512, STALL = 2 };

typedef struct {
    int fd;
    SSL *tls;
    size_t out;      /* bytes that are still to be sent */
    size_t sent;     /* where in the request the next byte is */
    size_t got;      /* bytes of the answer that is coming */
    double since;    /* when the last request was sent */
    int waits;       /* for the socket to take more */
} connection;

static int mode, depth, count, epoll_fd;
static size_t request_size, answer_size;
static char *request, *answer, *room;
static struct sockaddr_storage address;
static socklen_t address_size;
static int checking;
static long done, waits[BUCKETS];
static unsigned serial;

static void fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double cpu_of(int pid) {
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t)) fail("the server %d has gone", pid);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Buckets of the waits: an eighth of a power of two, from 1 microsecond. */
static int bucket(double seconds) {
    double value = seconds * 1e6;
    int power = 0;
    while (value >= 2 && power < BUCKETS / 8 - 1) value /= 2, power++;
    return value < 1 ? 0 : power * 8 + (int)((value - 1) * 8);
}

static double quantile(double part) {
    long all = 0, so_far = 0;
    for (int i = 0; i < BUCKETS; i++) all += waits[i];
    for (int i = 0; i < BUCKETS; i++)
        if ((so_far += waits[i]) > (long)((double)all * part))
            return (double)(1L << (i / 8)) * (1 + (i % 8 + 0.5) / 8);
    return 0;
}

static int new_socket(void) {
    int fd = socket(address.ss_family, (mode == UDP ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0) fail("socket: %s", strerror(errno));
    if (address.ss_family == AF_INET && mode != UDP) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5); /* others pace what they send */
        if (mode == CHURN || mode == HANDSHAKE) {
            /* Closed connections keep their ports for a minute: use many source addresses. */
            struct sockaddr_in from = {.sin_family = AF_INET};
            setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
            from.sin_addr.s_addr = htonl(0x7f010001u + serial++ % 16000);
            if (bind(fd, (struct sockaddr *)&from, sizeof from)) fail("bind: %s", strerror(errno));
        }
    }
    if (connect(fd, (struct sockaddr *)&address, address_size)) fail("connect: %s", strerror(errno));
    return fd;
}

static ssize_t put(connection *c, const char *data, size_t size) {
#ifdef WITH_TLS
    if (c->tls) {
        int n = SSL_write(c->tls, data, (int)size);
        if (n > 0) return n;
        int why = SSL_get_error(c->tls, n);
        if (why == SSL_ERROR_WANT_WRITE || why == SSL_ERROR_WANT_READ) return 0;
        fail("SSL_write: error %d", why);
    }
#endif
    ssize_t n = send(c->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN) fail("send: %s", strerror(errno));
    return n < 0 ? 0 : n;
}

/* Bytes received, or 0: none there now. */
static ssize_t take(connection *c) {
#ifdef WITH_TLS
    if (c->tls) {
        int n = SSL_read(c->tls, room, ROOM);
        if (n > 0) return n;
        int why = SSL_get_error(c->tls, n);
        if (why == SSL_ERROR_WANT_READ) return 0;
        fail("SSL_read: error %d", why);
    }
#endif
    ssize_t n = recv(c->fd, room, ROOM, MSG_DONTWAIT);
    if (n == 0) fail("the server has closed a connection");
    if (n < 0 && errno != EAGAIN) fail("recv: %s", strerror(errno));
    return n < 0 ? 0 : n;
}

static void watch(connection *c) {
    struct epoll_event event = {.events = EPOLLIN | (c->out ? (unsigned)EPOLLOUT : 0), .data.ptr = c};
    c->waits = c->out > 0;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

/* Send what is left of the requests; the pattern lies in memory `depth` times and once more. */
static void push(connection *c) {
    while (c->out) {
        size_t part = mode == UDP ? request_size : request_size * (size_t)(depth + 1) - c->sent;
        ssize_t n = put(c, request + c->sent, part < c->out ? part : c->out);
        if (!n) break;
        c->out -= (size_t)n;
        c->sent = (c->sent + (size_t)n) % request_size;
    }
    if (mode != HANDSHAKE && c->waits != (c->out > 0)) watch(c);
}

static void ask(connection *c, int requests) {
    c->since = now();
    c->out += request_size * (size_t)requests;
    push(c);
}

static void open_one(connection *c, int add) {
    memset(c, 0, sizeof *c);
    c->fd = new_socket();
    if (add) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl: %s", strerror(errno));
    }
#ifdef WITH_TLS
    if (mode == TLS || mode == HANDSHAKE) {
        static SSL_CTX *context;
        if (!context) {
            context = SSL_CTX_new(TLS_client_method());
            SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
            SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
        }
        c->tls = SSL_new(context);
        if (!SSL_set_fd(c->tls, c->fd) || SSL_connect(c->tls) != 1) fail("the TLS handshake has failed");
    }
#endif
    if (mode != HANDSHAKE && fcntl(c->fd, F_SETFL, O_NONBLOCK)) fail("fcntl: %s", strerror(errno));
}

static void close_one(connection *c) {
#ifdef WITH_TLS
    if (c->tls) SSL_free(c->tls);
#endif
    close(c->fd);
}

static void answered(connection *c, ssize_t n) {
    if (checking)
        for (size_t at = 0, part; at < (size_t)n; at += part) {
            size_t from = (c->got + at) % answer_size;
            part = answer_size - from < (size_t)n - at ? answer_size - from : (size_t)n - at;
            if (memcmp(room + at, answer + from, part)) fail("an answer is not what it should be");
        }
    c->got += (size_t)n;
    int whole = (int)(c->got / answer_size);
    if (!whole) return;
    c->got %= answer_size;
    done += whole;
    waits[bucket(now() - c->since)]++;
    if (mode == CHURN) {
        close_one(c);
        open_one(c, 1);
        whole = 1;
    }
    ask(c, whole);
}

static void run_for(double seconds) {
    struct epoll_event events[256];
    double start = now(), last = start;
    long before = done;
    for (;;) {
        double t = now();
        if (t - start >= seconds) return;
        if (done != before) before = done, last = t;
        if (t - last > STALL) fail("no answer for %d seconds", STALL);
        if (mode == HANDSHAKE) {
            connection one;
            open_one(&one, 0);
            ask(&one, 1);
            for (ssize_t got = 0; got < (ssize_t)answer_size;) got += take(&one);
            close_one(&one);
            done++;
            continue;
        }
        int n = epoll_wait(epoll_fd, events, 256, 100);
        for (int i = 0; i < n; i++) {
            connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) push(c);
            if (!(events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))) continue;
            ssize_t got = take(c);
            if (got) answered(c, got);
            while (mode != CHURN && c->tls && got && (got = take(c))) answered(c, got);
            if (mode == UDP)
                while (got && (got = take(c))) answered(c, got);
        }
    }
}

/* One exchange that waits: how long the answer to a request of HTTP is, and what it says. */
static void learn_answer(void) {
    connection c = {.fd = new_socket()};
    size_t got = 0, head = 0, body = 0;
    put(&c, REQUEST, sizeof REQUEST - 1);
    while (!head || got < head + body) {
        ssize_t n = recv(c.fd, room + got, ROOM - 1 - got, 0);
        if (n <= 0) fail("no answer to the first request");
        got += (size_t)n;
        room[got] = 0;
        char *end = strstr(room, "\r\n\r\n"), *length = strcasestr(room, "content-length:");
        if (end) head = (size_t)(end - room) + 4;
        if (end && length) body = (size_t)atol(length + 15);
    }
    answer_size = got;
    answer = malloc(got);
    memcpy(answer, room, got);
    close(c.fd);
}

static void prepare(const char *where, size_t size) {
    struct sockaddr_un *path = (struct sockaddr_un *)&address;
    struct sockaddr_in *port = (struct sockaddr_in *)&address;
    if (strchr(where, '/')) {
        path->sun_family = AF_UNIX;
        snprintf(path->sun_path, sizeof path->sun_path, "%s", where);
        address_size = sizeof *path;
    } else {
        port->sin_family = AF_INET;
        port->sin_port = htons((uint16_t)atoi(where));
        port->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address_size = sizeof *port;
    }
    room = malloc(ROOM);
    request_size = answer_size = mode == HTTP ? sizeof REQUEST - 1 : size;
    request = malloc(request_size * (size_t)(depth + 1));
    for (size_t i = 0; i < request_size; i++)
        request[i] = mode == HTTP ? REQUEST[i] : (char)('a' + (i * 7 + i / 26) % 26);
    for (int i = 1; i <= depth; i++) memcpy(request + request_size * (size_t)i, request, request_size);
    answer = request;
    if (mode == HTTP) learn_answer();
}

int main(int argc, char **argv) {
    if (argc != 9) fail("usage: load MODE ADDRESS SIZE CONNECTIONS DEPTH WARMUP SECONDS PID");
    while (mode < MODES && strcmp(argv[1], MODE_NAMES[mode])) mode++;
#ifndef WITH_TLS
    if (mode >= TLS) fail("this client was compiled without TLS");
#endif
    if (mode == MODES) fail("no mode is called %s", argv[1]);
    count = atoi(argv[4]), depth = atoi(argv[5]);
    int pid = atoi(argv[8]);
    prepare(argv[2], (size_t)atol(argv[3]));
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    connection *all = calloc((size_t)count, sizeof *all);
    for (int i = 0; i < count && mode != HANDSHAKE; i++) open_one(&all[i], 1);
    for (int i = 0; i < count && mode != HANDSHAKE; i++) ask(&all[i], depth);
    checking = mode != HTTP;
    run_for(atof(argv[6]));
    checking = 0, done = 0;
    memset(waits, 0, sizeof waits);
    double start = now(), cpu = cpu_of(pid);
    run_for(atof(argv[7]));
    cpu = cpu_of(pid) - cpu;
    double wall = now() - start;
    if (!done) fail("no answer in the measurement");
    printf("{\"requests\": %ld, \"cpu\": %.9f, \"wall\": %.6f, \"p50\": %.1f, \"p99\": %.1f}\n", done, cpu, wall,
           quantile(0.5), quantile(0.99));
    return 0;
}
