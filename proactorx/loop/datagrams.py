"""Datagram endpoints.

``create_datagram_endpoint`` is ``BaseEventLoop``'s; what is here is the transport that it asks a loop for.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from proactorx.port.port import Port
from proactorx.transports.datagram import DatagramTransport


class Datagrams(asyncio.BaseEventLoop):
    """The datagram family of ``AbstractEventLoop``."""

    _port: Port

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        address: Any = None,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> DatagramTransport:
        self._ensure_fd_no_transport(sock)  # type: ignore[attr-defined]
        transport = DatagramTransport(self, self._port, sock, protocol, address=address, extra=extra)
        transport._start(waiter)
        return transport
