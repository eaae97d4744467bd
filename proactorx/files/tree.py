"""``scandir``, ``walk`` and ``stat_many``: each call on an IO thread handles some hundred entries."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, Self

from proactorx.files.access import access_for
from proactorx.files.thread_call import in_thread

_BATCH = 256


class ScanDir:
    """The entries of a directory, as ``os.DirEntry``: an asynchronous iterator and context manager.

    Args:
        path: of the directory; default: the current one.
    """

    def __init__(self, path: Any = ".") -> None:
        self._path = path
        self._entries: Any = None
        self._batch: Iterator[os.DirEntry[Any]] = iter(())
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    def _next(self) -> tuple[Any, list[os.DirEntry[Any]]]:
        entries = os.scandir(self._path) if self._entries is None else self._entries
        try:
            batch = list(islice(entries, _BATCH))
        except BaseException:
            entries.close()
            raise
        if len(batch) < _BATCH:
            entries.close()
        return entries, batch

    async def __anext__(self) -> os.DirEntry[Any]:
        entry = next(self._batch, None)
        if entry is None and not self._ended:
            # From here on it is the call's: a directory must not be closed while it is read.
            self._ended = True
            self._entries, batch = await in_thread(access_for(), self._next, orphan=_close_first)
            self._ended = len(batch) < _BATCH
            self._batch = iter(batch)
            entry = next(self._batch, None)
        if entry is None:
            raise StopAsyncIteration
        return entry

    async def aclose(self) -> None:
        """Close the directory before all of it was read."""
        if not self._ended:
            self._ended = True
            if self._entries is not None:
                self._entries.close()
        self._batch = iter(())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()


def _close_first(result: tuple[Any, Any]) -> None:
    result[0].close()


def scandir(path: Any = ".") -> ScanDir:
    """The entries of a directory: ``async for entry in files.scandir(path)``; `entry` is an ``os.DirEntry``.

    The directory is read some hundred entries at a time; ``async with`` closes it early. The ``name`` and
    ``path`` of an entry make no system call, and neither does ``is_dir()`` in most cases; ``stat()`` may wait
    for the disk (see ``stat_many``).

    Raises:
        OSError: at the first entry, when it cannot be opened.
    """
    return ScanDir(path)


def _list(path: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Names of directories, names of others, and paths of the directories that are no symbolic links."""
    folders, others, real = [], [], []
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False  # as os.walk has it
            if is_folder:
                folders.append(entry.name)
                try:
                    if not entry.is_symlink():
                        real.append(entry.name)
                except OSError:
                    real.append(entry.name)
            else:
                others.append(entry.name)
    return folders, others, real


async def walk(
    top: Any,
    topdown: bool = True,
    onerror: Callable[[OSError], object] | None = None,
    followlinks: bool = False,
) -> AsyncIterator[tuple[Any, list[Any], list[Any]]]:
    """``os.walk``, one call on an IO thread for each directory: (path, names of directories, names of files).

    Args:
        top: where to begin.
        topdown: a directory comes before those in it; its list of names may be changed to leave some out.
        onerror: called with the ``OSError`` of a directory that cannot be read; default: it is left out.
        followlinks: go into directories that are symbolic links.
    """
    top = os.fspath(top)
    stack: list[Any] = [top]
    while stack:
        path = stack.pop()
        if isinstance(path, tuple):
            yield path
            continue
        try:
            folders, others, real = await in_thread(access_for(), _list, path)
        except OSError as exc:
            if onerror is not None:
                onerror(exc)
            continue
        links = set(folders) - set(real)
        if topdown:
            yield path, folders, others
        else:
            stack.append((path, folders, others))
        stack += [os.path.join(path, name) for name in reversed(folders) if followlinks or name not in links]


def _stat_all(paths: list[Any], follow_symlinks: bool) -> list[os.stat_result | OSError]:
    found: list[os.stat_result | OSError] = []
    for path in paths:
        try:
            found.append(os.stat(path, follow_symlinks=follow_symlinks))
        except OSError as exc:
            found.append(exc)
    return found


async def stat_many(paths: Iterable[Any], *, follow_symlinks: bool = True) -> list[os.stat_result | OSError]:
    """``os.stat`` of each of `paths`, in their order; where a call fails, its ``OSError`` instead."""
    access = access_for()
    rest = iter(paths)
    found: list[os.stat_result | OSError] = []
    while batch := list(islice(rest, _BATCH)):
        found += await in_thread(access, _stat_all, batch, follow_symlinks)
    return found
