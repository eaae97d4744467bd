"""``proactorx.CompletionPort`` on POSIX: files bound to a shared port.

A file is bound to one port at a time, and its key comes back with each of its packets.  It must be closed only when its
operations have ended: cancel them, take their packets, then close.
"""

from proactorx.ops.op cimport FILE_STEP, FSYNC, READ
from proactorx.port.operations cimport Binding, Overlapped
from proactorx.port.shared_driver cimport SharedPort, px_begin, px_undo
from proactorx.sys.file cimport PX_LOCAL, px_file_nature, px_file_read, px_file_sync, px_file_write
from proactorx.sys.socket cimport px_has_position

import os
import socket
import stat
import threading
import weakref

cdef dict bound = {}         # descriptor: _Binding; of this process
cdef object bound_lock = threading.RLock()  # a finalizer may come in while its thread has it


cdef class _Binding(Binding):
    cdef object identity
    cdef bint at_once        # no call on this file waits for another machine or process, or for news of the kernel

    cdef bint stands(self) except -1:
        """Whether that file is open still, and the port too.  A number may belong to another file by now."""
        cdef SharedPort port = self.port()
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

    cdef bint is_of(self, object file, SharedPort port) except -1:
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


cdef _Binding make_binding(object file, int fd, SharedPort port, object key):
    cdef _Binding made = _Binding.__new__(_Binding)
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


cdef int _end_stale(_Binding old) except -1:
    """Cancel what is in flight on a file that was closed meanwhile: it must not take what the next one is sent."""
    cdef CompletionPort port = old.port()
    if port is None or port.closed or port.forked:
        return 0
    port.stop_on(old.fd)
    for op in list(port.bodies):
        if (<Overlapped>op).fd == old.fd:
            op.cancel()
    return 0


cdef class CompletionPort(SharedPort):
    """A completion port: files, operations on them, posts, and threads that wait for packets.

    Packets are queued first in, first out; waiting threads are released last in, first out; a thread that comes back
    with packets waiting takes the next one without a switch.  A packet is given out only while fewer than
    `concurrency` threads of the port run.  The rules are those of Windows' I/O completion ports (MSDN, "I/O Completion
    Ports").

    Args:
        concurrency: how many threads may run; 0: as many as there are usable CPUs.
        backend: ``auto``, ``io_uring``, ``epoll`` or ``select``; default: ``$PROACTORX_BACKEND``, or ``auto``.

    Raises:
        ValueError: a negative concurrency, or an unknown backend.
        BackendError: the named backend cannot run here; the message says why.
    """

    # ------------------------------------------------------------------------------------------------- binding

    def bind(self, file, key=None):
        """Bind `file` to this port, until it is closed, unbound, or bound to another one by ``rebind``.

        A socket becomes non-blocking.  Duplicates of the descriptor are not bound.

        Args:
            file: a socket, a file object or a descriptor.
            key: any object, for ``Packet.key``.

        Raises:
            TypeError: it is none of these.
            ValueError: it is bound already, to this port or another one; or it is closed.
            OSError: it is not open (EBADF).
            PortClosed: the port has been closed.
        """
        cdef int fd = descriptor_of(file)
        cdef _Binding made, other
        self.refuse_unusable()
        made = make_binding(file, fd, self, key)
        with bound_lock:
            other = bound.get(fd)
            if other is not None and other.stands():
                whose = "this" if other.port() is self else "another"
                raise ValueError(f"descriptor {fd} is bound already, to {whose} port")
            bound[fd] = made
        if other is not None:
            _end_stale(other)
        if stat.S_ISSOCK(made.identity[2]):
            if isinstance(file, socket.socket):
                file.setblocking(False)
            else:
                os.set_blocking(fd, False)

    def unbind(self, file):
        """The port knows `file` no longer; packets of what is in flight on it still come here.

        Raises:
            ValueError: it is not bound to this port.
        """
        cdef _Binding binding
        self.refuse_forked()
        with bound_lock:
            binding = <_Binding>self.binding_of(file)
            del bound[binding.fd]

    def rebind(self, file, CompletionPort port not None, key=None):
        """Bind `file` to another port instead, without a moment in between.

        Packets of what is in flight on it still come here.  The counterpart of FileReplaceCompletionInformation.

        Raises:
            ValueError: it is not bound to this port.
            PortClosed: the other port has been closed.
        """
        cdef _Binding binding, made
        self.refuse_forked()
        port.refuse_unusable()
        made = make_binding(file, self.binding_of(file).fd, port, key)
        with bound_lock:
            binding = <_Binding>self.binding_of(file)
            bound[binding.fd] = made

    cdef Binding binding_of(self, object file):
        cdef int fd = descriptor_of(file)
        cdef _Binding binding = bound.get(fd)
        if binding is None or not binding.is_of(file, self):
            raise ValueError(f"not bound to this port: {file!r}")
        return binding

    def close(self):
        """Close the port, and return the packets that nobody has taken.

        Waiting threads get PortClosed.  What is in flight is cancelled, and waited for: its packets, failed with
        ECANCELED or not, are returned with the others.  Bound files stay open, and can be bound to another port.
        Twice is allowed: the second list is empty.

        Raises:
            RuntimeError: in a forked child, or called by a finalizer that interrupts another call of the port's.
        """
        cdef _Binding binding
        left = self._close()
        with bound_lock:
            for binding in [each for each in bound.values() if (<_Binding>each).port() is self]:
                del bound[binding.fd]
        return left

    # ------------------------------------------------------------------------------------------------- operations

    cdef int family_of(self, object file, int fd) except -1:
        if isinstance(file, socket.socket):
            return file.family
        with socket.socket(fileno=os.dup(fd)) as same:
            return same.family

    cdef int submit_file(self, Overlapped op) except -1:
        # What a server answers for (FUSE, NFS) waits inside the call that submits it, with the interpreter held.
        # At "the file's own" position the kernel repeats a short write where it began (seen on 6.18): not for it.
        if (<_Binding>op.binding).at_once and self.has_native_files() and (
                op.kind == FSYNC or op.position >= 0 or not px_has_position(op.fd)):
            return self.submit(op)
        return self.queue_body(op)

    cdef int begin_body(self) except -1:
        cdef int error = px_begin(self.core, False)
        if error:
            self.refuse(error)
        return 0

    cdef int undo_body(self) except -1:
        px_undo(self.core, False)
        return 0

    cdef Py_ssize_t blocking_call(self, Overlapped op) except? -1:
        cdef char *place = op.buffer()
        cdef Py_ssize_t size = min(op.want(), FILE_STEP)
        cdef ssize_t n
        with nogil:
            if op.kind == FSYNC:
                n = px_file_sync(op.fd, False)
            elif op.kind == READ:
                n = px_file_read(op.fd, place, size, op.position)
            else:
                n = px_file_write(op.fd, place, size, op.position)
        return n


def _after_fork_in_child():
    # Ports of the parent are of no use here: a file that was inherited may be bound to one of our own.
    global bound_lock
    bound_lock = threading.RLock()
    bound.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
