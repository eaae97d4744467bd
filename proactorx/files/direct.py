"""``open(..., direct=True)``: past the page cache."""

from __future__ import annotations

import errno
import io
import mmap
import os
import sys
from collections.abc import Callable
from functools import partial

#: Buffers, offsets and sizes that are multiples of this suit every disk of today, open(2).
BLOCK = 4096
_O_DIRECT: int = getattr(os, "O_DIRECT", 0)


def aligned(size: int) -> memoryview:
    """A writable buffer of `size` bytes for files opened with ``direct=True``.

    It lies at the start of a page; its memory is freed with the last view of it.

    Raises:
        ValueError: `size` is not a positive multiple of 4,096.
    """
    if size <= 0 or size % BLOCK:
        raise ValueError(f"the size of a buffer for direct access must be a multiple of {BLOCK}, not {size}")
    return memoryview(mmap.mmap(-1, size))


def check(mode: str, buffering: int) -> None:
    """Refuse what cannot be direct.

    Raises:
        ValueError: text, or a buffer.
        io.UnsupportedOperation: this system has no O_DIRECT.
    """
    if "b" not in mode or buffering not in (-1, 0):
        raise ValueError(
            "direct=True is for binary files without a buffer: mode 'rb', 'wb', 'r+b' ..., buffering=0"
        )
    if not hasattr(os, "O_DIRECT") and sys.platform != "win32":
        raise io.UnsupportedOperation("direct=True: this system has no O_DIRECT")


def opener(inner: Callable[[str, int], int] | None) -> Callable[[str, int], int] | None:
    """A function that opens a file for direct access, by way of `inner` if that is given.

    On Windows it opens an ordinary file: the access past the cache is by a second handle
    (``RawState.take_second``).
    """
    return partial(_open, inner) if sys.platform != "win32" else inner


def _open(inner: Callable[[str, int], int] | None, path: str, flags: int) -> int:
    """Open with O_DIRECT, open(2).

    Raises:
        OSError: the file system refuses; the message says so.
    """
    try:
        return (inner or _plain)(path, flags | _O_DIRECT)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        raise OSError(
            errno.EINVAL, "direct=True: this file system has no direct access (O_DIRECT)", path
        ) from exc


def _plain(path: str, flags: int) -> int:
    return os.open(path, flags, 0o666)
