"""What Windows has of its own for files: moving one durably, and reserving room."""

from libc.stddef cimport wchar_t
from libc.stdint cimport int64_t

import ctypes
import os

cdef extern from "winfileio.h":
    int px_file_reserve(int fd, int64_t size) nogil
    unsigned long px_move_through(const wchar_t *source, const wchar_t *target) nogil

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
