from libc.stdint cimport int64_t

cdef void asks_for_gil(int64_t now) noexcept nogil
cdef void has_gil() noexcept
