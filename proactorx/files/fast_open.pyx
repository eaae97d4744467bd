"""Opening a file without an IO thread: at once if nothing has to be waited for, or by an op of the driver."""

from proactorx.files.access cimport Access, FileOp
from proactorx.files.raw_state cimport is_local
from proactorx.ops.op cimport OPEN
from proactorx.sys.errnos cimport EAGAIN, ENOENT
from proactorx.sys.file cimport (
    O_CLOEXEC, O_NONBLOCK, O_RDONLY, PX_RESOLVE_CACHED, px_file_close, px_file_facts, px_file_set_flags,
    px_open_now, px_stat_cached, px_stat_fd,
)

import errno
import os

# A named pipe without a reader; another process's lease, fcntl(2); a loop that is being closed.
cdef tuple NOT_BY_OP = (errno.ENXIO, errno.EAGAIN, errno.ECANCELED)
cdef enum:
    OPENING = 64 << 10       # what it costs, with the objects that are made for it, as copying so many bytes


cdef bytes kernel_name(Access access, path):
    """`path` as bytes; None if an IO thread has to do the work, or has the better error message."""
    if access.port is None or access.executor is not None:
        return None
    try:
        name = os.fsencode(path)
    except TypeError:
        return None
    return None if b"\0" in name else name


async def open_now(Access access not None, path):
    """Open a regular file for reading if that needs no waiting; else return -1 and open nothing.

    Nothing waits if the kernel has the path in its cache and the file system is known to be local.  The path
    is examined before it is opened: opening a FIFO, say, may wait, and other processes may notice it.

    Raises:
        OSError: the file cannot be opened.
    """
    cdef px_file_facts facts
    cdef bytes name = kernel_name(access, path)
    cdef int fd
    if name is None:
        return -1
    await access.budget()
    if px_stat_cached(name, &facts) < 0 or facts.kind != c"r" or not is_local(facts.device):
        return -1
    # O_NONBLOCK: another process may hold a lease, fcntl(2).
    fd = px_open_now(name, O_RDONLY | O_NONBLOCK, PX_RESOLVE_CACHED)
    if fd < 0:
        return -1
    if px_stat_fd(fd, &facts) < 0 or facts.kind != c"r" or px_file_set_flags(fd, O_RDONLY) < 0:
        px_file_close(fd)  # another file was put there in between
        return -1
    access.charge(OPENING)
    return fd


cdef bint may_open_by_op(bytes name) except -1:
    """Whether `name` is local and no device; if it does not exist or is not cached, whether its folder is."""
    cdef px_file_facts facts
    cdef int error = px_stat_cached(name, &facts)
    cdef bytes folder
    if error == -EAGAIN or error == -ENOENT:
        folder = os.path.dirname(name) or b"."
        error = px_stat_cached(folder, &facts)
    elif error >= 0 and facts.kind != c"r":
        return False
    return error >= 0 and is_local(facts.device)


async def open_by_op(Access access not None, path, int flags):
    """Open a file for writing by an op; where that is not possible, return -1 and open nothing.

    It is not for files of a server, or a named pipe that waits for its other end: they would occupy the
    kernel's few threads.  Where the driver has no such op, the blocking body of the op needs the
    interpreter's lock for less time than opening the whole stack on a thread.

    Raises:
        OSError: the file cannot be opened.
    """
    cdef FileOp op
    cdef bytes name = kernel_name(access, path)
    cdef int fd
    if name is None or not may_open_by_op(name):
        return -1
    op = access.start_by_path(OPEN, name, flags | O_CLOEXEC | O_NONBLOCK)
    try:
        await op.future
    except BaseException:
        op.abandon()
        raise
    if op.error in NOT_BY_OP:
        return -1
    if op.error:
        raise OSError(op.error, os.strerror(op.error), path)
    fd, op.opened = op.opened, -1
    px_file_set_flags(fd, flags)
    return fd
