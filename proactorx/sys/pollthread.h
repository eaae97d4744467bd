/* Readiness where \Device\Afd cannot be had: a thread that waits in select() and posts what it finds.
 *
 * The same rule as for afd.h: each px_thread_ask is answered by one packet, also one that is cancelled.  No
 * Python runs in the thread.  Winsock's fd_set is a counted array, so it can be as long as it has to be. */
#ifndef PROACTORX_SYS_POLLTHREAD_H
#define PROACTORX_SYS_POLLTHREAD_H

#include "afd.h"

typedef struct {
    u_int count;
    SOCKET sockets[1];
} px_set;

typedef struct {
    CRITICAL_SECTION lock;
    HANDLE port, thread;
    SOCKET wake;           /* a datagram socket connected to itself */
    px_poll **polls;       /* who waits */
    int count, room;
    int stopping;
} px_thread;

static void px_thread_wake(px_thread *self) { send(self->wake, "", 1, 0); }

static void px_answer(px_thread *self, px_poll *poll, uint32_t mask) {
    PostQueuedCompletionStatus(self->port, mask, PX_KEY_THREAD, &poll->overlapped);
}

static px_set *px_set_new(int room) {
    return (px_set *)malloc(sizeof(px_set) + (size_t)room * sizeof(SOCKET));
}

static int px_set_has(const px_set *set, SOCKET sock) {
    u_int i;
    for (i = 0; i < set->count; i++)
        if (set->sockets[i] == sock) return 1;
    return 0;
}

/* Some socket in the sets has been closed: answer for it, so that the others can be waited for. */
static void px_thread_drop_closed(px_thread *self) {
    int i;
    EnterCriticalSection(&self->lock);
    for (i = self->count - 1; i >= 0; i--) {
        px_poll *poll = self->polls[i];
        if (!px_pollable(poll->fd)) continue;
        self->polls[i] = self->polls[--self->count];
        px_answer(self, poll, PX_POLL_CLOSED);
    }
    LeaveCriticalSection(&self->lock);
}

static void px_thread_answer(px_thread *self, const px_set *in, const px_set *out, const px_set *failed) {
    int i;
    EnterCriticalSection(&self->lock);
    for (i = self->count - 1; i >= 0; i--) {
        px_poll *poll = self->polls[i];
        SOCKET sock = PX_SOCKET(poll->fd);
        uint32_t mask = (poll->asked & POLLIN && px_set_has(in, sock) ? POLLIN : 0) |
                        (poll->asked & POLLOUT && px_set_has(out, sock) ? POLLOUT : 0) |
                        (px_set_has(failed, sock) ? POLLERR : 0);
        if (!mask) continue;
        self->polls[i] = self->polls[--self->count];
        px_answer(self, poll, mask);
    }
    LeaveCriticalSection(&self->lock);
}

static DWORD WINAPI px_thread_main(void *context) {
    px_thread *self = (px_thread *)context;
    px_set *in = NULL, *out = NULL, *failed = NULL;
    int room = 0, i, found, stopping = 0;
    char bytes[64];
    while (!stopping) {
        EnterCriticalSection(&self->lock);
        if (room < self->count + 1 || in == NULL) {
            room = 2 * self->count + 64;
            free(in), free(out), free(failed);
            in = px_set_new(room), out = px_set_new(room), failed = px_set_new(room);
        }
        if (in == NULL || out == NULL || failed == NULL) {
            LeaveCriticalSection(&self->lock);
            Sleep(10); /* no memory now */
            room = 0;
            continue;
        }
        in->sockets[0] = self->wake;
        in->count = 1;
        out->count = failed->count = 0;
        for (i = 0; i < self->count; i++) {
            SOCKET sock = PX_SOCKET(self->polls[i]->fd);
            if (self->polls[i]->asked & POLLIN) in->sockets[in->count++] = sock;
            if (self->polls[i]->asked & POLLOUT) {
                out->sockets[out->count++] = sock;
                failed->sockets[failed->count++] = sock; /* where a failed connect is told */
            }
        }
        stopping = self->stopping;
        LeaveCriticalSection(&self->lock);
        if (stopping) break;
        found = select(0, (fd_set *)in, (fd_set *)out, (fd_set *)failed, NULL);
        if (found < 0) {
            px_thread_drop_closed(self);
            continue;
        }
        if (px_set_has(in, self->wake))
            while (recv(self->wake, bytes, sizeof bytes, 0) >= 0) continue;
        px_thread_answer(self, in, out, failed);
    }
    free(in), free(out), free(failed);
    return 0;
}

static void px_thread_free(px_thread *self) {
    if (self->wake != INVALID_SOCKET) closesocket(self->wake);
    DeleteCriticalSection(&self->lock);
    free(self->polls);
    free(self);
}

/* The thread, or NULL. */
static px_thread *px_thread_new(HANDLE port) {
    px_thread *self = (px_thread *)calloc(1, sizeof *self);
    struct sockaddr_in name;
    int size = sizeof name;
    if (self == NULL) return NULL;
    InitializeCriticalSection(&self->lock);
    self->port = port;
    memset(&name, 0, sizeof name);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    self->wake = WSASocketW(AF_INET, SOCK_DGRAM, 0, NULL, 0, WSA_FLAG_OVERLAPPED
                            | WSA_FLAG_NO_HANDLE_INHERIT);
    if (self->wake != INVALID_SOCKET && !bind(self->wake, (struct sockaddr *)&name, size) &&
        !getsockname(self->wake, (struct sockaddr *)&name, &size) &&
        !connect(self->wake, (struct sockaddr *)&name, size)) {
        px_own_manners(self->wake);
        self->thread = CreateThread(NULL, 65536, px_thread_main, self, 0, NULL);
    }
    if (self->thread == NULL) {
        px_thread_free(self);
        return NULL;
    }
    return self;
}

static void px_thread_stop(px_thread *self) {
    EnterCriticalSection(&self->lock);
    self->stopping = 1;
    LeaveCriticalSection(&self->lock);
    px_thread_wake(self);
    WaitForSingleObject(self->thread, INFINITE);
    CloseHandle(self->thread);
    px_thread_free(self);
}

/* 0 or -errno. */
static int px_thread_ask(px_thread *self, px_poll *poll, uint32_t mask) {
    int error = px_pollable(poll->fd);
    if (error) return error;
    EnterCriticalSection(&self->lock);
    if (self->count == self->room) {
        int room = 2 * self->room + 16;
        px_poll **polls = (px_poll **)realloc(self->polls, (size_t)room * sizeof *polls);
        if (polls == NULL) error = -ENOMEM;
        else self->polls = polls, self->room = room;
    }
    if (!error) {
        poll->asked = mask;
        poll->cancelled = 0;
        self->polls[self->count++] = poll;
    }
    LeaveCriticalSection(&self->lock);
    if (!error) px_thread_wake(self);
    return error;
}

static void px_thread_cancel(px_thread *self, px_poll *poll) {
    int i;
    EnterCriticalSection(&self->lock);
    for (i = 0; i < self->count; i++) {
        if (self->polls[i] != poll) continue;
        self->polls[i] = self->polls[--self->count];
        px_answer(self, poll, 0);
        break;
    }
    LeaveCriticalSection(&self->lock);
    px_thread_wake(self);
}

#endif
