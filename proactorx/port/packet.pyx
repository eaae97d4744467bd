"""What a shared port gives out, and what it says when it is closed."""

cimport cython

__all__ = ["Packet", "PortClosed"]


@cython.final
@cython.freelist(256)
cdef class Packet:
    """One completion: four values with names, which can be unpacked,
    compared and hashed like a tuple of them.

    Args:
        key: of an operation: the key of the file; of a post: what was posted.
        overlapped: the operation; of a post: what was posted.
        nbytes: the bytes that the operation moved; of a post: what was posted.
        error: the ``errno`` of an operation that failed, else 0.
    """

    # One is made for each completion: a named tuple took 1.5 times as long to make and to give up.

    __match_args__ = ("key", "overlapped", "nbytes", "error")

    def __init__(self, key=None, overlapped=None, int64_t nbytes=0, int error=0):
        self.key = key
        self.overlapped = overlapped
        self.nbytes = nbytes
        self.error = error

    cdef tuple values(self):
        return self.key, self.overlapped, self.nbytes, self.error

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.values()[index]

    def __iter__(self):
        return iter(self.values())

    def __eq__(self, other):
        if isinstance(other, Packet):
            other = (<Packet>other).values()
        return self.values() == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self):
        return hash(self.values())

    def __reduce__(self):
        return Packet, self.values()

    def __repr__(self):
        return (f"Packet(key={self.key!r}, overlapped={self.overlapped!r}, nbytes={self.nbytes}, "
                f"error={self.error})")


class PortClosed(RuntimeError):
    """The port has been closed."""
