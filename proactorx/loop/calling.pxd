"""How a loop calls what was scheduled: vectorcall without a detour, and contexts that serve again."""

from cpython.object cimport PyObject

cdef extern from "Python.h":
    # As C has them: NULL or -1 with an exception set, which Cython does not look at.
    int px_context_enter "PyContext_Enter"(object context)
    int px_context_exit "PyContext_Exit"(object context)
    void px_untrack "PyObject_GC_UnTrack"(void *item)

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define PX_GIL 0
    #else
    #define PX_GIL 1
    #endif

    static inline PyObject *px_tuple(PyObject **items, Py_ssize_t count) {
        PyObject *made = PyTuple_New(count);
        for (Py_ssize_t i = 0; made && i < count; i++)
            PyTuple_SET_ITEM(made, i, Py_NewRef(items[i]));
        return made;
    }

    static inline void px_track(void *item) {
        if (!PyObject_GC_IsTracked((PyObject *)item)) PyObject_GC_Track(item);
    }

    /* Whether there is one reference to `item`, an object of exactly this type, and no weak one. */
    #if PX_GIL
    #define px_is_alone(item, type) (Py_REFCNT((PyObject *)(item)) == 1 && \\
        Py_TYPE((PyObject *)(item)) == (PyTypeObject *)(type) && \\
        *(PyObject **)((char *)(item) + Py_TYPE((PyObject *)(item))->tp_weaklistoffset) == NULL)
    #else
    #define px_is_alone(item, type) 0  /* references are counted in two places */
    #endif

    /* Call it with `one`, or, where that is NULL, with the arguments in the tuple `many`.  Python's functions
     * for this look at the state of the thread before and after, and make a tuple that we have. */
    static inline PyObject *px_call_with(PyObject *callback, PyObject *one, PyObject *many) {
    #ifdef Py_DEBUG
        return one ? PyObject_CallOneArg(callback, one) : PyObject_Call(callback, many, NULL);
    #else
        PyTypeObject *type = Py_TYPE(callback);
        PyObject *stack[2] = {NULL, one}, *result;
        vectorcallfunc function;
        if (PyType_HasFeature(type, Py_TPFLAGS_HAVE_VECTORCALL)) {
            function = *(vectorcallfunc *)((char *)callback + type->tp_vectorcall_offset);
            if (function && (one || PyTuple_GET_SIZE(many) == 0)) {
                result = function(callback, stack + 1, (one != NULL) | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
            } else {
                goto slow;
            }
        } else if (!one && type->tp_call) {
            result = type->tp_call(callback, many, NULL);
        } else {
        slow:
            return one ? PyObject_CallOneArg(callback, one) : PyObject_Call(callback, many, NULL);
        }
        if (result == NULL && !PyErr_Occurred())
            PyErr_SetString(PyExc_SystemError, "a callback returned NULL without setting an exception");
        return result;
    #endif
    }

    /* What a context says, as a word: two contexts with the same one say the same, and a context that gets
     * another value gets another word.  It is the immutable mapping in the context, at the same place in
     * Python 3.11 to 3.14. */
    #if PX_GIL && PY_VERSION_HEX < 0x030F0000
    #define PX_SHARES 1
    typedef struct {
        PyObject_HEAD
        PyObject *previous, *values, *weak;
    } px_context;
    #define px_values(context) ((void *)((px_context *)(context))->values)
    static inline void *px_current_values(void) {
        PyObject *current = PyThreadState_Get()->context;
        return current ? px_values(current) : NULL;
    }
    #define px_is_unused(context) (Py_REFCNT(context) == 1 && ((px_context *)(context))->weak == NULL)
    #else
    #define PX_SHARES 0
    #define px_values(context) NULL
    #define px_current_values() NULL
    #define px_is_unused(context) 0
    #endif
    """
    const bint PX_GIL
    void px_track(void *item)
    object px_tuple(PyObject **items, Py_ssize_t count)
    const bint PX_SHARES
    bint px_is_alone(void *item, object type)
    PyObject *px_call_with(PyObject *callback, PyObject *one, PyObject *many)
    void *px_values(void *context)
    void *px_current_values()
    bint px_is_unused(void *context)
