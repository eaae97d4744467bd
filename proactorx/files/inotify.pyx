"""inotify(7), which Python does not offer."""

from proactorx.sys.inotify cimport px_inotify_add, px_inotify_open
import os

def watch_directory(path):
    """A non-blocking descriptor to read changes in the directory `path` from.  May wait for the disk.

    Raises:
        OSError: as of inotify_init1(2) and inotify_add_watch(2); ENOSYS where there is no inotify.
    """
    cdef bytes name = os.fsencode(path)
    cdef int fd = px_inotify_open(), error
    if fd < 0:
        raise OSError(-fd, f"inotify: {os.strerror(-fd)}")
    error = px_inotify_add(fd, name)
    if error < 0:
        os.close(fd)
        raise OSError(-error, f"inotify: {os.strerror(-error)}", path)
    return fd
