"""``copy`` and ``copy_tree``, by calls on IO threads; within the kernel where it can."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

from proactorx.files.access import access_for
from proactorx.files.thread_call import in_thread
from proactorx.files.writing import FLAGS, AnyPath, write_all

if sys.platform.startswith("linux"):
    import fcntl

_T = TypeVar("_T")

#: How a file was copied: the two share blocks, FICLONE of ioctl(2); the kernel or a server copied the bytes;
#: this process read and wrote them.
By = Literal["reflink", "copy_file_range", "read_write"]
Progress = Callable[[int, int], object]

#: Bytes after which a copy reports its progress and checks whether it was cancelled.
_PIECE = 8 << 20
#: Errors by which copy_file_range(2) refuses files that can still be read and written.
_NOT_BY_RANGE = (
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EBADF,
    errno.ETXTBSY,
)
_FICLONE = 0x40049409  # linux/fs.h; a few machines number their calls otherwise, and refuse this one


class Copied(int):
    """How many bytes were copied, and how.

    Attributes:
        by: ``reflink``: the two files share their blocks until one is changed; ``copy_file_range``: the
            kernel copied the bytes, or the server that has both files; ``read_write``: this process did.
    """

    by: By

    def __new__(cls, count: int, by: By) -> Copied:
        self = super().__new__(cls, count)
        self.by = by
        return self

    def __repr__(self) -> str:
        return f"Copied({int(self)}, by={self.by!r})"


class CopiedTree(int):
    """How many bytes of files were copied, and how.

    Attributes:
        files: how many files that were.
        by: how many of them in which way, see ``Copied``.
    """

    files: int
    by: dict[By, int]

    def __new__(cls, count: int, by: dict[By, int]) -> CopiedTree:
        self = super().__new__(cls, count)
        self.files = sum(by.values())
        self.by = by
        return self

    def __repr__(self) -> str:
        return f"CopiedTree({int(self)}, files={self.files}, by={self.by!r})"


class _Stop(Exception):
    """The copy was cancelled."""


class _Copy:
    """The body of a copy, and what it shares with the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, progress: Progress | None) -> None:
        self.loop = loop
        self.progress = progress
        self.failure: BaseException | None = None
        self.stop = False
        self.done = 0  # by all files
        self.total = 0
        self.by: Counter[By] = Counter()

    async def run(self, body: Callable[[Any, Any], _T], source: AnyPath, target: AnyPath) -> _T | None:
        """The result of `body`, run on an IO thread; None when it was stopped."""
        try:
            result = await in_thread(access_for(), body, source, target)
        finally:
            self.stop = True
        if self.failure is not None:
            raise self.failure
        return result

    def file(self, source: Any, target: Any) -> Copied:
        """Copy the bytes of a file."""
        source_fd = os.open(source, os.O_RDONLY | FLAGS)
        try:
            facts = os.fstat(source_fd)
            if os.path.exists(target) and os.path.samestat(facts, os.stat(target)):
                raise shutil.SameFileError(f"{source!r} and {target!r} are the same file")
            if self.stop:  # cancelled before it began: the target stays as it is
                return Copied(0, "read_write")
            target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | FLAGS, 0o666)
            try:
                begun = self.done
                self.total = max(self.total, begun + facts.st_size)
                by: By = (
                    "reflink"
                    if self._clone(source_fd, target_fd, facts)
                    else self._pieces(source_fd, target_fd)
                )
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)
        self.by[by] += 1
        return Copied(self.done - begun, by)

    def _clone(self, source: int, target: int, facts: os.stat_result) -> bool:
        if sys.platform.startswith("linux") and stat.S_ISREG(facts.st_mode) and facts.st_size:
            try:
                fcntl.ioctl(target, _FICLONE, source)
            except OSError:
                return False  # another file system, or one without it; or copying it will say what is wrong
            self._moved(os.fstat(target).st_size)
            return True
        return False

    def _pieces(self, source: int, target: int) -> By:
        by: By = "read_write"
        by_range = hasattr(os, "copy_file_range")
        while not self.stop:
            moved = 0
            if by_range:
                try:
                    copy_range: Any = os.copy_file_range  # type: ignore[attr-defined, unused-ignore]
                    moved = copy_range(source, target, _PIECE)
                except OSError as exc:
                    if exc.errno not in _NOT_BY_RANGE:
                        raise
            if moved:
                by = "copy_file_range"
            else:
                # The end, or a file that can only be read by read(2), such as one in /proc.
                by_range = False
                data = os.read(source, 1 << 20)
                write_all(target, data)
                moved = len(data)
            if not moved:
                break
            self._moved(moved)
        return by

    def _moved(self, count: int) -> None:
        self.done += count
        if self.progress is not None:
            self.loop.call_soon_threadsafe(self._tell, self.done, max(self.total, self.done))

    def _tell(self, done: int, total: int) -> None:
        if self.progress is None or self.stop:
            return
        try:
            self.progress(done, total)
        except BaseException as exc:
            self.failure = exc
            self.stop = True

    def tree(self, source: Any, target: Any, options: dict[str, Any]) -> CopiedTree | None:
        """Copy a directory with all that it holds."""
        if self.progress is not None:
            self.total = _size_of(source, options["symlinks"])
        with contextlib.suppress(_Stop):
            shutil.copytree(source, target, copy_function=self._with_facts, **options)
            return CopiedTree(self.done, dict(self.by))
        return None

    def _with_facts(self, source: Any, target: Any) -> Any:
        """``shutil.copy2``."""
        if self.stop:
            raise _Stop
        if stat.S_ISFIFO(os.stat(source).st_mode):
            raise shutil.SpecialFileError(f"{source!r} is a named pipe")  # opening it would wait for a writer
        self.file(source, target)
        shutil.copystat(source, target)
        return target


def _size_of(top: Any, symlinks: bool) -> int:
    """About how many bytes the files in a directory have."""
    size = 0
    for folder, _, names in os.walk(top, followlinks=not symlinks):
        for name in names:
            with contextlib.suppress(OSError):
                facts = os.stat(os.path.join(folder, name), follow_symlinks=not symlinks)
                size += facts.st_size if stat.S_ISREG(facts.st_mode) else 0
    return size


async def copy(source: AnyPath, target: AnyPath, *, progress: Progress | None = None) -> Copied:
    """Copy the bytes of a file.

    Where the file system can share blocks between files (Btrfs, XFS, bcachefs, ...), a copy takes no time and
    no room: FICLONE of ioctl(2). Else the kernel copies the bytes where it can: copy_file_range(2).

    Args:
        source: a path.
        target: a path; an existing file is replaced.
        progress: called in the loop's thread with the number of bytes copied so far, and of all. An exception
            that it raises ends the copy.

    A cancelled copy ends after the current piece of at most 8 MiB, and leaves that part of the target.
    Sharing blocks is one call, which nothing ends early.

    Returns:
        Copied: the number of bytes; its attribute `by` is the method.

    Raises:
        OSError: a file cannot be opened, read or written.
        shutil.SameFileError: the two are one file.
    """
    body = _Copy(asyncio.get_running_loop(), progress)
    copied = await body.run(body.file, os.fsencode(source), os.fsencode(target))
    assert copied is not None
    return copied


async def copy_tree(
    source: AnyPath,
    target: AnyPath,
    *,
    symlinks: bool = False,
    ignore: Callable[[Any, list[str]], Iterable[str]] | None = None,
    ignore_dangling_symlinks: bool = False,
    dirs_exist_ok: bool = False,
    progress: Progress | None = None,
) -> CopiedTree:
    """Copy a directory and its contents, as ``shutil.copytree`` does.

    Each file is copied as by ``copy``, with its times and mode.

    Args:
        source: a path.
        target: a path that does not exist yet.
        symlinks: copy symbolic links as such, and not what they point to.
        ignore: called with a directory and the names in it; returns the names to leave out.
        ignore_dangling_symlinks: leave out links that point nowhere; else they are errors.
        dirs_exist_ok: copy into existing directories.
        progress: as for ``copy``, for all files together.

    A cancelled copy ends as ``copy`` does.

    Returns:
        CopiedTree: the number of bytes; its attributes are the number of files and, for each method, how many
            files were copied by it.

    Raises:
        OSError: a directory cannot be read or made.
        shutil.Error: with a list of the files that could not be copied; all others were.
    """
    body = _Copy(asyncio.get_running_loop(), progress)
    options = {
        "symlinks": symlinks,
        "ignore": ignore,
        "ignore_dangling_symlinks": ignore_dangling_symlinks,
        "dirs_exist_ok": dirs_exist_ok,
    }
    copied = await body.run(lambda a, b: body.tree(a, b, options), os.fspath(source), os.fspath(target))
    assert copied is not None
    return copied
