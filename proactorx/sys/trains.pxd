from proactorx.sys.datagram cimport px_arena, px_outgoing

cdef extern from "proactorx/sys/trains.h" nogil:
    enum: PX_TRAIN_BYTES
    ctypedef struct px_datagram_info:
        int segment
        int ecn
        int interface_index
        int family
        unsigned char local[16]
    bint px_may_train(int fd)
    int px_send_trains(int fd, const px_outgoing *list, int count, size_t limit, int *tried)
    int px_recv_informed(int fd, px_arena *arena, size_t each, int most)
    void px_taken_info(px_arena *arena, int i, px_datagram_info *info)
    void px_informed_done(px_arena *arena)
