# A truth value of one byte, for what there are many of: a bint is a C int.

cdef extern from "<stdbool.h>":
    ctypedef bint flag "bool"
