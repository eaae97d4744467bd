"""What UDP can do here besides plain datagrams: trains, and what the kernel tells of a received datagram."""

from __future__ import annotations

import functools
import os
import socket
import sys
from typing import NamedTuple

#: What ``$PROACTORX_UDP_DISABLE`` may switch off: sending in trains, and receiving merged ones.
FEATURES = ("gso", "gro")

_LINUX = sys.platform == "linux"
# Of linux/udp.h and linux/in.h: the socket module has not all of them in every Python.
_SOL_UDP = 17
_UDP_GRO = 104
_OPTIONS = {"gso": (103, 1200), "gro": (_UDP_GRO, 1)}
_IP_PKTINFO = 8
_IP_RECVTOS = 13
_IPV6_RECVPKTINFO = 49
_IPV6_RECVTCLASS = 66


class DatagramInfo(NamedTuple):
    """What the kernel told of a received datagram; None: it was not asked, or did not say."""

    #: The two bits of RFC 3168: 0 not capable, 1 ECT(1), 2 ECT(0), 3 congestion experienced.
    ecn: int | None = None
    #: The address of this machine that it was sent to.
    local: str | None = None
    #: The index of the interface that it came in by.
    interface: int | None = None


def disabled() -> frozenset[str]:
    """Return what ``$PROACTORX_UDP_DISABLE`` names.

    Raises:
        ValueError: an unknown word.
    """
    words = {word.strip() for word in os.environ.get("PROACTORX_UDP_DISABLE", "").split(",")} - {""}
    for word in sorted(words):
        if word not in FEATURES:
            raise ValueError(f"unknown word {word!r} in PROACTORX_UDP_DISABLE: one of {', '.join(FEATURES)}")
    return frozenset(words)


def udp_features() -> tuple[str, ...]:
    """Return those of ``FEATURES`` that the kernel has and the environment leaves on.

    Raises:
        ValueError: an unknown word in ``$PROACTORX_UDP_DISABLE``.
    """
    off = disabled()
    return tuple(name for name in _known() if name not in off)


@functools.cache
def _known() -> tuple[str, ...]:
    if not _LINUX:
        return ()
    return tuple(name for name, (option, value) in _OPTIONS.items() if _takes(option, value))


def _takes(option: int, value: int) -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(_SOL_UDP, option, value)
    except OSError:
        return False
    return True


class Asked(NamedTuple):
    """What a program wants to know of the datagrams that it receives."""

    ecn: bool
    pktinfo: bool
    gro: bool

    def check(self) -> None:
        """Raise ValueError for what this system cannot tell."""
        for name, wanted in (("ecn", self.ecn), ("pktinfo", self.pktinfo)):
            if wanted and not _LINUX:
                raise ValueError(f"{name} is not supported on this system")

    def set_on(self, sock: socket.socket) -> None:
        """Set the options of the socket.

        Raises:
            ValueError: it is not a socket of the Internet families.
            OSError: the system refuses.
        """
        if not any(self):
            return
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            if self.ecn or self.pktinfo:
                raise ValueError("ecn and pktinfo need a socket of family AF_INET or AF_INET6")
            return
        if self.ecn:
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)  # of IPv6 sockets: for mapped addresses
        if self.pktinfo and sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        if sock.family == socket.AF_INET6:
            if self.ecn:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVTCLASS, 1)
            if self.pktinfo:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        if self.gro and "gro" in udp_features():
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
