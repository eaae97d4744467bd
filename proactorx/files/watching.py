"""``watch``: changes in a directory, as they happen, through the loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import sys
import warnings
from collections import deque
from types import TracebackType
from typing import Any, NamedTuple, Self

from proactorx.files.access import access_for
from proactorx.files.inotify import watch_directory
from proactorx.files.thread_call import in_thread

_EVENT = struct.Struct("iIII")  # struct inotify_event, inotify(7), without the name
_KINDS = {
    0x002: "modified",
    0x004: "attributes",
    0x008: "written",
    0x040: "moved_from",
    0x080: "moved_to",
    0x100: "created",
    0x200: "deleted",
    0x400: "gone",
    0x800: "gone",
    0x4000: "overflow",
}
_IS_FOLDER = 0x40000000
_IGNORED = 0x8000


class Change(NamedTuple):
    """One change in a watched directory."""

    kind: str
    """``created``, ``deleted``, ``modified``, ``written`` (closed after writing), ``attributes`` (on Windows
    these two are ``modified``), ``moved_from`` and
    ``moved_to`` (a rename within the directory gives both, with one `cookie`), ``gone`` (the directory
    itself; the last change), ``overflow`` (there were more than the kernel keeps:
    look at the directory again).
    """
    path: str
    """Of what has changed; of ``gone`` and ``overflow`` the directory's."""
    is_dir: bool
    """Whether that is a directory."""
    cookie: int
    """The same for the two halves of a rename; else 0."""


class DirectoryWatch:
    """The changes in one directory: an asynchronous iterator, and a context manager that ends it.

    Args:
        path: of the directory.
    """

    def __init__(self, path: Any) -> None:
        self._path = os.fsdecode(path)
        self._fd = -1
        self._closed = False
        self._loop: Any = None
        self._changes: deque[Change] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._starting: asyncio.Lock | None = None

    async def start(self) -> None:
        """Begin to watch; the first ``async for`` step does it too. Changes from now on are seen.

        Raises:
            OSError: it is no directory, or cannot be watched.
        """
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if not self._begun() and not self._closed:
                await self._begin()

    async def _begin(self) -> None:
        fd: int = await in_thread(access_for(), watch_directory, self._path, orphan=os.close)
        if self._closed:
            os.close(fd)
            return
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._loop.add_reader(fd, self._readable)

    def _begun(self) -> bool:
        return self._fd >= 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        if not self._begun() and not self._closed:
            await self.start()
        while not self._changes:
            if self._closed:
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("another task waits for the next change")
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._changes.popleft()

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._take(os.read(self._fd, 1 << 16))
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done() and (self._changes or self._closed):
            self._waiter.set_result(None)

    def _take(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            _wd, mask, cookie, size = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = data[at : at + size].split(b"\0", 1)[0]
            at += size
            kind = _KINDS.get(mask & 0x4FFF)
            if kind is not None:
                path = os.path.join(self._path, os.fsdecode(name)) if name else self._path
                self._changes.append(Change(kind, path, bool(mask & _IS_FOLDER), cookie))
            if mask & (_IGNORED | 0x800):
                self.close()  # the directory is not there any more

    def close(self) -> None:
        """End it: the iteration stops after the changes that were seen. Twice is allowed."""
        self._closed = True
        self._end()
        if self._waiter is not None and not self._waiter.done() and not self._loop.is_closed():
            self._waiter.set_result(None)

    def _end(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(fd)
            os.close(fd)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._begun():
            try:
                warnings.warn(f"unclosed watch of {self._path!r}", ResourceWarning, stacklevel=2, source=self)
            finally:  # also where warnings are errors
                self.close()


def watch(path: Any) -> DirectoryWatch:
    """The changes in a directory (not in those below it), as they happen.

    ::

        async with files.watch(path) as changes:
            async for change in changes:
                print(change.kind, change.path)

    Raises:
        OSError: when it begins: `path` is no directory, or there are too many watches, inotify(7). ENOSYS:
        this system
            has no inotify. On Windows the system's own, of ReadDirectoryChangesW.
    """
    if sys.platform == "win32":
        from proactorx.files.winwatching import WindowsDirectoryWatch

        return WindowsDirectoryWatch(path)
    return DirectoryWatch(path)
