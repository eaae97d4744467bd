/* What the kernel's own completion port does not keep for us: the posts that nobody has taken yet, and which
 * threads are the port's.
 *
 * A packet's key says only what kind it is.  A post is a PX_POST with the address of its three values; an
 * operation's packet carries the address of its OVERLAPPED, which is in the op. */
#ifndef PROACTORX_PORT_KERNEL_H
#define PROACTORX_PORT_KERNEL_H

#include "proactorx/sys/iocp.h"
#include "proactorx/sys/atomic.h"

enum { PX_POST = 64 };
enum { PX_LARGEST_GET = 1024 };

/* Three free values, of which two are references. */
typedef struct px_post {
    struct px_post *next, *previous;
    void *key, *overlapped;
    int64_t nbytes;
} px_post;

typedef struct {
    HANDLE handle;
    CRITICAL_SECTION lock;
    px_post posts;               /* a ring of those that nobody has taken, in the order in which they came */
    int queued;                  /* how many these are */
    int closed;
    int associated;              /* threads */
    int references;              /* the port object's, and one of each thread that is the port's */
} px_port;

static DWORD px_slot = FLS_OUT_OF_INDEXES; /* of each thread: its port */
static HANDLE px_nowhere;                  /* a port that threads join to leave another */

static void px_port_release(px_port *port) {
    if (px_add_fetch(&port->references, -1)) return;
    DeleteCriticalSection(&port->lock);
    free(port);
}

/* Of a thread that ends: it is nobody's. */
static VOID WINAPI px_thread_ends(PVOID data) {
    px_port *port = (px_port *)data;
    if (port == NULL) return;
    px_add_fetch(&port->associated, -1);
    px_port_release(port);
}

/* Once.  0 or a system error. */
static DWORD px_kernel_setup(void) {
    px_slot = FlsAlloc(px_thread_ends);
    if (px_slot == FLS_OUT_OF_INDEXES) return GetLastError();
    px_nowhere = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, 1);
    return px_nowhere == NULL ? GetLastError() : 0;
}

/* NULL: GetLastError() says why. */
static px_port *px_port_new(int concurrency) {
    px_port *port = (px_port *)calloc(1, sizeof *port);
    if (port == NULL) {
        SetLastError(ERROR_NOT_ENOUGH_MEMORY);
        return NULL;
    }
    port->handle = CreateIoCompletionPort(INVALID_HANDLE_VALUE, NULL, 0, (DWORD)concurrency);
    if (port->handle == NULL) {
        free(port);
        return NULL;
    }
    InitializeCriticalSection(&port->lock);
    port->posts.next = port->posts.previous = &port->posts;
    port->references = 1;
    return port;
}

static px_port *px_port_of_this_thread(void) { return (px_port *)FlsGetValue(px_slot); }

/* This thread is the port's from now on; NULL: nobody's. */
static void px_associate(px_port *port) {
    px_port *before = px_port_of_this_thread();
    if (before == port) return;
    if (port != NULL) px_add_fetch(&port->references, 1), px_add_fetch(&port->associated, 1);
    FlsSetValue(px_slot, port);
    px_thread_ends(before);
}

/* "A thread is associated until it names a different port": so it does. */
static void px_dissociate(void) {
    OVERLAPPED_ENTRY entry;
    ULONG count;
    GetQueuedCompletionStatusEx(px_nowhere, &entry, 1, &count, 0, FALSE);
    px_associate(NULL);
}

/* -------------------------------------------------------------------------------------------------- posts */

static void px_unlink(px_port *port, px_post *post) {
    EnterCriticalSection(&port->lock);
    post->next->previous = post->previous;
    post->previous->next = post->next;
    port->queued--;
    LeaveCriticalSection(&port->lock);
}

/* 0, or a system error: then the post is the caller's still. */
static DWORD px_post_it(px_port *port, px_post *post) {
    DWORD error = 0;
    EnterCriticalSection(&port->lock); /* so that the two queues have one order */
    post->next = &port->posts;
    post->previous = port->posts.previous;
    post->previous->next = port->posts.previous = post;
    port->queued++;
    if (port->closed) error = ERROR_ABANDONED_WAIT_0;
    else if (!PostQueuedCompletionStatus(port->handle, 0, PX_POST, (OVERLAPPED *)post))
        error = GetLastError();
    if (error) {
        post->previous->next = post->next;
        post->next->previous = post->previous;
        port->queued--;
    }
    LeaveCriticalSection(&port->lock);
    return error;
}

/* Nothing is posted any more.  Whether that is new. */
static int px_port_close(px_port *port) {
    int was;
    EnterCriticalSection(&port->lock);
    was = port->closed;
    port->closed = 1;
    LeaveCriticalSection(&port->lock);
    return !was;
}

static void px_wake_one(px_port *port) { PostQueuedCompletionStatus(port->handle, 0, PX_KEY_WAKE, NULL); }

/* The oldest post of a closed port, or NULL. */
static px_post *px_left(px_port *port) {
    px_post *post = port->posts.next;
    if (post == &port->posts) return NULL;
    px_unlink(port, post);
    return post;
}

/* How many packets are queued: NtQueryIoCompletion, IoCompletionBasicInformation; -1:
 * the system does not say. */
static long px_depth(px_port *port) {
    typedef LONG(NTAPI * query)(HANDLE, int, PVOID, ULONG, PULONG);
    union { FARPROC any; query call; } found = {
        GetProcAddress(GetModuleHandleW(L"ntdll.dll"), "NtQueryIoCompletion")};
    LONG depth = 0;
    if (found.call == NULL || found.call(port->handle, 0, &depth, sizeof depth, NULL) < 0) return -1;
    return depth;
}

/* ------------------------------------------------------------------------------------------------ waiting */

/* Ctrl-C must end a wait of the main thread.  The interpreter sets this event once it has noted the signal.
 * */
__declspec(dllimport) void *_PyOS_SigintEvent(void);

static VOID CALLBACK px_on_sigint(PVOID port, BOOLEAN timed_out) {
    (void)timed_out;
    px_wake_one((px_port *)port);
}

/* Before a wait that watches: an event that is still set tells of a signal that has been dealt with. */
static void px_forget_sigint(void) { ResetEvent((HANDLE)_PyOS_SigintEvent()); }

/* Up to `room` packets; `limit` in milliseconds, or INFINITE.  How many; 0 when the time is over; or -(system
 * error). `watch`: a SIGINT ends the wait with a PX_KEY_WAKE. */
static int px_take(px_port *port, OVERLAPPED_ENTRY *entries, int room, DWORD limit, int watch) {
    ULONG count = 0;
    HANDLE wait = NULL;
    DWORD error = 0;
    if (watch && !RegisterWaitForSingleObject(&wait, (HANDLE)_PyOS_SigintEvent(), px_on_sigint, port,
                                              INFINITE,
                                              WT_EXECUTEINWAITTHREAD | WT_EXECUTEONLYONCE))
        wait = NULL;
    if (!GetQueuedCompletionStatusEx(port->handle, entries, (ULONG)room, &count, limit, FALSE))
        error = GetLastError();
    if (wait != NULL) UnregisterWaitEx(wait, INVALID_HANDLE_VALUE);
    return !error ? (int)count : error == WAIT_TIMEOUT ? 0 : -(int)error;
}

/* --------------------------------------------------------------------------------------------- operations */

static int px_begin_send(int fd, px_overlapped *flight, const char *buffer, size_t size) {
    WSABUF memory = {(ULONG)px_clamp(size), (char *)buffer};
    px_clear(flight);
    return px_started(WSASend(PX_SOCKET(fd), &memory, 1, NULL, 0, &flight->overlapped, NULL));
}

/* The packet of an operation that the kernel has not taken, or that an IO thread has done:
 * `n` is a count or -errno. */
static DWORD px_answer_it(px_port *port, px_overlapped *flight, int n) {
    flight->posted = 1;
    flight->flags = n < 0 ? (DWORD)-n : 0;
    return PostQueuedCompletionStatus(port->handle, n < 0 ? 0 : (DWORD)n, PX_KEY_OP, &flight->overlapped)
               ? 0 : GetLastError();
}

/* What the kernel says of an operation that has ended: 0 or -errno. */
static int px_outcome(const px_overlapped *flight, int is_file) {
    if (flight->posted) return -(int)flight->flags;
    switch ((ULONG)flight->overlapped.Internal) {
    case 0x80000005u: /* BUFFER_OVERFLOW: the rest is lost, or still in the pipe */ return 0;
    case 0xC0000022u: /* ACCESS_DENIED */ return is_file ? -EBADF : -EACCES;
    default: return px_ended(flight->overlapped.Internal);
    }
}

/* Blocking calls, on IO threads: a count or -errno. */
static int px_read_blocking(intptr_t handle, char *buffer, size_t size, int64_t position) {
    OVERLAPPED place;
    DWORD n = 0;
    memset(&place, 0, sizeof place);
    place.Offset = (DWORD)position, place.OffsetHigh = (DWORD)(position >> 32);
    if (ReadFile((HANDLE)handle, buffer, (DWORD)px_clamp(size), &n, position < 0 ? NULL : &place))
        return (int)n;
    if (GetLastError() == ERROR_HANDLE_EOF || GetLastError() == ERROR_BROKEN_PIPE) return 0;
    return px_file_result(px_file_failure());
}

static int px_write_blocking(intptr_t handle, const char *buffer, size_t size, int64_t position) {
    OVERLAPPED place;
    DWORD n = 0;
    memset(&place, 0, sizeof place);
    place.Offset = (DWORD)position, place.OffsetHigh = (DWORD)(position >> 32);
    if (WriteFile((HANDLE)handle, buffer, (DWORD)px_clamp(size), &n, position < 0 ? NULL : &place))
        return (int)n;
    return px_file_result(px_file_failure());
}

#endif
