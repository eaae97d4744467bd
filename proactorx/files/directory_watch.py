"""A watch of a directory, whichever system call tells of the changes."""

from __future__ import annotations

import abc
import asyncio
import os
import warnings
from collections import deque
from types import TracebackType
from typing import Any, NamedTuple, Self


class Change(NamedTuple):
    """One change in a watched directory."""

    kind: str
    """What happened:

    ``created``, ``deleted``, ``modified``, ``attributes``, and ``written``: closed after writing. On Windows
    the last two are ``modified``.
    ``moved_from`` and ``moved_to``: a rename within the directory gives both, with one `cookie`.
    ``gone``: the directory itself is no longer there; this is the last change.
    ``overflow``: there were more changes than the kernel keeps; look at the directory again.
    """
    path: str
    """Of the file or directory that changed; for ``gone`` and ``overflow``, of the watched directory."""
    is_dir: bool
    """Whether that is a directory."""
    cookie: int
    """Equal in the two halves of a rename; else 0."""


class DirectoryWatch(abc.ABC):
    """The changes in one directory: an asynchronous iterator, and a context manager that ends it.

    Args:
        path: of the directory.
    """

    def __init__(self, path: Any) -> None:
        self._path = os.fsdecode(path)
        self._closed = False
        self._loop: Any = None
        self._changes: deque[Change] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._starting: asyncio.Lock | None = None

    async def start(self) -> None:
        """Begin to watch: the iteration gives all changes from now on. The first step does so too.

        Raises:
            OSError: the path is no directory, or cannot be watched.
        """
        if self._starting is None:
            self._starting = asyncio.Lock()
        async with self._starting:
            if not self._begun() and not self._closed:
                await self._begin()

    @abc.abstractmethod
    async def _begin(self) -> None:
        """Have ``_changes`` filled from now on, and ``_wake`` called."""

    @abc.abstractmethod
    def _begun(self) -> bool:
        """Whether ``_begin`` has ended, and ``_end`` has not been called."""

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

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done() and (self._changes or self._closed):
            self._waiter.set_result(None)

    def close(self) -> None:
        """End the watch: the iteration stops after the changes that were seen. Further calls do nothing."""
        self._closed = True
        self._end()
        if self._waiter is not None and not self._waiter.done() and not self._loop.is_closed():
            self._waiter.set_result(None)

    @abc.abstractmethod
    def _end(self) -> None:
        """Undo ``_begin``; nothing happens where it was not called."""

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
