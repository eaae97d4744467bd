/* How threads wake a loop, without an interpreter: for ThreadSanitizer, and to see that no wake-up is lost.
 *
 * Each round is the life of a loop: its waker is made at the first sleep, in half of the rounds after another one has
 * been given up, and closed as soon as everything that was posted has come.  Who posts may be late: no other file that
 * gets the number may be written to.  See test_races.py; what LoopCore, Port and the drivers do is in the same order. */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Who wakes has read the number, and is held up before it writes to it. */
static ssize_t late_write(int fd, const void *data, size_t size) {
    static int calls;
    if (__atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED) % 2) usleep(100);
    return write(fd, data, size);
}

#define write late_write
#include "proactorx/sys/event.h"
#undef write
#include "proactorx/loop/inbox.h"
#include "proactorx/sys/atomic.h"

enum { POSTERS = 3, POSTS = 4, ROUNDS = 2000 };

typedef struct {
    void *next;
} item;

static void *inbox, *woken;
static int sleeping, round_number, at_rest;
static px_waker first, second;
static item items[POSTERS][POSTS];

static unsigned next_random(unsigned *state) { return (*state = *state * 1103515245 + 12345) >> 16; }

static void dawdle(unsigned *state) {
    volatile unsigned i;
    for (i = next_random(state) % 400; i; i--) continue;
}

/* LoopCore.post, Port.wake_driver. */
static void post(item *it) {
    px_inbox_push(&inbox, it, &it->next);
    if (px_exchange(&sleeping, 0) && px_wake(px_load_pointer(&woken))) abort();
}

static void *poster(void *arg) {
    uintptr_t me = (uintptr_t)arg;
    unsigned state = (unsigned)me + 1;
    int round, i;
    for (round = 1; round <= ROUNDS; round++) {
        while (px_load_acquire(&round_number) < round) sched_yield();
        for (i = 0; i < POSTS; i++) {
            dawdle(&state);
            post(&items[me][i]);
        }
        px_add_fetch(&at_rest, 1);
    }
    return NULL;
}

static int drain(void) {
    item *it;
    int count = 0;
    for (it = px_inbox_take(&inbox); it; it = it->next) count++;
    return count;
}

/* Port.open: 0, or -1 where the system refuses. */
static int open_waker(px_waker *w, int refused) {
    int fd = refused ? -1 : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) return -1;
    px_waker_set(w, fd);
    return 0;
}

/* One loop, from its first turn to its end; the number that its waker had. */
static int live(int falls_back) {
    px_waker *w = NULL;
    static unsigned turns;
    int got = 0;
    while ((got += drain()) < POSTERS * POSTS) {
        px_exchange(&sleeping, 1);
        if (++turns % 4 == 0) usleep(50); /* it is posted now: who does so finds that somebody sleeps */
        if (!px_load_pointer(&inbox)) {
            if (!w) {
                if (open_waker(w = &first, falls_back)) {
                    px_store_pointer(&woken, w = &second);
                    if (open_waker(w, 0)) exit(3);
                }
            } else {
                struct pollfd one = {.fd = w->fd, .events = POLLIN};
                uint64_t count;
                if (poll(&one, 1, 10000) != 1) {
                    fputs("a wake-up is lost\n", stderr);
                    exit(4);
                }
                if (read(w->fd, &count, sizeof count) < 0) exit(5);
            }
        }
        px_exchange(&sleeping, 0);
    }
    return w ? px_waker_close(w) : -1;
}

int main(void) {
    pthread_t posters[POSTERS];
    uintptr_t i;
    int round, reused = 0;
    px_waker_clear(&first), px_waker_clear(&second);
    px_store_pointer(&woken, &first);
    for (i = 0; i < POSTERS; i++) pthread_create(&posters[i], NULL, poster, (void *)i);
    for (round = 1; round <= ROUNDS; round++) {
        uint64_t count;
        int fd, stranger;
        px_store_release(&at_rest, 0);
        px_store_release(&round_number, round);
        if ((fd = live(round % 2)) >= 0) close(fd);
        stranger = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); /* most likely it gets the number */
        reused += stranger == fd;
        while (px_load_acquire(&at_rest) < POSTERS) sched_yield();
        if (read(stranger, &count, sizeof count) >= 0) {
            fputs("another file was written to\n", stderr);
            return 6;
        }
        close(stranger);
        px_store_pointer(&woken, &first);
    }
    for (i = 0; i < POSTERS; i++) pthread_join(posters[i], NULL);
    printf("reused %d\n", reused);
    return 0;
}
