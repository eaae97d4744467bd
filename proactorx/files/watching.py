"""``watch``: changes in a directory, as they happen, by what the system has."""

from __future__ import annotations

import sys
from typing import Any

from proactorx.files.directory_watch import Change, DirectoryWatch

if sys.platform == "win32":
    from proactorx.files.watch_windows import WindowsWatch as Watch
else:
    from proactorx.files.watch_inotify import InotifyWatch as Watch

__all__ = ["Change", "watch"]


def watch(path: Any) -> DirectoryWatch:
    """Watch a directory, but not those below it: changes as they happen.

    ::

        async with files.watch(path) as changes:
            async for change in changes:
                print(change.kind, change.path)

    Linux tells of them by inotify(7), Windows by ReadDirectoryChangesW.

    Args:
        path: of the directory.

    Raises:
        OSError: when the watch begins: `path` is no directory, or there are too many watches. ENOSYS: this
            system has no inotify.
    """
    return Watch(path)
