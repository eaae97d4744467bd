"""Temporary files and directories: the standard library's ``tempfile``, asynchronous.

``tempfile`` itself makes and removes them, on IO threads.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial
from typing import Any

from proactorx.files.access import access_for
from proactorx.files.async_file import AsyncBase
from proactorx.files.opening import OpeningContextManager, wrap
from proactorx.files.thread_call import in_thread

__all__ = ["NamedTemporaryFile", "SpooledTemporaryFile", "TemporaryDirectory", "TemporaryFile"]

_Loop = asyncio.AbstractEventLoop | None


async def _make(make: Any, loop: _Loop, executor: Executor | None) -> Any:
    made = await in_thread(access_for(loop, executor), make, orphan=_close)
    # A named one is a wrapper with the file inside; its own close removes the file.
    inner = getattr(made, "file", made)
    handler = wrap.dispatch(type(inner))
    return handler(made, loop=loop, executor=executor)


def _close(made: Any) -> None:
    made.close()


if sys.version_info >= (3, 12):

    def NamedTemporaryFile(
        mode: str = "w+b",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: str | None = None,
        prefix: str | None = None,
        dir: Any = None,
        delete: bool = True,
        delete_on_close: bool = True,
        loop: _Loop = None,
        executor: Executor | None = None,
    ) -> OpeningContextManager[Any]:
        """A temporary file that has a name: ``tempfile.NamedTemporaryFile``."""
        make = partial(
            tempfile.NamedTemporaryFile,
            mode=mode,
            buffering=buffering,
            encoding=encoding,
            newline=newline,
            suffix=suffix,
            prefix=prefix,
            dir=dir,
            delete=delete,
            delete_on_close=delete_on_close,
        )
        return _Temporary(_make(make, loop, executor))

else:

    def NamedTemporaryFile(
        mode: str = "w+b",
        buffering: int = -1,
        encoding: str | None = None,
        newline: str | None = None,
        suffix: str | None = None,
        prefix: str | None = None,
        dir: Any = None,
        delete: bool = True,
        loop: _Loop = None,
        executor: Executor | None = None,
    ) -> OpeningContextManager[Any]:
        """A temporary file that has a name: ``tempfile.NamedTemporaryFile``."""
        make = partial(
            tempfile.NamedTemporaryFile,
            mode=mode,
            buffering=buffering,
            encoding=encoding,
            newline=newline,
            suffix=suffix,
            prefix=prefix,
            dir=dir,
            delete=delete,
        )
        return _Temporary(_make(make, loop, executor))


def TemporaryFile(
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Any = None,
    loop: _Loop = None,
    executor: Executor | None = None,
) -> OpeningContextManager[Any]:
    """A temporary file without a name: ``tempfile.TemporaryFile``."""
    make = partial(
        tempfile.TemporaryFile,
        mode=mode,
        buffering=buffering,
        encoding=encoding,
        newline=newline,
        suffix=suffix,
        prefix=prefix,
        dir=dir,
    )
    return _Temporary(_make(make, loop, executor))


def SpooledTemporaryFile(
    max_size: int = 0,
    mode: str = "w+b",
    buffering: int = -1,
    encoding: str | None = None,
    newline: str | None = None,
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Any = None,
    loop: _Loop = None,
    executor: Executor | None = None,
) -> OpeningContextManager[Any]:
    """One that is kept in memory until it is larger than `max_size`: ``tempfile.SpooledTemporaryFile``."""
    make = partial(
        tempfile.SpooledTemporaryFile,
        max_size=max_size,
        mode=mode,
        buffering=buffering,
        encoding=encoding,
        newline=newline,
        suffix=suffix,
        prefix=prefix,
        dir=dir,
    )
    return _Temporary(_spooled(make, loop, executor))


def TemporaryDirectory(
    suffix: str | None = None,
    prefix: str | None = None,
    dir: Any = None,
    loop: _Loop = None,
    executor: Executor | None = None,
) -> OpeningContextManager[Any]:
    """A directory that is removed with its contents, ``tempfile.TemporaryDirectory``; entered, its path."""
    return _TemporaryName(
        _directory(partial(tempfile.TemporaryDirectory, suffix, prefix, dir), loop, executor)
    )


async def _spooled(make: Any, loop: _Loop, executor: Executor | None) -> Any:
    made = await in_thread(access_for(loop, executor), make, orphan=_close)
    return AsyncSpooledTemporaryFile(made, loop=loop, executor=executor)


async def _directory(make: Any, loop: _Loop, executor: Executor | None) -> Any:
    made = await in_thread(access_for(loop, executor), make, orphan=_clean_up)
    return AsyncTemporaryDirectory(made, loop=loop, executor=executor)


def _clean_up(made: tempfile.TemporaryDirectory[str]) -> None:
    made.cleanup()


class _Temporary(OpeningContextManager[Any]):
    __slots__ = ()

    async def __aexit__(self, *exc_info: Any) -> None:
        # Not close: where delete_on_close is off, the file is removed at the end of the block.
        handle: Any = self._obj
        self._obj = None
        await handle._exit_block(*exc_info)


class _TemporaryName(OpeningContextManager[Any]):
    __slots__ = ()

    async def __aenter__(self) -> Any:
        return (await self).name

    async def __aexit__(self, *exc_info: Any) -> None:
        made: Any = self._obj
        self._obj = None
        await made.cleanup()


class AsyncSpooledTemporaryFile(AsyncBase[Any, Any]):
    """The asynchronous ``tempfile.SpooledTemporaryFile``: on IO threads from when it is a file on disk."""

    async def _do(self, name: str, *args: Any) -> Any:
        file: Any = self._file
        if file._rolled:
            return await self._simple(name, args)
        return getattr(file, name)(*args)

    async def _write(self, name: str, data: Any) -> Any:
        file: Any = self._file
        if file._rolled:
            return await self._simple(name, (data,))
        # To the memory file itself: rolling over writes to the disk, and is done on an IO thread.
        result = getattr(file._file, name)(data)
        if file._max_size and file._file.tell() > file._max_size:
            await self.rollover()
        return result

    async def write(self, data: Any) -> Any:
        """Write `data`."""
        return await self._write("write", data)

    async def writelines(self, lines: Iterable[Any]) -> None:
        """Write each of `lines`."""
        await self._write("writelines", lines)

    async def rollover(self) -> None:
        """Move what is in memory to a file on disk."""
        await self._simple("rollover")

    async def fileno(self) -> int:
        """The descriptor of the file on disk, which is made for it."""
        number: int = await self._simple("fileno")
        return number

    async def close(self) -> None:
        """Close and remove it."""
        await self._do("close")

    async def flush(self) -> None:
        """Write what is buffered."""
        await self._do("flush")

    async def isatty(self) -> bool:
        """False."""
        answer: bool = await self._do("isatty")
        return answer

    async def read(self, *args: Any) -> Any:
        """Read: ``read(size=-1)``."""
        return await self._do("read", *args)

    async def readline(self, *args: Any) -> Any:
        """One line: ``readline(size=-1)``."""
        return await self._do("readline", *args)

    async def __anext__(self) -> Any:
        line = await self.readline()
        if not line:
            raise StopAsyncIteration
        return line

    async def readlines(self, *args: Any) -> Any:
        """The lines: ``readlines(hint=-1)``."""
        return await self._do("readlines", *args)

    async def seek(self, *args: Any) -> Any:
        """Move to a position: ``seek(offset, whence=0)``."""
        return await self._do("seek", *args)

    async def tell(self) -> int:
        """The position."""
        position: int = await self._do("tell")
        return position

    async def truncate(self, *args: Any) -> Any:
        """Cut it to a size: ``truncate(size)``."""
        return await self._do("truncate", *args)

    @property
    def encoding(self) -> str:
        """The name of the encoding, of a text file."""
        name: str = self._file.encoding
        return name

    @property
    def newlines(self) -> Any:
        """The line ends that were seen so far, of a text file."""
        return self._file.newlines


class AsyncTemporaryDirectory:
    """The asynchronous ``tempfile.TemporaryDirectory``.

    Args:
        file: the directory.
        loop: the loop that uses it; default: the one that runs.
        executor: where it is removed; default: an IO thread.
    """

    def __init__(
        self, file: tempfile.TemporaryDirectory[str], loop: _Loop, executor: Executor | None
    ) -> None:
        self._file = file
        self._loop = loop
        self._executor = executor

    @property
    def name(self) -> str:
        """The path of the directory."""
        return self._file.name

    async def cleanup(self) -> None:
        """Remove the directory with its contents."""
        await in_thread(access_for(self._loop, self._executor), self._file.cleanup)

    async def close(self) -> None:
        """Remove the directory, as ``cleanup`` does."""
        await self.cleanup()
