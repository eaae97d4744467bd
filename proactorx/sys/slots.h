/* What a Python class keeps in ``__slots__``, without a look-up of the name. */
#ifndef PROACTORX_SYS_SLOTS_H
#define PROACTORX_SYS_SLOTS_H

#include <Python.h>
#include <structmember.h> /* PyMemberDef before Python 3.12 */

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

#endif
