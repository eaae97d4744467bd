"""``write_bytes`` and ``copy``: whole files, by one call on an IO thread."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable
from typing import Any

from proactorx.files.access import access_for
from proactorx.files.bodies import in_thread

if sys.platform == "win32":
    from proactorx.files import windows

#: Not inherited by children; on Windows also: bytes as they are.
_FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)

_Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

#: ``copy`` looks for a cancellation, and tells of its progress, so often.
_PIECE = 8 << 20
#: What copy_file_range(2) says of files that it cannot copy and that can be read and written all the same.
_NOT_BY_RANGE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY)


def _write_all(fd: int, data: Any) -> None:
    view = memoryview(data).cast("B")
    while view.nbytes:
        view = view[os.write(fd, view) :]


def _sync_folder(path: Any) -> None:
    fd = os.open(os.path.dirname(path) or os.curdir.encode(), os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(path: bytes, data: Any, durable: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o666)
    try:
        _write_all(fd, data)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def _replace(path: bytes, data: Any, durable: bool) -> None:
    path = os.path.realpath(path)  # what a symbolic link points to is replaced, not the link
    folder, name = os.path.split(path)
    beside = os.path.join(folder, b".%s.%s.tmp" % (name[:200], secrets.token_hex(8).encode()))
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
    try:
        try:
            if sys.platform != "win32":
                with contextlib.suppress(FileNotFoundError):
                    os.fchmod(fd, stat.S_IMODE(os.stat(path).st_mode))
            _write_all(fd, data)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        if durable and sys.platform == "win32":
            windows.replace_durably(beside, path)
        else:
            os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def _write_file(path: bytes, data: Any, atomic: bool, durable: bool) -> int:
    (_replace if atomic else _write)(path, data, durable)
    if durable and sys.platform != "win32":
        _sync_folder(os.path.realpath(path))
    return memoryview(data).nbytes


async def write_bytes(path: _Path, data: Any, *, atomic: bool = False, durable: bool = False) -> int:
    """Make a file of `data`, in the place of one that is there; how many bytes that were.

    Args:
        path: of the file.
        data: anything with the buffer protocol; not to be changed before this has ended.
        atomic: others see the old file or the new one, and nothing between: it is written under another name in the
            same directory, and renamed. It keeps the permissions of the old one, but not on Windows.
        durable: the disk has it when this has ended, fsync(2), its name too; on Windows a name that is new may still
            be on its way, unless `atomic`.

    Cancelled, it ends all the same, in the background.

    Raises:
        OSError: it cannot be written; with `atomic` the old file is as it was.
    """
    written: int = await in_thread(access_for(), _write_file, os.fsencode(path), data, atomic, durable)
    return written


class _Copy:
    """The body of ``copy``, and what it shares with the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, progress: Callable[[int, int], object] | None) -> None:
        self.loop = loop
        self.progress = progress
        self.failure: BaseException | None = None
        self.stop = False

    def run(self, source: bytes, target: bytes) -> int:
        """Copy; on an IO thread."""
        source_fd = os.open(source, os.O_RDONLY | _FLAGS)
        try:
            facts = os.fstat(source_fd)
            if os.path.exists(target) and os.path.samestat(facts, os.stat(target)):
                raise shutil.SameFileError(f"{source!r} and {target!r} are the same file")
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS
            target_fd = os.open(target, flags, 0o666)
            try:
                return self._pieces(source_fd, target_fd, facts.st_size)
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)

    def _pieces(self, source: int, target: int, size: int) -> int:
        done = 0
        by_range = hasattr(os, "copy_file_range")
        while not self.stop:
            moved = 0
            if by_range:
                try:
                    moved = os.copy_file_range(source, target, _PIECE)  # type: ignore[attr-defined, unused-ignore]
                except OSError as exc:
                    if exc.errno not in _NOT_BY_RANGE:
                        raise
            if not moved:
                # The end; or a file that only read(2) knows how to read, as those of /proc.
                by_range = False
                data = os.read(source, 1 << 20)
                _write_all(target, data)
                moved = len(data)
            if not moved:
                break
            done += moved
            if self.progress is not None:
                self.loop.call_soon_threadsafe(self._tell, done, max(size, done))
        return done

    def _tell(self, done: int, size: int) -> None:
        if self.progress is None or self.stop:
            return
        try:
            self.progress(done, size)
        except BaseException as exc:
            self.failure = exc
            self.stop = True


async def copy(source: _Path, target: _Path, *, progress: Callable[[int, int], object] | None = None) -> int:
    """Copy the bytes of a file, within the kernel where it can, copy_file_range(2); how many that were.

    Args:
        source: a path.
        target: a path; what is there is replaced.
        progress: called in the loop's thread with the number of bytes copied so far, and of all. What it raises ends
            the copy.

    Cancelled, it ends after the piece of at most 8 MiB at which it is; a part of the target is there then.

    Raises:
        OSError: a file cannot be opened, read or written.
        shutil.SameFileError: the two are one file.
    """
    body = _Copy(asyncio.get_running_loop(), progress)
    try:
        done: int = await in_thread(access_for(), body.run, os.fsencode(source), os.fsencode(target))
    finally:
        body.stop = True
    if body.failure is not None:
        raise body.failure
    return done
