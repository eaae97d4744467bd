"""Datagram endpoints.

``create_datagram_endpoint`` is ``BaseEventLoop``'s; what is here is the transport that it asks a loop for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, NoReturn

from proactorx.transports.datagram import DatagramTransport
from proactorx.transports.informed_datagram import InformedDatagramTransport
from proactorx.transports.registry import Registry
from proactorx.transports.udp import Asked


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


class _Asking(asyncio.DatagramProtocol):
    """In place of `protocol` on its way to its transport, with what was asked for besides."""

    def __init__(self, protocol: asyncio.DatagramProtocol, asked: Asked) -> None:
        self.protocol = protocol
        self.asked = asked


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
        ecn: bool = False,
        pktinfo: bool = False,
        gro: bool = False,
        **options: Any,
    ) -> tuple[DatagramTransport, asyncio.DatagramProtocol]:
        """Open a datagram endpoint, as ``asyncio.BaseEventLoop.create_datagram_endpoint`` does.

        If the factory raises, the socket that the loop made is closed; one that you passed in stays open.

        Args:
            protocol_factory: called without arguments; returns the protocol.
            local_addr: the address to bind to, or None.
            remote_addr: the address to connect to, or None.
            sock: a non-blocking datagram socket to use instead; it stays yours.
            ecn: tell ``datagrams_received`` of the congestion marks; Linux only, as the next one.
            pktinfo: tell it of the local address and the interface.
            gro: let the kernel merge what it receives, where it can; protocols do not see that.
            **options: ``family``, ``proto``, ``flags``, ``reuse_port``, ``allow_broadcast``.

        Returns:
            (transport, protocol).

        Raises:
            OSError: an address cannot be bound, or connected to.
            ValueError: the arguments contradict each other, or this system cannot tell what is asked.
        """
        asked = Asked(ecn, pktinfo, gro)
        asked.check()

        def made() -> asyncio.DatagramProtocol:
            return _Asking(protocol_factory(), asked) if any(asked) else protocol_factory()

        def guarded() -> asyncio.DatagramProtocol:
            try:
                return made()
            except BaseException as exc:
                return _Failed(exc)

        self._lend(sock)
        transport, protocol = await super().create_datagram_endpoint(
            guarded if sock is None else made, local_addr, remote_addr, sock=sock, **options
        )
        if isinstance(protocol, _Asking):
            protocol = protocol.protocol
        return transport, protocol  # type: ignore[return-value]

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
        asked = None
        if isinstance(protocol, _Asking):
            asked, protocol = protocol.asked, protocol.protocol
        self._check_socket(sock)  # type: ignore[attr-defined]  # the factory may have closed it
        self._ensure_fd_no_transport(sock)  # type: ignore[attr-defined]
        lent = self._is_lent(sock)
        kind = DatagramTransport
        if asked is not None or hasattr(type(protocol), "datagrams_received"):
            kind = InformedDatagramTransport
        try:
            if asked is not None:
                asked.set_on(sock)
            transport = kind(self, self._registry, sock, protocol, lent=lent, address=address, extra=extra)
        except BaseException:
            if not lent:
                sock.close()  # nobody else would
            raise
        transport._start(waiter)
        return transport
