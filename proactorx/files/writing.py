"""``write_bytes``: a whole file, by one call on an IO thread."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
from typing import Any

from proactorx.files.access import access_for
from proactorx.files.thread_call import in_thread

if sys.platform == "win32":
    from proactorx.files import windows

#: Not inherited by children; on Windows also: bytes as they are.
FLAGS = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)

AnyPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def write_all(fd: int, data: Any) -> None:
    """write(2), until all of `data` is written."""
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
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | FLAGS, 0o666)
    try:
        write_all(fd, data)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def _take_after(fd: int, old: os.stat_result) -> None:
    """Give a new file, which only we can read, the owner, group and mode of `old` as far as permitted."""
    if sys.platform == "win32":
        return  # there, a file inherits the rights of its folder
    mode = stat.S_IMODE(old.st_mode)
    new = os.fstat(fd)
    if new.st_gid != old.st_gid:
        with contextlib.suppress(OSError):
            os.fchown(fd, -1, old.st_gid)
    if new.st_uid != old.st_uid:
        with contextlib.suppress(OSError):
            os.fchown(fd, old.st_uid, -1)
    new = os.fstat(fd)
    if new.st_gid != old.st_gid:  # the rights of another group are at most those of all users
        mode = mode & ~(stat.S_ISGID | stat.S_IRWXG) | (mode & mode << 3 & stat.S_IRWXG)
    if new.st_uid != old.st_uid:
        mode &= ~stat.S_ISUID
    os.fchmod(fd, mode)


def _replace(path: bytes, data: Any, durable: bool) -> None:
    path = os.path.realpath(path)  # replace the target of a symbolic link, not the link
    folder, name = os.path.split(path)
    beside = os.path.join(folder, b".%s.%s.tmp" % (name[:200], secrets.token_hex(8).encode()))
    old = None
    with contextlib.suppress(FileNotFoundError):
        old = os.stat(path)
    # No other user may read the file before it has the permissions of the one that it replaces.
    mode = 0o666 if old is None else 0o600
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | FLAGS, mode)
    try:
        try:
            if sys.platform != "win32" and old is not None:
                _take_after(fd, old)
            write_all(fd, data)
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


async def write_bytes(path: AnyPath, data: Any, *, atomic: bool = False, durable: bool = False) -> int:
    """Write a file, replacing any existing one.

    Args:
        path: of the file.
        data: any buffer; do not change it before this returns.
        atomic: write the file under another name in the same directory and rename it, so that other programs
            see either the old or the new file. On POSIX it keeps the permissions of the old file, and its
            owner and group as far as permitted (if not the group, that gets no more rights than all users).
        durable: return when the disk has the bytes and the name: fsync(2). On Windows a new name may reach
            the disk later, unless `atomic`.

    A cancelled call runs to its end in the background.

    Returns:
        int: the number of bytes written.

    Raises:
        OSError: the file cannot be written; with `atomic`, the old file is unchanged.
    """
    written: int = await in_thread(access_for(), _write_file, os.fsencode(path), data, atomic, durable)
    return written
