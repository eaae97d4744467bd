/* file.h for Windows: the same calls, by handle, with the same convention.
 *
 * A file of the C library's has a handle that executes one call at a time, and that moves with every one,
 * also of those at an offset.  So it is only asked for its position; bytes go through a second handle of the
 * same file, which has none (px_reopen).  Nothing can be said to be in the page cache:
 * the calls whose names end in _now refuse.
 */
#ifndef PROACTORX_SYS_FILE_WINDOWS_H
#define PROACTORX_SYS_FILE_WINDOWS_H

#include <fcntl.h>
#include "socket_windows.h"
#include <winternl.h>

#define PX_FILE_HANDLE(fd) ((HANDLE)(intptr_t)(fd))

/* -errno for GetLastError() of a file call. */
static inline int px_file_failure(void) {
    switch (GetLastError()) {
    case ERROR_BROKEN_PIPE:
    case ERROR_NO_DATA:
    case ERROR_PIPE_NOT_CONNECTED: return -EPIPE;
    case ERROR_OPERATION_ABORTED: return -ECANCELED;
    case ERROR_INVALID_HANDLE: return -EBADF;
    case ERROR_ACCESS_DENIED:
    case ERROR_SHARING_VIOLATION:
    case ERROR_LOCK_VIOLATION: return -EACCES;
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND: return -ENOENT;
    case ERROR_TOO_MANY_OPEN_FILES: return -EMFILE;
    case ERROR_DISK_FULL:
    case ERROR_HANDLE_DISK_FULL: return -ENOSPC;
    case ERROR_FILE_TOO_LARGE: return -EFBIG;
    case ERROR_WRITE_PROTECT: return -EROFS;
    case ERROR_INVALID_PARAMETER:
    case ERROR_NEGATIVE_SEEK: return -EINVAL;
    case ERROR_NOT_SUPPORTED:
    case ERROR_CALL_NOT_IMPLEMENTED: return -EOPNOTSUPP;
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_NO_SYSTEM_RESOURCES: return -ENOMEM;
    default: return -EIO;
    }
}

static inline int px_is_disk(int fd) { return GetFileType(PX_FILE_HANDLE(fd)) == FILE_TYPE_DISK; }

/* FILE_MODE_INFORMATION, FILE_ACCESS_INFORMATION: one number each ([MS-FSCC] 2.4);
 * 0 where the system does not tell. */
enum { PX_FILE_ACCESS_INFORMATION = 8, PX_FILE_MODE_INFORMATION = 16, PX_FILE_SYNCHRONOUS = 0x30 };

static inline ULONG px_file_information(int fd, int kind) {
    typedef LONG(NTAPI * query)(HANDLE, PIO_STATUS_BLOCK, PVOID, ULONG, int);
    HMODULE ntdll = GetModuleHandleW(L"ntdll.dll");
    union { FARPROC any; query call; } found = {GetProcAddress(ntdll, "NtQueryInformationFile")};
    IO_STATUS_BLOCK status;
    ULONG answer = 0;
    if (found.call == NULL || found.call(PX_FILE_HANDLE(fd), &status, &answer, sizeof answer, kind) < 0)
        return 0;
    return answer;
}

/* Files of the C library's have handles that do one thing at a time,
 * and that move with what is read at an offset. */
static inline int px_is_synchronous(int fd) {
    return (px_file_information(fd, PX_FILE_MODE_INFORMATION) & PX_FILE_SYNCHRONOUS) != 0;
}

/* The same file once more, for overlapped use; or -errno.  It can be read and written as the first can. */
static inline int px_reopen(int fd, int appends, DWORD flags) {
    DWORD access = px_file_information(fd, PX_FILE_ACCESS_INFORMATION) &
                   (FILE_GENERIC_READ | FILE_GENERIC_WRITE);
    HANDLE made;
    if (!px_is_disk(fd)) return -ESPIPE;
    /* Who may append and not write, writes at the end whatever the offset. */
    if (appends && access & FILE_APPEND_DATA) access &= ~(DWORD)FILE_WRITE_DATA;
    made = ReOpenFile(PX_FILE_HANDLE(fd), access, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE,
                      FILE_FLAG_OVERLAPPED | flags);
    return made == INVALID_HANDLE_VALUE ? px_file_failure() : (int)(intptr_t)made;
}

static inline int px_fsync_blocking(intptr_t handle) {
    if (FlushFileBuffers((HANDLE)handle)) return 0;
    /* Of one that was not opened for writing; POSIX has nothing against that. */
    return GetLastError() == ERROR_ACCESS_DENIED ? 0 : px_file_failure();
}

enum {
    PX_BY_HANDLE = 1,                   /* descriptors of the C library's are not what the kernel knows */
    PX_FILE_REMOTE_PROTOCOL_INFO = 13,  /* of FILE_INFO_BY_HANDLE_CLASS; its answer has 116 bytes */
};
enum { PX_RESOLVE_CACHED, PX_RESOLVE_SAME_MOUNT };
enum { AT_FDCWD = -100, O_CLOEXEC = 0, O_NONBLOCK = 0 }; /* for calls that refuse */

/* ReadFile or WriteFile that waits.  The event's lowest bit keeps the packet from the port to which the
 * handle may be bound (GetQueuedCompletionStatus). */
static inline ssize_t px_file_move(int fd, void *buffer, size_t size, int64_t offset, int writes) {
    HANDLE handle = PX_FILE_HANDLE(fd), event;
    OVERLAPPED place;
    DWORD n = 0;
    BOOL ok;
    ssize_t result = 0;
    memset(&place, 0, sizeof place);
    place.Offset = (DWORD)offset;
    place.OffsetHigh = (DWORD)(offset >> 32);
    event = CreateEventW(NULL, TRUE, FALSE, NULL);
    if (event == NULL) return px_file_failure();
    place.hEvent = (HANDLE)((uintptr_t)event | 1);
    ok = writes ? WriteFile(handle, buffer, (DWORD)px_clamp(size), NULL, &place)
                : ReadFile(handle, buffer, (DWORD)px_clamp(size), NULL, &place);
    if (ok || GetLastError() == ERROR_IO_PENDING) ok = GetOverlappedResult(handle, &place, &n, TRUE);
    if (!ok && GetLastError() != ERROR_HANDLE_EOF) result = px_file_failure();
    CloseHandle(event);
    return result < 0 ? result : (ssize_t)n;
}

static inline ssize_t px_file_move_at(int fd, void *buffer, size_t size, int64_t offset, int writes) {
    ssize_t n;
    int second = fd;
    if (!px_is_disk(fd)) return -ESPIPE;
    if (px_is_synchronous(fd)) second = px_reopen(fd, 0, 0); /* somebody else's, whose position must stay */
    if (second < 0) return second;
    n = px_file_move(second, buffer, size, offset, writes);
    if (second != fd) CloseHandle(PX_FILE_HANDLE(second));
    return n;
}

/* `offset` < 0: at the file's own position, which moves. */
static inline ssize_t px_file_read(int fd, char *buffer, size_t size, int64_t offset) {
    DWORD n = 0;
    if (offset >= 0) return px_file_move_at(fd, buffer, size, offset, 0);
    if (ReadFile(PX_FILE_HANDLE(fd), buffer, (DWORD)px_clamp(size), &n, NULL)) return n;
    return GetLastError() == ERROR_BROKEN_PIPE || GetLastError() == ERROR_HANDLE_EOF ? 0 : px_file_failure();
}

static inline ssize_t px_file_write(int fd, const char *buffer, size_t size, int64_t offset) {
    DWORD n = 0;
    if (offset >= 0) return px_file_move_at(fd, (void *)buffer, size, offset, 1);
    return WriteFile(PX_FILE_HANDLE(fd), buffer, (DWORD)px_clamp(size), &n,
                     NULL) ? (ssize_t)n : px_file_failure();
}

/* A pipe's would wait for its reader. */
static inline int px_file_sync(int fd, int data_only) {
    (void)data_only;
    return px_is_disk(fd) ? px_fsync_blocking((intptr_t)fd) : -EINVAL;
}

static inline int px_file_close(int fd) { return CloseHandle(PX_FILE_HANDLE(fd)) ? 0 : px_file_failure(); }

static inline int px_file_open(const char *path, int flags) {
    (void)path, (void)flags;
    return -ENOSYS; /* the C library's own open() is what makes its descriptors */
}

/* Python's own calls know how Windows writes paths. */
static inline int px_path_unlink(const char *path) {
    (void)path;
    return -ENOSYS;
}

static inline int px_path_rmdir(const char *path) { return px_path_unlink(path); }

static inline int px_path_rename(const char *path, const char *other) {
    (void)other;
    return px_path_unlink(path);
}

static inline ssize_t px_file_read_now(int fd, char *buffer, size_t size, int64_t offset) {
    (void)fd, (void)buffer, (void)size, (void)offset;
    return -EOPNOTSUPP;
}

static inline ssize_t px_file_write_now(int fd, const char *buffer, size_t size, int64_t offset) {
    (void)fd, (void)buffer, (void)size, (void)offset;
    return -EOPNOTSUPP;
}

static inline int64_t px_file_seek(int fd, int64_t offset, int whence) {
    LARGE_INTEGER distance, place;
    distance.QuadPart = offset;
    return SetFilePointerEx(PX_FILE_HANDLE(fd), distance, &place,
                            (DWORD)whence) ? place.QuadPart : px_file_failure();
}

typedef struct {
    int kind;           /* 'r': on a disk, 'p': pipe or socket, 'o': console, or another device */
    int64_t size;
    uint64_t device;
} px_file_facts;

static inline int px_stat_fd(int fd, px_file_facts *facts) {
    LARGE_INTEGER size;
    DWORD type = GetFileType(PX_FILE_HANDLE(fd));
    memset(facts, 0, sizeof *facts);
    if (type == FILE_TYPE_UNKNOWN && GetLastError() != NO_ERROR) return px_file_failure();
    facts->kind = type == FILE_TYPE_DISK ? 'r' : type == FILE_TYPE_PIPE ? 'p' : 'o';
    if (type == FILE_TYPE_DISK && GetFileSizeEx(PX_FILE_HANDLE(fd), &size)) facts->size = size.QuadPart;
    return 0;
}

/* Whether a plain file ends at `offset`. */
static inline int px_file_ends(int fd, int64_t offset) {
    px_file_facts facts;
    return px_stat_fd(fd, &facts) == 0 && facts.kind == 'r' && facts.size == offset;
}

enum { PX_LOCAL, PX_REMOTE, PX_MADE_UP };

static inline int px_file_nature(int fd) {
    uint32_t answer[29];
    if (!px_is_disk(fd)) return PX_MADE_UP;
    return GetFileInformationByHandleEx(PX_FILE_HANDLE(fd), PX_FILE_REMOTE_PROTOCOL_INFO, answer,
                                        sizeof answer)
               ? PX_REMOTE : PX_LOCAL;
}

static inline int px_open_now(const char *path, int flags, int resolve) {
    (void)path, (void)flags, (void)resolve;
    return -EAGAIN;
}

static inline int px_stat_cached(const char *path, px_file_facts *facts) {
    (void)path, (void)facts;
    return -EAGAIN;
}

static inline int px_file_set_flags(int fd, int flags) {
    (void)fd, (void)flags;
    return -ENOSYS;
}

/* The handle through which the bytes of `fd` go: a second one of a file on a disk; or -errno. */
static inline int px_file_second(int fd, int appends, int direct) {
    return px_is_disk(fd) ? px_reopen(fd, appends, direct ? FILE_FLAG_NO_BUFFERING
                                      | FILE_FLAG_WRITE_THROUGH : 0) : fd;
}

enum { PX_PUNCH = 3 };
/* As on POSIX, see file.h. */
static inline int px_file_punch(int fd, int64_t offset, int64_t length) {
    (void)fd, (void)offset, (void)length;
    return -EOPNOTSUPP;
}

/* Room on the disk for `size` bytes, and the file at least as long as that. */
static inline int px_file_reserve(int fd, int64_t size) {
    FILE_ALLOCATION_INFO room;
    FILE_END_OF_FILE_INFO end;
    FILE_STANDARD_INFO now;
    HANDLE handle = PX_FILE_HANDLE(fd);
    if (!GetFileInformationByHandleEx(handle, FileStandardInfo, &now, sizeof now)) return px_file_failure();
    room.AllocationSize.QuadPart = end.EndOfFile.QuadPart = size;
    /* (What is less than the file has now would be cut off.) */
    if (size > now.AllocationSize.QuadPart && size > now.EndOfFile.QuadPart &&
        !SetFileInformationByHandle(handle, FileAllocationInfo, &room, sizeof room))
        return px_file_failure();
    if (size > now.EndOfFile.QuadPart &&
        !SetFileInformationByHandle(handle, FileEndOfFileInfo, &end, sizeof end))
        return px_file_failure();
    return 0;
}

/* 0 or a system error. */
static inline unsigned long px_move_through(const wchar_t *source, const wchar_t *target) {
    return MoveFileExW(source, target, MOVEFILE_REPLACE_EXISTING
                       | MOVEFILE_WRITE_THROUGH) ? 0 : GetLastError();
}

/* A directory that one thread watches. */
typedef struct {
    HANDLE folder, heard, stop;
    int pending; /* the system has `place` and `buffer` */
    OVERLAPPED place;
    DWORD buffer[1 << 14]; /* 64 KiB: the most that file servers take */
} px_watch;

/* 0 or a system error; also then px_watch_close is to be called. */
static inline unsigned long px_watch_open(px_watch *watch, const wchar_t *path) {
    FILE_STANDARD_INFO facts;
    watch->folder = CreateFileW(path, FILE_LIST_DIRECTORY, FILE_SHARE_READ | FILE_SHARE_WRITE
                                | FILE_SHARE_DELETE, NULL,
                                OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OVERLAPPED, NULL);
    if (watch->folder == INVALID_HANDLE_VALUE) return GetLastError();
    if (!GetFileInformationByHandleEx(watch->folder, FileStandardInfo, &facts, sizeof facts))
        return GetLastError();
    if (!facts.Directory) return ERROR_DIRECTORY;
    watch->heard = CreateEventW(NULL, TRUE, FALSE, NULL);
    watch->stop = CreateEventW(NULL, TRUE, FALSE, NULL);
    return watch->heard == NULL || watch->stop == NULL ? GetLastError() : 0;
}

static inline unsigned long px_watch_begin(px_watch *watch) {
    memset(&watch->place, 0, sizeof watch->place);
    watch->place.hEvent = watch->heard;
    watch->pending = ReadDirectoryChangesW(
        watch->folder, watch->buffer, sizeof watch->buffer, FALSE,
        FILE_NOTIFY_CHANGE_FILE_NAME | FILE_NOTIFY_CHANGE_DIR_NAME | FILE_NOTIFY_CHANGE_SIZE |
            FILE_NOTIFY_CHANGE_LAST_WRITE | FILE_NOTIFY_CHANGE_ATTRIBUTES, NULL, &watch->place, NULL);
    return watch->pending ? 0 : GetLastError();
}

/* Wait for what px_watch_begin has begun: how many bytes came, or -(system error); ERROR_OPERATION_ABORTED:
 * stopped. */
static inline long px_watch_end(px_watch *watch) {
    HANDLE both[2] = {watch->heard, watch->stop};
    DWORD n = 0;
    if (WaitForMultipleObjects(2, both, FALSE, INFINITE) != WAIT_OBJECT_0)
        CancelIoEx(watch->folder, &watch->place);
    watch->pending = 0;
    return GetOverlappedResult(watch->folder, &watch->place, &n, TRUE) ? (long)n : -(long)GetLastError();
}

static inline void px_watch_stop(px_watch *watch) { SetEvent(watch->stop); }

static inline void px_watch_close(px_watch *watch) {
    if (watch->pending) {
        px_watch_stop(watch);
        px_watch_end(watch);
    }
    if (watch->folder != INVALID_HANDLE_VALUE) CloseHandle(watch->folder);
    if (watch->heard != NULL) CloseHandle(watch->heard);
    if (watch->stop != NULL) CloseHandle(watch->stop);
}

#endif
