from libc.stdint cimport int64_t, uint32_t
from proactorx.ops.op cimport Overlapped
from proactorx.port.loop_port cimport LoopPort

cdef enum Until:
    ONCE         # READ: by one read(2), which brings what there is
    UNTIL_DRY    # more while there is more to be had without waiting
    UNTIL_FULL   # a plain file: up to its end

cdef class FileOp(Overlapped):
    cdef Access access
    cdef readonly object future
    cdef object then         # called with the op at its end, if its caller was cancelled
    cdef bint ended
    cdef bint abandoned
    cdef int move_to         # SEEK_CUR, SEEK_END: where the file's position goes at the end; -1: nowhere
    cdef int place           # what has that position, see RawState.fd
    cdef bint own            # its buffer is not the caller's
    cdef Until until         # READ: how far its blocking body goes; the driver gets only those UNTIL_FULL
    cdef bint at_end         # READ: the end of the file is where it has ended
    cdef int opened          # OPEN: the descriptor, until the caller takes it; else -1
    cdef int finish(self) except -1
    cdef int abandon(self) except -1
    cdef void close_opened(self) noexcept
    cdef bytes taken(self)
    cdef int make_aligned(self, Py_ssize_t n) except -1
    cdef int align(self) except -1

cdef class Access:
    cdef readonly object loop
    cdef LoopPort port           # None: a loop that is not ours
    cdef object executor     # asked for by the user, or None
    # Two turns of a loop of ours, known by when they began (Driver.turn_began).
    cdef int64_t turn        # in which time was last looked at
    cdef int64_t spent       # whose share of time is used up
    cdef bint exhausted      # `spent` for a loop that is not ours, until an operation has yielded
    cdef double since
    cdef object resting      # futures of operations that let others have their turn, or None
    cdef Py_ssize_t woken    # how many of them went on last time
    cdef Py_ssize_t work
    cdef FileOp new_op(self, int kind, int fd, int64_t position)
    cdef int start(self, FileOp op, bint native) except -1
    cdef FileOp start_by_path(self, int kind, bytes path, uint32_t events)
    cdef bint has_ring(self) except -1
    cdef bint over_budget(self) noexcept
    cdef object budget(self)
    cdef object yield_turn(self)
    cdef int charge(self, Py_ssize_t size) except -1
    cdef bint takes(self, int fd) except -1
    cdef int call(self, fn, tuple args, on_end) except -1

cdef Access access_of(object loop, object executor)
cdef Access access_here(Access before)
cdef object DONE
