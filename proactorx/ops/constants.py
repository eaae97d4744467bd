"""The kinds of op and the bits of poll(2), for code that is not compiled."""

from __future__ import annotations

import select

POLL, RECV_STREAM, RECV, RECV_INTO, SEND, ACCEPT, ACCEPT_ONE, CONNECT, RECV_DGRAMS, RECV_FROM, SEND_TO = (
    range(11)
)
DISCONNECT, WAIT_CHILD, READ, WRITE, FSYNC, OPEN, TRANSMIT, PATH_CHANGE, PUNCH = range(11, 20)

POLLIN: int = getattr(select, "POLLIN", 1)
POLLOUT: int = getattr(select, "POLLOUT", 4)
