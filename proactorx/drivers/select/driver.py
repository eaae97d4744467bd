"""The select driver: completions made of readiness, on the standard library's ``selectors``.

For macOS, BSD and anything else without a driver of its own; complete, not fast.  ``selectors.DefaultSelector`` is
kqueue there, epoll on Linux.
"""

from __future__ import annotations

import select
import selectors
import socket
from collections.abc import Iterable

from proactorx.drivers.readiness import PythonReadinessDriver
from proactorx.port.constants import POLLIN, POLLOUT


class SelectDriver(PythonReadinessDriver):
    """A readiness driver on ``selectors.DefaultSelector``, woken through a socket pair."""

    def __init__(self) -> None:
        self.name = "select"
        self._selector: selectors.BaseSelector | None = None

    def _open(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._selector.register(self._reader, selectors.EVENT_READ)
        if hasattr(self._selector, "fileno"):
            self._sleep_on(self._selector.fileno())
        self._wake_through(self._writer.fileno())

    def _interest(self, fd: int, before: int, after: int) -> None:
        if self._selector is None or self.closed or self.forked:
            return
        events = (selectors.EVENT_READ if after & POLLIN else 0) | (selectors.EVENT_WRITE if after & POLLOUT else 0)
        # Not modify(): it does nothing for equal events, and the number may belong to another file by now.
        if fd in self._selector.get_map():
            self._selector.unregister(fd)
        if not events:
            return
        try:
            self._selector.register(fd, events)
        except OSError:
            if after & ~before:
                raise
            # Closed by its owner: nothing is left to ask less of.

    def _poll(self, timeout: float | None) -> Iterable[tuple[int, int]]:
        assert self._selector is not None
        try:
            ready = self._selector.select(timeout)
        except InterruptedError:
            return []
        except OSError:
            closed = self._closed()  # select() fails for all where one was closed; kqueue and epoll forget it
            if not closed:
                raise
            return closed
        found = []
        for key, events in ready:
            if key.fileobj is self._reader:
                self._drain()
                continue
            mask = (POLLIN if events & selectors.EVENT_READ else 0) | (POLLOUT if events & selectors.EVENT_WRITE else 0)
            found.append((key.fd, mask))
        return found

    def _closed(self) -> list[tuple[int, int]]:
        """The descriptors that their owners have closed, which are not waited for any more: ready, to find out."""
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

    def close(self) -> None:
        """Free the selector and the wake-up pair."""
        self.closed = True
        self._drop()

    def after_fork_in_child(self) -> None:
        """Close this process's descriptors; the parent's selector does not notice."""
        self.forked = True
        self._drop()

    def _drop(self) -> None:
        if self._selector is None:
            return
        self._wake_through(-1)
        self._selector.close()
        self._reader.close()
        self._writer.close()
