"""The functions of ``os.path`` that ask the file system, as coroutines.  IO threads make the calls."""

from __future__ import annotations

from os import path

from proactorx.files.base import Wrapped, wrap

__all__ = [
    "abspath",
    "exists",
    "getatime",
    "getctime",
    "getmtime",
    "getsize",
    "isdir",
    "isfile",
    "islink",
    "ismount",
    "samefile",
    "sameopenfile",
]

abspath: Wrapped = wrap(path.abspath)
exists: Wrapped = wrap(path.exists)
getatime: Wrapped = wrap(path.getatime)
getctime: Wrapped = wrap(path.getctime)
getmtime: Wrapped = wrap(path.getmtime)
getsize: Wrapped = wrap(path.getsize)
isdir: Wrapped = wrap(path.isdir)
isfile: Wrapped = wrap(path.isfile)
islink: Wrapped = wrap(path.islink)
ismount: Wrapped = wrap(path.ismount)
samefile: Wrapped = wrap(path.samefile)
sameopenfile: Wrapped = wrap(path.sameopenfile)
