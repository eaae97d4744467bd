"""Room on the disk, and advice on how a file will be read: the calls, which differ from system to system."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

if sys.platform == "win32":
    from proactorx.files import windows


def allocate_call() -> Callable[[int, int, int], object]:
    """What reserves room, given descriptor (on Windows: handle), offset and length.

    Raises:
        io.UnsupportedOperation: this system has no such call.
    """
    if sys.platform == "win32":
        return windows.allocate
    if not hasattr(os, "posix_fallocate"):
        raise io.UnsupportedOperation("allocate: this system has no posix_fallocate(3)")
    return os.posix_fallocate


def advise_call() -> Callable[[int, int, int, int], object]:
    """posix_fadvise(2).

    Raises:
        io.UnsupportedOperation: this system has no such call.
    """
    if sys.platform == "win32" or not hasattr(os, "posix_fadvise"):
        raise io.UnsupportedOperation("advise: this system has no posix_fadvise(2)")
    return os.posix_fadvise
