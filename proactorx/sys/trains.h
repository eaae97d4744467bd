/* Trains of datagrams (UDP_SEGMENT, UDP_GRO: Linux 4.18 and 5.0, udp(7)), and what the kernel tells of a
 * datagram besides its bytes.
 *
 * A train is one buffer that leaves in one system call and passes through most of the network stack as one
 * packet.  It is cut into datagrams of one size late, by the network card where that can; only the last one
 * may be shorter.  The size goes along with the call (a control message), so that no option stays set on the
 * socket.  On loopback, to a socket with UDP_GRO, it arrives as it was sent: one buffer, and the size. */
#ifndef PROACTORX_SYS_TRAINS_H
#define PROACTORX_SYS_TRAINS_H

#include "datagram.h"

#ifdef __linux__
#include <netinet/udp.h>
#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_CORK
#define UDP_CORK 1
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#endif

enum {
    PX_TRAIN = 64,             /* datagrams in one train: UDP_MAX_SEGMENTS of Linux before 6.9 */
    PX_TRAIN_BYTES = 65487     /* in one train: 65,535 less the headers of IPv6 and UDP */
};

/* How many of the first datagrams may leave as one train: those that go to the address of the first one and
 * have its size, which is below `limit`, and a shorter one behind them.  An empty one would not be sent. */
static inline int px_train_length(const px_outgoing *list, int count, size_t limit) {
    size_t size = list[0].size, total = size;
    int n = 1;
    if (size == 0 || size >= limit) return 1;
    for (; n < count && n < PX_TRAIN; n++) {
        const px_outgoing *next = &list[n];
        total += next->size;
        if (next->size == 0 || next->size > size || total > PX_TRAIN_BYTES) break;
        if (next->name_size != list[0].name_size) break;
        if (next->name_size && memcmp(next->name, list[0].name, next->name_size)) break;
        if (next->size < size) return n + 1;
    }
    return n;
}

/* Whether a socket is one of UDP on which trains do what single datagrams would: nobody has corked it, or set
 * a size of segments of his own.  Only those need to be asked that others can reach. */
static inline int px_may_train(int fd) {
#ifdef __linux__
    int value = 0;
    socklen_t size = sizeof value;
    if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &value, &size) < 0 || value != IPPROTO_UDP) return 0;
    size = sizeof value;
    if (getsockopt(fd, SOL_UDP, UDP_CORK, &value, &size) < 0 || value) return 0;
    size = sizeof value;
    return getsockopt(fd, SOL_UDP, UDP_SEGMENT, &value, &size) == 0 && value == 0;
#else
    (void)fd;
    return 0;
#endif
}

/* As `px_send_batch`, in trains where `limit` allows (see `px_train_length`; 0: never).  *tried: how many
 * datagrams the first call of the kernel's was for, so that the caller knows whether a train was refused. */
static inline int px_send_trains(int fd, const px_outgoing *list, int count, size_t limit, int *tried) {
#ifdef __linux__
    struct mmsghdr headers[PX_SENT];
    struct iovec vectors[PX_SENT];
    union {
        char room[CMSG_SPACE(sizeof(uint16_t))];
        struct cmsghdr align;
    } controls[PX_SENT / 2];
    int lengths[PX_SENT], groups = 0, trains = 0, done = 0, n;
    *tried = 1;
    if (limit == 0 || count < 2) return px_send_batch(fd, list, count);
    if (count > PX_SENT) count = PX_SENT;
    for (int i = 0; i < count; i += lengths[groups++]) {
        struct msghdr *header = &headers[groups].msg_hdr;
        int length = lengths[groups] = px_train_length(&list[i], count - i, limit);
        memset(header, 0, sizeof *header);
        header->msg_iov = &vectors[i];
        header->msg_iovlen = (size_t)length;
        header->msg_name = list[i].name;
        header->msg_namelen = list[i].name_size;
        for (int k = i; k < i + length; k++) {
            vectors[k].iov_base = list[k].data;
            vectors[k].iov_len = list[k].size;
        }
        if (length > 1) {
            uint16_t size = (uint16_t)list[i].size;
            header->msg_control = controls[trains].room;
            header->msg_controllen = sizeof controls[trains].room;
            memset(controls[trains].room, 0, sizeof controls[trains].room);
            trains++;
            struct cmsghdr *control = CMSG_FIRSTHDR(header);
            control->cmsg_level = SOL_UDP;
            control->cmsg_type = UDP_SEGMENT;
            control->cmsg_len = CMSG_LEN(sizeof size);
            memcpy(CMSG_DATA(control), &size, sizeof size);
        }
    }
    if (!trains) return px_send_batch(fd, list, count);
    *tried = lengths[0];
    do n = sendmmsg(fd, headers, (unsigned int)groups, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0) return -errno;
    for (int i = 0; i < n; i++) done += lengths[i];
    return done;
#else
    (void)limit;
    *tried = 1;
    return px_send_batch(fd, list, count);
#endif
}

/* What the kernel has told of a received datagram. */
typedef struct {
    int segment;               /* the size of the datagrams in a train; 0: it is a single one */
    int ecn;                   /* the two bits of RFC 3168; -1: not told */
    int interface_index;       /* that it came in by; -1: not told, and no `local` */
    int family;                /* of `local` */
    unsigned char local[16];   /* the address that it was sent to */
} px_datagram_info;

/* Take datagrams as `px_recv_batch` does, and what is told of them, which `px_taken_info` reads until
 * `px_informed_done`. */
static inline int px_recv_informed(int fd, px_arena *arena, size_t each, int most) {
#ifdef __linux__
    for (int i = 0; i < PX_TAKEN; i++) {
        arena->headers[i].msg_hdr.msg_control = arena->controls[i];
        arena->headers[i].msg_hdr.msg_controllen = sizeof arena->controls[i];
    }
#endif
    return px_recv_batch(fd, arena, each, most);
}

#ifdef __linux__
static inline void px_read_control(const struct cmsghdr *control, px_datagram_info *info) {
    const void *data = CMSG_DATA(control);
    if (control->cmsg_level == SOL_UDP && control->cmsg_type == UDP_GRO) {
        memcpy(&info->segment, data, sizeof info->segment);
    } else if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_TOS) {
        info->ecn = *(const unsigned char *)data & 3;
    } else if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_TCLASS) {
        int class;
        memcpy(&class, data, sizeof class);
        info->ecn = class & 3;
    } else if (control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_PKTINFO) {
        struct in_pktinfo packet;
        memcpy(&packet, data, sizeof packet);
        info->family = AF_INET;
        info->interface_index = packet.ipi_ifindex;
        memcpy(info->local, &packet.ipi_addr, sizeof packet.ipi_addr);
    } else if (control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_PKTINFO) {
        struct in6_pktinfo packet;
        memcpy(&packet, data, sizeof packet);
        info->family = AF_INET6;
        info->interface_index = (int)packet.ipi6_ifindex;
        memcpy(info->local, &packet.ipi6_addr, sizeof packet.ipi6_addr);
    }
}
#endif

static inline void px_taken_info(px_arena *arena, int i, px_datagram_info *info) {
    memset(info, 0, sizeof *info);
    info->ecn = info->interface_index = -1;
#ifdef __linux__
    struct msghdr *header = &arena->headers[i].msg_hdr;
    for (struct cmsghdr *control = CMSG_FIRSTHDR(header); control != NULL;
         control = CMSG_NXTHDR(header, control))
        px_read_control(control, info);
#else
    (void)arena;
    (void)i;
#endif
}

/* Others receive into the arena without control messages. */
static inline void px_informed_done(px_arena *arena) {
#ifdef __linux__
    for (int i = 0; i < PX_TAKEN; i++) {
        arena->headers[i].msg_hdr.msg_control = NULL;
        arena->headers[i].msg_hdr.msg_controllen = 0;
    }
#else
    (void)arena;
#endif
}

#endif
