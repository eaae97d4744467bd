from libc.stdint cimport int64_t
from proactorx.files.access cimport Access, FileOp
from proactorx.files.raw_state cimport RawState

cdef class FifoLock:
    cdef bint held           # an operation runs
    cdef bint detached       # and goes on without its caller
    cdef object waiting      # the futures of those behind it
    cdef bint take(self) noexcept
    cdef int release(self) except -1
    cdef int detach(self) except -1
    cdef int release_detached(self) except -1
    cdef int reset(self) except -1

cdef class Transfer:
    cdef object stack        # a file of the io module
    cdef object indirect     # or what finds it each time
    cdef RawState state      # of the file at the bottom of `stack`; None: not a RawFile, every call may block
    cdef Access access
    cdef object executor
    cdef object loop
    cdef FifoLock lock       # one operation at a time, in the order of the calls
    cdef bint dirty          # the stack may hold bytes that are not written
    cdef bint unsynced       # written to since it was opened or synced: closing may wait for the disk
    cdef int in_flight       # ops and calls that use the descriptor
    cdef object idle         # a future that ends when none is left
    cdef readonly object opened_at  # (file name, line number) of the caller of open
    cdef object __weakref__
    cdef Access here(self)
    cdef object file(self)
    cdef object turn(self)
    cdef int op_ended(self) except -1
    cdef int begin(self, FileOp op) except -1
    cdef int adopt(self, FileOp op) except -1
    cdef FileOp new_read(self, int64_t position)
    cdef FileOp new_write(self)
    cdef int write_pending_now(self) except -1
    cdef int descriptor(self) except -1

cdef object error_of(FileOp op, RawState state)
