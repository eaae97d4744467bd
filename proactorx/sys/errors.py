"""What an error number says, in words."""

from __future__ import annotations

import os
import sys

#: Winsock's numbers on Windows, which the C library's strerror does not know.
_WINSOCK = range(10000, 12000)


def strerror(number: int) -> str:
    """The system's words for an ``errno``."""
    if sys.platform == "win32" and number in _WINSOCK:
        import ctypes

        return ctypes.FormatError(number)
    return os.strerror(number)
