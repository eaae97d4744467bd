from libc.stdint cimport uint32_t

cdef extern from "proactorx/sys/iocp.h":
    ctypedef void *HANDLE
    ctypedef struct OVERLAPPED:
        size_t Internal
    ctypedef struct OVERLAPPED_ENTRY:
        size_t lpCompletionKey
        OVERLAPPED *lpOverlapped
        uint32_t dwNumberOfBytesTransferred
    ctypedef struct px_flight_t "px_flight":
        OVERLAPPED overlapped
        void *op
        char *buffer
        HANDLE other
        int name_size
        int posted
    ctypedef struct px_calls:
        pass
    struct msghdr:
        int msg_namelen
    ctypedef struct px_message:
        msghdr header
    struct sockaddr:
        pass
    enum: PX_AT_ONCE, PX_PENDING, PX_NO_PACKET, PX_BUFFER, PX_ADDRESS
    enum: PX_KEY_OP, PX_KEY_WAKE, PX_KEY_POLL, PX_KEY_THREAD
    int CloseHandle(HANDLE handle) nogil
    int CancelIoEx(HANDLE handle, OVERLAPPED *overlapped) nogil
    int closesocket(size_t sock) nogil
    uint32_t GetLastError() nogil
    size_t PX_SOCKET(int fd) nogil
    int px_load_calls(px_calls *calls) nogil
    int px_begin_recv(int fd, px_flight_t *flight, char *buffer, size_t size) nogil
    int px_begin_recvfrom(int fd, px_flight_t *flight, char *buffer, size_t size, px_message *message) nogil
    int px_begin_sendto(int fd, px_flight_t *flight, const px_message *message) nogil
    int px_begin_accept(const px_calls *calls, int fd, px_flight_t *flight, char *room) nogil
    int px_begin_connect(const px_calls *calls, int fd, px_flight_t *flight, const sockaddr *address, int size) nogil
    int px_begin_disconnect(const px_calls *calls, int fd, px_flight_t *flight) nogil
    int px_accepted(int fd, px_flight_t *flight) nogil
    int px_connected(int fd) nogil
