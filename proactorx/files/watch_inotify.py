"""A watch of a directory by inotify(7), through the loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct

from proactorx.files.access import access_for
from proactorx.files.directory_watch import Change, DirectoryWatch
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


class InotifyWatch(DirectoryWatch):
    """See ``DirectoryWatch``."""

    _fd = -1

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

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._take(os.read(self._fd, 1 << 16))
        self._wake()

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

    def _end(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            if not self._loop.is_closed():
                self._loop.remove_reader(fd)
            os.close(fd)
