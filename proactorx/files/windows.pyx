"""What Windows has of its own for files: moving one durably, reserving room, watching a directory."""

from libc.stddef cimport wchar_t
from libc.stdint cimport int64_t

from libc.stdlib cimport calloc, free
from proactorx.sys.file_windows cimport (
    ERROR_OPERATION_ABORTED, px_file_reserve, px_move_through, px_watch, px_watch_begin, px_watch_close,
    px_watch_end, px_watch_open, px_watch_stop,
)

import ctypes
import os

cdef extern from "Python.h":
    wchar_t *PyUnicode_AsWideCharString(object text, Py_ssize_t *size) except NULL
    void PyMem_Free(void *memory)


def allocate(int handle, int64_t offset, int64_t length):
    """Reserve room on the disk up to `offset` + `length`; a shorter file becomes as long as that.

    SetFileInformationByHandle, FileAllocationInfo and FileEndOfFileInfo.

    Raises:
        OSError: there is not so much room, or the file system cannot reserve any.
        ValueError: a negative offset, or a length that is not positive.
    """
    cdef int error
    if offset < 0 or length <= 0:
        raise ValueError("an offset cannot be negative, and a length must be positive")
    with nogil:
        error = px_file_reserve(handle, offset + length)
    if error:
        raise OSError(-error, os.strerror(-error))


def replace_durably(source, target):
    """``os.replace`` that ends when the disk has the new name: MoveFileEx, MOVEFILE_WRITE_THROUGH.

    Raises:
        OSError: as of ``os.replace``.
    """
    cdef wchar_t *before = PyUnicode_AsWideCharString(os.fsdecode(source), NULL)
    cdef wchar_t *after = NULL
    cdef unsigned long error
    try:
        after = PyUnicode_AsWideCharString(os.fsdecode(target), NULL)
        with nogil:
            error = px_move_through(before, after)
    finally:
        PyMem_Free(before)
        PyMem_Free(after)
    if error:
        raise OSError(0, ctypes.FormatError(error), source, error, target)


cdef class FolderChanges:
    """Changes in a directory: ReadDirectoryChangesW.  For one thread, which must live as long as the watch.

    Args:
        path: of the directory.

    Raises:
        OSError: it cannot be opened, or is none.
    """

    cdef px_watch *watch
    cdef object path

    def __init__(self, path):
        cdef wchar_t *name
        cdef unsigned long error
        if self.watch != NULL:
            raise RuntimeError("changes are initialized once")
        self.path = path
        self.watch = <px_watch *>calloc(1, sizeof(px_watch))
        if self.watch == NULL:
            raise MemoryError
        name = PyUnicode_AsWideCharString(path, NULL)
        with nogil:
            error = px_watch_open(self.watch, name)
        PyMem_Free(name)
        self.check(error)

    cdef px_watch *opened(self) except NULL:
        if self.watch == NULL:
            raise RuntimeError("no __init__ has opened this")
        return self.watch

    cdef int check(self, unsigned long error) except -1:
        if error:
            raise OSError(0, ctypes.FormatError(error), self.path, error)
        return 0

    def begin(self):
        """What changes from now on is told by ``end``."""
        cdef px_watch *watch = self.opened()
        cdef unsigned long error
        with nogil:
            error = px_watch_begin(watch)
        self.check(error)

    def end(self):
        """Wait for changes: FILE_NOTIFY_INFORMATION records; b"" if some were lost, None once it is stopped.

        Raises:
            OSError: the directory is gone.
        """
        cdef px_watch *watch = self.opened()
        cdef long n
        with nogil:
            n = px_watch_end(watch)
        if n == -ERROR_OPERATION_ABORTED:
            return None
        self.check(0 if n >= 0 else <unsigned long>-n)
        return (<char *>self.watch.buffer)[:n]

    def stop(self):
        """Have ``end`` return None, now or later; any thread may do this."""
        px_watch_stop(self.opened())

    def __dealloc__(self):
        if self.watch != NULL:
            px_watch_close(self.watch)
            free(self.watch)
