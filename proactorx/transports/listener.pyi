import asyncio
import socket
from collections.abc import Callable
from contextvars import Context
from typing import Any

from proactorx.ops.op import Op
from proactorx.transports.registry import Registry

class Listener(Op):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        registry: Registry,
        sock: socket.socket,
        factory: Callable[[], asyncio.BaseProtocol],
        server: asyncio.Server | None,
        make_tls: Callable[[socket.socket, asyncio.BaseProtocol, Context, Any], object] | None = None,
        context: Context | None = None,
    ) -> None: ...
    @property
    def sock(self) -> socket.socket: ...
    def start(self) -> None: ...
    def close(self, keep: bool = False) -> None: ...
    def _release(self) -> None: ...
