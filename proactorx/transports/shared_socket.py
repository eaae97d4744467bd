"""The socket of a transport in the hands of others."""

from __future__ import annotations

import socket
import weakref
from asyncio import trsock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proactorx.transports.sending import SendingTransport


class SharedSocket(trsock.TransportSocket):
    """asyncio's own, and what the transport has put off is sent before anybody can come between.

    Asked for its number or for a duplicate, somebody may send on it whenever he likes:
    from then on nothing is put off.
    """

    __slots__ = ("_transport",)

    def __init__(self, sock: socket.socket, transport: SendingTransport) -> None:
        super().__init__(sock)
        self._transport = weakref.ref(transport)

    def _send(self, *, shared: bool) -> None:
        transport = self._transport()
        if transport is not None:
            transport._send_now(shared)

    def fileno(self) -> int:
        """Its descriptor."""
        self._send(shared=True)
        return super().fileno()

    def dup(self) -> socket.socket:
        """A duplicate."""
        self._send(shared=True)
        return super().dup()

    def shutdown(self, how: int) -> None:
        """Close one direction or both."""
        self._send(shared=False)
        super().shutdown(how)
