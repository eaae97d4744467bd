"""``add_reader`` and ``add_writer``: readiness, for libraries that make their own system calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVarTuple, cast

from proactorx.loop.call_queue import CallQueue, HandleWatch
from proactorx.loop.handles import Handle
from proactorx.ops.constants import POLLIN, POLLOUT
from proactorx.ops.op import Watch
from proactorx.port.loop_port import LoopPort

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

_Ts = TypeVarTuple("_Ts")


class _Watched(NamedTuple):
    file: FileDescriptorLike  # as it was given: what is left to know an object by once it is closed
    watch: Watch
    handle: Handle


def _fileno(file: FileDescriptorLike) -> int:
    if isinstance(file, int):
        fd = file
    else:
        try:
            fd = int(file.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {file!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


class Readers(asyncio.BaseEventLoop):
    """The readiness family of ``AbstractEventLoop``."""

    _port: LoopPort
    _check_closed: Callable[[], None]
    _ensure_fd_no_transport: Callable[[Any], None]
    # LoopCore's.
    _make_handle: Callable[[Callable[..., object], tuple[Any, ...]], Handle]

    def _init_readers(self) -> None:
        self._watches: dict[tuple[int, int], _Watched] = {}

    def add_reader(  # type: ignore[override]  # asyncio's returns a handle too, typeshed says None
        self, fd: FileDescriptorLike, callback: Callable[[*_Ts], object], *args: *_Ts
    ) -> Handle:
        """Call `callback` in each turn in which `fd` is readable, poll(2) with POLLIN, in place of an
        earlier callback.

        Args:
            fd: a descriptor, or an object with ``fileno()``.  It stays yours: close it whenever you like.
            callback: what to call.
            *args: its arguments.

        Returns:
            The handle of the callback.  To cancel it ends the watch when `fd` is ready next.

        Raises:
            ValueError: `fd` is not a descriptor.
            OSError: the kernel cannot wait for the file, for example EPERM for a regular one, epoll_ctl(2).
            RuntimeError: the loop is closed, or a transport uses `fd`.
        """
        return self._watch(fd, POLLIN, callback, args)

    def remove_reader(self, fd: FileDescriptorLike) -> bool:
        """Remove the callback that ``add_reader`` set for `fd`.

        Returns:
            Whether there was one.

        Raises:
            ValueError: `fd` is neither a descriptor nor an object that was passed to ``add_reader`` before
                it was closed.
            RuntimeError: a transport uses `fd`.
        """
        return self._remove(fd, POLLIN)

    def add_writer(  # type: ignore[override]
        self, fd: FileDescriptorLike, callback: Callable[[*_Ts], object], *args: *_Ts
    ) -> Handle:
        """Call `callback` in each turn in which `fd` is writable, POLLOUT of poll(2); see ``add_reader``."""
        return self._watch(fd, POLLOUT, callback, args)

    def remove_writer(self, fd: FileDescriptorLike) -> bool:
        """Remove the callback that ``add_writer`` set for `fd`; see ``remove_reader``."""
        return self._remove(fd, POLLOUT)

    def _remove(self, file: FileDescriptorLike, events: int) -> bool:
        try:
            fd = _fileno(file)
        except ValueError:
            if self.is_closed():
                return False
            # A file that was closed since.
            known = (
                fd
                for (fd, asked), watched in self._watches.items()
                if asked == events and watched.file is file
            )
            number = next(known, None)
            if number is None:
                raise
            return self._unwatch(number, events)
        self._ensure_fd_no_transport(fd)
        return self._unwatch(fd, events)

    def _watch(
        self, file: FileDescriptorLike, events: int, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> Handle:
        fd = _fileno(file)
        self._check_closed()
        self._ensure_fd_no_transport(fd)
        if isinstance(file, int):
            # As on stock asyncio: a descriptor is known by the object that the other direction was asked for
            # with.
            other = self._watches.get((fd, POLLIN + POLLOUT - events))
            file = file if other is None else other.file
        handle = self._make_handle(callback, args)
        watch = HandleWatch(fd, events, cast(CallQueue, self), handle)
        old = self._watches.get((fd, events))
        if old is not None:
            self._port.stop(old.watch)  # always a new op: the number may belong to another file by now
        try:
            self._port.start(watch)
        except BaseException:
            self._unwatch(fd, events)
            raise
        self._watches[fd, events] = _Watched(file, watch, handle)
        if old is not None:
            old.handle.cancel()  # last: what it lets go may have finalizers, which set another callback
        return handle

    def _end_watch(self, watch: Watch, events: int) -> None:
        """End a watch whose handle was cancelled: nobody would take what makes it ready.

        Its user did that, or Ctrl-C came while ``_unwatch`` was at it.
        """
        watched = self._watches.get((watch.fd, events))
        if watched is not None and watched.watch is watch:
            del self._watches[watch.fd, events]
        self._port.stop(watch)

    def _unwatch(self, fd: int, events: int) -> bool:
        if self.is_closed():
            return False
        watched = self._watches.get((fd, events))
        if watched is None:
            return False
        # First: what an exception leaves is ended with the next event. What the handle lets go may have
        # finalizers, which set another callback.
        watched.handle.cancel()
        self._end_watch(watched.watch, events)
        return True
