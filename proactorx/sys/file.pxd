from libc.stdint cimport int64_t, intptr_t, uint32_t

cdef extern from "proactorx/sys/file.h" nogil:
    enum: AT_FDCWD, O_CLOEXEC, O_NONBLOCK, O_RDONLY, SEEK_CUR, SEEK_END
    enum: PX_BY_HANDLE, PX_RESOLVE_CACHED, PX_RESOLVE_SAME_MOUNT
    enum: PX_LOCAL, PX_REMOTE, PX_MADE_UP
    ctypedef struct px_file_facts:
        int kind
        int64_t size
        unsigned long long device

    # These may wait.
    ssize_t px_file_read(int fd, char *buffer, size_t size, int64_t offset)
    ssize_t px_file_write(int fd, const char *buffer, size_t size, int64_t offset)
    int px_file_open(const char *path, int flags)
    int px_file_close(int fd)
    enum: PX_PUNCH
    int px_file_sync(int fd, int data_only)
    int px_file_nature(int fd)
    int px_file_set_flags(int fd, int flags)
    int px_file_second(int fd, int appends, int direct)

    # These do not.
    ssize_t px_file_read_now(int fd, char *buffer, size_t size, int64_t offset)
    ssize_t px_file_write_now(int fd, const char *buffer, size_t size, int64_t offset)
    int px_open_now(const char *path, int flags, int resolve)
    int px_stat_cached(const char *path, px_file_facts *facts)
    int px_stat_fd(int fd, px_file_facts *facts)
    int px_file_ends(int fd, int64_t offset)
    int64_t px_file_seek(int fd, int64_t offset, int whence)

    # Windows.
    int px_is_disk(int fd)
    int px_reopen(int fd, int appends, uint32_t flags)
    int px_fsync_blocking(intptr_t handle)
