# For calls in plain C where Cython's try statement would save and restore the thread's exception each time.

cdef extern from *:
    """
    /* Hands an exception that is set already to Cython. */
    static int px_raised(void) { return -1; }
    """
    int px_raised() except -1
