/* What a Python class keeps in ``__slots__``, without a look-up of the name; and whether it was changed. */
#ifndef PROACTORX_SYS_SLOTS_H
#define PROACTORX_SYS_SLOTS_H

#include <Python.h>
#include <structmember.h> /* PyMemberDef before Python 3.12 */
#include "atomic.h"

/* Where instances have the slot, given what the class has under its name; 0: that is no slot. */
static inline Py_ssize_t px_slot_offset(PyObject *slot)
{
    return Py_TYPE(slot) == &PyMemberDescr_Type ? ((PyMemberDescrObject *)slot)->d_member->offset : 0;
}

/* What an instance of that class has there: borrowed; NULL: nothing. */
static inline PyObject *px_slot(PyObject *instance, Py_ssize_t offset)
{
    return *(PyObject **)((char *)instance + offset);
}

/* A number that a class gets when an attribute is first looked up after a change of it, or of one that it is
 * derived from; 0: it has none. */
static inline unsigned int px_version(PyObject *type)
{
    return px_load_relaxed(&((PyTypeObject *)type)->tp_version_tag);
}

/* Whether that is the number that was noted, by any thread. */
static inline int px_is_version(PyObject *type, unsigned int *noted)
{
    unsigned int version = px_load_relaxed(noted);
    return version && px_version(type) == version;
}

#endif
