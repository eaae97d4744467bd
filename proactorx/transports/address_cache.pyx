"""Addresses of datagrams between Python's form and ``struct sockaddr``, with a cache of those in use.

A server answers the addresses that it hears from, and a client sends to one:
neither converts an address twice.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport uint32_t
from libc.string cimport memcmp, memcpy, strlen
from proactorx.sys.datagram cimport AF_INET, AF_INET6, AF_UNIX, PX_HOST, PX_NAME, px_pack, px_place, px_unpack

from proactorx.port import sockaddr

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL

cdef enum:
    KNOWN = 64  # addresses that are kept as Python sees them


cdef class AddressCache:
    """The addresses of one datagram socket."""

    cdef object address_of(self, unsigned char *name, uint32_t size):
        """An address as the socket module would say it: a tuple, the name of a Unix socket, or None."""
        cdef Known *known
        cdef char host[PX_HOST]
        cdef int port = 0, family
        cdef uint32_t flow = 0, scope = 0
        cdef object address
        if self.family == AF_UNIX or size < 16 or size > PX_NAME:
            return sockaddr.parse((<char *>name)[:size]) if size else None
        if self.known == NULL:
            self.known = <Known *>PyMem_Calloc(KNOWN, sizeof(Known))
            if self.known == NULL:
                raise MemoryError
        known = &self.known[px_place(name, size, KNOWN - 1)]
        self.recent = known
        if known.address != NULL and known.size == size and not memcmp(known.name, name, size):
            return <object>known.address
        family = px_unpack(name, size, host, &port, &flow, &scope)
        if family == AF_INET:
            address = (host.decode("ascii"), port)
        elif family == AF_INET6:
            address = (host.decode("ascii"), port, flow, scope)
        else:
            return None
        Py_XDECREF(<PyObject *>known.address)
        Py_INCREF(address)
        known.address = <void *>address
        known.size = <unsigned char>size
        memcpy(known.name, name, size)
        return address

    cdef int name_of(self, object address, Outgoing *out) except -1:
        """The ``struct sockaddr`` of `address`; PLAIN where that is left to the socket module,
        with its errors.
        """
        cdef Py_ssize_t length, size
        cdef const char *host
        cdef long long port, flow = 0, scope = 0
        out.address = NULL
        out.size = PLAIN
        if self.sent_to.address != NULL and self.sent_to.address == <void *>address:
            out.size = self.sent_to.size
            memcpy(out.name, self.sent_to.name, PX_NAME)
            return 0
        if self.family == AF_UNIX:
            if (type(address) is str or type(address) is bytes) and address:
                try:
                    packed = sockaddr.pack(AF_UNIX, address)
                except (OSError, ValueError):
                    return 0  # too long, or no name of a file
                Py_INCREF(packed)
                out.address = <void *>packed
                out.size = 0
            return 0
        length = len(address) if type(address) is tuple else 0
        if not (length == 2 or (self.family == AF_INET6 and 2 < length <= 4)) or type(address[0]) is not str:
            return 0
        if not (<str>address[0]).isascii():
            return 0
        for item in address[1:]:
            if type(item) is not int or not 0 <= item <= 0xffffffff:
                return 0
        port = address[1]
        if port > 65535:
            return 0
        if length > 2:
            flow = address[2]
        if length > 3:
            scope = address[3]
        if flow > 0xfffff:
            return 0
        host = PyUnicode_AsUTF8AndSize(address[0], &size)
        if strlen(host) != <size_t>size:
            return 0  # a null: what follows it is not to be lost silently
        size = px_pack(self.family, host, <int>port, <uint32_t>flow, <uint32_t>scope, out.name)
        if size:
            out.size = <unsigned char>size
            Py_XDECREF(<PyObject *>self.sent_to.address)
            Py_INCREF(address)
            self.sent_to.address = <void *>address
            self.sent_to.size = out.size
            memcpy(self.sent_to.name, out.name, PX_NAME)
        return 0

    def __dealloc__(self):
        cdef int i
        Py_XDECREF(<PyObject *>self.sent_to.address)
        if self.known != NULL:
            for i in range(KNOWN):
                Py_XDECREF(<PyObject *>self.known[i].address)
            PyMem_Free(self.known)
