/* Handles, and the completion port that each of them may belong to. */
#ifndef PROACTORX_PORT_HANDLES_H
#define PROACTORX_PORT_HANDLES_H

#include "proactorx/sys/iocp.h"

enum { PX_NO_FILE, PX_STREAM, PX_DATAGRAM, PX_HANDLE };
enum { PX_FILE_REPLACE_COMPLETION_INFORMATION = 61 };

static int px_kind_of(int fd) {
    int type, size = sizeof type;
    if (!getsockopt(PX_SOCKET(fd), SOL_SOCKET, SO_TYPE, (char *)&type, &size))
        return type == SOCK_STREAM ? PX_STREAM : PX_DATAGRAM;
    if (WSAGetLastError() != WSAENOTSOCK) return PX_NO_FILE;
    return GetFileType((HANDLE)PX_SOCKET(fd)) != FILE_TYPE_UNKNOWN ? PX_HANDLE : PX_NO_FILE;
}

static void px_make_nonblocking(int fd) {
    u_long one = 1;
    ioctlsocket(PX_SOCKET(fd), FIONBIO, &one);
}

static int px_socket_family(int fd) {
    WSAPROTOCOL_INFOW info;
    int size = sizeof info;
    if (getsockopt(PX_SOCKET(fd), SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &size))
        return px_socket_failure();
    return info.iAddressFamily;
}

/* Bind a handle.  0 or a system error; ERROR_INVALID_PARAMETER: it is bound, or not for overlapped use. */
static DWORD px_bind_to(HANDLE port, int fd) {
    return CreateIoCompletionPort((HANDLE)PX_SOCKET(fd), port, PX_KEY_OP, 0) == NULL ? GetLastError() : 0;
}

/* Bind it to another port instead, or to none (NULL): FILE_COMPLETION_INFORMATION, Windows 8.1 and later.
 * NTSTATUS. */
static LONG px_replace(int fd, HANDLE port) {
    typedef LONG(NTAPI * set)(HANDLE, PIO_STATUS_BLOCK, PVOID, ULONG, int);
    union { FARPROC any; set call; } found = {
        GetProcAddress(GetModuleHandleW(L"ntdll.dll"), "NtSetInformationFile")};
    struct { HANDLE port; PVOID key; } wanted = {port, (PVOID)PX_KEY_OP};
    IO_STATUS_BLOCK status;
    if (found.call == NULL) return (LONG)0xC0000002; /* STATUS_NOT_IMPLEMENTED */
    return found.call((HANDLE)PX_SOCKET(fd), &status, &wanted, sizeof wanted,
                      PX_FILE_REPLACE_COMPLETION_INFORMATION);
}

#endif
