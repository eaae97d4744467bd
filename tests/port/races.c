/* Eight threads on one port, without an interpreter: for ThreadSanitizer or helgrind.
 *
 * Three post, one begins and ends operations like a driver, four get, with everything that they may do besides.  Each
 * packet must be got once, or be left when the port is closed.  See test_races.py. */
#include <poll.h>
#include <unistd.h>
#include "scheduler_posix.h"

enum { POSTERS = 3, GETTERS = 4, PACKETS = 4000 };

static px_shared *port;
static int wake_pipe[2];
static long posted, got, left;

static int wake(void *driver) {
    if (driver != port) abort(); /* who is woken has said where it sleeps */
    return write(wake_pipe[1], "", 1) == 1 ? 0 : -1;
}

static unsigned next_random(unsigned *state) { return (*state = *state * 1103515245 + 12345) >> 16; }

static void *post(void *arg) {
    px_packet packet = {arg, arg, 1, 0};
    int i;
    for (i = 0; i < PACKETS; i++)
        if (px_post(port, packet) == 0) __atomic_add_fetch(&posted, 1, __ATOMIC_RELAXED);
    return NULL;
}

/* Operations: the leader must wait in the driver meanwhile, and is woken from there. */
static void *operate(void *arg) {
    px_packet packet = {arg, arg, 2, 0};
    struct timespec moment = {0, 20000};
    int i;
    for (i = 0; i < PACKETS / 4; i++) {
        if (px_begin(port, 1)) continue;
        px_begun(port, i % 2);
        nanosleep(&moment, NULL);
        px_end(port, packet, 1);
        __atomic_add_fetch(&posted, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* What SharedPort._lead does. */
static void lead(px_thread *me, int64_t deadline) {
    while (px_signal_of(&me->parking) < PX_RELEASED) {
        int64_t limit = deadline;
        int duties;
        if (px_now_ns() >= deadline || !(duties = px_duties(port, me, port))) return;
        if (duties & PX_WATCH) {
            px_watch(port);
            if (limit > px_now_ns() + port->look_ns) limit = px_now_ns() + port->look_ns;
        }
        if (duties & PX_DRIVE) {
            struct pollfd one = {.fd = wake_pipe[0], .events = POLLIN};
            int64_t ms = (limit - px_now_ns()) / 1000000;
            char bytes[64];
            if (poll(&one, 1, ms > 0 ? (int)ms : 0) > 0 && read(wake_pipe[0], bytes, sizeof bytes) < 0) abort();
            px_out_of_driver(port, me);
            px_asked(port); /* those bytes may have been another one's */
        } else px_park(&me->parking, limit);
    }
}

/* 1: `me->packet` is a packet; 0: the time is over; -1: closed. */
static int get(px_thread *me, int64_t timeout) {
    int64_t deadline = px_now_ns() + timeout;
    int found = px_come(port, me);
    if (found < 0) return -1;
    if (found & PX_GOT) return 1;
    for (;;) {
        uint32_t signal = px_signal_of(&me->parking);
        if (signal == PX_LEAD) lead(me, deadline);
        else if (signal < PX_RELEASED) px_park(&me->parking, deadline);
        signal = px_signal_of(&me->parking);
        if (signal < PX_RELEASED && px_now_ns() >= deadline && !(signal = px_withdraw(port, me))) return 0;
        if (signal == PX_RELEASED) return 1;
        if (signal == PX_CLOSED) {
            px_leave(me);
            return -1;
        }
    }
}

static void *take(void *arg) {
    unsigned state = (unsigned)(uintptr_t)arg;
    px_thread *me = px_self();
    px_packet more[8];
    struct timespec nap = {0, 12000000};
    int found;
    while ((found = get(me, 1 + next_random(&state) % 3000000)) >= 0) {
        if (found) {
            unsigned chance = next_random(&state) % 1000;
            if (chance < 5) {
                px_put_back(port, me);
                continue;
            }
            __atomic_add_fetch(&got, 1, __ATOMIC_RELAXED);
            if (chance < 50) __atomic_add_fetch(&got, px_take_more(port, more, 8), __ATOMIC_RELAXED);
            else if (chance < 100) {
                px_block(port, me);
                if (chance < 53) nanosleep(&nap, NULL);
                px_unblock(port, me);
            } else if (chance < 150) px_leave(me);
            else if (chance < 152) nanosleep(&nap, NULL);
        }
        (void)px_numbers_of(port);
    }
    return NULL;
}

int main(void) {
    pthread_t posters[POSTERS], operator, getters[GETTERS];
    px_packet packet;
    px_numbers numbers;
    uintptr_t i;
    if (pipe(wake_pipe) || px_shared_setup() || !(port = px_shared_new(2))) return 2;
    port->wake = wake;
    for (i = 0; i < GETTERS; i++) pthread_create(&getters[i], NULL, take, (void *)(i + 1));
    for (i = 0; i < POSTERS; i++) pthread_create(&posters[i], NULL, post, NULL);
    pthread_create(&operator, NULL, operate, NULL);
    for (i = 0; i < POSTERS; i++) pthread_join(posters[i], NULL);
    pthread_join(operator, NULL);
    px_port_close(port);
    px_await_driver(port);
    while (px_take_left(port, &packet)) left++;
    for (i = 0; i < GETTERS; i++) pthread_join(getters[i], NULL);
    while (px_take_left(port, &packet)) left++;
    numbers = px_numbers_of(port);
    printf("posted %ld, got %ld, left %ld\n", posted, got, left);
    if (posted != got + left || numbers.in_flight || port->associated || port->running || port->asleep) return 1;
    px_shared_release(port);
    return 0;
}
