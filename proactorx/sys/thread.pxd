cdef extern from "proactorx/sys/thread.h":
    void px_name_thread(const char *name) nogil
