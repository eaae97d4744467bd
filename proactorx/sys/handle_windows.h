/* Files of Windows' by their handles; what every part that has such handles needs. */
#ifndef PROACTORX_PORT_WINFILE_H
#define PROACTORX_PORT_WINFILE_H

#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include "errnos.h"
#include <windows.h>
#include <stdint.h>
#include <string.h>
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

/* FILE_MODE_INFORMATION, FILE_ACCESS_INFORMATION: one number each ([MS-FSCC] 2.4); 0 where the system does not tell. */
enum { PX_FILE_ACCESS_INFORMATION = 8, PX_FILE_MODE_INFORMATION = 16, PX_FILE_SYNCHRONOUS = 0x30 };

static inline ULONG px_file_information(int fd, int kind) {
    typedef LONG(NTAPI * query)(HANDLE, PIO_STATUS_BLOCK, PVOID, ULONG, int);
    HMODULE ntdll = GetModuleHandleW(L"ntdll.dll");
    union { FARPROC any; query call; } found = {GetProcAddress(ntdll, "NtQueryInformationFile")};
    IO_STATUS_BLOCK status;
    ULONG answer = 0;
    if (found.call == NULL || found.call(PX_FILE_HANDLE(fd), &status, &answer, sizeof answer, kind) < 0) return 0;
    return answer;
}

/* Files of the C library's have handles that do one thing at a time, and that move with what is read at an offset. */
static inline int px_is_synchronous(int fd) {
    return (px_file_information(fd, PX_FILE_MODE_INFORMATION) & PX_FILE_SYNCHRONOUS) != 0;
}

/* The same file once more, for overlapped use; or -errno.  It can be read and written as the first can. */
static inline int px_reopen(int fd, int appends, DWORD flags) {
    DWORD access = px_file_information(fd, PX_FILE_ACCESS_INFORMATION) & (FILE_GENERIC_READ | FILE_GENERIC_WRITE);
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

#endif
