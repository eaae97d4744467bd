"""Protocols that take notes, raw socket peers, and small checks, for the tests of streams and servers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from support.ports import unused_port as unused_port

LIMIT = 10.0  # seconds: the longest any test waits for one thing to happen
MIB = 1024 * 1024
SMALL_BUFFER = 64 * 1024


def _more_than_sockets_take() -> int:
    """Bytes that no send buffer and no shrunk receive buffer of a stalled peer hold together: tcp(7),
    tcp_wmem.

    How much of the largest send buffer a connection gets depends on what the kernel remembers of earlier ones
    to the same address, so that a limit near it holds in one run and not in the next.
    """
    try:
        with open("/proc/sys/net/ipv4/tcp_wmem") as file:
            largest = int(file.read().split()[2])
    except OSError:
        largest = 4 * MIB
    return max(2 * largest, 4 * MIB)


BIG = _more_than_sockets_take()

linux_only = sys.platform == "linux"


class Notes:
    """Writes down each callback in ``events``; a keyword of its name gives what to do inside that
    callback.
    """

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        self.hooks = hooks
        self.events: list[str] = []
        self.data = bytearray()
        self.error: BaseException | None = None
        self.transport: Any = None
        self._waiters: list[asyncio.Future[None]] = []

    def note(self, name: str, *args: Any) -> Any:
        self.events.append(name)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        hook = self.hooks.get(name)
        return hook(self, *args) if hook is not None else None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("connection_made")

    def eof_received(self) -> Any:
        return self.note("eof_received")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.error = exc
        self.note("connection_lost", exc)

    def pause_writing(self) -> None:
        self.note("pause_writing")

    def resume_writing(self) -> None:
        self.note("resume_writing")

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait for a callback after which the condition holds."""
        try:
            async with asyncio.timeout(LIMIT):
                while not condition():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.append(waiter)
                    await waiter
        except TimeoutError:
            raise AssertionError(f"nothing happened; so far {self.events}, {len(self.data)} bytes") from None

    async def until_event(self, name: str) -> None:
        await self.until(lambda: name in self.events)

    async def until_received(self, count: int) -> bytes:
        await self.until(lambda: len(self.data) >= count)
        return bytes(self.data)

    async def until_lost(self) -> BaseException | None:
        await self.until_event("connection_lost")
        return self.error

    @property
    def order(self) -> list[str]:
        """The callbacks, with runs of the same one (data in several pieces) written once."""
        return [name for i, name in enumerate(self.events) if i == 0 or self.events[i - 1] != name]


class Recorder(Notes, asyncio.Protocol):
    """A protocol that keeps what it is given."""

    def data_received(self, data: bytes) -> None:
        assert type(data) is bytes
        assert data
        self.data += data
        self.note("data_received", data)


class BufferedRecorder(Notes, asyncio.BufferedProtocol):
    """A buffered protocol that keeps what it is given; ``size`` is that of its buffer."""

    def __init__(self, size: int = 64 * 1024, **hooks: Callable[..., Any]) -> None:
        super().__init__(**hooks)
        self.buffer = bytearray(size)
        self.hints: list[int] = []
        self.counts: list[int] = []

    def get_buffer(self, sizehint: int) -> Any:
        self.hints.append(sizehint)
        hook = self.hooks.get("get_buffer")
        return hook(self, sizehint) if hook is not None else self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.counts.append(nbytes)
        self.data += self.buffer[:nbytes]
        self.note("buffer_updated", nbytes)


class Echo(Recorder):
    """Sends back what it is given."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)


def listening(
    host: str = "127.0.0.1", *, backlog: int = 128, receive_buffer: int | None = None
) -> socket.socket:
    """A raw listener on a free port; ``receive_buffer`` is for the sockets it accepts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if receive_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    listener.bind((host, 0))
    listener.listen(backlog)
    listener.settimeout(LIMIT)
    return listener


def pipe_of_files() -> tuple[Any, Any]:
    """A pipe as ``connect_read_pipe`` and ``connect_write_pipe`` take it: the ends to read and to write."""
    if sys.platform == "win32":
        from asyncio import windows_utils

        read, write = windows_utils.pipe(duplex=True, overlapped=(True, True))
        return windows_utils.PipeHandle(read), windows_utils.PipeHandle(write)
    read, write = os.pipe()
    return open(read, "rb", 0), open(write, "wb", 0)


#: A program that copies its input to its output.
CAT = ("cat",)
if sys.platform == "win32":
    CAT = (sys.executable, "-S", "-c", "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())")


def dial(address: Any, *, receive_buffer: int | None = None) -> socket.socket:
    """A raw blocking client."""
    if isinstance(address, (str, bytes)):
        family = socket.AF_UNIX
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM)
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        client.connect(address)  # without a timeout: with one, a full Unix queue would refuse
    except BaseException:
        client.close()
        raise
    client.settimeout(LIMIT)
    return client


@contextlib.contextmanager
def dead_address(host: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    """An address that neither accepts nor refuses: its queue of connections is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listening(host, backlog=0))
        address = listener.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket(listener.family, socket.SOCK_STREAM))
            filler.setblocking(False)
            filler.connect_ex(address)
        yield address[:2]


def read_exactly(peer: socket.socket, count: int) -> bytes:
    """Blocking: for small data known to come, or in a thread."""
    out = bytearray()
    while len(out) < count:
        chunk = peer.recv(min(count - len(out), MIB))
        if not chunk:
            raise AssertionError(f"the end came after {len(out)} of {count} bytes")
        out += chunk
    return bytes(out)


def read_to_end(peer: socket.socket) -> bytes:
    out = bytearray()
    while chunk := peer.recv(MIB):
        out += chunk
    return bytes(out)


def reset(peer: socket.socket) -> None:
    """Close so that a TCP peer gets a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@dataclass
class Link:
    """One connection: the loop's end of it and a raw blocking peer."""

    transport: Any
    protocol: Any
    peer: socket.socket

    async def from_peer(self, count: int) -> bytes:
        return await asyncio.to_thread(read_exactly, self.peer, count)

    async def rest_of_peer(self) -> bytes:
        return await asyncio.to_thread(read_to_end, self.peer)

    async def to_peer_end(self, data: bytes) -> None:
        """The peer sends, however long that takes."""
        await asyncio.to_thread(self.peer.sendall, data)


def shrink(transport: Any) -> None:
    """A small send buffer, so that a peer that does not read is felt soon."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)


async def _outgoing(stack: contextlib.AsyncExitStack, host: str, protocol: Notes) -> Link:
    listener = stack.enter_context(listening(host, receive_buffer=SMALL_BUFFER))
    loop = asyncio.get_running_loop()
    address = listener.getsockname()[:2]
    transport, _ = await loop.create_connection(lambda: protocol, *address)
    peer, _ = listener.accept()
    return Link(transport, protocol, peer)


async def _accepted(stack: contextlib.AsyncExitStack, protocol: Notes) -> Link:
    server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    stack.callback(server.close)
    peer = dial(server.sockets[0].getsockname(), receive_buffer=SMALL_BUFFER)
    await protocol.until_event("connection_made")
    return Link(protocol.transport, protocol, peer)


async def _unix(protocol: Notes) -> Link:
    ours, peer = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: protocol, sock=ours)
    return Link(transport, protocol, peer)


@contextlib.asynccontextmanager
async def linked(kind: str = "tcp", protocol: Any = None) -> AsyncIterator[Link]:
    """A connection made by the loop (tcp, tcp6, unix) or accepted by it; dropped at the end."""
    if protocol is None:
        protocol = Recorder()
    async with contextlib.AsyncExitStack() as stack:
        match kind:
            case "tcp" | "tcp6":
                link = await _outgoing(stack, "127.0.0.1" if kind == "tcp" else "::1", protocol)
            case "accepted":
                link = await _accepted(stack, protocol)
            case "unix":
                link = await _unix(protocol)
            case _:
                raise ValueError(kind)
        stack.enter_context(link.peer)
        link.peer.settimeout(LIMIT)
        with contextlib.suppress(OSError):  # closed already, by what the protocol does
            shrink(link.transport)
        try:
            yield link
        finally:
            if "connection_lost" not in protocol.events:
                link.transport.abort()
        await protocol.until_lost()


@contextlib.asynccontextmanager
async def serving(factory: Callable[[], Any], **options: Any) -> AsyncIterator[tuple[Any, tuple[str, int]]]:
    """A server on a free port of IPv4 loopback, and its address; at the end all its connections are gone."""
    made: list[Any] = []

    def tracked() -> Any:
        made.append(factory())
        return made[-1]

    # wait_closed() of Python 3.11 does not wait for connections.
    waits = sys.version_info >= (3, 12)
    server = await asyncio.get_running_loop().create_server(
        factory if waits else tracked, "127.0.0.1", 0, **options
    )
    try:
        yield server, server.sockets[0].getsockname()
    finally:
        server.close()
        await asyncio.wait_for(server.wait_closed(), LIMIT)
        for protocol in made:
            transport = protocol.transport if isinstance(protocol, Notes) else None
            if transport is not None and transport.get_protocol() is protocol:  # it is not after start_tls
                await protocol.until_lost()


@contextlib.contextmanager
def socket_directory() -> Iterator[str]:
    """A directory whose path is short enough for the name of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="px") as directory:
        yield directory


def collect_errors() -> list[dict[str, Any]]:
    """From now on, what the running loop reports goes to this list."""
    seen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: seen.append(context))
    return seen


async def turns(count: int = 3) -> None:
    """Let the loop turn: for what must not happen, where there is no event to wait for."""
    for _ in range(count):
        await asyncio.sleep(0)


async def eventually(condition: Callable[[], Any], what: str) -> None:
    """Wait for what no callback announces."""
    deadline = asyncio.get_running_loop().time() + LIMIT
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.005)


def open_fds() -> dict[int, tuple[int, int]]:
    """Each open descriptor of this process, with what it stands for."""
    out: dict[int, tuple[int, int]] = {}
    if sys.platform == "win32":
        from drivers.contract.support import descriptors

        # Of sockets alone, and without numbers: a listener always has one ready for its next connection.
        return dict.fromkeys(range(len(descriptors())), (0, 0))
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):
            status = os.fstat(int(name))
            out[int(name)] = (status.st_dev, status.st_ino)
    return out


async def settled_fds() -> dict[int, tuple[int, int]]:
    """The open descriptors, once the running loop has those that it opens when they are first needed."""
    async with linked("unix") as link:
        link.peer.sendall(b"x")
        await link.protocol.until_received(1)
    await asyncio.to_thread(int)
    await turns(5)
    return open_fds()


def backend_of(factory: Callable[[], asyncio.AbstractEventLoop]) -> str:
    """The driver's name, or "asyncio", of a value of the ``loop_factory`` fixture."""
    keywords: dict[str, str] = getattr(factory, "keywords", {})
    return keywords.get("backend", "asyncio")
