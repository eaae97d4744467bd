from proactorx.sys.ktls cimport px_keys
from proactorx.sys.openssl cimport px_openssl

cdef extern from "proactorx/sys/wire.h":
    ctypedef struct px_wire:
        const char *source
        size_t left
        char *sink
        size_t room, used
        int fd
        bint kept, spilled, noting, handed, refused
        px_keys *keys
    bint px_wire_init(const px_openssl *lib)
    px_wire *px_wire_open(void *ssl, void *incoming, void *outgoing, void **made)
