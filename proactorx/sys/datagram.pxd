from libc.stdint cimport uint32_t

cdef extern from "proactorx/sys/datagram.h" nogil:
    enum: PX_NAME, PX_SENT, PX_TAKEN, PX_HOST
    enum: AF_INET, AF_INET6, AF_UNIX
    ctypedef struct px_arena:
        pass
    ctypedef struct px_outgoing:
        char *data
        size_t size
        void *name
        unsigned int name_size
    px_arena *px_arena_new()
    void px_arena_free(px_arena *arena)
    int px_recv_batch(int fd, px_arena *arena, size_t each, int most)
    int px_send_batch(int fd, const px_outgoing *list, int count)
    int px_pack(int family, const char *host, int port, uint32_t flow, uint32_t scope, void *name)
    int px_unpack(const void *name, size_t size, char *host, int *port, uint32_t *flow, uint32_t *scope)
    unsigned int px_place(const unsigned char *name, size_t size, unsigned int mask)

    # What was taken, one at a time.
    char *px_taken_data(px_arena *arena, int i)
    unsigned int px_taken_size(px_arena *arena, int i)
    unsigned char *px_taken_name(px_arena *arena, int i)
    unsigned int px_taken_name_size(px_arena *arena, int i)
    int px_late_error(px_arena *arena)
