from proactorx.observe.meter cimport Meter

cdef dict figures_of(Meter *meter)
cdef int make_records(Meter *meter) noexcept
cdef void free_records(Meter *meter) noexcept
cdef bytes records_of(Meter *meter)
