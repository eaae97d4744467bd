from libc.stdint cimport int64_t, uint32_t
from proactorx.sys.socket cimport px_message

cdef extern from "proactorx/ops/kinds.h" nogil:
    enum:
        POLL "PX_KIND_POLL"
        RECV_STREAM "PX_KIND_RECV_STREAM"
        RECV "PX_KIND_RECV"
        RECV_INTO "PX_KIND_RECV_INTO"
        SEND "PX_KIND_SEND"
        ACCEPT "PX_KIND_ACCEPT"
        ACCEPT_ONE "PX_KIND_ACCEPT_ONE"
        CONNECT "PX_KIND_CONNECT"
        RECV_DGRAMS "PX_KIND_RECV_DGRAMS"
        RECV_FROM "PX_KIND_RECV_FROM"
        SEND_TO "PX_KIND_SEND_TO"
        DISCONNECT "PX_KIND_DISCONNECT"
        WAIT_CHILD "PX_KIND_WAIT_CHILD"
        READ "PX_KIND_READ"
        WRITE "PX_KIND_WRITE"
        FSYNC "PX_KIND_FSYNC"
        OPEN "PX_KIND_OPEN"
        TRANSMIT "PX_KIND_TRANSMIT"
        PATH_CHANGE "PX_KIND_PATH_CHANGE"
        PUNCH "PX_KIND_PUNCH"
    enum: KINDS "PX_KINDS"
    enum:
        CHANGE_UNLINK "PX_CHANGE_UNLINK"
        CHANGE_RMDIR "PX_CHANGE_RMDIR"
        CHANGE_RENAME "PX_CHANGE_RENAME"
    enum: PX_NEITHER, PX_IN, PX_OUT, PX_AS_EVENTS
    enum: PX_NOTHING, PX_VALUE, PX_COUNT, PX_BYTES, PX_FD, PX_PACKETS
    enum: PX_NO_LINE, PX_RECEIVERS, PX_SENDERS, PX_ACCEPTORS
    enum: PX_ON_SOCKET, PX_ON_CHILD, PX_ON_FILE, PX_ON_PATH
    enum: PX_ENDS

    ctypedef struct px_call:
        int fd
        uint32_t events
        char *buffer
        size_t size
        int64_t position
        px_message *message
        char *scratch
        char *data

    ctypedef struct px_kind:
        const char *name
        unsigned char direction, on, serial, eager, buffered, moves, whole, addressed, brings, line, burst
        int goes_on
        ssize_t (*attempt)(px_call *call) noexcept nogil
        ssize_t (*blocking)(px_call *call) noexcept nogil
        ssize_t (*start)(px_call *call) noexcept nogil

    const px_kind px_kinds[KINDS]
    bint px_done_when_ready(const px_kind *row)
