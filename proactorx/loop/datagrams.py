"""Datagram endpoints.

``create_datagram_endpoint`` is ``BaseEventLoop``'s; what is here is the transport that it asks a loop for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from proactorx.transports.datagram import DatagramTransport
from proactorx.transports.registry import Registry


class _Failed(asyncio.DatagramProtocol):
    """In place of the protocol whose factory has raised `error`, as far as to where the socket is known."""

    def __init__(self, error: BaseException) -> None:
        self.error: BaseException | None = error

    def fail(self) -> NoReturn:
        """Raise the error, and forget it: its traceback leads to whoever holds this object."""
        error, self.error = self.error, None
        assert error is not None
        try:
            raise error
        finally:
            del error


class Datagrams(asyncio.BaseEventLoop):
    """The datagram family of ``AbstractEventLoop``."""

    _registry: Registry

    _lend: Callable[[socket.socket | None], None]
    _is_lent: Callable[[socket.socket], bool]

    # typeshed's has reuse_address, which is gone
    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        sock: socket.socket | None = None,
        **options: Any,
    ) -> tuple[DatagramTransport, asyncio.DatagramProtocol]:
        """Open a datagram endpoint, as ``asyncio.BaseEventLoop.create_datagram_endpoint`` does.

        If the factory raises, the socket that the loop made is closed; one that you passed in stays open.

        Args:
            protocol_factory: called without arguments; returns the protocol.
            local_addr: the address to bind to, or None.
            remote_addr: the address to connect to, or None.
            sock: a non-blocking datagram socket to use instead; it stays yours.
            **options: ``family``, ``proto``, ``flags``, ``reuse_port``, ``allow_broadcast``.

        Returns:
            (transport, protocol).

        Raises:
            OSError: an address cannot be bound, or connected to.
            ValueError: the arguments contradict each other.
        """

        def guarded() -> asyncio.DatagramProtocol:
            try:
                return protocol_factory()
            except BaseException as exc:
                return _Failed(exc)

        self._lend(sock)
        factory = guarded if sock is None else protocol_factory
        return await super().create_datagram_endpoint(  # type: ignore[return-value]
            factory, local_addr, remote_addr, sock=sock, **options
        )

    def _make_datagram_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.DatagramProtocol,
        address: Any = None,
        waiter: asyncio.Future[Any] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> DatagramTransport:
        if isinstance(protocol, _Failed):
            sock.close()  # nobody else would
            protocol.fail()
        self._check_socket(sock)  # type: ignore[attr-defined]  # the factory may have closed it
        self._ensure_fd_no_transport(sock)  # type: ignore[attr-defined]
        transport = DatagramTransport(
            self, self._registry, sock, protocol, lent=self._is_lent(sock), address=address, extra=extra
        )
        transport._start(waiter)
        return transport
