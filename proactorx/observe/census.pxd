from proactorx.observe.meter cimport Meter

cdef dict figures_of(Meter *meter)
