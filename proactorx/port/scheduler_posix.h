/* A port that many threads share, without the interpreter: its packets, the threads that wait for them, and
 * how many may run.  Everything is plain C under one mutex,
 * held for moments and never while anything else is waited for.
 *
 * The rules are those of I/O completion ports (learn.microsoft.com, "I/O Completion Ports"):
 *  - packets are queued first in, first out; waiting threads are released last in, first out;
 *  - a packet is given out only while fewer than `concurrency` threads of the port run;
 *  - a thread that comes with packets waiting takes the next one, without a switch.
 *
 * The oldest waiter is the *leader*.  It alone sleeps in the driver, when operations are there, and it alone
 * looks after threads that sleep elsewhere.  New waiters go on top of the stack and the top is released
 * first, so the leader stays the leader until it is the last one.
 */
#ifndef PROACTORX_PORT_SHARED_H
#define PROACTORX_PORT_SHARED_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "proactorx/sys/park.h"

/* How often the leader looks whether running threads sleep, while packets wait. */
#define PX_LOOK_NS 10000000

typedef struct {
    void *key, *overlapped; /* references, of whoever has the packet */
    int64_t nbytes;
    int error;
} px_packet;

typedef struct px_shared px_shared;

/* One thread.  `parking.signal` belongs to the thread and to whoever holds the mutex; the rest to the mutex.
 * */
typedef struct px_thread {
    px_shared *port;                   /* it is associated with this one; written by the thread itself only */
    struct px_thread *above, *below;   /* in the stack of waiters */
    struct px_thread *next, *previous; /* of the port's threads */
    px_parking parking;
    px_packet packet;                  /* what it was released with */
    px_clock clock;                    /* its CPU time */
    int64_t used;                      /* ... when it was last looked at */
    uint32_t looked;                   /* in which watch that was */
    int blocking;                      /* so many blocking() are open */
    char waits, counted, asleep, in_driver;
    char inside;                       /* in a call that waits; the thread's own */
} px_thread;

struct px_shared {
    pthread_mutex_t mutex;
    px_packet *items;                  /* a ring of `mask` + 1 */
    uint32_t head, tail, mask;
    px_thread *top, *bottom, *threads;
    px_thread *leader;                 /* the bottom, once it has been told */
    int concurrency, running, associated, asleep;
    int in_flight;                     /* operations, each of which will queue one packet */
    int driven;                        /* those of them that the driver has */
    int closed;
    uint32_t takes, watch;
    int watching;                      /* the leader looks at running threads; above 1: longer than needed */
    int64_t watched_at, look_ns;
    int in_driver;                     /* a thread sleeps there: the leader, or a released former one */
    int roused;                        /* and has been woken, for a reason of its own */
    pthread_cond_t changed;            /* of a closed port: that, or in_flight */
    int (*wake)(void *driver);
    void *driver;
    uint32_t references;
};

enum { PX_DRIVE = 1, PX_WATCH = 2 };

static pthread_key_t px_thread_key;
static __thread px_thread *px_me;

/* ------------------------------------------------------------------------------------------------ packets */

static inline uint32_t px_queued(px_shared *p) { return p->tail - p->head; }

/* Room for `more` packets besides those that are queued and those that are bound to come. */
static int px_reserve(px_shared *p, uint32_t more) {
    uint32_t need = px_queued(p) + (uint32_t)p->in_flight + more, size = p->mask + 1, i;
    px_packet *items;
    if (need <= size) return 0;
    while (size < need) size *= 2;
    if (!(items = malloc(size * sizeof *items))) return -ENOMEM;
    for (i = 0; i < px_queued(p); i++) items[i] = p->items[(p->head + i) & p->mask];
    free(p->items);
    p->tail = px_queued(p), p->head = 0;
    p->items = items, p->mask = size - 1;
    return 0;
}

static inline px_packet px_next(px_shared *p) { return p->items[p->head++ & p->mask]; }

/* ----------------------------------------------------------------------------------------------- who runs */

static inline void px_count(px_shared *p, px_thread *t) {
    if (!t->counted && !t->blocking) t->counted = 1, p->running++;
}

static inline void px_uncount(px_shared *p, px_thread *t) {
    if (t->counted) t->counted = 0, p->running--;
    if (t->asleep) t->asleep = 0, p->asleep--;
}

/* Threads that were found asleep and have used the CPU since run again, and count, also above the limit. */
static void px_recount(px_shared *p) {
    px_thread *t;
    if (!p->asleep) return;
    for (t = p->threads; t; t = t->next)
        if (t->asleep && px_cpu_time(t->clock) != t->used) {
            t->asleep = 0, p->asleep--;
            px_count(p, t);
        }
}

/* Look at the threads that run.  One that sleeps in the kernel, and has used no CPU since the last look,
 * does not. */
static void px_sample_threads(px_shared *p) {
    px_thread *t;
    px_recount(p);
    for (t = p->threads; t; t = t->next) {
        int64_t used;
        if (!t->counted || t->waits) continue;
        used = px_cpu_time(t->clock);
        if (t->looked == p->watch && used == t->used && px_sleeps(t->clock)) {
            px_uncount(p, t);
            t->asleep = 1, p->asleep++;
        }
        t->used = used, t->looked = p->watch;
    }
}

/* ---------------------------------------------------------------------------------------------- who waits */

static void px_unstack(px_shared *p, px_thread *t) {
    *(t->above ? &t->above->below : &p->top) = t->below;
    *(t->below ? &t->below->above : &p->bottom) = t->above;
    t->above = t->below = NULL;
    t->waits = 0;
    if (p->leader == t) p->leader = NULL;
}

/* Wake who sleeps in the driver.  The mutex keeps that alive: who sleeps in it needs the mutex to come out.
 * */
static void px_wake_driver(px_shared *p) {
    p->roused = 1;
    p->wake(p->driver);
}

static void px_rouse(px_shared *p, px_thread *t, uint32_t signal) {
    px_signal(&t->parking, signal);
    if (t->in_driver) px_wake_driver(p);
}

/* Bring everything in line after a change: release whom the rules release, and tell the leader what to do. */
static void px_settle(px_shared *p) {
    px_thread *t;
    if (p->top && px_queued(p)) px_recount(p);
    while (p->top && px_queued(p) && p->running < p->concurrency) {
        t = p->top;
        px_unstack(p, t);
        t->packet = px_next(p);
        px_count(p, t);
        px_rouse(p, t, PX_RELEASED);
    }
    if (!(t = p->bottom)) return;
    if (PX_CAN_WATCH && px_queued(p) && p->watching != 1) {
        /* Packets wait and nobody is released. */
        if (!p->watching) {
            p->watch++;
            p->watched_at = 0;
            if (t->in_driver) px_wake_driver(p);
        }
        p->watching = 1;
    }
    /* Told once of a watch; of operations also in the middle of one, which it keeps as a waiter among others.
     * */
    if (((p->driven && !p->in_driver) || (p->watching && p->leader != t)) && px_is_waiting(&t->parking)) {
        p->leader = t;
        px_signal(&t->parking, PX_LEAD);
    }
}

/* ----------------------------------------------------------------------------------------- ports, threads */

static px_shared *px_shared_new(int concurrency) {
    px_shared *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    if (!(p->items = malloc(64 * sizeof *p->items))) {
        free(p);
        return NULL;
    }
    p->mask = 63;
    p->concurrency = concurrency;
    p->look_ns = PX_LOOK_NS;
    p->references = 1;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->changed, NULL);
    return p;
}

static void px_shared_release(px_shared *p) {
    if (px_add_fetch(&p->references, -1)) return;
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->mutex);
    free(p->items);
    free(p);
}

static void px_join(px_shared *p, px_thread *me) {
    px_add_fetch(&p->references, 1);
    me->port = p;
    me->next = p->threads, me->previous = NULL;
    if (p->threads) p->threads->previous = me;
    p->threads = me;
    p->associated++;
}

/* This thread leaves its port. */
static void px_leave(px_thread *me) {
    px_shared *p = me->port;
    if (!p) return;
    pthread_mutex_lock(&p->mutex);
    px_uncount(p, me);
    me->blocking = 0;
    *(me->previous ? &me->previous->next : &p->threads) = me->next;
    if (me->next) me->next->previous = me->previous;
    me->next = me->previous = NULL;
    me->port = NULL;
    p->associated--;
    px_settle(p);
    pthread_mutex_unlock(&p->mutex);
    px_shared_release(p);
}

static void px_thread_ends(void *me) {
    px_leave(me);
    px_parking_free(&((px_thread *)me)->parking);
    free(me);
    px_me = NULL;
}

/* Once, before anything else.  0 or -errno. */
static int px_shared_setup(void) { return -pthread_key_create(&px_thread_key, px_thread_ends); }

/* The calling thread; NULL when there is no memory. */
static px_thread *px_self(void) {
    if (!px_me) {
        px_thread *me = calloc(1, sizeof *me);
        if (!me) return NULL;
        px_parking_init(&me->parking);
        me->clock = px_clock_of_this_thread();
        if (pthread_setspecific(px_thread_key, me)) {
            free(me);
            return NULL;
        }
        px_me = me;
    }
    return px_me;
}

/* In a forked child: its one thread has left the port, which may have been forked while locked. */
static void px_after_fork_in_child(void) {
    if (!px_me) return;
    px_me->port = NULL;
    px_me->above = px_me->below = px_me->next = px_me->previous = NULL;
    px_me->waits = px_me->counted = px_me->asleep = px_me->in_driver = px_me->inside = 0;
    px_me->blocking = 0;
    px_me->clock = px_clock_of_this_thread();
}

/* ---------------------------------------------------------------------------------------- packets come in */

/* Any thread.  0, or -ENOMEM, or -EPIPE: the port is closed. */
static int px_post(px_shared *p, px_packet packet) {
    int error = 0;
    pthread_mutex_lock(&p->mutex);
    if (p->closed) error = -EPIPE;
    else if (!(error = px_reserve(p, 1))) {
        p->items[p->tail++ & p->mask] = packet;
        px_settle(p);
    }
    pthread_mutex_unlock(&p->mutex);
    return error;
}

/* An operation begins: room for its packet is set aside, so that nothing can be lost when it ends. */
static int px_begin(px_shared *p, int driven) {
    int error;
    pthread_mutex_lock(&p->mutex);
    error = p->closed ? -EPIPE : px_reserve(p, 1);
    if (!error) p->in_flight++, p->driven += driven;
    pthread_mutex_unlock(&p->mutex);
    return error;
}

/* It could not be begun after all. */
static void px_undo(px_shared *p, int driven) {
    pthread_mutex_lock(&p->mutex);
    p->in_flight--, p->driven -= driven;
    pthread_mutex_unlock(&p->mutex);
}

/* The driver has it now: somebody must wait there,
 * and be woken if it does already and does not notice by itself. */
static void px_begun(px_shared *p, int notices) {
    pthread_mutex_lock(&p->mutex);
    px_settle(p);
    if (p->in_driver && !notices) px_wake_driver(p);
    pthread_mutex_unlock(&p->mutex);
}

/* It has ended.  Also of a closed port: its closer takes what is left. */
static void px_end(px_shared *p, px_packet packet, int driven) {
    pthread_mutex_lock(&p->mutex);
    p->in_flight--, p->driven -= driven;
    p->items[p->tail++ & p->mask] = packet;
    if (!p->closed) px_settle(p);
    else pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->mutex);
}

/* -------------------------------------------------------------------------------------- packets are taken */

enum { PX_WAITS = 0, PX_GOT = 1, PX_ASK_DRIVER = 2 };

/* A thread comes for a packet, and joins the port.  PX_GOT: it has one in `me->packet`; PX_WAITS: it is a
 * waiter now, until its signal is PX_RELEASED or PX_CLOSED, or it withdraws; | PX_ASK_DRIVER: the driver may
 * have something, and nobody has asked it lately.  -EPIPE: closed. */
static int px_come(px_shared *p, px_thread *me) {
    int got = 0;
    if (me->port != p) px_leave(me);
    pthread_mutex_lock(&p->mutex);
    if (p->closed) got = -EPIPE;
    else {
        if (!me->port) px_join(p, me);
        px_uncount(p, me);
        if (px_queued(p) && p->asleep) px_recount(p);
        if (px_queued(p) && p->running < p->concurrency) {
            me->packet = px_next(p);
            px_count(p, me);
            got = p->driven && !(++p->takes & 63) ? PX_GOT | PX_ASK_DRIVER : PX_GOT;
        } else {
            px_wait(&me->parking);
            me->waits = 1;
            me->above = NULL, me->below = p->top;
            *(p->top ? &p->top->above : &p->bottom) = me;
            p->top = me;
            px_settle(p);
            got = p->driven ? PX_WAITS | PX_ASK_DRIVER : PX_WAITS;
        }
    }
    pthread_mutex_unlock(&p->mutex);
    if (got == -EPIPE) px_leave(me);
    return got;
}

/* Up to `room` packets more, for a thread that has just been given one. */
static int px_take_more(px_shared *p, px_packet *packets, int room) {
    int n = 0;
    pthread_mutex_lock(&p->mutex);
    while (n < room && px_queued(p)) packets[n++] = px_next(p);
    pthread_mutex_unlock(&p->mutex);
    return n;
}

/* A waiter waits no longer; it runs again.  What has become of it meanwhile: PX_RELEASED, PX_CLOSED, or 0. */
static uint32_t px_withdraw(px_shared *p, px_thread *me) {
    uint32_t signal;
    pthread_mutex_lock(&p->mutex);
    signal = px_signal_of(&me->parking);
    if (me->waits) {
        signal = 0;
        px_unstack(p, me);
        px_count(p, me);
        px_settle(p);
    }
    pthread_mutex_unlock(&p->mutex);
    return signal;
}

/* A thread that was released cannot use its packet: it goes back to where it was.  0 or -ENOMEM. */
static int px_put_back(px_shared *p, px_thread *me) {
    int error;
    pthread_mutex_lock(&p->mutex);
    if (!(error = px_reserve(p, 1))) p->items[--p->head & p->mask] = me->packet;
    if (!p->closed) px_settle(p);
    pthread_mutex_unlock(&p->mutex);
    return error;
}

/* -------------------------------------------------------------------------------------- the leader's work */

/* What the leader is to do: PX_DRIVE, sleep in the driver; PX_WATCH, for not longer than look_ns; 0: wait
 * like the others, or it is no waiter any more. */
static int px_duties(px_shared *p, px_thread *me, void *driver) {
    int duties = 0;
    pthread_mutex_lock(&p->mutex);
    if (me->waits) {
        if (p->driven && !p->in_driver) duties |= PX_DRIVE; /* else it is told when that one has come out */
        if (p->watching) duties |= PX_WATCH;
        if (!duties) p->leader = NULL;
        if (duties & PX_DRIVE) px_signal(&me->parking, PX_LEAD);
        else px_wait(&me->parking);
        if (duties & PX_DRIVE && driver) {
            p->driver = driver;
            me->in_driver = 1, p->in_driver = 1, p->roused = 0;
        }
    }
    pthread_mutex_unlock(&p->mutex);
    return duties;
}

/* A thread is back from the driver; another one may have become the leader meanwhile. */
static void px_out_of_driver(px_shared *p, px_thread *me) {
    pthread_mutex_lock(&p->mutex);
    me->in_driver = 0;
    p->in_driver = 0;
    if (!p->closed) px_settle(p);
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->mutex);
}

/* Somebody has asked the driver, and may have taken out the wake-up of who sleeps there: it is given back. */
static void px_asked(px_shared *p) {
    pthread_mutex_lock(&p->mutex);
    if (p->in_driver && p->roused) p->wake(p->driver);
    pthread_mutex_unlock(&p->mutex);
}

/* Part of the leader's watch.  It goes on for a little longer than packets wait: to begin it costs a wake-up.
 * */
static void px_watch(px_shared *p) {
    pthread_mutex_lock(&p->mutex);
    if (p->watching && px_now_ns() - p->watched_at >= p->look_ns) {
        p->watched_at = px_now_ns();
        if (px_queued(p)) px_sample_threads(p);
        else if (++p->watching > 3) p->watching = 0;
        px_settle(p);
    }
    pthread_mutex_unlock(&p->mutex);
}

/* ----------------------------------------------------------------------------- blocking, leaving, closing */

static void px_block(px_shared *p, px_thread *me) {
    if (me->port != p) return;
    pthread_mutex_lock(&p->mutex);
    if (me->blocking++ == 0) {
        px_uncount(p, me);
        px_settle(p);
    }
    pthread_mutex_unlock(&p->mutex);
}

static void px_unblock(px_shared *p, px_thread *me) {
    if (me->port != p || !me->blocking) return;
    pthread_mutex_lock(&p->mutex);
    if (--me->blocking == 0) px_count(p, me);
    pthread_mutex_unlock(&p->mutex);
}

/* Waiters are sent away, and nothing more is posted.  0, or -EPIPE: that has happened before. */
static int px_port_close(px_shared *p) {
    px_thread *t;
    pthread_mutex_lock(&p->mutex);
    if (p->closed) {
        pthread_mutex_unlock(&p->mutex);
        return -EPIPE;
    }
    p->closed = 1;
    while ((t = p->top)) {
        px_unstack(p, t);
        px_rouse(p, t, PX_CLOSED);
    }
    pthread_mutex_unlock(&p->mutex);
    return 0;
}

/* After px_close: until nobody sleeps in the driver any more. */
static void px_await_driver(px_shared *p) {
    pthread_mutex_lock(&p->mutex);
    while (p->in_driver) pthread_cond_wait(&p->changed, &p->mutex);
    pthread_mutex_unlock(&p->mutex);
}

/* Until no operation is in flight; how many there are when the time is over. */
static int px_await_ends(px_shared *p, int64_t timeout_ns) {
    struct timespec until;
    int left, error = 0;
    clock_gettime(CLOCK_REALTIME, &until); /* the clock of pthread_cond_timedwait(3) */
    timeout_ns += until.tv_nsec;
    until.tv_sec += timeout_ns / 1000000000;
    until.tv_nsec = timeout_ns % 1000000000;
    pthread_mutex_lock(&p->mutex);
    while (p->in_flight && !error) error = pthread_cond_timedwait(&p->changed, &p->mutex, &until);
    left = p->in_flight;
    pthread_mutex_unlock(&p->mutex);
    return left;
}

/* What a closed port still holds. */
static int px_take_left(px_shared *p, px_packet *packet) {
    int got;
    pthread_mutex_lock(&p->mutex);
    if ((got = px_queued(p) != 0)) *packet = px_next(p);
    pthread_mutex_unlock(&p->mutex);
    return got;
}

typedef struct {
    int associated, running, queued, in_flight, driven;
} px_numbers;

static px_numbers px_numbers_of(px_shared *p) {
    px_numbers n;
    pthread_mutex_lock(&p->mutex);
    px_recount(p);
    n.associated = p->closed ? 0 : p->associated;
    n.running = p->closed ? 0 : p->running;
    n.queued = (int)px_queued(p);
    n.in_flight = p->in_flight;
    n.driven = p->driven;
    pthread_mutex_unlock(&p->mutex);
    return n;
}

#endif
