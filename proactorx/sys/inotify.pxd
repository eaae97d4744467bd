cdef extern from "proactorx/sys/inotify.h":
    int px_inotify_open() nogil
    int px_inotify_add(int fd, const char *path) nogil
