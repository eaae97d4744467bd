"""The coroutines that mostly have nothing to wait for. They are Python; the work that they call is compiled.

CPython enters a coroutine of its own without a call, and takes its result without an exception. A compiled
one returns its result in a StopIteration, by way of two more objects: a tenth of a read from the page cache.
"""

from __future__ import annotations

import io
import os
from typing import Any

from proactorx.files.whole import decode, read_small, read_waiting


async def pread(self: Any, n: int, offset: int) -> Any:
    """At most `n` bytes at `offset`, fewer only at the end of the file: pread(2).

    The position of the file stays where it is, and the operations in line are not waited for.
    """
    found = self._pread_now(n, offset, 0)
    if found.__class__ is bytes:
        return found
    if found is False:
        await self._yield_turn()
        found = self._pread_now(n, offset, 1)
    if found is None:
        await self._ready_for(False)
        found = self._pread_now(n, offset, 2)
    if found.__class__ is bytes:
        return found
    try:
        await found.future
    except BaseException:
        self._abandon(found)
        raise
    return self._pread_end(found, n)


async def read(self: Any, *args: int | None) -> Any:
    """Read at most `size` bytes, or all up to the end: ``read(size=-1)``; b"" at the end.

    Raises:
        OSError: the file cannot be read.
    """
    found = self._now("read", args, False)
    if found is False:
        await self._yield_turn()
        found = self._now("read", args, True)
    return found if found is not None else await self._awaited("read", args)


async def readinto(self: Any, buffer: Any) -> Any:
    """Read into `buffer` as many bytes as it has room for; how many there were, 0 at the end.

    Raises:
        OSError: the file cannot be read.
    """
    found = self._now("readinto", (buffer,), False)
    if found is False:
        await self._yield_turn()
        found = self._now("readinto", (buffer,), True)
    return found if found is not None else await self._awaited("readinto", (buffer,))


async def readline(self: Any, *args: int) -> Any:
    """One line, or at most `size` bytes or characters of it: ``readline(size=-1)``; nothing at the end."""
    line = self._line_now(args, False)
    if line is False:
        await self._yield_turn()
        line = self._line_now(args, True)
    return line if line is not None else await self._line(args)


async def next_line(self: Any) -> Any:
    """``readline`` for ``async for``, which ends at the end of the file."""
    line = self._line_now((), False)
    if line is False:
        await self._yield_turn()
        line = self._line_now((), True)
    if line is None:
        line = await self._line(())
    if line:
        return line
    raise StopAsyncIteration


async def raw_read(self: Any, *args: int | None) -> Any:
    """At most `size` bytes by one read(2), or all up to the end: ``read(size=-1)``; b"" at the end.

    A plain file gives all `size` bytes, fewer only at its end. None: the file does not wait (O_NONBLOCK) and
    has no bytes now.
    """
    found = self._raw_now("read", args, False)
    if found is False:
        await self._yield_turn()
        found = self._raw_now("read", args, True)
    return found if found is not None else await self._raw("read", args)


async def raw_readinto(self: Any, buffer: Any) -> Any:
    """Read into `buffer`; how many bytes, as of ``read``; 0 at the end, None where there are none now."""
    found = self._raw_now("readinto", (buffer,), False)
    if found is False:
        await self._yield_turn()
        found = self._raw_now("readinto", (buffer,), True)
    return found if found is not None else await self._raw("readinto", (buffer,))


async def read_bytes(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    """All bytes of the file.

    Raises:
        OSError: it cannot be opened or read.
    """
    found: Any = read_small(path)
    return found if found.__class__ is bytes else await read_waiting(path, found)


async def read_text(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> str:
    """All text of the file; the arguments are those of the built-in ``open``.

    Raises:
        OSError: it cannot be opened or read.
        UnicodeDecodeError: it holds something else.
    """
    encoding = io.text_encoding(encoding)
    return await decode(await read_bytes(path), encoding, errors, newline)
