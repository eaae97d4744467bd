"""The text of a file without positions, such as a pipe: each line is there as soon as its bytes are.

An ``io.TextIOWrapper`` cannot tell whether it has a whole line before it waits for more bytes.
"""

from cpython.unicode cimport PyUnicode_GET_LENGTH

import codecs
import io


cdef class Characters:
    """Text that was decoded and not read yet.

    Args:
        encoding: the name of a codec.
        errors: the name of its error handler.
        newline: what ends a line, as of the built-in ``open``.
    """

    def __init__(self, str encoding, str errors, str newline):
        self.newline = newline
        self.decoder = codecs.getincrementaldecoder(encoding)(errors)
        if not newline:
            # It keeps a CR at the very end until it knows whether LF follows.
            self.decoder = io.IncrementalNewlineDecoder(self.decoder, translate=newline is None)
        self.text = ""

    cdef Py_ssize_t left(self) noexcept:
        return PyUnicode_GET_LENGTH(self.text) - self.at

    cdef int feed(self, bytes data, bint end) except -1:
        """Decode `data`, which was read next; `end`: there is no more for now."""
        more = self.decoder.decode(data, end)
        if more:
            self.text = self.text[self.at:] + more if self.left() else more
            self.seen -= self.at
            self.at = 0
        return 0

    cdef int put_back(self, str text) except -1:
        """Put back `text`, which was taken."""
        self.text = text + self.take(-1)
        return 0

    cdef str take(self, Py_ssize_t n):
        """At most `n` characters; all where `n` is negative."""
        cdef Py_ssize_t end = self.at + n
        if n < 0 or n >= self.left():
            text = self.text[self.at:] if self.at else self.text
            self.text = ""
            self.at = self.seen = 0
            return text
        text = self.text[self.at:end]
        self.at = end
        self.seen = max(self.seen, end)
        return text

    cdef Py_ssize_t line(self) except -2:
        """How many characters the first line has, with its end; -1 where that is not here yet."""
        cdef Py_ssize_t begin = max(self.seen, self.at), lf, cr
        if self.newline == "\r\n":
            lf = self.text.find("\r\n", max(begin - 1, self.at))
            lf = lf + 1 if lf >= 0 else -1
        else:
            lf = self.text.find("\r" if self.newline == "\r" else "\n", begin)
        if self.newline == "":
            cr = self.text.find("\r", begin, lf if lf >= 0 else PyUnicode_GET_LENGTH(self.text))
            if cr >= 0 and cr + 1 != lf:
                lf = cr
        if lf < 0:
            self.seen = PyUnicode_GET_LENGTH(self.text)
            return -1
        return lf + 1 - self.at

    cdef int drop(self) except -1:
        """Forget all of it."""
        self.take(-1)
        self.decoder.reset()
        return 0

    @property
    def newlines(self):
        """The line ends that were seen, where any of them ends a line."""
        return getattr(self.decoder, "newlines", None)
