"""Which file is bound to which port, on POSIX.

A file is bound to one port at a time, until it is closed.  The kernel does not know of it: a binding
remembers the file object, or the device and inode of a descriptor,
so that another file with the same number is not taken for it.
"""

from proactorx.port.operations cimport Binding
from proactorx.sys.file cimport PX_LOCAL, px_file_nature

import os
import socket
import stat
import threading
import weakref

cdef dict bound = {}         # descriptor: FileBinding; of this process
cdef object bound_lock = threading.RLock()  # a finalizer may come in while its thread has it


cdef class FileBinding(Binding):
    cdef bint stands(self) except -1:
        """Return whether that file and the port are still open; the number may belong to another file."""
        port = self.port()
        if port is None or port.closed:
            return False
        file = None if self.file is None else self.file()
        try:
            if file is not None:
                return file.fileno() == self.fd
            if self.file is not None and not stat.S_ISSOCK(self.identity[2]):
                return False  # it has gone, and so is closed; a socket may have been detached
            return identity_of(self.fd) == self.identity
        except Exception:
            return False  # closed; a wrapper of the user's may say so in any way

    cdef bint is_of(self, object file, object port) except -1:
        """Whether `file`, which has this number, is bound to `port`."""
        if self.port() is not port:
            return False
        return (self.file is not None and self.file() is file) or self.stands()

    cdef int forget(self) except -1:
        with bound_lock:
            if bound.get(self.fd) is self and not self.stands():
                del bound[self.fd]
        return 0


cdef object identity_of(int fd):
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, found.st_mode


cdef int descriptor_of(object file) except -1:
    if not isinstance(file, int) and not hasattr(file, "fileno"):
        raise TypeError(f"a socket, a file object or a descriptor was expected, got {file!r}")
    fd = file if isinstance(file, int) else file.fileno()
    if fd < 0:
        raise ValueError(f"the file is closed: {file!r}")
    return fd


cdef FileBinding make_binding(object file, int fd, object port, object key):
    cdef FileBinding made = FileBinding.__new__(FileBinding)
    made.fd = fd
    made.port = weakref.ref(port)
    made.key = key
    made.identity = identity_of(fd)
    if stat.S_ISREG(made.identity[2]):
        with nogil:
            made.at_once = px_file_nature(fd) == PX_LOCAL  # asks who answers for it, as fstat(2) does
    else:
        made.at_once = True
    made.watch(file)
    return made


cdef FileBinding binding_of(object file, object port):
    """Return the binding of `file` to `port`.

    Raises:
        ValueError: it is not bound to that port.
    """
    cdef FileBinding binding = bound.get(descriptor_of(file))
    if binding is None or not binding.is_of(file, port):
        raise ValueError(f"not bound to this port: {file!r}")
    return binding


cdef FileBinding bind(object file, object port, object key):
    """See ``CompletionPort.bind``.  Returns the stale binding of a closed file that had the same number,
    or None.
    """
    cdef int fd = descriptor_of(file)
    cdef FileBinding made = make_binding(file, fd, port, key), other
    with bound_lock:
        other = bound.get(fd)
        if other is not None and other.stands():
            whose = "this" if other.port() is port else "another"
            raise ValueError(f"descriptor {fd} is bound already, to {whose} port")
        bound[fd] = made
    if stat.S_ISSOCK(made.identity[2]):
        if isinstance(file, socket.socket):
            file.setblocking(False)
        else:
            os.set_blocking(fd, False)
    return other


cdef int unbind(object file, object port) except -1:
    """See ``CompletionPort.unbind``."""
    with bound_lock:
        del bound[binding_of(file, port).fd]
    return 0


cdef int rebind(object file, object port, object other, object key) except -1:
    """See ``CompletionPort.rebind``."""
    cdef FileBinding made = make_binding(file, binding_of(file, port).fd, other, key)
    with bound_lock:
        bound[binding_of(file, port).fd] = made
    return 0


cdef int let_go(object port) except -1:
    """Unbind what is bound to a port that is closed."""
    with bound_lock:
        for each in [each for each in bound.values() if (<FileBinding>each).port() is port]:
            del bound[(<FileBinding>each).fd]
    return 0


def _after_fork_in_child():
    # Ports of the parent are of no use here: a file that was inherited may be bound to one of our own.
    global bound_lock
    bound_lock = threading.RLock()
    bound.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
