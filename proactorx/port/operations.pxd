from libc.stdint cimport int64_t
from proactorx.ops.op cimport Overlapped as Op

cdef int64_t nanoseconds(object timeout) except? -7
cdef int concurrency_limit(object concurrency) except -1

cdef class Binding:
    cdef object port         # a weak reference
    cdef object file         # likewise, or None where the file was given as a number
    cdef object key
    cdef int fd              # on Windows the number of a handle
    cdef object __weakref__
    cdef int watch(self, object file) except -1
    cdef int forget(self) except -1

cdef class Overlapped(Op):
    cdef Operations port
    cdef Binding binding     # of the file then
    cdef object file         # kept open until the last packet
    cdef int finished        # its packet has been queued; what is above was written before
    cdef int descriptor      # an accepted one that nobody has taken
    cdef bytes client        # its address, where the driver knows
    cdef object connection   # made of it
    cdef int body            # of a blocking body: see Body
    cdef bint is_finished(self) noexcept
    cdef int end_body(self, int res) except -1

cdef class Operations:
    cdef set bodies          # operations that IO threads have
    cdef Overlapped new_operation(self, int kind, object file)
    cdef int queue_body(self, Overlapped op) except -1
    # What the port of a system does.
    cdef int refuse_unusable(self) except -1
    cdef Binding binding_of(self, object file)
    cdef int family_of(self, object file, int fd) except -1
    cdef int submit(self, Overlapped op) except -1
    cdef int submit_file(self, Overlapped op) except -1
    cdef int stop(self, Overlapped op) except -1
    cdef int finish(self, Overlapped op, bint driven) except -1
    cdef int begin_body(self) except -1
    cdef int undo_body(self) except -1
    cdef Py_ssize_t blocking_call(self, Overlapped op) except? -1
