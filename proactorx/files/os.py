"""The functions of ``os`` on files and directories, as coroutines.

On io_uring, ops remove and rename files. IO threads make all other calls, and those that the ring refuses.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor
from functools import wraps
from typing import Any

from proactorx.files import ospath as path
from proactorx.files.access import access_for
from proactorx.files.base import Wrapped, wrap

if sys.platform == "linux":
    from proactorx.files import path_ops

__all__ = [
    "access",
    "getcwd",
    "listdir",
    "makedirs",
    "mkdir",
    "path",
    "readlink",
    "remove",
    "removedirs",
    "rename",
    "renames",
    "replace",
    "rmdir",
    "scandir",
    "stat",
    "symlink",
    "unlink",
    "wrap",
]


def _by_ring(func: Callable[..., Any], word: str) -> Wrapped:
    """`func` as an op of the ring; on an IO thread where that will not do."""
    on_thread = wrap(func)
    if sys.platform == "linux":
        what, event = getattr(path_ops, word.upper()), f"os.{'remove' if word == 'unlink' else word}"

        @wraps(func)
        async def run(
            *args: Any,
            loop: asyncio.AbstractEventLoop | None = None,
            executor: Executor | None = None,
            **kwargs: Any,
        ) -> Any:
            if not kwargs and await path_ops.change(access_for(loop, executor), what, event, args):
                return None
            return await on_thread(*args, loop=loop, executor=executor, **kwargs)

        return run
    return on_thread


access: Wrapped = wrap(os.access)
getcwd: Wrapped = wrap(os.getcwd)
listdir: Wrapped = wrap(os.listdir)
makedirs: Wrapped = wrap(os.makedirs)
mkdir: Wrapped = wrap(os.mkdir)
readlink: Wrapped = wrap(os.readlink)
remove: Wrapped = _by_ring(os.remove, "unlink")
removedirs: Wrapped = wrap(os.removedirs)
rename: Wrapped = _by_ring(os.rename, "rename")
renames: Wrapped = wrap(os.renames)
replace: Wrapped = _by_ring(os.replace, "rename")
rmdir: Wrapped = _by_ring(os.rmdir, "rmdir")
scandir: Wrapped = wrap(os.scandir)
stat: Wrapped = wrap(os.stat)
symlink: Wrapped = wrap(os.symlink)
unlink: Wrapped = _by_ring(os.unlink, "unlink")

if hasattr(os, "link"):
    __all__ += ["link"]
    link: Wrapped = wrap(os.link)
if hasattr(os, "sendfile"):
    __all__ += ["sendfile"]
    sendfile: Wrapped = wrap(os.sendfile)
if hasattr(os, "statvfs"):
    __all__ += ["statvfs"]
    statvfs: Wrapped = wrap(os.statvfs)
