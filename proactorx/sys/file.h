/* System calls on files, with one convention: the result, or -errno.
 *
 * The calls whose names end in _now never wait: RWF_NOWAIT, preadv2(2), answers EAGAIN where the page cache
 * lacks the bytes, and EOPNOTSUPP where the file system cannot promise that (network file systems, FUSE).
 */
#ifndef PROACTORX_SYS_FILE_H
#define PROACTORX_SYS_FILE_H

#ifdef _WIN32
#include "file_windows.h"
#else

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h> /* rename() */
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#endif

enum { PX_BY_HANDLE = 0 }; /* the kernel knows a file by its descriptor */

/* `offset` < 0: at the file's own position, which moves. */
static inline ssize_t px_file_read(int fd, char *buffer, size_t size, int64_t offset) {
    ssize_t n = offset < 0 ? read(fd, buffer, size) : pread(fd, buffer, size, (off_t)offset);
    return n < 0 ? -errno : n;
}

static inline ssize_t px_file_write(int fd, const char *buffer, size_t size, int64_t offset) {
    ssize_t n = offset < 0 ? write(fd, buffer, size) : pwrite(fd, buffer, size, (off_t)offset);
    return n < 0 ? -errno : n;
}

static inline int px_file_open(const char *path, int flags) {
    int fd = open(path, flags, 0666);
    return fd < 0 ? -errno : fd;
}

static inline int px_path_unlink(const char *path) { return unlink(path) < 0 ? -errno : 0; }
static inline int px_path_rmdir(const char *path) { return rmdir(path) < 0 ? -errno : 0; }
static inline int px_path_rename(const char *path, const char *other) {
    return rename(path, other) < 0 ? -errno : 0;
}

/* By its number: the C library's function is a point at which a thread may be cancelled, which takes time. */
static inline int px_file_close(int fd) {
#ifdef __linux__
    return syscall(SYS_close, fd) < 0 ? -errno : 0;
#else
    return close(fd) < 0 ? -errno : 0;
#endif
}

/* Those of open(2) that can be changed, fcntl(2). */
static inline int px_file_set_flags(int fd, int flags) { return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0; }

/* The number through which the bytes of `fd` go. */
static inline int px_file_second(int fd, int appends, int direct) {
    (void)appends, (void)direct;
    return fd;
}

/* Give the disk the blocks of this part back; it reads as zeros, and the file stays as long as it is.
 * See fallocate(2); -EOPNOTSUPP where the system or the file system cannot. */
enum { PX_PUNCH = 3 }; /* FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE */
static inline int px_file_punch(int fd, int64_t offset, int64_t length) {
#ifdef __linux__
    return fallocate(fd, PX_PUNCH, offset, length) < 0 ? -errno : 0;
#else
    (void)fd, (void)offset, (void)length;
    return -EOPNOTSUPP;
#endif
}

static inline int px_file_sync(int fd, int data_only) {
    int n;
#ifdef __linux__
    n = data_only ? fdatasync(fd) : fsync(fd);
#elif defined(F_FULLFSYNC)
    /* macOS: fsync(2) leaves the bytes in the disk's own cache; not every file system has the other call. */
    n = fcntl(fd, F_FULLFSYNC);
    if (n < 0) n = fsync(fd);
    (void)data_only;
#else
    n = fsync(fd);
    (void)data_only;
#endif
    return n < 0 ? -errno : 0;
}

/* Not by the C library's function where the numbers fit: that is a point at which a thread may be cancelled,
 * pthreads(7), and takes up to a tenth of the read. */
#if defined(__linux__) && defined(__LP64__) && defined(SYS_preadv2)
#define PX_READ_NOW(fd, vector, offset) syscall(SYS_preadv2, fd, vector, 1L, (long)(offset), 0L, RWF_NOWAIT)
#else
#define PX_READ_NOW(fd, vector, offset) preadv2(fd, vector, 1, offset, RWF_NOWAIT)
#endif

static inline ssize_t px_file_read_now(int fd, char *buffer, size_t size, int64_t offset) {
#ifdef RWF_NOWAIT
    struct iovec vector = {buffer, size};
    ssize_t n = PX_READ_NOW(fd, &vector, (off_t)offset);
    return n < 0 ? -errno : n;
#else
    (void)fd, (void)buffer, (void)size, (void)offset;
    return -EOPNOTSUPP;
#endif
}

static inline ssize_t px_file_write_now(int fd, const char *buffer, size_t size, int64_t offset) {
#ifdef RWF_NOWAIT
    struct iovec vector = {(void *)buffer, size};
    ssize_t n = pwritev2(fd, &vector, 1, (off_t)offset, RWF_NOWAIT);
    return n < 0 ? -errno : n;
#else
    (void)fd, (void)buffer, (void)size, (void)offset;
    return -EOPNOTSUPP;
#endif
}

static inline int64_t px_file_seek(int fd, int64_t offset, int whence) {
    off_t n = lseek(fd, (off_t)offset, whence);
    return n < 0 ? -errno : (int64_t)n;
}

typedef struct {
    int kind;           /* 'r': regular, 'b': block device, 'p': pipe or socket, 'o': other */
    int64_t size;
    uint64_t device;
} px_file_facts;

static inline int px_file_kind(mode_t mode) {
    return S_ISREG(mode) ? 'r' : S_ISBLK(mode) ? 'b' : S_ISFIFO(mode) || S_ISSOCK(mode) ? 'p' : 'o';
}

/* What an open file is.  Unlike fstat(2), statx(2) asks no other machine:
 * a size that another one knows may be old. */
static inline int px_stat_fd(int fd, px_file_facts *facts) {
    struct stat st;
    memset(facts, 0, sizeof *facts);
#ifdef STATX_TYPE
    {
        struct statx now;
        if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_SIZE, &now) == 0) {
            facts->kind = px_file_kind(now.stx_mode);
            facts->size = (int64_t)now.stx_size;
            facts->device = (uint64_t)makedev(now.stx_dev_major, now.stx_dev_minor);
            return 0;
        }
        /* Filters that are older than it (seccomp(2), of containers) answer so.
         * What else there is may ask them. */
        if (errno != EPERM && errno != ENOSYS) return -errno;
    }
#endif
    if (fstat(fd, &st) < 0) return -errno;
    facts->kind = px_file_kind(st.st_mode);
    facts->size = (int64_t)st.st_size;
    facts->device = (uint64_t)st.st_dev;
    return 0;
}

/* Whether a plain file ends at `offset`: its size vouches for that,
 * and spares the read that would bring nothing. */
static inline int px_file_ends(int fd, int64_t offset) {
    px_file_facts facts;
    return px_stat_fd(fd, &facts) == 0 && facts.kind == 'r' && facts.size == offset;
}

/* What answers for a file. */
enum {
    PX_LOCAL,  /* a known file system of this machine: sizes are true, and present data comes at once */
    PX_REMOTE, /* another machine or process: every call may wait for it */
    PX_MADE_UP /* the kernel itself, as in /proc, or unknown: sizes say nothing, and a read may wait */
};

/* Which of them; may itself wait. */
static inline int px_file_nature(int fd) {
#ifdef __linux__
    struct statfs st;
    if (fstatfs(fd, &st) < 0) return PX_MADE_UP;
    switch ((uint32_t)st.f_type) {  /* the numbers of statfs(2) and linux/magic.h */
    case 0xEF53:                    /* ext2, ext3, ext4 */
    case 0x58465342:                /* XFS */
    case 0x9123683E:                /* Btrfs */
    case 0x01021994:                /* tmpfs */
    case 0x794C7630:                /* overlayfs */
    case 0xF2F52010:                /* F2FS */
    case 0x2FC12FC1:                /* ZFS */
    case 0xCA451A4E:                /* bcachefs */
    case 0x858458F6:                /* ramfs */
    case 0x4D44:                    /* FAT */
    case 0x2011BAB0:                /* exFAT */
    case 0x5346544E:                /* NTFS */
    case 0x7366746E:                /* NTFS3 */
    case 0x73717368:                /* SquashFS */
    case 0xE0F5E1E2:                /* EROFS */
    case 0x9660:                    /* ISO 9660 */
    case 0x15013346:                /* UDF */
    case 0x3153464A:                /* JFS */
    case 0x3434:                    /* NILFS */
    case 0x52654973:                /* ReiserFS */
    case 0x24051905:                /* UBIFS */
    case 0x72B6:                    /* JFFS2 */
    case 0x482B:                    /* HFS+ */
        return PX_LOCAL;
    case 0x6969:                    /* NFS */
    case 0x517B:                    /* SMB */
    case 0xFE534D42:                /* SMB2 */
    case 0xFF534D42:                /* CIFS */
    case 0x65735546:                /* FUSE */
    case 0x01021997:                /* 9P */
    case 0x00C36400:                /* Ceph */
    case 0x0BD00BD0:                /* Lustre */
    case 0x5346414F:                /* AFS, OpenAFS */
    case 0x6B414653:                /* AFS, kAFS */
    case 0x73757245:                /* Coda */
    case 0x7461636F:                /* OCFS2 */
    case 0x01161970:                /* GFS2 */
    case 0x564C:                    /* NCP */
    case 0x19830326:                /* BeeGFS */
    case 0x47504653:                /* GPFS */
    case 0x786F4256:                /* VirtualBox's shared folders */
        return PX_REMOTE;
    }
    return PX_MADE_UP;
#else
    (void)fd;
    return PX_REMOTE;
#endif
}

#ifdef __linux__
struct px_open_how {
    uint64_t flags, mode, resolve;
};
enum { PX_NR_OPENAT2 = 437 };
#endif
enum {
    PX_RESOLVE_CACHED = 0x20,     /* else EAGAIN */
    PX_RESOLVE_SAME_MOUNT = 0x21, /* that, and the path stays on the mount where it starts: else EXDEV */
};

/* Open `path` if that needs no waiting for names, openat2(2). */
static inline int px_open_now(const char *path, int flags, int resolve) {
#ifdef __linux__
    struct px_open_how how = {(uint64_t)(unsigned)flags | O_CLOEXEC, 0, (uint64_t)(unsigned)resolve};
    long fd = syscall(PX_NR_OPENAT2, AT_FDCWD, path, &how, sizeof how);
    return fd < 0 ? -errno : (int)fd;
#else
    (void)path, (void)flags, (void)resolve;
    return -EAGAIN;
#endif
}

/* What `path` is, as far as that needs no waiting.
 * O_PATH opens nothing: a FIFO's writer, a tape or a terminal does not notice. */
static inline int px_stat_cached(const char *path, px_file_facts *facts) {
#ifdef __linux__
    int fd = px_open_now(path, O_PATH, PX_RESOLVE_CACHED), error;
    memset(facts, 0, sizeof *facts);
    if (fd < 0) return fd;
    error = px_stat_fd(fd, facts);
    close(fd);
    return error;
#else
    (void)path, (void)facts;
    return -EAGAIN;
#endif
}

#endif
#endif
