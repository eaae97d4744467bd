from cpython.object cimport PyObject

cdef extern from "proactorx/sys/slots.h":
    Py_ssize_t px_slot_offset(object slot) noexcept
    PyObject *px_slot(object instance, Py_ssize_t offset) noexcept
    unsigned int px_version(object kind) noexcept
    bint px_is_version(object kind, unsigned int *noted) noexcept
