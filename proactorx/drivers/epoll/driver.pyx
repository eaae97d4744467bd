"""The epoll driver: an epoll set, and nothing else."""

from proactorx.drivers.readiness.epollset cimport EpollSet


cdef class EpollDriver(EpollSet):
    """Completions made of the readiness that epoll(7) reports."""

    def __cinit__(self):
        self.name = "epoll"
