import asyncio
import socket
from typing import Any

from proactorx.transports.datagram import DatagramTransport
from proactorx.transports.registry import Registry

class InformedDatagramTransport(DatagramTransport):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: Registry,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        **options: Any,
    ) -> None: ...
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...
