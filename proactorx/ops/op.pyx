"""The op: one overlapped operation, from submit to its last packet.

    NEW --submit--> IN_FLIGHT --last packet--> DONE
                      |  ^ packet with MORE (multishot): stays IN_FLIGHT
                      |--cancel()--> CANCELLING --last packet (aborted, failed, or success after all)--> DONE
                      |                |
                      `--orphan()------`--> ORPHANED --last packet--> DONE  (a descriptor that it brought is
                      closed)

Three rules keep memory and descriptors safe:

* The op's address is its identity in the kernel.  The driver holds one reference from submit to the last
  packet (``Driver.inflight``) and each queued packet holds one more, so no packet can find its op gone.
* The op owns its buffer until the last packet, as a buffer export and never as a bare pointer: an asyncio
  future may be cancelled at once, while the kernel still writes.
* Cancelling is a request.  Whoever owns an op must be ready for success after all: an accepted descriptor
  that nobody wants is closed here, and received bytes are handed to ``on_done``.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_DECREF, Py_INCREF
from proactorx.sys.errnos cimport ECANCELED, EINTR
from libc.string cimport memcpy
from proactorx.ops.checks cimport PX_CHECKS
from proactorx.ops.kinds cimport (
    PX_BYTES, PX_ENDS, PX_FD, PX_IN, PX_NOTHING, PX_ON_FILE, PX_ON_SOCKET, PX_PACKETS, PX_VALUE,
    px_done_when_ready,
)
from proactorx.sys.socket cimport (
    px_client, px_close, px_has_bytes, px_message, px_message_set, sockaddr_storage,
)

import sys

from proactorx.sys.errors import strerror

cdef int last_kind = TRANSMIT if sys.platform == "win32" else OPEN

cdef int queue_init(PacketQueue *queue) except -1:
    queue.items = <RawPacket *>PyMem_Malloc(256 * sizeof(RawPacket))
    if queue.items == NULL:
        raise MemoryError
    queue.head = queue.tail = 0
    queue.mask = 255
    return 0


cdef void queue_free(PacketQueue *queue) noexcept:
    cdef RawPacket *packet
    if queue.items == NULL:
        return
    while queue.head != queue.tail:
        packet = &queue.items[queue.head & queue.mask]
        queue.head += 1
        Py_DECREF(<object>packet.op)
    PyMem_Free(queue.items)
    queue.items = NULL


cdef int queue_grow(PacketQueue *queue) except -1:
    cdef uint32_t count = queue.tail - queue.head, size = 2 * (queue.mask + 1), i
    cdef RawPacket *items = <RawPacket *>PyMem_Malloc(size * sizeof(RawPacket))
    if items == NULL:
        raise MemoryError
    for i in range(count):
        items[(queue.head + i) & (size - 1)] = queue.items[(queue.head + i) & queue.mask]
    PyMem_Free(queue.items)
    queue.items = items
    queue.mask = size - 1
    return 0


cdef int queue_postpone(PacketQueue *queue, uint32_t count) except -1:
    """Move the READY packets among the first `count` behind all others; the order of the rest stays.

    They are what a driver itself has queued for streams that have left bytes behind.  What the kernel reports
    is served first: a connection that has waited must not wait behind 64 others that have just been served.
    """
    cdef RawPacket packet
    cdef uint32_t first = queue.head, kept = 0
    # What is moved goes to free places: not where the queue begins, there lie those that are kept.
    while queue.mask + 1 - queue_count(queue) < count:
        queue_grow(queue)
    for _ in range(count):
        packet = queue.items[queue.head & queue.mask]
        queue.head += 1
        if packet.flags & PACKET_READY:
            queue.items[queue.tail & queue.mask] = packet
            queue.tail += 1
        else:
            queue.items[(first + kept) & queue.mask] = packet
            kept += 1
    while kept:
        kept -= 1
        queue.head -= 1
        queue.items[queue.head & queue.mask] = queue.items[(first + kept) & queue.mask]
    return 0


cdef char *buffer_take(BufferPool *pool, size_t size) except NULL:
    """A free buffer, or a new one; all of a pool have the same size."""
    cdef void *buffer = pool.free
    if buffer != NULL:
        pool.free = (<void **>buffer)[0]
    else:
        buffer = PyMem_Malloc(size)
        if buffer == NULL:
            raise MemoryError
    pool.lent += 1
    return <char *>buffer


cdef void buffers_free(BufferPool *pool) noexcept:
    """Free those that are not in use."""
    cdef void *buffer
    while pool.free != NULL:
        buffer = pool.free
        pool.free = (<void **>buffer)[0]
        PyMem_Free(buffer)


cdef bytes client_of(RawPacket *packet):
    """The ``struct sockaddr`` of the client that a packet of ACCEPT or ACCEPT_ONE has brought; None:
    not known.
    """
    cdef px_client *client = <px_client *>packet.data
    if client == NULL or packet.res < 0:
        return None
    return (<char *>&client.name)[:min(client.size, sizeof(client.name))]


cdef class Op:
    """One overlapped operation.  Subclasses say what a packet means to them (``on_packet``)."""

    def __cinit__(self):
        self.fd = -1
        self.slot = -1
        set_state(self, NEW)

    cdef int on_packet(self, RawPacket *packet) except -1:
        raise NotImplementedError("Op.on_packet")

    cdef object subject(self):
        """Whose callbacks its packets lead to, for the logs."""
        return self

    cdef int owner_failed(self, exc) except -1:
        """``on_packet`` has raised `exc`, which was reported: let go of what cannot be used any more."""
        return 0

    cdef bint stale(self) except -1:
        """Whether the file that the op is for was closed by its owner: the number may be another one's."""
        return False

    cdef Py_ssize_t want(self) noexcept:
        """How many bytes the op would move now."""
        return 0

    cdef char *buffer(self) noexcept:
        """Where they are, or go."""
        return NULL

    cdef int took(self, Py_ssize_t nbytes) except -1:
        """`nbytes` were moved; 1 when the op wants to go on (a send that was short)."""
        return 0

    cdef void fill(self, px_call *call) noexcept:
        """The op's part of a system call: where the bytes are that it would move now, how many,
        and the address.
        """
        call.buffer = self.buffer()
        call.size = self.want()
        call.message = <px_message *>self.message()
        call.position = self.position

    cdef void *message(self) noexcept:
        """RECV_FROM, SEND_TO: the memory of its header and address."""
        return NULL

    cdef int hold(self) except -1:
        """It goes to the driver: from now on the garbage collector must not take its buffer,
        whatever becomes of it.
        """
        return 0

    cdef int orphan(self) except -1:
        """Nobody waits for it any more.  Its end was asked for; what it brings after all is thrown away."""
        if self.state == IN_FLIGHT or self.state == CANCELLING:
            set_state(self, ORPHANED)
        return 0

    cdef int let_go(self) except -1:
        """The counterpart: its last packet has come."""
        return 0

    @property
    def state_name(self):
        """Where the op is in its life: NEW, IN_FLIGHT, CANCELLING, ORPHANED or DONE."""
        return ("NEW", "IN_FLIGHT", "CANCELLING", "ORPHANED", "DONE")[self.state]


cdef class Watch(Op):
    """Calls `callback` each time that `fd` is ready for `events` (poll(2) bits), until it is cancelled."""

    def __init__(self, int fd, uint32_t events, callback):
        if self.state != NEW:
            raise RuntimeError("an operation that has been submitted stays what it is")
        self.kind = POLL
        self.fd = fd
        self.events = events
        self.direct = True
        self.callback = callback

    cdef int on_packet(self, RawPacket *packet) except -1:
        callback = self.callback
        if not packet.flags & PACKET_MORE:
            self.callback = None
        # An error is readiness too: the caller's own system call will say which.
        if callback is not None and packet.res != -ECANCELED:
            callback()
        return 0


cdef class Overlapped(Op):
    """One op with a result, as its user sees it: ``done``, ``result()``, ``error``.

    ``on_done`` is called with the op at its last packet, once.
    """

    def __init__(self, int kind, int fd, *, data=None, Py_ssize_t size=0, uint32_t events=0, address=None,
                 on_done=None, int64_t position=-1, bint datasync=False):
        if self.state != NEW:
            raise RuntimeError("an operation that has been submitted stays what it is")
        if not 0 <= kind <= last_kind or px_kinds[kind].brings == PX_PACKETS:
            raise ValueError(f"unknown kind of operation: {kind}")
        if size < 0:
            raise ValueError(f"a size cannot be negative: {size}")
        self.kind = <uint8_t>kind
        self.fd = fd
        self.size = size
        self.events = FSYNC_DATA if datasync else events
        self.on_done = on_done
        if position < -1:
            raise ValueError(f"a position cannot be negative: {position}")
        self.position = position
        if data is not None:
            self.set_buffer(data, px_kinds[kind].direction == PX_IN)
        elif px_kinds[kind].brings == PX_BYTES and px_kinds[kind].moves:
            self.make_buffer()
        if px_kinds[kind].addressed:
            self._set_envelope(address)

    cdef int set_buffer(self, object data, bint writable) except -1:
        cdef Py_buffer *view
        # A memoryview is a Py_buffer export with a safe owner: the exporter cannot resize or free its memory.
        self.view = memoryview(data)
        if writable and self.view.readonly:
            raise TypeError("a receive needs a writable buffer")
        if not self.view.c_contiguous:
            raise BufferError("the buffer is not contiguous")
        view = PyMemoryView_GET_BUFFER(self.view)
        self.memory = <char *>view.buf
        self.size = view.len
        return 0

    cdef int make_buffer(self) except -1:
        """READ: a bytes object for the result, which nobody sees before the last packet."""
        self.view = PyBytes_FromStringAndSize(NULL, self.size)
        self.memory = PyBytes_AS_STRING(self.view)
        return 0

    cdef int _set_envelope(self, bytes address) except -1:
        cdef Py_ssize_t size = 0 if address is None else len(address)
        cdef px_message *envelope
        if size > <Py_ssize_t>sizeof(sockaddr_storage):
            raise ValueError(f"an address of {size} bytes")
        if self.envelope == NULL:
            self.envelope = PyMem_Malloc(sizeof(px_message))
            if self.envelope == NULL:
                raise MemoryError
        envelope = <px_message *>self.envelope
        if size:
            memcpy(&envelope.name, PyBytes_AS_STRING(address), size)
        px_message_set(envelope, self.memory, self.size, size)
        return 0

    @property
    def address(self):
        """The ``struct sockaddr`` of a RECV_FROM that has ended, or of a SEND_TO;
        empty where there is none.
        """
        cdef px_message *envelope = <px_message *>self.envelope
        if envelope == NULL or (px_kinds[self.kind].direction == PX_IN and self.state != DONE):
            return b""
        return (<char *>&envelope.name)[:min(envelope.header.msg_namelen, sizeof(sockaddr_storage))]

    @property
    def done(self):
        """Whether the last packet has come."""
        return self.state == DONE

    @property
    def nbytes(self):
        """Bytes moved so far; defined also for a send or write that was cancelled, or failed, half-way."""
        return self.offset

    def result(self):
        """What it brought: bytes (RECV), a count (RECV_INTO, SEND, WRITE), a descriptor (ACCEPT_ONE),
        a mask (POLL).

        Of RECV_FROM and READ bytes, or a count where it has a buffer of its own.

        Raises:
            OSError: the op failed; ``errno`` is ECANCELED when it was cancelled in time.
            RuntimeError: the last packet has not come yet.
        """
        if self.state != DONE:
            raise RuntimeError("the operation is still in flight")
        if self.error:
            raise OSError(self.error, strerror(self.error))
        return self.value

    cdef Py_ssize_t want(self) noexcept:
        return self.size - self.offset

    cdef char *buffer(self) noexcept:
        return self.memory + self.offset if self.memory != NULL else NULL

    cdef void *message(self) noexcept:
        return self.envelope

    cdef int hold(self) except -1:
        if self.view is not None and self.held == NULL:
            Py_INCREF(self.view)
            self.held = <void *>self.view
        return 0

    cdef int let_go(self) except -1:
        cdef void *held = self.held
        if held != NULL:
            self.held = NULL
            Py_DECREF(<object>held)
        return 0

    cdef int took(self, Py_ssize_t nbytes) except -1:
        self.offset += nbytes
        if self.position >= 0:
            self.position += nbytes
        if self.offset >= self.size:
            return 0
        if px_kinds[self.kind].direction == PX_IN and px_kinds[self.kind].on == PX_ON_FILE:
            # Only a read of nothing is the end of a file; short ones come in its midst.  What has no
            # positions, or nothing more for now, has given what there is.
            return nbytes > 0 and self.position >= 0 and (nbytes == FILE_STEP or px_has_bytes(self.fd))
        return px_kinds[self.kind].whole

    cdef int on_packet(self, RawPacket *packet) except -1:
        cdef const px_kind *row = &px_kinds[self.kind]
        cdef int res = packet.res
        # EINTR: the cancel met a file op that was being executed.
        cdef bint cancelled = res == -ECANCELED or (res == -EINTR and row.on != PX_ON_SOCKET)
        if res < 0 and (cancelled or not (row.moves and row.brings == PX_BYTES and self.offset)):
            self.error = ECANCELED if cancelled else -res
        elif row.brings == PX_FD:
            self._descriptor(res)
            if packet.flags & PACKET_MORE:
                return 0
        elif row.whole and self.offset < self.size and (res > 0 or row.on == PX_ON_SOCKET):
            self.error = ECANCELED  # half-way; nbytes tells how far
        elif row.brings == PX_VALUE or row.brings == PX_NOTHING:
            self.value = res
        else:
            self._moved(row, packet)
        if not packet.flags & PACKET_MORE:
            try:
                if self.on_done is not None:
                    on_done, self.on_done = self.on_done, None
                    on_done(self)
            finally:
                self.view = None
                self.memory = NULL
        return 0

    cdef _moved(self, const px_kind *row, RawPacket *packet):
        """Note the bytes that it has brought, or how many there were."""
        if not row.moves:
            self.offset = packet.res
        if row.brings != PX_BYTES or (self.memory != NULL and type(self.view) is not bytes):
            self.value = self.offset
        elif not row.moves:
            self.value = PyBytes_FromStringAndSize(packet.data, packet.res)
        else:
            self.value = self.view if self.offset == self.size else (<bytes>self.view)[:self.offset]

    cdef _descriptor(self, int fd):
        # Success after all: nobody waits for this descriptor any more, so nobody else will close it.
        if self.on_done is None or self.state == ORPHANED:
            px_close(fd)
            self.error = ECANCELED
        elif px_kinds[self.kind].goes_on != PX_ENDS:
            self.on_done(fd)
        else:
            self.value = fd

    def __dealloc__(self):
        # Where the driver went away with this op in the kernel, `held` stays: memory is leaked rather than
        # freed while the kernel may still use it.
        if self.state == NEW or self.state == DONE:
            PyMem_Free(self.envelope)


cdef extern from "Python.h":
    Py_buffer *PyMemoryView_GET_BUFFER(object view)


#: Whether this build checks its accounts, see ``checks.h``.
CHECKED = bool(PX_CHECKS)


def take_step(Op op not None, int state):
    """Have `op` take a step of its life, which ends the process where there is no such step; for tests."""
    set_state(op, state)


cdef tuple DIRECTIONS = ("neither", "in", "out", "as events")
cdef tuple BRINGS = ("nothing", "value", "count", "bytes", "fd", "packets")
cdef tuple LINES = ("none", "receivers", "senders", "acceptors")
cdef tuple ON = ("socket", "child", "file", "path")


def table():
    """What each kind of op is, by its number in ``constants``: the rows of ``kinds.h``, as data."""
    cdef const px_kind *row
    cdef int kind
    rows = []
    for kind in range(KINDS):
        row = &px_kinds[kind]
        rows.append({
            "name": row.name.decode(),
            "direction": DIRECTIONS[row.direction],
            "on": ON[row.on],
            "serial": bool(row.serial),
            "eager": bool(row.eager),
            "buffered": bool(row.buffered),
            "moves": bool(row.moves),
            "whole": bool(row.whole),
            "addressed": bool(row.addressed),
            "brings": BRINGS[row.brings],
            "line": LINES[row.line],
            "multishot": row.goes_on != PX_ENDS,
            "when_ready": bool(px_done_when_ready(row)),
            "blocking": row.blocking != NULL,
        })
    return rows
