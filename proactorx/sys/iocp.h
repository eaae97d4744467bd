/* Overlapped calls on sockets and handles.  Each one returns PX_PENDING, PX_AT_ONCE (it has succeeded; a
 * packet comes all the same, unless the handle was told to skip it), PX_NO_PACKET (it has succeeded, and none
 * comes), or -errno (nothing was started). */
#ifndef PROACTORX_SYS_IOCP_H
#define PROACTORX_SYS_IOCP_H

#include "socket_windows.h"
#include "atomic.h"
#include "overlapped.h"
#include "file_windows.h"

#include <mswsock.h>
#include <stdlib.h>

enum {
    PX_AT_ONCE = 0,
    PX_PENDING = 1,
    PX_NO_PACKET = 2,
    PX_ENTRIES = 256,               /* packets in one call */
    PX_BUFFER = 65536,              /* of one receive; the largest datagram is smaller */
    PX_ADDRESS = sizeof(struct sockaddr_storage) + 16 /* what AcceptEx wants for each of its two addresses */
};

/* Completion keys: what a packet is about. */
enum { PX_KEY_OP, PX_KEY_WAKE, PX_KEY_POLL, PX_KEY_THREAD };

typedef struct {
    LPFN_ACCEPTEX accept;
    LPFN_CONNECTEX connect;
    LPFN_TRANSMITFILE transmit;
    LPFN_DISCONNECTEX disconnect;
} px_calls;

static int px_extension(SOCKET sock, GUID id, void *call) {
    DWORD size;
    return WSAIoctl(sock, SIO_GET_EXTENSION_FUNCTION_POINTER, &id, sizeof id, call, sizeof(void *), &size,
                    NULL, NULL);
}

/* The calls that are found at run time; 0 or -errno. */
static int px_load_calls(px_calls *calls) {
    GUID accept = WSAID_ACCEPTEX, connect = WSAID_CONNECTEX, transmit = WSAID_TRANSMITFILE,
         disconnect = WSAID_DISCONNECTEX;
    SOCKET sock = WSASocketW(AF_INET, SOCK_STREAM, IPPROTO_TCP, NULL, 0, WSA_FLAG_OVERLAPPED);
    int error = 0;
    if (sock == INVALID_SOCKET) return px_socket_failure();
    if (px_extension(sock, accept, &calls->accept) || px_extension(sock, connect, &calls->connect) ||
        px_extension(sock, transmit, &calls->transmit) || px_extension(sock, disconnect, &calls->disconnect))
        error = px_socket_failure();
    closesocket(sock);
    return error;
}

/* How an operation ended, by its NTSTATUS ([MS-ERREF] 2.3.1): 0 or -errno.  Not WSAGetOverlappedResult: the
 * socket may have been closed by now. */
static int px_ended(ULONG_PTR internal) {
    ULONG status = (ULONG)internal;
    if (status < 0x80000000u) return 0;
    switch (status) {
    case 0x80000005u: /* BUFFER_OVERFLOW */ return -WSAEMSGSIZE;
    case 0xC0000011u: /* END_OF_FILE */ return 0;
    case 0xC0000120u: /* CANCELLED */
    case 0xC0000128u: /* FILE_CLOSED */ return -ECANCELED;
    case 0xC0000008u: /* INVALID_HANDLE */
    case 0xC0000024u: /* OBJECT_TYPE_MISMATCH */ return -WSAENOTSOCK;
    case 0xC0000022u: /* ACCESS_DENIED */ return -EACCES;
    case 0xC000009Au: /* INSUFFICIENT_RESOURCES */
    case 0xC0000017u: /* NO_MEMORY */ return -WSAENOBUFS;
    case 0xC000000Du: /* INVALID_PARAMETER */ return -EINVAL;
    case 0xC0000054u: /* FILE_LOCK_CONFLICT */ return -EACCES;
    case 0xC000007Fu: /* DISK_FULL */
    case 0xC0000802u: /* DISK_QUOTA_EXCEEDED */ return -ENOSPC;
    case 0xC00000B5u: /* IO_TIMEOUT */ return -WSAETIMEDOUT;
    case 0xC0000236u: /* CONNECTION_REFUSED */ return -WSAECONNREFUSED;
    case 0xC000020Cu: /* CONNECTION_DISCONNECTED */
    case 0xC000020Du: /* CONNECTION_RESET */
    case 0xC000013Cu: /* REMOTE_DISCONNECT */
    case 0xC000023Fu: /* PORT_UNREACHABLE: as recvfrom has it */ return -WSAECONNRESET;
    case 0xC000013Bu: /* LOCAL_DISCONNECT */
    case 0xC0000241u: /* CONNECTION_ABORTED */ return -WSAECONNABORTED;
    case 0xC000023Cu: /* NETWORK_UNREACHABLE */
    case 0xC000023Eu: /* PROTOCOL_UNREACHABLE */ return -WSAENETUNREACH;
    case 0xC000023Du: /* HOST_UNREACHABLE */ return -WSAEHOSTUNREACH;
    case 0xC0000207u: /* INVALID_ADDRESS_COMPONENT */ return -WSAEADDRNOTAVAIL;
    case 0xC000020Au: /* ADDRESS_ALREADY_EXISTS */ return -WSAEADDRINUSE;
    case 0xC000014Bu: /* PIPE_BROKEN */
    case 0xC00000B0u: /* PIPE_DISCONNECTED */
    case 0xC00000B1u: /* PIPE_CLOSING */ return -EPIPE;
    default: return -EIO;
    }
}

static int px_started(int failed) {
    if (!failed) return PX_AT_ONCE;
    return WSAGetLastError() == WSA_IO_PENDING ? PX_PENDING : px_socket_failure();
}

static int px_file_started(BOOL ok) {
    if (ok) return PX_AT_ONCE;
    return GetLastError() == ERROR_IO_PENDING ? PX_PENDING : px_file_failure();
}

static void px_clear(px_overlapped *flight) {
    memset(&flight->overlapped, 0, sizeof flight->overlapped);
    flight->flags = 0;
}

static int px_begin_recv(int fd, px_overlapped *flight, char *buffer, size_t size) {
    WSABUF memory = {(ULONG)px_clamp(size), buffer};
    px_clear(flight);
    return px_started(WSARecv(PX_SOCKET(fd), &memory, 1, NULL, &flight->flags, &flight->overlapped, NULL));
}

static int px_begin_recvfrom(int fd, px_overlapped *flight, char *buffer, size_t size, px_message *message) {
    WSABUF memory = {(ULONG)px_clamp(size), buffer};
    px_clear(flight);
    flight->name_size = sizeof message->name;
    return px_started(WSARecvFrom(PX_SOCKET(fd), &memory, 1, NULL, &flight->flags,
                                  (struct sockaddr *)&message->name,
                                  &flight->name_size, &flight->overlapped, NULL));
}

static int px_begin_sendto(int fd, px_overlapped *flight, const px_message *message) {
    const struct msghdr *header = &message->header;
    WSABUF memory = {(ULONG)px_clamp(header->msg_iov->iov_len), (char *)header->msg_iov->iov_base};
    px_clear(flight);
    return px_started(WSASendTo(PX_SOCKET(fd), &memory, 1, NULL, 0, (struct sockaddr *)header->msg_name,
                                header->msg_name == NULL ? 0 : header->msg_namelen, &flight->overlapped,
                                NULL));
}

/* `room` takes two addresses of PX_ADDRESS bytes, and lives until the packet. */
static int px_begin_accept(const px_calls *calls, int fd, px_overlapped *flight, char *room) {
    struct sockaddr_storage name;
    int size = sizeof name, started;
    SOCKET sock;
    DWORD got;
    if (getsockname(PX_SOCKET(fd), (struct sockaddr *)&name, &size)) return px_socket_failure();
    sock = WSASocketW(name.ss_family, SOCK_STREAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED
                      | WSA_FLAG_NO_HANDLE_INHERIT);
    if (sock == INVALID_SOCKET) return px_socket_failure();
    px_clear(flight);
    flight->other = (HANDLE)sock;
    started = px_started(
        !calls->accept(PX_SOCKET(fd), sock, room, 0, PX_ADDRESS, PX_ADDRESS, &got, &flight->overlapped));
    if (started < 0) closesocket(sock);
    return started;
}

/* The socket of a connection that AcceptEx has brought, or -errno: then it is gone again. */
static int px_accepted(int fd, px_overlapped *flight) {
    SOCKET sock = (SOCKET)flight->other, listener = PX_SOCKET(fd);
    int error;
    if (setsockopt(sock, SOL_SOCKET, SO_UPDATE_ACCEPT_CONTEXT, (char *)&listener, sizeof listener)) {
        error = px_socket_failure();
        closesocket(sock);
        return error;
    }
    px_own_manners(sock);
    return (int)sock;
}

/* ConnectEx wants a bound socket, and is for streams; anything else is connected as everywhere. */
static int px_begin_connect(
    const px_calls *calls, int fd, px_overlapped *flight, const struct sockaddr *address, int size) {
    struct sockaddr_storage any;
    int type = 0, type_size = sizeof type, any_size = sizeof any;
    if (getsockopt(PX_SOCKET(fd), SOL_SOCKET, SO_TYPE, (char *)&type, &type_size)) return px_socket_failure();
    px_clear(flight);
    if (type != SOCK_STREAM)
        return connect(PX_SOCKET(fd), address, size) ? px_socket_failure() : PX_NO_PACKET;
    if (getsockname(PX_SOCKET(fd), (struct sockaddr *)&any, &any_size) || any_size == 0) {
        memset(&any, 0, sizeof any);
        any.ss_family = address->sa_family;
        any_size = any.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
        if (bind(PX_SOCKET(fd), (struct sockaddr *)&any, any_size)) return px_socket_failure();
    }
    return px_started(!calls->connect(PX_SOCKET(fd), address, size, NULL, 0, NULL, &flight->overlapped));
}

static int px_connected(int fd) {
    return setsockopt(PX_SOCKET(fd), SOL_SOCKET, SO_UPDATE_CONNECT_CONTEXT, NULL,
                      0) ? px_socket_failure() : 0;
}

/* Not to be used again (TF_REUSE_SOCKET): such a socket waits in TIME_WAIT first. */
static int px_begin_disconnect(const px_calls *calls, int fd, px_overlapped *flight) {
    px_clear(flight);
    return px_started(!calls->disconnect(PX_SOCKET(fd), &flight->overlapped, 0, 0));
}

/* `size` bytes of a file, and not 0, which would be all of it. */
static int px_begin_transmit(
    const px_calls *calls, int fd, px_overlapped *flight, uint32_t file, size_t size, int64_t position) {
    px_clear(flight);
    flight->overlapped.Offset = (DWORD)position;
    flight->overlapped.OffsetHigh = (DWORD)(position >> 32);
    return px_started(!calls->transmit(PX_SOCKET(fd), (HANDLE)PX_SOCKET((int)file), (DWORD)px_clamp(size), 0,
                                       &flight->overlapped, NULL, 0));
}

/* Pipes. */
static int px_begin_read(int fd, px_overlapped *flight, char *buffer, size_t size) {
    px_clear(flight);
    return px_file_started(ReadFile((HANDLE)PX_SOCKET(fd), buffer, (DWORD)px_clamp(size), NULL,
                                    &flight->overlapped));
}

static int px_begin_write(int fd, px_overlapped *flight, const char *buffer, size_t size) {
    px_clear(flight);
    return px_file_started(WriteFile((HANDLE)PX_SOCKET(fd), buffer, (DWORD)px_clamp(size), NULL,
                                     &flight->overlapped));
}

/* Files, at a position; < 0: they have none. */
static void px_set_place(px_overlapped *flight, int64_t position) {
    px_clear(flight);
    if (position < 0) return;
    flight->overlapped.Offset = (DWORD)position;
    flight->overlapped.OffsetHigh = (DWORD)(position >> 32);
}

/* As the C library says it of a file that was not opened for this. */
static int px_file_result(int result) {
    return result == -EACCES && GetLastError() == ERROR_ACCESS_DENIED ? -EBADF : result;
}

static int px_begin_read_at(int fd, px_overlapped *flight, char *buffer, size_t size, int64_t position) {
    int started;
    px_set_place(flight, position);
    started = px_file_started(
        ReadFile((HANDLE)PX_SOCKET(fd), buffer, (DWORD)px_clamp(size), NULL, &flight->overlapped));
    if (started == -EIO && GetLastError() == ERROR_HANDLE_EOF) return PX_NO_PACKET;
    return px_file_result(started);
}

static int px_begin_write_at(int fd, px_overlapped *flight, const char *buffer, size_t size,
                             int64_t position) {
    px_set_place(flight, position);
    return px_file_result(
        px_file_started(WriteFile((HANDLE)PX_SOCKET(fd), buffer, (DWORD)px_clamp(size), NULL,
                                  &flight->overlapped)));
}

/* Wait for a client of this end of a named pipe; one may be there already. */
static int px_begin_serve(int fd, px_overlapped *flight) {
    px_clear(flight);
    if (ConnectNamedPipe((HANDLE)PX_SOCKET(fd), &flight->overlapped)) return PX_AT_ONCE;
    return GetLastError() == ERROR_PIPE_CONNECTED ? PX_NO_PACKET : px_file_started(FALSE);
}

/* Waiting for a handle that is no file (a process, say): a thread of the system's posts the packet. */
static VOID CALLBACK px_signalled(PVOID context, BOOLEAN timed_out) {
    px_overlapped *flight = (px_overlapped *)context;
    (void)timed_out;
    (void)px_exchange(&flight->posted, 1);
    PostQueuedCompletionStatus((HANDLE)flight->buffer, 0, PX_KEY_OP, &flight->overlapped);
}

static int px_begin_wait(HANDLE port, int fd, px_overlapped *flight) {
    DWORD flags;
    px_clear(flight);
    flight->posted = 0;
    /* The wait itself says nothing of a closed handle under Wine. */
    if (!GetHandleInformation((HANDLE)PX_SOCKET(fd), &flags)) return px_file_failure();
    flight->buffer = (char *)port;
    if (RegisterWaitForSingleObject(&flight->other, (HANDLE)PX_SOCKET(fd), px_signalled, flight, INFINITE,
                                    WT_EXECUTEINWAITTHREAD | WT_EXECUTEONLYONCE))
        return PX_PENDING;
    flight->buffer = NULL;
    return px_file_failure();
}

/* The wait is over or to be given up; whether its packet is on the way. */
static int px_end_wait(px_overlapped *flight) {
    if (flight->other != NULL) UnregisterWaitEx(flight->other, INVALID_HANDLE_VALUE);
    flight->other = NULL;
    return (int)px_load(&flight->posted);
}

/* Binding. */
enum { PX_UNBOUND, PX_BOUND = 1, PX_SKIPS = 2, PX_FILE = 4 };

static int px_is_file(int fd) {
    int type, size = sizeof type;
    return getsockopt(PX_SOCKET(fd), SOL_SOCKET, SO_TYPE, (char *)&type,
                      &size) && WSAGetLastError() == WSAENOTSOCK;
}

/* Whether the provider's handles are those of the system itself: with a layered provider in between, an
 * operation that succeeds at once may post a packet although it was told not to
 * (SetFileCompletionNotificationModes). */
static int px_may_skip(int fd) {
    WSAPROTOCOL_INFOW info;
    int size = sizeof info;
    if (getsockopt(PX_SOCKET(fd), SOL_SOCKET, SO_PROTOCOL_INFOW, (char *)&info, &size)) return 0;
    return (info.dwServiceFlags1 & XP1_IFS_HANDLES) != 0;
}

/* Bind a handle to the port for good.  Its PX_BOUND bits; PX_UNBOUND where it belongs to another port,
 * or is none. */
static int px_bind(HANDLE port, int fd, int skip) {
    HANDLE handle = (HANDLE)PX_SOCKET(fd);
    int bits = PX_BOUND;
    if (CreateIoCompletionPort(handle, port, PX_KEY_OP, 0) == NULL) return PX_UNBOUND;
    if (px_is_file(fd)) bits |= PX_FILE;
    if (skip && (bits & PX_FILE || px_may_skip(fd)) &&
        SetFileCompletionNotificationModes(
            handle, FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE))
        bits |= PX_SKIPS;
    return bits;
}

/* Whether a file's second handle (px_reopen) is bound to this port now, and posts no packet for what succeeds
 * at once, where that is wanted. */
static int px_adopt(HANDLE port, int fd, int skip) {
    HANDLE handle = PX_FILE_HANDLE(fd);
    return CreateIoCompletionPort(handle, port, PX_KEY_OP, 0) != NULL &&
           (!skip || SetFileCompletionNotificationModes(
                         handle, FILE_SKIP_COMPLETION_PORT_ON_SUCCESS | FILE_SKIP_SET_EVENT_ON_HANDLE));
}

static int px_get(HANDLE port, OVERLAPPED_ENTRY *entries, int64_t timeout_ns) {
    ULONG count = 0;
    int64_t ms = timeout_ns < 0 ? -1 : (timeout_ns + 999999) / 1000000;
    DWORD limit = ms < 0 ? INFINITE : ms > 86400000 ? 86400000 : (DWORD)ms;
    if (GetQueuedCompletionStatusEx(port, entries, PX_ENTRIES, &count, limit, FALSE)) return (int)count;
    return GetLastError() == WAIT_TIMEOUT ? 0 : -(int)GetLastError();
}

static void px_woken(int *pending) { (void)px_exchange(pending, 0); }

/* End a wait of another thread; `users` and the order of things are those of sys/event.h. */
static int px_wake_port(HANDLE *port, int *users, int *pending) {
    HANDLE handle;
    int failed = 0;
    (void)px_add_fetch(users, 1);
    handle = px_load_pointer(port);
    if (handle != NULL && !px_exchange(pending, 1)) { /* one packet does for all */
        failed = !PostQueuedCompletionStatus(handle, 0, PX_KEY_WAKE, NULL);
        if (failed) (void)px_exchange(pending, 0);
    }
    (void)px_add_fetch(users, -1);
    return -failed;
}

static void px_show_port(HANDLE *port, HANDLE handle) { px_store_pointer(port, handle); }

/* Take the port away from who would wake it; it is the caller's to close. */
static HANDLE px_hide_port(HANDLE *port, int *users) {
    HANDLE handle = px_exchange_pointer(port, NULL);
    while (px_load(users)) SwitchToThread();
    return handle;
}

#endif
