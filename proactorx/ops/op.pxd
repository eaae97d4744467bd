from libc.stdint cimport int64_t, uint8_t, uint32_t
from proactorx.sys.overlapped cimport px_overlapped

cdef enum Kind:
    POLL            # wait until the fd is ready for `events`
    RECV_STREAM     # multishot: bytes as they come, in memory of the driver's
    RECV            # one receive of at most `size` bytes, as a new bytes object
    RECV_INTO       # one receive into the op's own buffer
    SEND            # the whole of the op's own buffer
    ACCEPT          # multishot: connected descriptors
    ACCEPT_ONE      # one connected descriptor
    CONNECT         # to the op's own address
    RECV_DGRAMS     # multishot: a PACKET_READY each time that datagrams are there, which the owner takes
    RECV_FROM       # one datagram and its address, into the op's own buffer or as a new bytes object
    SEND_TO         # one datagram, the op's own buffer, to an address or to the peer of the socket
    DISCONNECT      # a stream, both ways, behind the sends before it
    WAIT_CHILD      # until the child process whose pid is in the place of the fd has ended; it is not reaped
    READ            # of a file, at `position`: at most `size` bytes, as a new bytes object or into the op's own buffer
    WRITE           # to a file, at `position`: the whole of the op's own buffer
    FSYNC           # a file's data, and its attributes unless `events` says otherwise, to the disk
    OPEN            # the path that is the op's own buffer, with the flags `events`: a descriptor; `fd` is AT_FDCWD
    TRANSMIT        # Windows: `size` bytes of a file, from `position` on, to a socket; `events` is the file's handle
    NAME            # Linux: a change in a directory, one of NAME_*, in `events`; the paths are in the op's own buffer

cdef enum:
    FSYNC_DATA = 1       # FSYNC, `events`: only the attributes that a later read needs, fdatasync(2)
    NAME_UNLINK = 0      # NAME, `events`: unlink(2), and so on; of two paths, each ends with a null
    NAME_RMDIR = 1
    NAME_RENAME = 2
    # READ, WRITE: so many bytes at a time.  What the page cache has is copied by the thread that submits, which is the
    # loop's: 1 MiB takes it 0.1 ms.
    FILE_STEP = 1 << 20

cdef enum State:
    NEW
    IN_FLIGHT
    CANCELLING
    DONE

cdef enum:
    PACKET_MORE = 1      # the op stays in flight, more packets follow
    PACKET_READY = 2     # the fd is ready: the system call is still to be made (Driver.perform)
    PACKET_BUFFER = 4    # `data` is memory of a buffer ring, to be given back after the dispatch
    PACKET_LATE = 8      # made by the driver for an op that is not in the kernel

cdef struct Packet:
    void *op             # a reference of its own
    char *data           # what was received; ACCEPT, ACCEPT_ONE: a px_client, see sys/socket.h, or NULL
    int res              # bytes, a descriptor, a poll mask; or -errno
    uint32_t flags
    uint32_t buffer      # PACKET_BUFFER: which

cdef struct PacketQueue:
    Packet *items
    uint32_t head
    uint32_t tail
    uint32_t mask

cdef int queue_init(PacketQueue *queue) except -1
cdef void queue_free(PacketQueue *queue) noexcept
cdef int queue_grow(PacketQueue *queue) except -1
cdef int queue_postpone(PacketQueue *queue, uint32_t count) except -1

cdef inline uint32_t queue_count(PacketQueue *queue) noexcept nogil:
    return queue.tail - queue.head


cdef bytes client_of(Packet *packet)


cdef class Op:
    cdef readonly int fd
    cdef uint32_t events
    cdef uint8_t kind
    cdef uint8_t state
    cdef bint paused         # its owner wants no packets now
    cdef bint direct         # RECV_STREAM: the owner makes the recv(2) itself, at PACKET_READY; POLL: never ends
    cdef bint again          # direct: the owner left bytes behind
    cdef bint owned          # RECV_STREAM: the loop alone has the socket, so the driver may keep its file
    cdef bint unix_stream    # RECV_STREAM: a Unix socket, on which a receive may stop short
    # The driver's own notes.
    cdef bint armed          # the driver waits for the kernel's last word on this op
    cdef bint in_kernel      # io_uring: that word has not come yet
    cdef bint cancel_sent
    cdef bint quiet          # paused, and the driver has stopped listening
    cdef bint pending_ready  # paused while ready
    cdef bint edge           # its READY packets report edges: bytes that were left behind must be asked for again
    cdef uint8_t mode        # iocp: how it waits
    cdef uint32_t ready      # READY packets in the queue
    cdef bint withdrawn      # io_uring: that entry was turned into a no-op before the kernel saw it
    cdef uint32_t entry      # io_uring: the place of its entry in the submission queue
    cdef int slot            # its place in Driver.inflight
    cdef int64_t position    # READ, WRITE: of the next byte; -1: the file has no positions
    cdef px_overlapped flight    # what the kernel has of it while it is in flight
    cdef void *fd_next       # the next op that waits on the same fd and direction
    cdef int on_packet(self, Packet *packet) except -1
    cdef object subject(self)
    cdef int owner_failed(self, exc) except -1
    cdef bint stale(self) except -1
    cdef Py_ssize_t want(self) noexcept
    cdef char *buffer(self) noexcept
    cdef int took(self, Py_ssize_t nbytes) except -1
    cdef void *message(self) noexcept    # a px_message, see sys/socket.h
    cdef int hold(self) except -1
    cdef int let_go(self) except -1


cdef class Watch(Op):
    cdef object callback


cdef class Overlapped(Op):
    cdef public object owner # who hears of completion: a callable, or None
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
    cdef _descriptor(self, int fd)
    cdef int set_buffer(self, object data, bint writable) except -1
    cdef int make_buffer(self) except -1
