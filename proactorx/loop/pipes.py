"""Pipes: ``connect_read_pipe`` and ``connect_write_pipe``.

Both are ``BaseEventLoop``'s; what is here is what they ask of a loop: transports made of file objects.
"""

from __future__ import annotations

import asyncio
from typing import IO, Any

from proactorx.transports.pipe import ReadPipeTransport, WritePipeTransport
from proactorx.transports.registry import Registry

# The most that one read brings: a pipe holds 64 KiB unless told otherwise, fcntl(2) F_SETPIPE_SZ.
READ_SIZE = 256 * 1024


class Pipes(asyncio.BaseEventLoop):
    """The pipe family of ``AbstractEventLoop``."""

    _registry: Registry

    def _init_pipes(self) -> None:
        self._pipe_memory: bytearray | None = None

    def _make_read_pipe_transport(
        self,
        pipe: IO[Any],
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> ReadPipeTransport:
        if self._pipe_memory is None:
            self._pipe_memory = bytearray(READ_SIZE)
        transport = ReadPipeTransport(self, self._registry, pipe, protocol, self._pipe_memory, extra=extra)
        transport._start(waiter)
        return transport

    def _make_write_pipe_transport(
        self,
        pipe: IO[Any],
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> WritePipeTransport:
        transport = WritePipeTransport(self, self._registry, pipe, protocol, extra=extra)
        transport._start(waiter)
        return transport
