"""Which handle is bound to which port, on Windows.

A handle belongs to one port until it is closed (FileReplaceCompletionInformation can change that, on Windows
8.1 and later), and must have been opened for overlapped use.  Files that Python opens were not:
they are opened once more.

The kernel knows which handles are bound; here is what it does not tell: to which port, and with which key.
"""

from libc.stdint cimport intptr_t, uint32_t
from proactorx.port.operations cimport Binding
from proactorx.sys.file cimport px_is_disk, px_reopen
from proactorx.sys.iocp cimport CloseHandle
from proactorx.sys.socket cimport PX_SOCKET

import ctypes
import errno
import io
import msvcrt
import os
import socket
import threading
import weakref

cdef extern from "binding_windows.h":
    enum: PX_NO_FILE, PX_STREAM, PX_DATAGRAM, PX_HANDLE
    enum: ERROR_INVALID_PARAMETER
    int px_kind_of(int fd) nogil
    void px_make_nonblocking(int fd) nogil
    int px_socket_family(int fd) nogil
    uint32_t px_bind_to(HANDLE port, int fd) nogil
    long px_replace(int fd, HANDLE port) nogil

cdef dict bound = {}                        # handle: HandleBinding; of this process
cdef object bound_lock = threading.RLock()  # a finalizer may come in while its thread has it


cdef class _Opened:
    """A handle of ours, open as long as somebody has this."""

    def __dealloc__(self):
        CloseHandle(<HANDLE>PX_SOCKET(self.fd))


cdef class HandleBinding(Binding):
    cdef bint stands(self) except -1:
        """Return whether that file and the port are still open."""
        port = self.port()
        if port is None or port.closed:
            return False
        return self.file is None or is_open(self)

    cdef bint is_of(self, object file, object port) except -1:
        """Whether `file`, which has this handle, is bound to `port`."""
        if self.port() is not port:
            return False
        if self.file is None or isinstance(file, int):
            return self.stands()
        return self.file() is file

    cdef int forget(self) except -1:
        with bound_lock:
            if bound.get(self.handle) is self:
                del bound[self.handle]
        return 0


cdef tuple handle_of(object file):
    """The handle, and the C library's number or -1."""
    if isinstance(file, int):
        handle, crt = file, -1
    elif isinstance(getattr(file, "file", file), io.IOBase):
        crt = file.fileno()
        handle = msvcrt.get_osfhandle(crt)
    elif hasattr(file, "fileno"):
        handle, crt = file.fileno(), -1
    else:
        raise TypeError(f"a socket, a file object or a descriptor was expected, got {file!r}")
    if handle < 0:
        raise ValueError(f"the file is closed: {file!r}")
    return handle, crt


cdef HandleBinding make_binding(object file, object port, object key):
    cdef HandleBinding made = HandleBinding.__new__(HandleBinding)
    handle, made.crt = handle_of(file)
    made.handle = handle
    made.fd = <int>made.handle
    kind = px_kind_of(made.fd)
    made.is_socket = kind == PX_STREAM or kind == PX_DATAGRAM
    made.is_datagram = kind == PX_DATAGRAM
    if kind == PX_NO_FILE:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    made.port = weakref.ref(port)
    made.key = key
    made.watch(file)
    return made


cdef int attach(HandleBinding made, object file, HANDLE port) except -1:
    """Have its handle answered by `port`."""
    cdef uint32_t error
    cdef int fd
    if made.crt >= 0:
        fd = px_reopen(made.fd, False, 0)
        if fd < 0:
            return 0  # a pipe, a console, or a file opened without sharing: IO threads do it
        made.opened = _Opened.__new__(_Opened)
        made.opened.fd = made.fd = fd
    error = px_bind_to(port, made.fd)
    if error == <uint32_t>ERROR_INVALID_PARAMETER:
        raise ValueError(f"handle {made.fd} is bound already, to a port that is not known here, "
                         "or was not opened for overlapped use")
    if error:
        raise ctypes.WinError(error)
    made.overlapped = True
    return 0


cdef int family_of(int fd) except -1:
    cdef int family = px_socket_family(fd)
    if family < 0:
        raise OSError(-family, ctypes.FormatError(-family))
    return family


cdef bint is_disk(int fd) noexcept:
    return px_is_disk(fd)


cdef HandleBinding binding_of(object file, object port):
    """ValueError: it is not bound to that port."""
    cdef HandleBinding binding = bound.get(handle_of(file)[0])
    if binding is None or not binding.is_of(file, port):
        raise ValueError(f"not bound to this port: {file!r}")
    return binding


cdef int bind(object file, object port, HANDLE handle, object key) except -1:
    """See ``CompletionPort.bind``; `handle`: of the port."""
    cdef HandleBinding made = make_binding(file, port, key), other
    with bound_lock:
        other = bound.get(made.handle)
        if other is not None and other.file is not None and other.stands():
            whose = "this" if other.port() is port else "another"
            raise ValueError(f"handle {made.handle} is bound already, to {whose} port")
        attach(made, file, handle)
        bound[made.handle] = made
    if isinstance(file, socket.socket):
        file.setblocking(False)
    elif made.is_socket:
        px_make_nonblocking(made.fd)
    return 0


cdef int unbind(object file, object port) except -1:
    """See ``CompletionPort.unbind``."""
    cdef HandleBinding binding
    with bound_lock:
        binding = binding_of(file, port)
        if binding.opened is None and binding.overlapped:
            replace(binding, NULL)
        del bound[binding.handle]
    return 0


cdef int rebind(object file, object port, object other, HANDLE handle, object key) except -1:
    """See ``CompletionPort.rebind``; `handle`: of the other port."""
    cdef HandleBinding binding, made
    with bound_lock:
        binding = binding_of(file, port)
        made = make_binding(file, other, key)
        if binding.opened is None and binding.overlapped:
            replace(binding, handle)
            made.overlapped = True
        else:
            attach(made, file, handle)
        bound[binding.handle] = made
    return 0


cdef bint is_open(HandleBinding binding) except -1:
    """Return whether the handle still belongs to the file object that was bound;
    False if it was bound by number.
    """
    file = None if binding.file is None else binding.file()
    try:
        return file is not None and handle_of(file)[0] == binding.handle
    except (OSError, ValueError):
        return False


cdef int let_go(object port) except -1:
    """Unbind what is bound to a port that is closed, as far as this Windows can."""
    cdef HandleBinding binding
    with bound_lock:
        for each in [each for each in bound.values() if (<HandleBinding>each).port() is port]:
            binding = each
            del bound[binding.handle]
            if binding.opened is None and binding.overlapped and is_open(binding):
                px_replace(binding.fd, NULL)
    return 0


cdef int replace(HandleBinding binding, HANDLE port) except -1:
    cdef long status = px_replace(binding.fd, port)
    if status < 0:
        raise NotImplementedError(
            "this Windows cannot take a handle from its port: FileReplaceCompletionInformation, NTSTATUS "
            f"{status & 0xFFFFFFFF:#010x}"
        )
    return 0
