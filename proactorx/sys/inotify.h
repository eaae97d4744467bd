/* inotify(7), which Python does not offer. */
#ifndef PROACTORX_SYS_INOTIFY_H
#define PROACTORX_SYS_INOTIFY_H
#include <errno.h>
#ifdef __linux__
#include <sys/inotify.h>

static inline int px_inotify_open(void) {
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static inline int px_inotify_add(int fd, const char *path) {
    int wd = inotify_add_watch(fd, path, IN_CREATE | IN_DELETE | IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE
                               | IN_MOVED_FROM
        | IN_MOVED_TO | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR);
    return wd < 0 ? -errno : wd;
}
#else
static inline int px_inotify_open(void) { return -ENOSYS; }
static inline int px_inotify_add(int fd, const char *path) { (void)fd, (void)path; return -ENOSYS; }
#endif
#endif
