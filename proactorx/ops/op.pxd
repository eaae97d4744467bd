from libc.stdint cimport int64_t, uint8_t, uint32_t
from proactorx.sys.flag cimport flag
from proactorx.sys.overlapped cimport px_overlapped
from proactorx.ops.checks cimport px_check
from proactorx.ops.kinds cimport (
    ACCEPT, ACCEPT_ONE, CHANGE_RENAME, CHANGE_RMDIR, CHANGE_UNLINK, CONNECT, DISCONNECT, FSYNC, KINDS, OPEN,
    PATH_CHANGE, POLL, READ, RECV, RECV_DGRAMS, RECV_FROM, RECV_INTO, RECV_STREAM, SEND, SEND_TO, TRANSMIT,
    WAIT_CHILD, WRITE, px_call, px_kind, px_kinds,
)

cdef enum:
    FSYNC_DATA = 1       # FSYNC, `events`: only the attributes that a later read needs, fdatasync(2)
    # READ, WRITE: so many bytes at a time.  What the page cache has is copied by the thread that submits,
    # which is the loop's: 1 MiB takes it 0.1 ms.
    FILE_STEP = 1 << 20

cdef enum State:
    NEW
    IN_FLIGHT
    CANCELLING      # its end was asked for
    ORPHANED        # that too, and nobody waits for the result any more
    DONE

cdef enum:
    PACKET_MORE = 1      # the op stays in flight, more packets follow
    PACKET_READY = 2     # the fd is ready: the system call is still to be made (Driver.perform)
    PACKET_BUFFER = 4    # `data` is a buffer of the driver's, which it gets back after the dispatch (iocp)
    PACKET_LATE = 8      # made by the driver for an op that is not in the kernel

cdef struct RawPacket:   # as the driver queues it; a CompletionPort makes a Packet of it, an object
    void *op             # a reference of its own
    char *data           # what was received; ACCEPT, ACCEPT_ONE: a px_client, see sys/socket.h, or NULL
    int res              # bytes, a descriptor, a poll mask; or -errno
    uint32_t flags

cdef struct PacketQueue:
    RawPacket *items
    uint32_t head
    uint32_t tail
    uint32_t mask

cdef struct BufferPool:    # memory for what the kernel receives before anybody asks (iocp)
    void *free             # a list, linked through the first bytes of each buffer
    int lent               # how many are in use

cdef char *buffer_take(BufferPool *pool, size_t size) except NULL
cdef void buffers_free(BufferPool *pool) noexcept

cdef inline void buffer_give_back(BufferPool *pool, char *buffer) noexcept:
    (<void **>buffer)[0] = pool.free
    pool.free = buffer
    pool.lent -= 1


cdef int queue_init(PacketQueue *queue) except -1
cdef void queue_free(PacketQueue *queue) noexcept
cdef int queue_grow(PacketQueue *queue) except -1
cdef int queue_postpone(PacketQueue *queue, uint32_t count) except -1

cdef inline uint32_t queue_count(PacketQueue *queue) noexcept nogil:
    return queue.tail - queue.head


cdef bytes client_of(RawPacket *packet)


# What a driver keeps of an op that it has.

cdef struct LineNote:       # readiness
    void *next              # the op that waits behind it on the same fd and direction

cdef struct RingNote:       # io_uring
    flag used               # the ring does it; else it waits in the epoll set
    flag in_kernel          # its entry was not answered for the last time
    flag withdrawn          # its entry was turned into a no-op before the kernel saw it
    uint8_t polls           # which poll is next, see drivers/io_uring/encode.pxd
    uint32_t entry          # the place of its entry in the submission queue

cdef struct KernelNote:     # iocp
    uint8_t mode            # how it waits
    flag in_kernel          # the kernel holds a reference


cdef class Op:
    cdef readonly int fd
    cdef uint32_t events
    cdef uint8_t kind
    cdef uint8_t state
    cdef flag paused         # its owner wants no packets now
    cdef flag found_nothing  # RECV_STREAM: the last receive
    # RECV_STREAM: the owner makes the recv(2) itself, at PACKET_READY; POLL: never ends
    cdef flag direct
    cdef flag again          # direct: the owner left bytes behind; READ, WRITE: there is more to be moved
    cdef flag owned          # RECV_STREAM: the loop alone has the socket, so the driver may keep its file
    cdef flag unix_stream    # RECV_STREAM: a Unix socket, on which a receive may stop short
    cdef flag same_file      # that the last op on `fd` was for, its owner knows
    # Between the driver and the port.
    cdef flag armed          # the driver waits for the kernel's last word on this op
    cdef flag cancel_sent
    cdef flag suspended          # paused, and the driver has stopped listening
    cdef flag pending_ready  # paused while ready
    # its READY packets report edges: bytes that were left behind must be asked for again
    cdef flag edge
    cdef KernelNote kernel   # the driver's own, as `line` and `ring`; here it fills a gap
    cdef uint32_t ready      # READY packets in the queue
    cdef int slot            # its place in Driver.inflight
    cdef int64_t since       # ns: the turn in which it was submitted began; 0: not known
    cdef int64_t position    # READ, WRITE: of the next byte; -1: the file has no positions
    # The driver's own: each reads and writes one of these only.
    cdef LineNote line
    cdef RingNote ring
    cdef px_overlapped flight # Windows: what the kernel has of it while it is in flight
    cdef int on_packet(self, RawPacket *packet) except -1
    cdef object subject(self)
    cdef int owner_failed(self, exc) except -1
    cdef bint stale(self) except -1
    cdef Py_ssize_t want(self) noexcept
    cdef char *buffer(self) noexcept
    cdef int took(self, Py_ssize_t nbytes) except -1
    cdef void fill(self, px_call *call) noexcept
    cdef void *message(self) noexcept    # a px_message, see sys/socket.h
    cdef int hold(self) except -1
    cdef int orphan(self) except -1
    cdef int let_go(self) except -1


cdef inline bint may_stop_short(Op op) noexcept:
    """Whether a receive that falls short may leave bytes of which no edge will tell: behind descriptors."""
    return op.unix_stream and op.edge and op.armed


cdef inline void set_state(Op op, int state) noexcept:
    """Every step of an op's life goes through here.  See the picture in op.pyx."""
    px_check(may_follow(op.state, state), "an op took a step that its life does not have")
    op.state = <uint8_t>state


cdef inline bint may_follow(int before, int after) noexcept:
    if after == IN_FLIGHT:
        return before == NEW
    if after == CANCELLING:
        return before == IN_FLIGHT
    if after == ORPHANED:
        return before == IN_FLIGHT or before == CANCELLING
    if after == DONE:
        return before != DONE
    return before == NEW or before == DONE  # made anew by its owner


cdef class Watch(Op):
    cdef object callback


cdef class Overlapped(Op):
    cdef public object on_done # called with the op at its last packet, or None
    cdef object value
    cdef readonly int error  # the errno of a failed op, 0 of one that succeeded
    cdef Py_ssize_t size
    cdef Py_ssize_t offset
    cdef object view         # keeps the exporter locked until the last packet
    cdef void *held          # while in flight: a reference to `view` that the garbage collector does not see
    cdef char *memory
    cdef void *envelope      # RECV_FROM, SEND_TO: a px_message
    cdef object __weakref__
    cdef int _set_envelope(self, bytes address) except -1
    cdef _moved(self, const px_kind *row, RawPacket *packet)
    cdef _descriptor(self, int fd)
    cdef int set_buffer(self, object data, bint writable) except -1
    cdef int make_buffer(self) except -1
