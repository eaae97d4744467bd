cdef extern from "proactorx/ops/checks.h":
    enum: PX_CHECKS
    void px_check(bint ok, const char *what) noexcept
