"""States in which a descriptor can be while nothing happens: what lies in it, what its peer has done,
what is full.
"""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import tty
from collections.abc import Callable

from .support import fill, short_folder, tcp_pair


class Held:
    """A descriptor in some state, and what keeps it there."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.sock: socket.socket | None = None
        self.fd = -1

    def socket(self, sock: socket.socket) -> None:
        """This is the one under test; the loop's calls get it without blocking."""
        sock.setblocking(False)
        self.stack.callback(sock.close)
        self.sock, self.fd = sock, sock.fileno()

    def descriptor(self, fd: int) -> None:
        """The same for what is no socket."""
        os.set_blocking(fd, False)
        self.stack.callback(_close, fd)
        self.fd = fd

    def keep(self, end: socket.socket | int) -> None:
        """The other end stays open."""
        self.stack.callback(_close, end) if isinstance(end, int) else self.stack.callback(end.close)


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)


State = Callable[[Held], None]
STATES: dict[str, State] = {}

#: Of a connected stream: what each side has done, in this order.
STEPS: dict[str, Callable[[socket.socket, socket.socket], object]] = {
    "data": lambda ours, peer: peer.sendall(b"data"),
    "urgent": lambda ours, peer: peer.send(b"!", socket.MSG_OOB),
    "full": lambda ours, peer: fill(ours),
    "peer's full": lambda ours, peer: fill(peer),
    "peer's end": lambda ours, peer: peer.shutdown(socket.SHUT_WR),
    "peer reads no more": lambda ours, peer: peer.shutdown(socket.SHUT_RD),
    "our end": lambda ours, peer: ours.shutdown(socket.SHUT_WR),
    "we read no more": lambda ours, peer: ours.shutdown(socket.SHUT_RD),
    "peer closed": lambda ours, peer: peer.close(),
    "peer reset": lambda ours, peer: (
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"),
        peer.close(),
    ),
}

STREAMS = (
    (),
    ("data",),
    ("full",),
    ("data", "full"),
    ("peer's end",),
    ("data", "peer's end"),
    ("full", "peer's end"),
    ("data", "full", "peer's end"),
    ("our end",),
    ("data", "our end"),
    ("our end", "peer's end"),
    ("full", "our end"),
    ("full", "our end", "peer's end"),
    ("peer reads no more",),
    ("full", "peer reads no more"),
    ("we read no more",),
    ("we read no more", "full"),
    ("peer closed",),
    ("data", "peer closed"),
    ("full", "peer closed"),
    ("our end", "peer closed"),
)
TCP_ONLY = (("urgent",), ("urgent", "full"), ("peer reset",), ("full", "peer reset"))


def _stream(kind: str, steps: tuple[str, ...]) -> State:
    def make(held: Held) -> None:
        ours, peer = tcp_pair(buffers=20_000) if kind == "TCP" else socket.socketpair()
        held.keep(peer)
        for step in steps:
            STEPS[step](ours, peer)
        held.socket(ours)

    return make


for _kind, _all in (("TCP", STREAMS + TCP_ONLY), ("Unix", STREAMS)):
    for _steps in _all:
        STATES[f"{_kind}: {', '.join(_steps) or 'idle'}"] = _stream(_kind, _steps)


def _state(name: str) -> Callable[[State], State]:
    def add(make: State) -> State:
        STATES[name] = make
        return make

    return add


def _listener(held: Held, family: int, address: object, visitors: int) -> None:
    sock = socket.socket(family)
    sock.bind(address)  # type: ignore[arg-type]
    sock.listen(1)
    for _ in range(visitors):
        visitor = socket.socket(family)
        visitor.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            visitor.connect(sock.getsockname())
        held.keep(visitor)
    held.socket(sock)


@_state("TCP: listening")
def _listening(held: Held) -> None:
    _listener(held, socket.AF_INET, ("127.0.0.1", 0), 0)


@_state("TCP: listening, backlog")
def _backlog(held: Held) -> None:
    _listener(held, socket.AF_INET, ("127.0.0.1", 0), 1)


@_state("TCP: listening, backlog full")
def _backlog_full(held: Held) -> None:
    _listener(held, socket.AF_INET, ("127.0.0.1", 0), 4)


@_state("Unix: listening, backlog full")
def _unix_backlog(held: Held) -> None:
    folder = held.stack.enter_context(short_folder())
    _listener(held, socket.AF_UNIX, str(folder / "s"), 4)


@_state("TCP: new")
def _new(held: Held) -> None:
    held.socket(socket.socket())


@_state("TCP: bound")
def _bound(held: Held) -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    held.socket(sock)


@_state("TCP: connecting")
def _connecting(held: Held) -> None:
    """To a listener whose backlog is full."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    held.keep(listener)
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect(listener.getsockname())
        held.keep(sock)
    sock = socket.socket()
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.connect(listener.getsockname())
    held.socket(sock)


@_state("TCP: refused")
def _refused(held: Held) -> None:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    address = listener.getsockname()
    listener.close()
    sock = socket.socket()
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
        sock.connect(address)
    held.socket(sock)


@_state("Unix: new")
def _unix_new(held: Held) -> None:
    held.socket(socket.socket(socket.AF_UNIX))


def _datagrams(family: int, held: Held) -> tuple[socket.socket, socket.socket]:
    if family == socket.AF_UNIX:
        ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    else:
        ours, peer = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
        ours.bind(("127.0.0.1", 0))
        peer.bind(("127.0.0.1", 0))
        peer.connect(ours.getsockname())
    held.keep(peer)
    return ours, peer


def _add_datagrams(name: str, family: int) -> None:
    @_state(f"{name}: idle")
    def _idle(held: Held) -> None:
        held.socket(_datagrams(family, held)[0])

    @_state(f"{name}: data")
    def _data(held: Held) -> None:
        ours, peer = _datagrams(family, held)
        peer.send(b"data")
        held.socket(ours)

    @_state(f"{name}: empty datagram")
    def _empty(held: Held) -> None:
        ours, peer = _datagrams(family, held)
        peer.send(b"")
        held.socket(ours)

    @_state(f"{name}: peer closed")
    def _closed(held: Held) -> None:
        ours, peer = _datagrams(family, held)
        peer.close()
        held.socket(ours)


_add_datagrams("UDP", socket.AF_INET)
_add_datagrams("Unix datagrams", socket.AF_UNIX)


@_state("UDP: connected, refused")
def _udp_refused(held: Held) -> None:
    ours, peer = _datagrams(socket.AF_INET, held)
    ours.connect(peer.getsockname())
    peer.close()
    ours.send(b"x")
    held.socket(ours)


@_state("UDP: new")
def _udp_new(held: Held) -> None:
    held.socket(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))


@_state("Unix datagrams: full")
def _unix_full(held: Held) -> None:
    ours, _peer = _datagrams(socket.AF_UNIX, held)
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(1000))
    held.socket(ours)


def _pipe(reading: bool, *steps: str) -> State:
    def make(held: Held) -> None:
        reader, writer = os.pipe()
        if "data" in steps:
            os.write(writer, b"data")
        if "full" in steps:
            os.set_blocking(writer, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(writer, bytes(4096))
        ours, peer = (reader, writer) if reading else (writer, reader)
        if "closed" in steps:
            os.close(peer)
        else:
            held.keep(peer)
        held.descriptor(ours)

    return make


for _steps in ((), ("data",), ("closed",), ("data", "closed"), ("full",)):
    STATES[f"pipe to read: {', '.join(_steps) or 'idle'}"] = _pipe(True, *_steps)
for _steps in ((), ("data",), ("full",), ("closed",), ("full", "closed")):
    STATES[f"pipe to write: {', '.join(_steps) or 'idle'}"] = _pipe(False, *_steps)


def _terminal(ours_is_controller: bool, *steps: str) -> State:
    def make(held: Held) -> None:
        controller, terminal = pty.openpty()
        tty.setraw(terminal)
        ours, peer = (controller, terminal) if ours_is_controller else (terminal, controller)
        if "data" in steps:
            os.write(peer, b"data")
        if "full" in steps:
            os.set_blocking(ours, False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(ours, bytes(4096))
        if "closed" in steps:
            os.close(peer)
        else:
            held.keep(peer)
        held.descriptor(ours)

    return make


for _steps in ((), ("data",), ("full",), ("closed",)):
    STATES[f"terminal: {', '.join(_steps) or 'idle'}"] = _terminal(False, *_steps)
    STATES[f"terminal's controller: {', '.join(_steps) or 'idle'}"] = _terminal(True, *_steps)


@contextlib.contextmanager
def held(name: str):  # type: ignore[no-untyped-def]
    """A descriptor in this state, closed afterwards with all that belongs to it."""
    with contextlib.ExitStack() as stack:
        made = Held(stack)
        STATES[name](made)
        yield made
