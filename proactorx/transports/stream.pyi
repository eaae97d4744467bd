import asyncio
import socket
from asyncio.constants import _SendfileMode
from asyncio.transports import _FlowControlMixin
from contextvars import Context
from typing import Any, ClassVar

from proactorx.transports.registry import Flushable, Registry
from proactorx.transports.sending import SendingTransport

class TCPTransport(_FlowControlMixin, asyncio.Transport): ...
class RawProtocol(Flushable): ...

# A TCPTransport, and so an asyncio.Transport, is what isinstance() sees:
# a compiled class cannot inherit from them.
class StreamTransport(SendingTransport, TCPTransport):
    _sendfile_compatible: ClassVar[_SendfileMode]
    _start_tls_compatible: ClassVar[bool]
    max_size: ClassVar[int]
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: Registry,
        fd: int,
        protocol: asyncio.BaseProtocol,
        *,
        sock: socket.socket | None = None,
        lent: bool = False,
        extra: dict[str, Any] | None = None,
        server: asyncio.Server | None = None,
        context: Context | None = None,
        peer: bytes | None = None,
    ) -> None: ...
    @property
    def _sock(self) -> socket.socket | None: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...
    def is_reading(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def _family(self) -> int: ...
    def _connection_made(self) -> None: ...
    def _read_again(self) -> None: ...
    def _repeat_end(self) -> None: ...
