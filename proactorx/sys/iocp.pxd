from libc.stdint cimport int64_t, uint32_t
from proactorx.sys.socket cimport px_message, sockaddr

cdef extern from "proactorx/sys/iocp.h" nogil:
    ctypedef void *HANDLE
    HANDLE INVALID_HANDLE_VALUE
    ctypedef struct OVERLAPPED:
        size_t Internal
    ctypedef struct OVERLAPPED_ENTRY:
        size_t lpCompletionKey
        OVERLAPPED *lpOverlapped
        uint32_t dwNumberOfBytesTransferred
    ctypedef struct px_overlapped:
        OVERLAPPED overlapped
        void *op
        char *buffer
        HANDLE other
        int name_size
        int posted
    ctypedef struct px_calls:
        pass
    enum: PX_AT_ONCE, PX_PENDING, PX_NO_PACKET, PX_ENTRIES, PX_BUFFER, PX_ADDRESS
    enum: PX_KEY_OP, PX_KEY_WAKE, PX_KEY_POLL, PX_KEY_THREAD
    enum: PX_UNBOUND, PX_BOUND, PX_SKIPS, PX_FILE
    int CloseHandle(HANDLE handle)
    int CancelIoEx(HANDLE handle, OVERLAPPED *overlapped)
    HANDLE CreateIoCompletionPort(HANDLE file, HANDLE port, size_t key, uint32_t threads)
    uint32_t GetLastError()

    # Each begins one operation: PX_PENDING, PX_AT_ONCE, PX_NO_PACKET or -errno.
    int px_load_calls(px_calls *calls)
    int px_begin_recv(int fd, px_overlapped *flight, char *buffer, size_t size)
    int px_begin_recvfrom(int fd, px_overlapped *flight, char *buffer, size_t size, px_message *message)
    int px_begin_sendto(int fd, px_overlapped *flight, const px_message *message)
    int px_begin_accept(const px_calls *calls, int fd, px_overlapped *flight, char *room)
    int px_begin_connect(const px_calls *calls, int fd, px_overlapped *flight, const sockaddr *address,
                         int size)
    int px_begin_disconnect(const px_calls *calls, int fd, px_overlapped *flight)
    int px_begin_transmit(const px_calls *calls, int fd, px_overlapped *flight, uint32_t file, size_t size,
                          int64_t position)
    int px_begin_read(int fd, px_overlapped *flight, char *buffer, size_t size)
    int px_begin_write(int fd, px_overlapped *flight, char *buffer, size_t size)
    int px_begin_read_at(int fd, px_overlapped *flight, char *buffer, size_t size, int64_t position)
    int px_begin_write_at(int fd, px_overlapped *flight, const char *buffer, size_t size, int64_t position)
    int px_begin_serve(int fd, px_overlapped *flight)
    int px_begin_wait(HANDLE port, int fd, px_overlapped *flight)
    int px_end_wait(px_overlapped *flight)

    # How it ended.
    int px_ended(size_t internal)
    int px_accepted(int fd, px_overlapped *flight)
    int px_connected(int fd)

    # Handles and the port.
    int px_bind(HANDLE port, int fd, int skip)
    int px_adopt(HANDLE port, int fd, int skip)
    int px_is_file(int fd)
    int px_get(HANDLE port, OVERLAPPED_ENTRY *entries, int64_t timeout_ns)
    int px_wake_port(HANDLE *port, int *users, int *pending)
    void px_show_port(HANDLE *port, HANDLE handle)
    HANDLE px_hide_port(HANDLE *port, int *users)
    void px_woken(int *pending)
