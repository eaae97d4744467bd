from libc.stdint cimport int64_t

cdef extern from "proactorx/sys/socket.h" nogil:
    enum: PX_SCRATCH_SIZE
    enum: POLLIN, POLLPRI, POLLOUT, POLLERR, POLLHUP, POLLRDBAND, POLLRDHUP
    enum: SHUT_WR
    struct iovec:
        void *iov_base
        size_t iov_len
    struct sockaddr:
        pass
    struct sockaddr_storage:
        pass
    struct msghdr:
        unsigned int msg_namelen
    ctypedef struct px_message:
        msghdr header
        sockaddr_storage name
    ctypedef struct px_client:
        unsigned int size
        sockaddr_storage name

    # Sockets.
    ssize_t px_recv(int fd, char *buffer, size_t size)
    ssize_t px_recv_cut(int fd, char *buffer, size_t size, int *cut)
    ssize_t px_recv_both(int fd, char *buffer, size_t size, char *rest, size_t more, int *cut)
    ssize_t px_send(int fd, const char *buffer, size_t size)
    ssize_t px_sendv(int fd, iovec *vector, int count)
    ssize_t px_recvmsg(int fd, px_message *message, char *buffer, size_t size)
    ssize_t px_sendmsg(int fd, const msghdr *header)
    msghdr *px_message_set(px_message *message, char *buffer, size_t size, size_t name_size)
    int px_accept(int fd, px_client *client)
    int px_connect(int fd, const sockaddr *address, unsigned int size)
    int px_socket_error(int fd)
    int px_name(int fd, int peer, void *name, size_t room)
    int px_shutdown(int fd, int how)
    int px_disconnect(int fd)
    int px_close(int fd)
    int px_sleep_on(int fd, int64_t timeout_ns)
    int px_has_bytes(int fd)

    # POSIX: pipes, and what is read and written like them.
    ssize_t px_read(int fd, char *buffer, size_t size)
    ssize_t px_write(int fd, const char *buffer, size_t size)
    ssize_t px_writev(int fd, iovec *vector, int count)
    ssize_t px_peek(int fd)
    int px_has_position(int fd)

    # Windows.
    size_t PX_SOCKET(int fd)
    int px_pollable(int fd)
    int closesocket(size_t sock)
    enum: WSAEMSGSIZE, WSAENOTSOCK, WSAECONNRESET
