"""Removing and renaming files by ops of the ring, which is faster than an IO thread.

Only in directories that the kernel has cached, on file systems that are known to be local: a file server
would occupy the kernel's few threads.
"""

from libc.stdint cimport int64_t
from proactorx.files.access cimport Access, FileOp
from proactorx.files.fast_open cimport kernel_name
from proactorx.ops.op cimport CHANGE_RENAME, CHANGE_RMDIR, CHANGE_UNLINK, PATH_CHANGE
from proactorx.files.raw_state cimport is_known, is_local, nature_of
from proactorx.sys.file cimport px_file_facts, px_stat_cached

import os
import sys

from proactorx.files.thread_call import in_thread

UNLINK = CHANGE_UNLINK
RMDIR = CHANGE_RMDIR
RENAME = CHANGE_RENAME


def _look_at_file_system(folder):
    """Record whether the files in `folder` are this machine's.  May wait for another machine."""
    cdef int fd
    try:
        fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # the call itself will report the error
    try:
        nature_of(fd)
    finally:
        os.close(fd)


async def _is_local(Access access, bytes folder):
    cdef px_file_facts facts
    if px_stat_cached(folder, &facts) < 0:
        return False
    if not is_known(facts.device):
        await in_thread(access, _look_at_file_system, folder)
    return is_local(facts.device)


async def change(Access access not None, int what, str event, tuple paths):
    """Whether the ring has made this change.  If not, nothing has happened, and an IO thread has to try.

    Args:
        access: of the loop that waits.
        what: ``UNLINK`` or ``RMDIR``, of one path; ``RENAME``, of two.
        event: what ``sys.audit`` is told.
        paths: of the caller.
    """
    cdef FileOp op
    cdef bytes names = b"", folder, before = None
    if len(paths) != (2 if what == RENAME else 1) or not access.has_ring():
        return False
    for path in paths:
        name = kernel_name(access, path)
        if not name:
            return False
        folder = os.path.dirname(name) or b"."
        if folder != before and not await _is_local(access, folder):
            return False
        before = folder
        names += name + b"\0"
    sys.audit(event, *paths, *(-1,) * len(paths))
    op = access.start_by_path(PATH_CHANGE, names, what)
    try:
        await op.future
    except BaseException:
        op.abandon()
        raise
    return not op.error
