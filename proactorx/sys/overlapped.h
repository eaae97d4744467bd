/* What an op holds for the kernel while it is in flight: nothing on POSIX, where its address says enough. */
#ifndef PROACTORX_SYS_OVERLAPPED_H
#define PROACTORX_SYS_OVERLAPPED_H

#ifdef _WIN32

#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <winsock2.h>
#include <windows.h>

typedef struct {
    OVERLAPPED overlapped; /* first: a packet carries its address */
    void *op;
    char *buffer;          /* memory of the driver's, or NULL */
    HANDLE other;          /* ACCEPT: the socket that the connection is to get; POLL of a handle: the wait */
    DWORD flags;
    int name_size;         /* RECV_FROM */
    LONG posted;           /* POLL of a handle: its packet is on the way */
} px_overlapped;

#else

typedef struct {
} px_overlapped;

#endif
#endif
