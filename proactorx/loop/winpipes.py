"""Pipes on Windows: ``connect_read_pipe`` and ``connect_write_pipe``, and named pipes as servers and clients.

``create_pipe_connection`` and ``start_serving_pipe`` follow asyncio's ``ProactorEventLoop``. Named pipes are
to Windows what Unix sockets are elsewhere. All four methods need the iocp driver and raise
``NotImplementedError`` on any other.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable
from typing import Any

from proactorx.ops.constants import CONNECT
from proactorx.ops.op import Overlapped
from proactorx.port.loop_port import LoopPort
from proactorx.transports.winpipe import PipeTransport, ReadPipeTransport, WritePipeTransport

if sys.platform == "win32":
    import _winapi
    from asyncio import windows_utils
else:  # for type checkers
    _winapi: Any = None
    windows_utils: Any = None

_BUFFER = 65536
_REJECT_REMOTE_CLIENTS = 8
_BUSY_DELAYS = (0.001, 0.1)  # seconds: the first pause before another try to connect, and the longest


def _check_handle(name: str, pipe: Any) -> None:
    """Raise ValueError unless `pipe` has an overlapped handle of a pipe.

    ``fileno()`` of a Python file returns a descriptor of the C library, which as a handle may belong to
    another object. And Python does not open its files and pipes for overlapped use.
    """
    number = pipe.fileno()
    try:
        right = not isinstance(pipe, io.IOBase) and _winapi.GetFileType(number) == _winapi.FILE_TYPE_PIPE
    except OSError:
        right = False
    if not right:
        raise ValueError(
            f"{name}: needs the overlapped handle of a pipe (asyncio.windows_utils.pipe), not {pipe!r}"
        )


class PipeServer:
    """A server of one pipe name. One instance of the pipe always waits for the next client."""

    def __init__(
        self, loop: Pipes, port: LoopPort, factory: Callable[[], asyncio.BaseProtocol], address: str
    ) -> None:
        self._loop = loop
        self._port = port
        self._factory = factory
        self._address = address
        self._handle: Any = None
        self._op: Overlapped | None = None
        self._closed = False
        self._wait(first=True)

    def _new_instance(self, first: bool) -> Any:
        mode = _winapi.PIPE_ACCESS_DUPLEX | _winapi.FILE_FLAG_OVERLAPPED
        if first:
            mode |= _winapi.FILE_FLAG_FIRST_PIPE_INSTANCE
        flags = _winapi.PIPE_WAIT | _REJECT_REMOTE_CLIENTS
        unlimited = _winapi.PIPE_UNLIMITED_INSTANCES
        handle = _winapi.CreateNamedPipe(
            self._address,
            mode,
            flags,
            unlimited,
            _BUFFER,
            _BUFFER,
            _winapi.NMPWAIT_WAIT_FOREVER,
            _winapi.NULL,
        )
        return windows_utils.PipeHandle(handle)

    def _wait(self, first: bool = False) -> None:
        self._handle = self._new_instance(first)
        self._op = self._port.start(Overlapped(CONNECT, self._handle.fileno(), on_done=self._connected))

    def _connected(self, op: Overlapped) -> None:
        handle, self._handle, self._op = self._handle, None, None
        if op.error or self._closed or self._loop.is_closed():
            self._port.forget(handle.fileno())
            handle.close()
            if not self._closed and not self._loop.is_closed():
                self._wait()  # the client has disconnected already
            return
        self._wait()
        try:
            protocol = self._factory()
            PipeTransport(self._loop, self._port, handle, protocol, extra={"addr": self._address}).start()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            handle.close()
            self._loop.call_exception_handler(
                {"message": "Error on transport creation for incoming connection", "exception": exc}
            )

    def closed(self) -> bool:
        """Return whether ``close`` was called."""
        return self._closed

    def close(self) -> None:
        """Stop serving. Existing connections stay open. A second call has no effect."""
        if self._closed:
            return
        self._closed = True
        self._loop._pipe_servers.discard(self)
        if self._op is not None and not self._loop.is_closed():
            self._port.stop(self._op)


class Pipes(asyncio.BaseEventLoop):
    """The pipe family of ``AbstractEventLoop``, and of ``ProactorEventLoop``."""

    _port: LoopPort
    backend_info: Any

    def _init_pipes(self) -> None:
        self._pipe_servers: set[PipeServer] = set()

    def _need_iocp(self, what: str) -> None:
        name = self.backend_info().name
        if name != "iocp":
            raise NotImplementedError(f"{what}: the {name} backend cannot do this on Windows, iocp can")

    def _make_read_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> ReadPipeTransport:
        self._need_iocp("connect_read_pipe")
        _check_handle("connect_read_pipe", pipe)
        transport = ReadPipeTransport(self, self._port, pipe, protocol, extra=extra)
        transport.start(waiter)
        return transport

    def _make_write_pipe_transport(
        self,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> WritePipeTransport:
        self._need_iocp("connect_write_pipe")
        _check_handle("connect_write_pipe", pipe)
        transport = WritePipeTransport(self, self._port, pipe, protocol, extra=extra)
        transport.start(waiter)
        return transport

    async def create_pipe_connection(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], address: str
    ) -> tuple[PipeTransport, asyncio.BaseProtocol]:
        r"""Connect to the named pipe `address` (``\\.\pipe\...``), and wait while all its instances are busy.

        Raises:
            FileNotFoundError: no server has that name.
            OSError: CreateFile failed for another reason.
            NotImplementedError: the backend is not iocp.
        """
        self._need_iocp("create_pipe_connection")
        delay, longest = _BUSY_DELAYS
        access = _winapi.GENERIC_READ | _winapi.GENERIC_WRITE
        overlapped = _winapi.FILE_FLAG_OVERLAPPED
        while True:
            try:
                handle = windows_utils.PipeHandle(
                    _winapi.CreateFile(
                        address, access, 0, _winapi.NULL, _winapi.OPEN_EXISTING, overlapped, _winapi.NULL
                    )
                )
                break
            except OSError as exc:
                if getattr(exc, "winerror", 0) != _winapi.ERROR_PIPE_BUSY:
                    raise
            await asyncio.sleep(delay)
            delay = min(2 * delay, longest)
        try:
            protocol = protocol_factory()
            transport = PipeTransport(self, self._port, handle, protocol, extra={"addr": address})
        except BaseException:
            handle.close()
            raise
        waiter = self.create_future()
        transport.start(waiter)
        try:
            await waiter
        except BaseException:
            transport.abort()
            raise
        return transport, protocol

    async def start_serving_pipe(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], address: str
    ) -> list[PipeServer]:
        r"""Serve the named pipe `address` (``\\.\pipe\...``) to clients of this machine.

        Returns:
            list[PipeServer]: one server, as from asyncio; ``close()`` ends it.

        Raises:
            PermissionError: another server has the name.
            OSError: CreateNamedPipe failed for another reason.
            NotImplementedError: the backend is not iocp.
        """
        self._need_iocp("start_serving_pipe")
        server = PipeServer(self, self._port, protocol_factory, address)
        self._pipe_servers.add(server)
        return [server]
