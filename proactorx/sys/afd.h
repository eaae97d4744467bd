/* Readiness on a completion port: the poll request of the socket driver, \Device\Afd.
 *
 * Winsock's own select() is made of this request; unlike select() it can be overlapped, so its answer is a
 * packet.  The interface is not documented by Microsoft; trio, wepoll,
 * libuv and mio have relied on it for years, and learned:
 * - a poll ends with its first answer; to go on is to ask again;
 * - two polls of one socket at a time do not work well, so what readers and writers want is asked in one;
 * - it wants the base socket, below all layered providers (SIO_BASE_HANDLE);
 * - a cancel looks through all requests of its handle, so sockets are spread over several handles. */
#ifndef PROACTORX_SYS_AFD_H
#define PROACTORX_SYS_AFD_H

#include "iocp.h"

#include <winternl.h>

#ifndef SIO_BASE_HANDLE
#define SIO_BASE_HANDLE 0x48000022
#endif
#ifndef SIO_BSP_HANDLE_POLL
#define SIO_BSP_HANDLE_POLL 0x4800001D
#endif

enum {
    PX_AFD_RECEIVE = 0x01,
    PX_AFD_SEND = 0x04,
    PX_AFD_DISCONNECT = 0x08,
    PX_AFD_ABORT = 0x10,
    PX_AFD_LOCAL_CLOSE = 0x20,
    PX_AFD_ACCEPT = 0x80,
    PX_AFD_CONNECT_FAIL = 0x100,
    PX_IOCTL_AFD_POLL = 0x12024,
    PX_AFD_SHARE = 500,    /* sockets for each handle, trio's number */
    PX_POLL_CLOSED = 0x100 /* in an answer: the socket has been closed */
};

typedef struct {
    LARGE_INTEGER timeout;
    ULONG count;
    ULONG exclusive;
    struct {
        HANDLE handle;
        ULONG events;
        LONG status;
    } sockets[1];
} px_afd_request;

/* One socket's poll: lives until its answer has come. */
typedef struct {
    OVERLAPPED overlapped; /* first: a packet carries its address */
    px_afd_request request;
    int fd;                /* -1: nobody asks any more */
    int group;             /* which handle it is asked on */
    uint32_t asked;        /* POLLIN, POLLOUT; 0: it is not in the kernel */
    int cancelled;
} px_poll;

typedef LONG(NTAPI *px_nt_create)(PHANDLE, ACCESS_MASK, POBJECT_ATTRIBUTES, PIO_STATUS_BLOCK, PLARGE_INTEGER,
                                  ULONG,
                                  ULONG, ULONG, ULONG, PVOID, ULONG);
typedef LONG(NTAPI *px_nt_control)(HANDLE, HANDLE, PIO_APC_ROUTINE, PVOID, PIO_STATUS_BLOCK, ULONG, PVOID,
                                   ULONG,
                                   PVOID, ULONG);

/* A call of ntdll's, or NULL.  By way of a union: ISO C knows no conversion of function pointers to others.
 * */
static px_nt_create px_nt_create_file(void) {
    union { FARPROC any; px_nt_create call; } found = {
        GetProcAddress(GetModuleHandleW(L"ntdll.dll"), "NtCreateFile")};
    return found.call;
}

static px_nt_control px_nt_device_io_control_file(void) {
    union { FARPROC any; px_nt_control call; } found = {
        GetProcAddress(GetModuleHandleW(L"ntdll.dll"), "NtDeviceIoControlFile")};
    return found.call;
}

/* A handle of the socket driver's, bound to the port; NULL: there is none to be had. */
static HANDLE px_afd_open(HANDLE port) {
    static WCHAR text[] = L"\\Device\\Afd\\proactorx";
    UNICODE_STRING name = {sizeof text - sizeof text[0], sizeof text, text};
    OBJECT_ATTRIBUTES attributes;
    IO_STATUS_BLOCK status;
    HANDLE afd = NULL;
    px_nt_create create = px_nt_create_file();
    memset(&attributes, 0, sizeof attributes);
    attributes.Length = sizeof attributes;
    attributes.ObjectName = &name;
    if (create == NULL || create(&afd, SYNCHRONIZE, &attributes, &status, NULL, 0, FILE_SHARE_READ
                                 | FILE_SHARE_WRITE,
                                 1 /* FILE_OPEN */, 0, NULL, 0) < 0)
        return NULL;
    if (CreateIoCompletionPort(afd, port, PX_KEY_POLL, 0) == NULL ||
        !SetFileCompletionNotificationModes(afd, FILE_SKIP_SET_EVENT_ON_HANDLE)) {
        CloseHandle(afd);
        return NULL;
    }
    return afd;
}

/* The socket below all layered providers; INVALID_SOCKET where none of the ways to ask gives one. */
static SOCKET px_base_socket(int fd) {
    SOCKET base = INVALID_SOCKET;
    DWORD size;
    if (!WSAIoctl(PX_SOCKET(fd), SIO_BASE_HANDLE, NULL, 0, &base, sizeof base, &size, NULL, NULL))
        return base;
    /* Some providers break SIO_BASE_HANDLE, against the rules, and not this one. */
    if (!WSAIoctl(PX_SOCKET(fd), SIO_BSP_HANDLE_POLL, NULL, 0, &base, sizeof base, &size, NULL, NULL))
        return base;
    return INVALID_SOCKET;
}

/* Ask for `mask`; the answer is a packet in any case.  0 or -errno. */
static int px_afd_ask(HANDLE afd, px_poll *poll, uint32_t mask) {
    px_nt_control control = px_nt_device_io_control_file();
    SOCKET base = px_base_socket(poll->fd);
    LONG status;
    if (base == INVALID_SOCKET) return px_socket_failure();
    if (control == NULL) return -ENOSYS;
    memset(&poll->overlapped, 0, sizeof poll->overlapped);
    poll->request.timeout.QuadPart = INT64_MAX;
    poll->request.count = 1;
    poll->request.exclusive = 0;
    poll->request.sockets[0].handle = (HANDLE)base;
    poll->request.sockets[0].status = 0;
    poll->request.sockets[0].events =
        PX_AFD_ABORT | PX_AFD_LOCAL_CLOSE | (mask & POLLIN ? PX_AFD_RECEIVE | PX_AFD_DISCONNECT
                                             | PX_AFD_ACCEPT : 0) |
        (mask & POLLOUT ? PX_AFD_SEND | PX_AFD_CONNECT_FAIL : 0);
    /* An OVERLAPPED begins with what the call knows as an IO_STATUS_BLOCK. */
    status = control(afd, NULL, NULL, &poll->overlapped, (PIO_STATUS_BLOCK)&poll->overlapped,
                     PX_IOCTL_AFD_POLL,
                     &poll->request, sizeof poll->request, &poll->request, sizeof poll->request);
    if (status < 0) return px_ended((ULONG)status);
    poll->asked = mask;
    poll->cancelled = 0;
    return 0;
}

/* What an answer says: POLLIN and so on, PX_POLL_CLOSED; 0 where it was cancelled. */
static uint32_t px_afd_answer(const px_poll *poll) {
    ULONG events = poll->request.sockets[0].events;
    uint32_t mask = 0;
    if (px_ended(poll->overlapped.Internal) == -ECANCELED) return 0;
    if (px_ended(poll->overlapped.Internal) < 0) return POLLIN | POLLOUT | POLLERR;
    if (poll->request.count < 1) return 0;
    if (events & PX_AFD_LOCAL_CLOSE) return PX_POLL_CLOSED;
    if (events & (PX_AFD_RECEIVE | PX_AFD_DISCONNECT | PX_AFD_ACCEPT)) mask |= POLLIN;
    if (events & PX_AFD_SEND) mask |= POLLOUT;
    if (events & PX_AFD_ABORT) mask |= POLLIN | POLLOUT | POLLHUP;
    if (events & PX_AFD_CONNECT_FAIL) mask |= POLLOUT | POLLERR;
    return mask;
}

#endif
