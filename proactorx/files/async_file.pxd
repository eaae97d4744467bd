from libc.stdint cimport int64_t
from proactorx.files.access cimport Access, FileOp
from proactorx.files.raw_file cimport Window

cdef class AsyncBase:
    cdef object stack        # a file of the io module's
    cdef object indirect     # or what finds it each time
    cdef Window window       # of the file at the bottom of `stack`; None: it is not ours, and everything may block
    cdef Access access
    cdef object executor
    cdef object loop
    cdef bint held           # an operation runs; others wait in line
    cdef bint deferred       # and goes on without its caller
    cdef bint dirty          # the stack may hold what is not written
    cdef bint unsynced       # written to since it was opened or synced: closing may wait for the disk
    cdef object line
    cdef int flying          # ops and bodies that use the descriptor
    cdef object landing      # a future that ends with them
    cdef readonly object opened_at  # (file name, line number) of the caller of open
    cdef object __weakref__
    cdef Access here(self)
    cdef object file(self)
    cdef int leave(self) except -1
    cdef int landed(self) except -1
    cdef int adopt(self, FileOp op) except -1
    cdef FileOp new_read(self, int64_t position)
    cdef FileOp new_write(self)
    cdef object put(self, data)
    cdef int write_pending_now(self) except -1
    cdef int descriptor(self) except -1
    cdef bint free_now(self) except -1

cdef object error_of(FileOp op, Window window)
