"""``files.open``, ``files.wrap``, and the standard streams."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager
from functools import partial, singledispatch
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from proactorx.files import direct as _direct
from proactorx.files.access import access_for
from proactorx.files.binary import (
    AsyncBinary,
    AsyncBufferedIOBase,
    AsyncBufferedReader,
    AsyncIndirectBufferedIOBase,
)
from proactorx.files.fast_open import open_by_op, open_now
from proactorx.files.raw_file import RawFile
from proactorx.files.text import AsyncTextIndirectIOWrapper, AsyncTextIOWrapper
from proactorx.files.thread_call import in_thread
from proactorx.files.unbuffered import AsyncFileIO

if TYPE_CHECKING:
    from _typeshed import (
        FileDescriptorOrPath,
        OpenBinaryMode,
        OpenBinaryModeReading,
        OpenBinaryModeUpdating,
        OpenBinaryModeWriting,
        OpenTextMode,
    )

_F = TypeVar("_F")

#: The largest buffer that a file system's own word on block sizes leads to, as in Python 3.14.
_LARGEST_BUFFER = 8 << 20


class OpeningContextManager(Awaitable[_F], AbstractAsyncContextManager[_F], Generic[_F]):
    """What ``open`` returns: await it, or enter it with ``async with``."""

    __slots__ = ("_coro", "_obj")

    def __init__(self, coro: Coroutine[Any, Any, _F]) -> None:
        self._coro = coro
        self._obj: _F | None = None

    def __await__(self) -> Generator[Any, Any, _F]:
        if self._obj is None:
            self._obj = yield from self._coro.__await__()
        return self._obj

    async def __aenter__(self) -> _F:
        return await self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        obj: Any = self._obj
        self._obj = None
        await obj.close()


def _buffer_size(raw: RawFile, buffering: int) -> tuple[int, bool]:
    """(size of the buffer, whether lines are flushed) as ``io.open`` documents them."""
    if buffering == 1 or (buffering < 0 and raw.isatty()):
        buffering, lines = -1, True
    else:
        lines = False
    if buffering < 0:
        # As much as this Python's own open() takes: where a decoder stops at an error depends on it.
        buffering = getattr(raw, "_blksize", io.DEFAULT_BUFFER_SIZE)
        if sys.version_info >= (3, 14):
            buffering = max(min(buffering, _LARGEST_BUFFER), io.DEFAULT_BUFFER_SIZE)
    return buffering, lines


def _check_mode(mode: str) -> None:
    kinds = set(mode) & set("rwax")
    if set(mode) - set("axrwb+t") or len(mode) > len(set(mode)):
        raise ValueError(f"invalid mode: {mode!r}")
    if "t" in mode and "b" in mode:
        raise ValueError("can't have text and binary mode at once")
    if len(kinds) != 1:
        raise ValueError("must have exactly one of create/read/write/append mode")


def _stack(
    raw: RawFile,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> Any:
    """The stack of ``io`` objects that ``io.open`` would have put on `raw`."""
    binary = "b" in mode
    size, lines = _buffer_size(raw, buffering)
    raw._state.buffer = size
    if buffering == 0:
        if binary:
            return raw
        raise ValueError("can't have unbuffered text I/O")
    kind: Any
    if "+" in mode:
        kind = io.BufferedRandom
    elif "r" in mode:
        kind = io.BufferedReader
    else:
        kind = io.BufferedWriter
    buffered = kind(raw, size)
    if binary:
        return buffered
    try:
        text = io.TextIOWrapper(buffered, encoding, errors, newline, lines)
    except BaseException:
        buffered.close()
        raise
    text.mode = mode  # type: ignore[misc]
    return text


def _make(
    file: Any,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    closefd: bool,
    opener: Callable[[str, int], int] | None,
    known: bool = False,
    direct: bool = False,
) -> Any:
    """Open `file`.  `known`: its file system is local."""
    raw_mode = "".join(letter for letter in mode if letter in "axrw+")
    raw = RawFile(file, raw_mode, closefd, opener)
    try:
        if known:
            raw._state.trust_file_system()
        else:
            raw._state.look_at_file_system()
            raw._state.take_second(direct)
        return _stack(raw, mode, buffering, encoding, errors, newline)
    except BaseException:
        raw.close()
        raise


def _flags(mode: str) -> int:
    """Of open(2), as ``io.FileIO`` gives them."""
    flags = os.O_RDWR if "+" in mode else os.O_RDONLY if "r" in mode else os.O_WRONLY
    kinds = {"w": os.O_CREAT | os.O_TRUNC, "x": os.O_CREAT | os.O_EXCL, "a": os.O_CREAT | os.O_APPEND}
    return flags | kinds.get((set(mode) & set("rwax")).pop(), 0)


class _Opened:
    """A descriptor that ``io.FileIO`` is to take; it raises before that where an audit hook says so."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def take(self, _path: Any, _flags: int) -> int:
        fd, self.fd = self.fd, -1
        return fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _check(mode: str, buffering: int, encoding: Any, errors: Any, newline: Any) -> None:
    """The errors of ``io.open`` that come before the file is opened."""
    _check_mode(mode)
    if "b" in mode:
        for word, value in (("encoding", encoding), ("errors", errors), ("newline", newline)):
            if value is not None:
                article = "an" if word != "newline" else "a"
                raise ValueError(f"binary mode doesn't take {article} {word} argument")
    elif buffering == 0:
        raise ValueError("can't have unbuffered text I/O")
    elif newline not in (None, "", "\n", "\r", "\r\n"):
        raise ValueError(f"illegal newline value: {newline!r}")


def _handle(stack: Any, newline: str | None, loop: Any, executor: Any) -> Any:
    handle = wrap(stack, loop=loop, executor=executor)
    if isinstance(handle, AsyncTextIOWrapper):
        handle._splits_at(newline)
    return handle


async def _open(
    file: Any,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
    closefd: bool,
    opener: Callable[[str, int], int] | None,
    loop: asyncio.AbstractEventLoop | None,
    executor: Executor | None,
    direct: bool,
    site: tuple[str, int],
) -> Any:
    _check(mode, buffering, encoding, errors, newline)
    if not isinstance(file, int):
        file = os.fspath(file)
    access = access_for(loop, executor)
    if direct:
        _direct.check(mode, buffering)
        opener = _direct.opener(opener)
        buffering = 0
    fd = -1
    if opener is None and closefd and not isinstance(file, int):
        if "r" in mode and "+" not in mode:
            fd = await open_now(access, file)
        else:
            sys.audit("open", file, mode, _flags(mode))  # io.FileIO asks when the file is empty already
            fd = await open_by_op(access, file, _flags(mode))
    if fd < 0:
        arguments = (file, mode, buffering, encoding, errors, newline, closefd, opener, False, direct)
        stack = await in_thread(access, _make, *arguments, orphan=_close)
    else:
        opened = _Opened(fd)
        try:
            stack = _make(file, mode, buffering, encoding, errors, newline, closefd, opened.take, True)
        finally:
            opened.close()
    handle = _handle(stack, newline, loop, executor)
    handle._opened(site, direct)
    return handle


def _close(stack: Any) -> None:
    stack.close()


@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenTextMode = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    executor: Executor | None = None,
    direct: Literal[False] = False,
) -> OpeningContextManager[AsyncTextIOWrapper]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenBinaryMode,
    buffering: Literal[0],
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    executor: Executor | None = None,
    direct: bool = False,
) -> OpeningContextManager[AsyncFileIO]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenBinaryMode,
    buffering: Literal[-1, 0] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    executor: Executor | None = None,
    direct: Literal[True],
) -> OpeningContextManager[AsyncFileIO]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenBinaryModeUpdating | OpenBinaryModeReading,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    executor: Executor | None = None,
    direct: Literal[False] = False,
) -> OpeningContextManager[AsyncBufferedReader]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenBinaryModeWriting,
    buffering: Literal[-1, 1] = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    executor: Executor | None = None,
    direct: Literal[False] = False,
) -> OpeningContextManager[AsyncBufferedIOBase]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: OpenBinaryMode,
    buffering: int = -1,
    encoding: None = None,
    errors: None = None,
    newline: None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    executor: Executor | None = None,
    direct: bool = False,
) -> OpeningContextManager[AsyncBinary]: ...
@overload
def open(
    file: FileDescriptorOrPath,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    executor: Executor | None = None,
    direct: bool = False,
) -> OpeningContextManager[Any]: ...
def open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Callable[[str, int], int] | None = None,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    executor: Executor | None = None,
    direct: bool = False,
) -> OpeningContextManager[Any]:
    """Open a file, as the built-in ``open`` does; await the result, or enter it with ``async with``.

    Args:
        file: a path, or a descriptor.
        mode: as for the built-in ``open``; so are `buffering`, `encoding`, `errors`, `newline`, `closefd` and
            `opener`.
        buffering: see `mode`.
        encoding: see `mode`.
        errors: see `mode`.
        newline: see `mode`.
        closefd: see `mode`.
        opener: see `mode`.
        loop: the loop that will use the file; default: the running one.
        executor: runs blocking calls; default: the loop's IO threads.
        direct: bypass the page cache (O_DIRECT, open(2); FILE_FLAG_NO_BUFFERING). Only for raw binary files;
            buffers, offsets and sizes are multiples of the block size. ``files.aligned`` makes such buffers.

    Raises:
        OSError: the file cannot be opened, or, with `direct`, its file system has no such access.
        ValueError: arguments that contradict each other.
    """
    if "b" not in mode:
        encoding = io.text_encoding(encoding)
    frame = sys._getframe(1)
    site = (frame.f_code.co_filename, frame.f_lineno)
    return OpeningContextManager(
        _open(file, mode, buffering, encoding, errors, newline, closefd, opener, loop, executor, direct, site)
    )


@singledispatch
def wrap(
    file: Any, *, loop: asyncio.AbstractEventLoop | None = None, executor: Executor | None = None
) -> Any:
    """The asynchronous counterpart of an open file of the ``io`` module.

    Args:
        file: the open file.
        loop: the loop that will use it; default: the running one.
        executor: runs blocking calls; default: the loop's IO threads.

    Raises:
        TypeError: `file` is of another type.
    """
    raise TypeError(f"Unsupported io type: {file}.")


@wrap.register(io.TextIOBase)
def _(file: Any, *, loop: Any = None, executor: Any = None) -> Any:
    return AsyncTextIOWrapper(file, loop=loop, executor=executor)


@wrap.register(io.BufferedWriter)
@wrap.register(io.BufferedIOBase)
def _(file: Any, *, loop: Any = None, executor: Any = None) -> Any:
    return AsyncBufferedIOBase(file, loop=loop, executor=executor)


@wrap.register(io.BufferedReader)
@wrap.register(io.BufferedRandom)
def _(file: Any, *, loop: Any = None, executor: Any = None) -> Any:
    return AsyncBufferedReader(file, loop=loop, executor=executor)


@wrap.register(io.FileIO)
def _(file: Any, *, loop: Any = None, executor: Any = None) -> Any:
    return AsyncFileIO(file, loop=loop, executor=executor)


def _binary(name: str) -> IO[bytes]:
    stream: IO[bytes] = getattr(sys, name).buffer
    return stream


stdin: AsyncTextIndirectIOWrapper = AsyncTextIndirectIOWrapper(
    "sys.stdin", None, None, indirect=lambda: sys.stdin
)
stdout: AsyncTextIndirectIOWrapper = AsyncTextIndirectIOWrapper(
    "sys.stdout", None, None, indirect=lambda: sys.stdout
)
stderr: AsyncTextIndirectIOWrapper = AsyncTextIndirectIOWrapper(
    "sys.stderr", None, None, indirect=lambda: sys.stderr
)
stdin_bytes: AsyncIndirectBufferedIOBase = AsyncIndirectBufferedIOBase(
    "sys.stdin.buffer", None, None, indirect=partial(_binary, "stdin")
)
stdout_bytes: AsyncIndirectBufferedIOBase = AsyncIndirectBufferedIOBase(
    "sys.stdout.buffer", None, None, indirect=partial(_binary, "stdout")
)
stderr_bytes: AsyncIndirectBufferedIOBase = AsyncIndirectBufferedIOBase(
    "sys.stderr.buffer", None, None, indirect=partial(_binary, "stderr")
)
