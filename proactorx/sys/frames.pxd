cdef extern from "proactorx/sys/frames.h" nogil:
    bint PX_FRAMES           # whether this Python has what it takes
    void px_frames(int fd, void *state)
