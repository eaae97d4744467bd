/* Whether a read of a file would wait.  Of regular ones only the kernel's own ever do, and those say so: /proc/kmsg. */
#ifndef PROACTORX_POLLING_H
#define PROACTORX_POLLING_H

#ifdef _WIN32
static inline int px_has_bytes(int fd) {
    (void)fd;
    return 1;
}
#else
#include <poll.h>

static inline int px_has_bytes(int fd) {
    struct pollfd entry = {fd, POLLIN, 0};
    return poll(&entry, 1, 0) > 0;
}
#endif
#endif
