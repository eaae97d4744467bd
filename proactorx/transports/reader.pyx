"""Bytes for ``asyncio.StreamReader`` without a Python call per packet.

``asyncio.open_connection`` and ``start_server`` put a ``StreamReaderProtocol`` on the transport, whose
``data_received`` does one thing: ``StreamReader.feed_data``.  For exactly these two classes the same is done
here, straight into the reader's buffer.  A subclass, a method that was replaced (in its class or in one
instance) and a Python whose ``feed_data`` does something else get the call.

And what a ``BufferedProtocol`` is asked.
"""

from cpython.buffer cimport PyBUF_WRITABLE
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.object cimport PyObject
from libc.string cimport memcpy
from proactorx.sys.raised cimport px_raised

import asyncio
from asyncio import streams

cdef extern from "Python.h":
    object PyObject_GetAttr(object instance, object name)
    bint PyMethod_Check(object method)
    PyObject *PyMethod_GET_FUNCTION(object method)
    object PyObject_VectorcallMethod(object name, PyObject **args, size_t nargsf, PyObject *kwnames)
    # As C has it: -1 with an exception set, which Cython does not look at.
    int px_get_buffer "PyObject_GetBuffer"(object buffer, Py_buffer *view, int flags)

# The attributes that the methods used when this was written (Python 3.11 to 3.15).
_FEED = {"NotImplementedError", "_buffer", "_eof", "_limit", "_paused", "_transport", "_wakeup_waiter",
         "extend", "len",
         "pause_reading"}
_WAKE = {"_waiter", "cancelled", "set_result"}
_RECEIVED = {"_stream_reader", "feed_data"}

cdef object BufferedProtocol = asyncio.BufferedProtocol
cdef object Reader = streams.StreamReader
cdef object Protocol = streams.StreamReaderProtocol
cdef object feed_data = Reader.feed_data
cdef object wakeup_waiter = Reader._wakeup_waiter
cdef object data_received = Protocol.data_received
cdef object GET_BUFFER = "get_buffer"
cdef object ANY_SIZE = -1
cdef bint known = False


cdef bint _names(function, names):
    code = getattr(function, "__code__", None)
    return code is not None and set(code.co_names) == names


known = _names(feed_data, _FEED) and _names(wakeup_waiter, _WAKE) and _names(data_received, _RECEIVED)


cdef bint is_plain(protocol) except -1:
    """Whether `protocol` is asyncio's own, with nothing of it replaced."""
    return (known and type(protocol) is Protocol and Protocol.data_received is data_received
            and Reader.feed_data is feed_data and Reader._wakeup_waiter is wakeup_waiter)


cdef bint is_buffered(protocol) except -1:
    """Whether `protocol` receives into buffers of its own: it says so, or knows no other way."""
    if isinstance(protocol, BufferedProtocol):
        return True
    return (not hasattr(protocol, "data_received") and hasattr(protocol, "get_buffer")
            and hasattr(protocol, "buffer_updated"))


cdef int ask_for_buffer(PyObject *protocol, Py_buffer *view) except -1:
    """Get a buffer of the protocol's into `view`."""
    cdef PyObject *args[2]
    args[0] = protocol
    args[1] = <PyObject *>ANY_SIZE
    buffer = PyObject_VectorcallMethod(GET_BUFFER, args, 2, NULL)
    if not len(buffer):
        raise RuntimeError("get_buffer() returned an empty buffer")
    if px_get_buffer(buffer, view, PyBUF_WRITABLE) < 0:
        refused(buffer)
    return 0


cdef int refused(buffer) except -1:
    try:
        px_raised()
    except BufferError:
        # The error of socket.recv_into(), which stock asyncio calls.
        raise TypeError(
            f"get_buffer() must return a read-write bytes-like object, not {type(buffer).__name__}") from None
    return 0


cdef inline bint calls(object instance, object name, PyObject *function) except -1:
    """Whether the method of that name is `function`: it may have been replaced,
    in the instance or in the class.
    """
    method = PyObject_GetAttr(instance, name)
    return PyMethod_Check(method) and PyMethod_GET_FUNCTION(method) == function


cdef object reader_of(protocol):
    """The ``StreamReader`` that may be fed by hand; None: the protocol has to be called after all."""
    reference = protocol._stream_reader_wr
    if reference is None or not calls(protocol, "data_received", <PyObject *>data_received):
        return None
    reader = reference()
    if type(reader) is not Reader or reader._eof or type(reader._buffer) is not bytearray:
        return None
    return reader if calls(reader, "feed_data", <PyObject *>feed_data) else None


cdef char *grow(reader, Py_ssize_t size) except NULL:
    """Make `size` bytes of room at the end of its buffer; `grown` must follow."""
    buffer = reader._buffer
    cdef Py_ssize_t before = PyByteArray_GET_SIZE(buffer)
    PyByteArray_Resize(buffer, before + size)
    return PyByteArray_AS_STRING(buffer) + before


cdef int grown(reader, Py_ssize_t size, Py_ssize_t count) except -1:
    """`count` of the `size` bytes are filled: drop the rest, and do what else ``feed_data`` does."""
    buffer = reader._buffer
    cdef Py_ssize_t length = PyByteArray_GET_SIZE(buffer) - size + count
    if count != size:
        PyByteArray_Resize(buffer, length)
    if not count:
        return 0
    waiter = reader._waiter
    if waiter is not None:
        reader._waiter = None
        if not waiter.cancelled():
            waiter.set_result(None)
    if length > 2 * reader._limit and not reader._paused:
        transport = reader._transport
        if transport is not None:
            transport.pause_reading()
            reader._paused = True
    return 0


cdef int feed(protocol, char *data, Py_ssize_t size) except -1:
    """Do what ``protocol.data_received`` would do with these bytes.  0: it has to be called after all."""
    reader = reader_of(protocol)
    if reader is None:
        return 0
    memcpy(grow(reader, size), data, size)
    grown(reader, size, size)
    return 1
