from libc.stdint cimport int64_t

cdef int nature_of(int fd) except -1
cdef bint is_known(unsigned long long device) except -1
cdef bint is_local(unsigned long long device) except -1

cdef class RawState:
    cdef bytes data          # what was read ahead: data[start:]
    cdef Py_ssize_t start
    cdef bint eof            # the file ends behind it, and the program does not know yet
    cdef bint told           # it learns that from this call
    cdef bint within         # a call of the loop's thread is running: nothing may wait
    cdef bint strict         # a text layer above takes "nothing now" for the end: it must not happen
    cdef bint starved        # that call wants bytes that have to be waited for
    cdef Py_ssize_t allowance  # how much it may still copy from the page cache
    cdef bint read_now       # the kernel can say whether a read would wait
    cdef bint write_now
    cdef int kind            # of px_file_facts
    cdef bint seekable       # the position can be put back
    cdef bint placed         # and bytes are read and written at one: a read can be done again
    cdef bint known          # of one that is seekable and not placed: whether reads move it was found out
    cdef int64_t before      # that position before the read that runs
    cdef bint dry            # opened without waiting (O_NONBLOCK), and it has nothing now
    cdef public Py_ssize_t buffer  # the size of the buffer above
    cdef bint native         # reads and writes at a position are ops of this loop's driver
    cdef readonly bint local  # no other machine or process answers for the file
    cdef bint direct         # O_DIRECT: aligned memory, and no page cache
    cdef bint readable
    cdef bint writable
    cdef bint appends
    cdef list pending        # what was written and is still to be moved to the file
    cdef Py_ssize_t pending_size
    cdef Py_ssize_t asked    # that before the write that runs
    cdef int fd              # descriptor or handle (Windows) that has the position; -1: closed
    cdef int io              # reads and writes bytes: the same, or a second handle, which is closed with it
    cdef readonly bint alone  # Windows: there is no second one to be had, and no read at a position therefore
    cdef Py_ssize_t left(self) noexcept
    cdef char *bytes_left(self) noexcept
    cdef ssize_t now(self, char *buffer, Py_ssize_t n) except -2
    cdef bint by_kernel(self) noexcept
    cdef int64_t position(self) except -1
    cdef int64_t size(self) except -1
    cdef int let_go(self) except -1
    cdef int check_read(self) except -1
    cdef int check_write(self) except -1
    cdef bytes take(self, Py_ssize_t n)
    cdef int add(self, bytes data) except -1
    cdef int unread(self, bytes data) except -1
    cdef int drop(self) except -1
    cdef Py_ssize_t read_ahead(self, Py_ssize_t n) except -2
    cdef bint has_line(self, int newline) noexcept
    cdef bytes joined(self)
    cdef int wrote(self, Py_ssize_t n) except -1
    cdef int cut(self, Py_ssize_t n) except -1
    cdef int begin(self) except -1
    cdef bint end(self) noexcept
    cdef bint on_disk(self) noexcept
    cdef bint moves(self) noexcept

cdef int number_of(int fd) except -1
