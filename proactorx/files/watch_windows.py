"""``watch`` on Windows: for each directory a thread waits for changes, ReadDirectoryChangesW."""

from __future__ import annotations

import asyncio
import itertools
import os
import struct
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

from proactorx.files.directory_watch import Change, DirectoryWatch

if sys.platform == "win32" or TYPE_CHECKING:
    from proactorx.files.windows import FolderChanges

_RECORD = struct.Struct("<III")  # FILE_NOTIFY_INFORMATION without the name
_KINDS = {1: "created", 2: "deleted", 3: "modified", 4: "moved_from", 5: "moved_to"}


class Listener:
    """The body of the thread. It tells the loop of changes, and holds no strong reference to the watch.

    Args:
        watch: gets the changes.
        path: of the directory.
        loop: of the watch.
        started: the future that ends when changes are seen.
    """

    def __init__(
        self,
        watch: WindowsWatch,
        path: str,
        loop: asyncio.AbstractEventLoop,
        started: asyncio.Future[None],
    ) -> None:
        self._watch = weakref.ref(watch)
        self._path = path
        self._loop = loop
        self._started = started
        self._stopped = False
        self._lock = threading.Lock()
        self._changes: FolderChanges | None = None
        self._folders: set[str] = set()
        self._cookies = itertools.count(1)

    def run(self) -> None:
        """Until it is stopped, or the directory or the loop is gone."""
        try:
            changes = FolderChanges(self._path)
            changes.begin()
            with os.scandir(self._path) as entries:
                self._folders = {entry.name for entry in entries if entry.is_dir()}
        except BaseException as exc:
            self._tell(_settle, self._started, exc)
            return
        with self._lock:
            self._changes = changes
            if self._stopped:
                changes.stop()
        self._tell(_settle, self._started, None)
        while True:
            try:
                data = changes.end()
                if data is None:
                    return
                changes.begin()
            except OSError:
                self._tell(_hear, self._watch, [Change("gone", self._path, True, 0)])
                return
            found = list(self._records(data)) if data else [Change("overflow", self._path, True, 0)]
            self._tell(_hear, self._watch, found)

    def stop(self) -> None:
        """End the thread; called by any other."""
        with self._lock:
            self._stopped = True
            if self._changes is not None:
                self._changes.stop()

    def _tell(self, *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(*args)  # type: ignore[arg-type]
        except RuntimeError:
            self.stop()  # the loop is closed

    def _records(self, data: bytes) -> Iterator[Change]:
        at = cookie = 0
        while True:
            step, action, size = _RECORD.unpack_from(data, at)
            name = data[at + _RECORD.size : at + _RECORD.size + size].decode("utf-16-le", "surrogatepass")
            kind, path = _KINDS.get(action, "modified"), os.path.join(self._path, name)
            if kind in ("created", "moved_to") and os.path.isdir(path):
                self._folders.add(name)
            is_dir = name in self._folders
            if kind in ("deleted", "moved_from"):
                self._folders.discard(name)
            if kind == "moved_from":
                cookie = next(self._cookies)
            yield Change(kind, path, is_dir, cookie if kind.startswith("moved") else 0)
            if not step:
                return
            at += step


def _settle(started: asyncio.Future[None], exc: BaseException | None) -> None:
    if started.done():
        return
    if exc is None:
        started.set_result(None)
    else:
        started.set_exception(exc)


def _hear(watch: weakref.ref[WindowsWatch], changes: list[Change]) -> None:
    heard = watch()
    if heard is not None:
        heard._hear(changes)


class WindowsWatch(DirectoryWatch):
    """See ``DirectoryWatch``."""

    _listener: Listener | None = None

    async def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        started = self._loop.create_future()
        self._listener = listener = Listener(self, self._path, self._loop, started)
        threading.Thread(target=listener.run, name="proactorx-watch", daemon=True).start()
        try:
            await started
        except BaseException:
            self._end()
            raise

    def _begun(self) -> bool:
        return self._listener is not None

    def _hear(self, changes: list[Change]) -> None:
        if self._closed:
            return
        self._changes += changes
        if changes[-1].kind == "gone":
            self.close()
        self._wake()

    def _end(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()
