"""The select driver: completions made of readiness, on the standard library's ``selectors``.

For macOS, BSD and anything else without a driver of its own; complete, not fast.
``selectors.DefaultSelector`` is kqueue there, epoll on Linux.
"""

from __future__ import annotations

import select
import selectors
import socket
import time
from collections.abc import Iterable

from proactorx.drivers.readiness.driver import PythonReadinessDriver
from proactorx.ops.constants import POLLIN, POLLOUT

#: After so many waits that ended early and brought nothing,
#: the selector reports something that it does not know.
_EMPTY_WAITS = 4


class SelectDriver(PythonReadinessDriver):
    """A readiness driver on ``selectors.DefaultSelector``, woken through a socket pair."""

    def __init__(self) -> None:
        self.name = "select"
        self._selector: selectors.BaseSelector | None = None
        self._empty = 0

    def _open(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._empty = 0
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._selector.register(self._reader, selectors.EVENT_READ)
        if hasattr(self._selector, "fileno"):
            self._sleep_on(self._selector.fileno())
        self._wake_through(self._writer.fileno())

    def _interest(self, fd: int, before: int, after: int) -> bool:
        if self._selector is None or self.closed or self.forked:
            return False
        events = (selectors.EVENT_READ if after & POLLIN else 0) | (
            selectors.EVENT_WRITE if after & POLLOUT else 0
        )
        renumbered = False
        if fd in self._selector.get_map():
            renumbered = not self._knows(self._selector, fd)
            # Not modify(): it does nothing for equal events, and another file may have the number by now.
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
        if not events:
            return False
        try:
            self._selector.register(fd, events)
        except OSError:
            if after & ~before:
                raise
            return False  # closed by its owner: nothing is left to ask less of
        return renumbered

    @staticmethod
    def _knows(selector: selectors.BaseSelector, fd: int) -> bool:
        """Whether the file that has this number is the one that is watched, as far as the system can tell: it
        refuses to change what it does not know.
        """
        other = selectors.EVENT_READ
        if selector.get_key(fd).events == other:
            other = selectors.EVENT_WRITE
        try:
            selector.modify(fd, other)
        except OSError:
            return False
        return True

    def _poll(self, timeout: float | None) -> Iterable[tuple[int, int]]:
        assert self._selector is not None
        started = time.monotonic()
        try:
            ready = self._selector.select(timeout)
        except InterruptedError:
            return []
        except OSError:
            closed = self._closed()  # select() fails for all where one was closed; kqueue and epoll forget it
            if not closed:
                raise
            return closed
        if ready or timeout == 0:
            self._empty = 0
        elif timeout is None or time.monotonic() - started < timeout / 2:
            self._empty += 1
            if self._empty == _EMPTY_WAITS:
                self._renew()
        found = []
        for key, events in ready:
            if key.fileobj is self._reader:
                self._drain()
                continue
            mask = (POLLIN if events & selectors.EVENT_READ else 0) | (
                POLLOUT if events & selectors.EVENT_WRITE else 0
            )
            found.append((key.fd, mask))
        return found

    def _renew(self) -> None:
        """Go on with a new selector.

        Somebody has closed a descriptor and keeps a duplicate of it: epoll goes on reporting it, and it
        cannot be removed any more, epoll(7).
        """
        assert self._selector is not None
        old, self._selector = self._selector, selectors.DefaultSelector()
        self._empty = 0
        for key in list(old.get_map().values()):
            if not self._knows(old, key.fd):
                continue  # closed too, whoever has its number by now
            try:
                self._selector.register(key.fileobj, key.events)
            except OSError:
                continue  # as far as the system can tell
        if hasattr(self._selector, "fileno"):
            self._sleep_on(self._selector.fileno())
        old.close()

    def _closed(self) -> list[tuple[int, int]]:
        """The descriptors that their owners have closed, which are not waited for any more: ready,
        to find out.
        """
        assert self._selector is not None
        closed = []
        for key in list(self._selector.get_map().values()):
            try:
                select.select([key.fd], [], [], 0)
            except OSError:
                self._selector.unregister(key.fileobj)
                closed.append((key.fd, POLLIN | POLLOUT))
        return closed

    def _drain(self) -> None:
        try:
            while self._reader.recv(4096):
                pass
        except (BlockingIOError, InterruptedError):
            return

    def _sleep(self, timeout: float | None) -> None:
        assert self._selector is not None
        self._selector.select(timeout)

    def _close(self) -> None:
        """Free the selector and the wake-up pair; in a forked child the parent's do not notice."""
        if self._selector is None:
            return
        self._wake_through(-1)
        self._selector.close()
        self._reader.close()
        self._writer.close()
