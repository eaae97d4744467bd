"""Connections and servers: what runs once per connection, on asyncio's own plumbing.

``create_connection``, ``create_server``, ``connect_accepted_socket`` and ``start_tls`` are
``BaseEventLoop``'s; what is here is what they ask of a loop: transports made of sockets, and accepting.  The
Unix forms are those of asyncio's own Unix loop, of which this class borrows the two methods.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import sys
import weakref
from collections.abc import Callable
from contextvars import Context
from typing import Any, cast

from proactorx.transports.listener import Listener
from proactorx.transports.registry import Registry
from proactorx.transports.stream import StreamTransport
from proactorx.transports.streams import convert, serving
from proactorx.transports.tls import TLSProtocol
from proactorx.transports.tls_transport import TLSTransport

if sys.platform == "win32":
    system: Any
else:
    # Not os: tools that look for a user's blocking calls put their own functions there (blockbuster).
    import posix as system

logger: logging.Logger = logging.getLogger("asyncio")

_NO_UNIX = "this Python has no Unix sockets; on Windows see start_serving_pipe() and create_pipe_connection()"
_TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def no_delay(sock: socket.socket) -> None:
    """Set TCP_NODELAY on a TCP socket, whatever ``sock.proto`` says: it is 0 on many."""
    if sock.family in _TCP_FAMILIES and sock.type == socket.SOCK_STREAM:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            # A stream socket that is not TCP (SCTP, for one) has no such option.
            return


def _name_of(sock: socket.socket) -> str | None:
    """The path of a Unix socket; None where its user has closed it."""
    try:
        return sock.getsockname()  # type: ignore[no-any-return]
    except (OSError, AttributeError):  # the latter from a wrapper
        return None


class Connections(asyncio.BaseEventLoop):
    """The connection family of ``AbstractEventLoop``."""

    _registry: Registry
    _listeners: dict[int, Listener]  # by the number of the socket, which the socket may have lost since
    _unix_server_sockets: dict[socket.socket, int]

    def _init_connections(self) -> None:
        self._listeners = {}
        self._lent: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._unix_server_sockets = {}

    def _lend(self, sock: socket.socket | None) -> None:
        """Note that `sock` is the user's, who may do with it what they like while a transport has it."""
        if isinstance(sock, socket.socket):  # else what comes next says what is wrong with it
            self._lent.add(sock)

    def _is_lent(self, sock: socket.socket) -> bool:
        return not isinstance(sock, socket.socket) or sock in self._lent

    async def create_connection(self, *args: Any, sock: socket.socket | None = None, **kwargs: Any) -> Any:
        """Open a stream connection, as ``asyncio.BaseEventLoop.create_connection`` does, with the same
        arguments.

        A socket that you pass in stays yours: it is neither held by a ring nor closed when the protocol
        factory raises.

        Args:
            sock: a connected, non-blocking stream socket to use instead of a new one.

        Returns:
            (transport, protocol).

        Raises:
            OSError: no address could be connected to, or the TLS handshake failed.
            ValueError: the arguments contradict each other.
            RuntimeError: `sock` is used by another transport.
        """
        self._lend(sock)
        return await super().create_connection(*args, sock=sock, **kwargs)

    async def connect_accepted_socket(self, protocol_factory: Any, sock: socket.socket, **kwargs: Any) -> Any:
        """Wrap a connection that was accepted outside of asyncio, as
        ``BaseEventLoop.connect_accepted_socket`` does.

        Args:
            protocol_factory: called without arguments; returns the protocol.
            sock: the connected stream socket, which stays yours; see ``create_connection``.

        Returns:
            (transport, protocol).

        Raises:
            OSError: the TLS handshake failed.
            ValueError: `sock` is not a stream socket, or a time-out was given without ``ssl``.
        """
        self._lend(sock)
        return await super().connect_accepted_socket(protocol_factory, sock, **kwargs)

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[Any] | None = None,
        *,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        context: Context | None = None,
    ) -> StreamTransport:
        self._check_socket(sock)
        no_delay(sock)
        convert(protocol)
        transport = StreamTransport(
            self,
            self._registry,
            sock.fileno(),
            protocol,
            sock=sock,
            lent=self._is_lent(sock),
            extra=extra,
            server=server,
            context=context,
        )
        transport._start(waiter)
        return transport

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        waiter: asyncio.Future[Any] | None = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: dict[str, Any] | None = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: Context | None = None,
    ) -> Any:
        convert(protocol)
        try:
            tls = TLSProtocol(
                self,
                self._registry,
                protocol,
                sslcontext,
                waiter,
                server_side,
                server_hostname,
                ssl_handshake_timeout=ssl_handshake_timeout,
                ssl_shutdown_timeout=ssl_shutdown_timeout,
            )
            underlying = cast("asyncio.Protocol", tls)
            self._make_socket_transport(rawsock, underlying, extra=extra, server=server, context=context)
        except BaseException:
            # a name or a context that cannot be used, or a server that is closed; nobody else would
            rawsock.close()
            raise
        return TLSTransport(self, tls)  # whose connection is made in a later turn

    async def start_tls(
        self,
        transport: Any,
        protocol: asyncio.BaseProtocol,
        sslcontext: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> TLSTransport:
        """Upgrade a connection to TLS; see ``asyncio.loop.start_tls``.

        Args:
            transport: of ``create_connection``, of a server, or of an earlier ``start_tls``; do not use it
                afterwards.
            protocol: the protocol of the new transport.
            sslcontext: an ``ssl.SSLContext``.
            server_side: whether to take the server's part in the handshake.
            server_hostname: the name that the peer's certificate must be for; client side only.
            ssl_handshake_timeout: seconds until the handshake is given up; default: 60.
            ssl_shutdown_timeout: seconds that ``close`` waits for the peer's close_notify; default: 30.

        Returns:
            The new transport, once the handshake is done.

        Raises:
            TypeError: `sslcontext` is no ``SSLContext``, or `transport` cannot be upgraded.
            ValueError: a time-out is not positive.
            OSError: the handshake failed, or took too long; the connection is closed.
        """
        if not isinstance(sslcontext, ssl.SSLContext):
            raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
        if not getattr(transport, "_start_tls_compatible", False):
            raise TypeError(f"transport {transport!r} is not supported by start_tls()")
        waiter = self.create_future()
        tls = TLSProtocol(
            self,
            self._registry,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            call_connection_made=False,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        secured = TLSTransport(self, tls)
        # Nothing may come before connection_made().
        transport.pause_reading()
        if server_side and isinstance(protocol, asyncio.StreamReaderProtocol):
            # What the reader holds already is the client's first message:
            # newer Pythons do so too (gh-142352).
            buffer = getattr(getattr(protocol, "_stream_reader", None), "_buffer", None)
            if buffer:
                tls.preload(buffer)
                buffer.clear()
        if isinstance(transport, StreamTransport):
            transport._repeat_end()
        transport.set_protocol(tls)
        made = self.call_soon(tls.connection_made, transport)
        resumed = self.call_soon(transport.resume_reading)
        try:
            await waiter
        except BaseException:
            transport.close()
            made.cancel()
            resumed.cancel()
            raise
        return secured

    def _check_socket(self, sock: socket.socket) -> None:
        if self.get_debug() and sock.gettimeout() != 0:
            raise ValueError("the socket must be non-blocking")
        if sock.fileno() < 0:
            raise OSError(9, "the socket is closed")

    # ------------------------------------------------------------------------------------------------ servers

    async def create_server(self, *args: Any, start_serving: bool = True, **kwargs: Any) -> asyncio.Server:
        """Start a stream server, as ``asyncio.BaseEventLoop.create_server`` does, with the same arguments.

        Unlike stock asyncio it does not yield to the loop between listening and returning, where a cancelled
        caller would lose a server that is already listening.

        Args:
            start_serving: whether to accept connections at once.

        Raises:
            OSError: an address cannot be bound.
            ValueError: the arguments contradict each other, or ``sock`` is not a stream socket.
        """
        server: Any = await super().create_server(*args, start_serving=False, **kwargs)
        if start_serving:
            self._serve(server, kwargs.get("sock"))
        return server  # type: ignore[no-any-return]

    def _serve(self, server: Any, given: socket.socket | None) -> None:
        """Start `server`, or leave nothing of it but the socket that was `given`."""
        try:
            server._start_serving()
        except BaseException:
            if given is None:
                server.close()
            raise

    def _start_serving(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        sslcontext: ssl.SSLContext | None = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: Context | None = None,
    ) -> None:
        make_tls = None
        if sslcontext is not None:

            def make_tls(protocol: asyncio.BaseProtocol) -> TLSProtocol:
                convert(protocol)
                return TLSProtocol(
                    self,
                    self._registry,
                    protocol,
                    sslcontext,
                    server_side=True,
                    ssl_handshake_timeout=ssl_handshake_timeout,
                    ssl_shutdown_timeout=ssl_shutdown_timeout,
                )

        # Accepted sockets inherit the option on Linux, tcp(7); elsewhere it is set on each.
        no_delay(sock)
        # Python 3.15 gives the context that the server was made in.
        factory = serving(protocol_factory)
        listener = Listener(self, self._registry, sock, factory, server, make_tls, context)
        number = sock.fileno()
        before = self._listeners.pop(number, None)
        if before is not None:
            # A socket is served by the last who asks.  Or its user has closed it,
            # and the number is another's now.
            before.close(keep=True)
        listener.start()
        self._listeners[number] = listener

    def _stop_serving(self, sock: socket.socket) -> None:
        # `create_unix_server` notes the sockets whose files go with them (3.13 and later).
        inode = self._unix_server_sockets.pop(sock, None)
        path = _name_of(sock) if inode is not None else None
        # Not by its number: the socket has lost that where the user has closed it.
        number = next((number for number, listener in self._listeners.items() if listener.sock is sock), None)
        if number is None:
            sock.close()
        else:
            self._listeners.pop(number).close()
        if sys.platform == "win32" or path is None:
            return
        try:
            if system.stat(path).st_ino == inode:
                system.unlink(path)
        except FileNotFoundError:
            return
        except OSError as exc:
            logger.error("Unable to clean up listening UNIX socket %r: %r", path, exc)

    def _close_listeners(self) -> None:
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()

    # ------------------------------------------------------------------------------------------- Unix sockets

    if hasattr(socket, "AF_UNIX"):

        async def create_unix_connection(
            self, *args: Any, sock: socket.socket | None = None, **kwargs: Any
        ) -> Any:
            """Open a stream connection to a Unix socket, as ``asyncio.loop.create_unix_connection`` does.

            Args:
                sock: a connected, non-blocking Unix stream socket to use instead of a path; see
                    ``create_connection``.

            Returns:
                (transport, protocol).

            Raises:
                OSError: the path cannot be connected to.
                ValueError: the arguments contradict each other.
            """
            self._lend(sock)
            create: Any = asyncio.SelectorEventLoop.create_unix_connection
            return await create(self, *args, sock=sock, **kwargs)

        async def create_unix_server(
            self, *args: Any, start_serving: bool = True, **kwargs: Any
        ) -> asyncio.Server:
            """Start a server on a Unix socket, as ``asyncio.loop.create_unix_server`` does; see
            ``create_server``.

            Raises:
                OSError: the path cannot be bound.
                ValueError: the arguments contradict each other.
            """
            create: Any = asyncio.SelectorEventLoop.create_unix_server
            server = await create(self, *args, start_serving=False, **kwargs)
            if start_serving:
                self._serve(server, kwargs.get("sock"))
            return server  # type: ignore[no-any-return]

    else:

        async def create_unix_connection(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
            """Not available.

            Raises:
                NotImplementedError: always: Python has no Unix sockets on Windows.  Use
                    ``create_pipe_connection``.
            """
            raise NotImplementedError(f"create_unix_connection: {_NO_UNIX}")

        async def create_unix_server(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
            """Not available; see ``create_unix_connection``.

            Raises:
                NotImplementedError: always.
            """
            raise NotImplementedError(f"create_unix_server: {_NO_UNIX}")

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        """asyncio's own hook: refuse a descriptor that a transport uses."""
        number = fd if isinstance(fd, int) else fd.fileno()
        transport = self._registry.owner_of(number)
        if transport is not None and transport._has(number):
            raise RuntimeError(f"File descriptor {fd!r} is used by transport {transport!r}")

    async def _create_connection_transport(
        self,
        sock: socket.socket,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        def guarded() -> asyncio.BaseProtocol:
            try:
                return protocol_factory()
            except BaseException:
                if not self._is_lent(sock):
                    sock.close()  # nobody else would
                raise

        return await super()._create_connection_transport(  # type: ignore[misc]
            sock, guarded, *args, **kwargs
        )
