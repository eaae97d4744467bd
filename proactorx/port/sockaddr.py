"""Socket addresses between Python's form and the kernel's ``struct sockaddr``."""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Any

_AF_UNIX = getattr(socket, "AF_UNIX", None)
# BSD and macOS keep the length of the address in the first byte, and the family in the second.
_HAS_LENGTH = sys.platform == "darwin" or "bsd" in sys.platform


def parse(name: bytes) -> Any:
    """A ``struct sockaddr`` as the ``socket`` module would say it; None for an unknown family."""
    family = int.from_bytes(name[1:2] if _HAS_LENGTH else name[:2], sys.byteorder)
    if family == socket.AF_INET and len(name) >= 8:
        return (socket.inet_ntop(socket.AF_INET, name[4:8]), int.from_bytes(name[2:4], "big"))
    if family == socket.AF_INET6 and len(name) >= 28:
        host = socket.inet_ntop(socket.AF_INET6, name[8:24])
        scope = int.from_bytes(name[24:28], sys.byteorder)
        return (host, int.from_bytes(name[2:4], "big"), int.from_bytes(name[4:8], "big"), scope)
    if _AF_UNIX is not None and family == _AF_UNIX:
        path = name[2:]
        if path[:1] == b"\0":
            return path  # an abstract name, unix(7)
        return os.fsdecode(path.split(b"\0", 1)[0])
    return None


def pack(family: int, address: Any) -> bytes:
    """The ``struct sockaddr`` of a numeric address.

    Raises:
        ValueError: the family is unknown.
        OSError: a Unix path is too long.
    """
    if family == socket.AF_INET:
        rest = int(address[1]).to_bytes(2, "big") + socket.inet_pton(family, address[0]) + bytes(8)
    elif family == socket.AF_INET6:
        host, _, zone = address[0].partition("%")
        scope = address[3] if len(address) > 3 else 0
        if zone and not scope:
            scope = int(zone) if zone.isdigit() else socket.if_nametoindex(zone)
        flow = address[2] if len(address) > 2 else 0
        rest = (
            struct.pack("!HI", address[1], flow)
            + socket.inet_pton(family, host)
            + scope.to_bytes(4, sys.byteorder)
        )
    elif _AF_UNIX is not None and family == _AF_UNIX:
        path = bytes(address) if isinstance(address, (bytes, bytearray)) else os.fsencode(address)
        # "": unnamed, unix(7).  An abstract name may fill all of the space, a path ends with a null.
        rest = path if path[:1] in (b"", b"\0") else path + b"\0"
        if len(rest) > 108:
            raise OSError("AF_UNIX path too long")
    else:
        raise ValueError(f"unsupported address family: {family}")
    if _HAS_LENGTH:
        return bytes((2 + len(rest), family)) + rest
    return family.to_bytes(2, sys.byteorder) + rest
