from proactorx.ops.op cimport Op, RawPacket
from proactorx.port.loop_port cimport LoopPort
from proactorx.sys.flag cimport flag
from proactorx.transports.registry cimport Flushable, Registry

cdef extern from *:
    """
    // Cython makes a dictionary for each object of a class with `__dict__`, 64 bytes of an idle connection.
    // Without it, Python makes one when an attribute is set, and finds methods faster.
    static inline void px_drop_dict(PyObject *object) {
        Py_CLEAR(*(PyObject **)((char *)object + Py_TYPE(object)->tp_dictoffset));
    }
    """
    void px_drop_dict(object made)

cdef class ReadOp(Op):
    # The transport that it reads for.  While that is paused, a weak reference to it: nothing of ours
    # keeps it alive then.  None: its last packet has come.
    cdef object target
    cdef BaseTransport reader(self)

cdef class BaseTransport(Flushable):
    cdef readonly object _loop       # for asyncio's own sendfile fall-back, too
    cdef Registry registry
    cdef LoopPort port               # the registry's
    cdef readonly object _protocol   # as asyncio calls it, which programs read
    cdef object context
    cdef dict extra              # get_extra_info() values given or already asked for
    # the Python object that owns fd, once there is one; else the transport owns it
    cdef object sock
    cdef ReadOp receive          # what reads, or None
    cdef object weak             # a weak reference to this, once it was needed
    cdef list stash              # received while paused
    cdef int fd
    cdef flag user_owned       # `sock` came with the descriptor: it may be closed behind our back
    cdef flag lent               # it is the user's own socket or file, who may do with it what they like
    cdef flag reading_paused
    cdef flag closing
    cdef flag connection_lost_called
    cdef flag awaited            # a task waits for the transport: it goes on before anything is read
    cdef flag eof_seen           # the peer of a stream has ended
    cdef flag unix_stream        # the descriptor is a stream socket of the Unix family

    cdef object __weakref__

    cdef int init(self, object loop, Registry registry) except -1
    cdef int begin(self, int kind, bint direct) except -1
    cdef int arrived(self, RawPacket *packet) except -1
    cdef object reference(self)
    cdef int forsake(self, int fd) except -1
    cdef int receive_done(self) except -1
    cdef bint busy(self) noexcept
    cdef int stop_reading(self) except -1
    cdef int ended(self) except -1
    cdef int finish(self, exc) except -1
    cdef bint stranded(self) except -1
    cdef int release_fd(self) except -1
    cdef list states(self)

cdef int fd_of(object sock) except? -1
cdef bint holds(object sock, int fd) except -1
cdef bint enter(object context) except -1
