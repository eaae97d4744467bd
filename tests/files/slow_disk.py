"""A file system whose server is asked for everything and answers when it is told to: FUSE, spoken by hand.

    python slow_disk.py FOLDER

It holds one file, ``f``.  Each request is a line on the standard output, and is answered when a line comes on
the standard input, or after ten seconds.  The messages are those of linux/fuse.h, version 7.31.
"""

import ctypes
import errno
import os
import select
import stat
import struct
import sys

DATA = bytes(range(256)) * 40
LOOKUP, FORGET, GETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FLUSH, INIT = 1, 2, 3, 14, 15, 16, 17, 18, 25, 26
OPENDIR, READDIR, RELEASEDIR, INTERRUPT, DESTROY, BATCH_FORGET = 27, 28, 29, 36, 38, 42
UNANSWERED = (FORGET, BATCH_FORGET, INTERRUPT, DESTROY)
AT_ONCE = (INIT, RELEASE, RELEASEDIR, FLUSH)
DIRECT_IO = 1  # the page cache keeps nothing
FOLDER, FILE = 1, 2
content = bytearray(DATA)


def mount(folder: str) -> int:
    fd = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
    if ctypes.CDLL(None, use_errno=True).mount(b"slow", folder.encode(), b"fuse", 0, options):
        sys.exit(os.strerror(ctypes.get_errno()))
    return fd


def attributes(node: int) -> bytes:
    mode, size = (stat.S_IFDIR | 0o755, 0) if node == FOLDER else (stat.S_IFREG | 0o644, len(content))
    return struct.pack("<6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode: int, node: int, body: bytes) -> bytes | int:
    """The body of the answer, or an errno."""
    if opcode == INIT:
        return struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 0, 0, 4096, 1, 0, 0, *(0,) * 8)
    if opcode == LOOKUP:
        if body != b"f\0":
            return errno.ENOENT
        return struct.pack("<4Q2I", FILE, 0, 0, 0, 0, 0) + attributes(FILE)
    if opcode == GETATTR:
        return struct.pack("<Q2I", 0, 0, 0) + attributes(node)
    if opcode in (OPEN, OPENDIR):
        return struct.pack("<Q2I", 0, DIRECT_IO if opcode == OPEN else 0, 0)
    if opcode == READ:
        _handle, offset, size = struct.unpack_from("<2QI", body)
        return bytes(content[offset : offset + size])
    if opcode == WRITE:
        _handle, offset, size = struct.unpack_from("<2QI", body)
        content[offset : offset + size] = body[40 : 40 + size]
        return struct.pack("<2I", size, 0)
    if opcode == READDIR:
        return b""
    if opcode == STATFS:
        return struct.pack("<5Q10I", 100, 0, 0, 1, 0, 4096, 255, 4096, *(0,) * 7)
    return b"" if opcode in AT_ONCE else errno.ENOSYS


def main() -> None:
    fd = mount(sys.argv[1])
    print("ready", flush=True)
    while True:
        try:
            request = os.read(fd, 1 << 17)
        except OSError as exc:
            if exc.errno == errno.ENODEV:
                return  # unmounted
            continue
        _size, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        if opcode in UNANSWERED:
            continue
        if opcode not in AT_ONCE:
            print(opcode, flush=True)
            if select.select([0], [], [], 10)[0] and not os.read(0, 1):
                return
        found = answer(opcode, node, request[40:])
        error, body = (-found, b"") if isinstance(found, int) else (0, found)
        try:
            os.write(fd, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
        except OSError:
            continue  # nobody waits for it any more


if __name__ == "__main__":
    main()
