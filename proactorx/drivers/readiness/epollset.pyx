"""A level-triggered epoll set, woken by an eventfd: all of the epoll driver,
and a part of the io_uring driver.

An epoll set watches a file without keeping it open: close(2) removes it, and the peer sees the end at once.
It reports what was asked for (and EPOLLERR and EPOLLHUP), and wakes everybody who watches the same file.

See epoll(7), epoll_pwait2(2) (Linux 5.11, nanosecond time-outs;
before it time-outs are rounded up to milliseconds).
"""

from proactorx.sys.errnos cimport EBADF, EEXIST, EINTR, EINVAL, ENOENT, EPERM
from libc.stdint cimport int64_t, uint32_t, uint64_t
from proactorx.drivers.driver cimport Closing, FOR_GOOD, IN_FORKED_CHILD
from proactorx.drivers.readiness.driver cimport FdSlot, ReadinessDriver
from proactorx.ops.checks cimport PX_CHECKS
from proactorx.sys.atomic cimport load_acquire, store_release
from proactorx.sys.clock cimport px_now_ns
from proactorx.sys.epoll cimport (
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, px_epoll_create, px_epoll_ctl, px_epoll_wait,
)
from proactorx.sys.event cimport (
    px_eventfd, px_eventfd_drain, px_wake, px_waker_clear, px_waker_close, px_waker_forget, px_waker_set,
)
from proactorx.sys.socket cimport POLLIN, px_close
from proactorx.sys.ticks cimport px_quick_now

import os


# epoll has no flag that could be read for free, so a turn with callbacks ready asks the kernel only after so
# many turns, so many callbacks or so long.  What has arrived is seen in the third turn at the latest; stock
# asyncio asks in each turn.
cdef enum:
    TURNS_BETWEEN_POLLS = 3
    CALLBACKS_BETWEEN_POLLS = 64
    NS_BETWEEN_POLLS = 50_000


cdef class EpollSet(ReadinessDriver):
    def __cinit__(self, *args, **kwargs):
        self.epfd = -1
        px_waker_clear(&self.waker)
        self.hears_changes = True
        self.lazy = True

    cdef int open(self) except -1:
        cdef int epfd, wake_fd
        if self.opened:
            return 0
        epfd = px_epoll_create()
        if epfd < 0:
            raise OSError(-epfd, os.strerror(-epfd))
        wake_fd = px_eventfd()
        if wake_fd < 0:
            px_close(epfd)
            raise OSError(-wake_fd, os.strerror(-wake_fd))
        self.epfd = epfd
        self.set_interest(wake_fd, 0, POLLIN)
        px_waker_set(&self.waker, wake_fd)
        return ReadinessDriver.open(self)

    cdef int set_interest(self, int fd, uint32_t before, uint32_t after) except -1:
        # POLLIN and POLLOUT are EPOLLIN and EPOLLOUT (both follow poll(2)'s bits on Linux).
        cdef FdSlot *slot = self.slot_of(fd)
        cdef int op = EPOLL_CTL_ADD if not before else EPOLL_CTL_MOD if after else EPOLL_CTL_DEL, error
        if op != EPOLL_CTL_MOD:
            slot.generation += 1
        error = px_epoll_ctl(self.epfd, op, fd, after, slot.generation)
        if error == -ENOENT and op != EPOLL_CTL_ADD:
            # The descriptor was closed and its number given to another file: epoll has forgotten it.
            slot.generation += 1
            slot.renumbered = True
            error = px_epoll_ctl(self.epfd, EPOLL_CTL_ADD, fd, after, slot.generation) if after else 0
        elif error == -EEXIST and op == EPOLL_CTL_ADD:
            error = px_epoll_ctl(self.epfd, EPOLL_CTL_MOD, fd, after, slot.generation)
        elif (error == -EBADF or error == -EPERM or error == -EINVAL) and not after & ~before:
            # Closed by its owner: nothing is left to ask less of.  EPERM: the number is a regular file's by
            # now; EINVAL: the set's own.
            error = 0
        if error < 0:
            raise OSError(-error, os.strerror(-error))
        return 0

    cdef int renew(self) except -1:
        """Go on with a new set.

        Somebody has closed a descriptor and keeps a duplicate of it: so its registration lives on, reports
        every event, and cannot be removed any more, epoll(7).
        """
        cdef int fd, old = self.epfd, epfd = px_epoll_create()
        cdef FdSlot *slot
        if epfd < 0:
            raise OSError(-epfd, os.strerror(-epfd))
        store_release(&self.epfd, epfd)
        self.set_interest(self.waker.fd, 0, POLLIN)
        for fd in range(self.slot_count):
            slot = &self.slots[fd]
            # The old set knows whether this is the file that is watched: not where that was closed too,
            # whoever has its number by now.  `registered` stays then, as where epoll itself forgets a closed
            # descriptor: an op that is cancelled asks for less, and a new file is noticed.
            if slot.registered and not px_epoll_ctl(old, EPOLL_CTL_MOD, fd, slot.registered, slot.generation):
                px_epoll_ctl(epfd, EPOLL_CTL_ADD, fd, slot.registered, slot.generation)
        px_close(old)
        self.wake()  # a thread that sleeps on the old set
        return 0

    cdef bint is_due(self, uint32_t callbacks) noexcept:
        """Whether the set is to be asked, after `callbacks` more have run."""
        if not self.inflight:
            return False  # nothing is watched; posts of other threads are seen without asking the kernel
        self.turns += 1
        self.callbacks += callbacks
        if self.turns >= TURNS_BETWEEN_POLLS or self.callbacks >= CALLBACKS_BETWEEN_POLLS:
            return True
        self.woke_at = px_quick_now(&self.clock)  # the loop need not look: it goes on at once
        if self.woke_at - self.polled_at < NS_BETWEEN_POLLS:
            return False
        self.woke_at = 0
        return True

    cdef int wait(self, int64_t timeout_ns, int callbacks) except -1:
        cdef int n = 0
        cdef px_event *event = self.events
        cdef bint renew = False
        if callbacks >= 0 and not self.is_due(callbacks):
            return 0
        if timeout_ns == 0:
            n = px_epoll_wait(self.epfd, self.events, 0)
            self.polled_at = px_quick_now(&self.clock)
        else:
            if self.convoy.trust or self.spin_ns:
                n = self._look_first(timeout_ns)
            if n == 0:
                with nogil:
                    n = px_epoll_wait(self.epfd, self.events, timeout_ns)
                    self.polled_at = self.woke_at = px_quick_now(&self.clock)
                self.woke()
        self.turns = self.callbacks = 0
        if not self.woke_at:
            self.woke_at = self.polled_at
        if n < 0:
            if n == -EINTR:
                return 0
            raise OSError(-n, os.strerror(-n))
        for _ in range(n):
            if event.fd == self.waker.fd:
                px_eventfd_drain(self.waker.fd)
            elif event.generation == self.slots[event.fd].generation:
                self.ready(event.fd, event.events)
            else:
                renew = True
            event += 1
        if renew:
            self.renew()
        if PX_CHECKS:
            self.check_counters()
        return 0

    cdef int sleep(self, int64_t timeout_ns) except -1 nogil:
        # What is found is found again by the wait: the set is level-triggered.
        cdef px_event found[PX_EVENTS]
        cdef int epfd = load_acquire(&self.epfd), n = px_epoll_wait(epfd, found, timeout_ns)
        return -n if n < 0 and epfd == load_acquire(&self.epfd) else 0

    cdef int _look_first(self, int64_t timeout_ns) except? -1:
        """Look for events before the sleep, where that is likely to pay; how many there are."""
        cdef int64_t until = self.look_until(timeout_ns)
        cdef int n
        if until:
            return self._look(until)
        if not self.spin_ns or not self.may_spin():
            return 0
        n = self._spin()
        self.spun(n != 0)
        return n

    cdef int _look(self, int64_t until) noexcept:
        """Look without giving up the GIL, see ``convoy.h``."""
        cdef int n
        while True:
            n = px_epoll_wait(self.epfd, self.events, 0)
            if n or px_now_ns() >= until:
                self.polled_at = self.looked(n != 0)
                return n

    cdef int _spin(self):
        cdef int64_t until = px_now_ns() + self.spin_ns
        cdef int n = 0
        with nogil:
            while n == 0 and px_now_ns() < until:
                n = px_epoll_wait(self.epfd, self.events, 0)
        return n

    cdef int wake(self) noexcept nogil:
        return px_wake(&self.waker)

    cdef int close(self, Closing closing) except -1:
        if closing == FOR_GOOD:
            self.closed = True
            self._drop(px_waker_close(&self.waker))
        elif closing == IN_FORKED_CHILD:
            # The epoll set is shared with the parent: close our descriptors of it and change nothing in it.
            self._drop(px_waker_forget(&self.waker))
        return 0

    cdef _drop(self, int wake_fd):
        cdef int epfd = self.epfd
        self.epfd = -1
        if epfd >= 0:
            px_close(epfd)
        if wake_fd >= 0:
            px_close(wake_fd)

    def __dealloc__(self):
        if self.epfd >= 0:
            px_close(self.epfd)
        if self.waker.fd >= 0:
            px_close(self.waker.fd)
