"""Each op against the plain system call, in the same situation: the same errno, or the same success."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.ports import unused_port

from proactorx.ops.constants import ACCEPT, ACCEPT_ONE, CONNECT, RECV, RECV_INTO, SEND
from proactorx.ops.op import Overlapped
from proactorx.port.loop_port import LoopPort

from .support import NumberedFile, Sockets, connect_op, descriptors, done, error_name, error_of, fill, reset

#: Makes a socket (or a file) in a situation, and says what to connect to.
Situation = Callable[[Sockets], tuple[Any, Any]]
SITUATIONS: dict[str, Situation] = {}


def situation(make: Situation) -> Situation:
    SITUATIONS[make.__name__] = make
    return make


@situation
def fresh_tcp(sockets: Sockets) -> tuple[Any, Any]:
    return sockets.new(), ("127.0.0.1", unused_port())


@situation
def fresh_unix(sockets: Sockets) -> tuple[Any, Any]:
    return sockets.new(socket.AF_UNIX), "/nowhere/at/all"


@situation
def unix_without_listener(sockets: Sockets) -> tuple[Any, Any]:
    path = Path(tempfile.mkdtemp(), "s")
    with sockets.new(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    return sockets.new(socket.AF_UNIX), str(path)


@situation
def unix_with_a_full_backlog(sockets: Sockets) -> tuple[Any, Any]:
    listener = sockets.new(socket.AF_UNIX)
    listener.bind("")
    listener.listen(0)
    sockets.client(listener)
    return sockets.new(socket.AF_UNIX), listener.getsockname()


@situation
def datagram(sockets: Sockets) -> tuple[Any, Any]:
    sock = sockets.new(kind=socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock, ("127.0.0.1", 9)


@situation
def listening(sockets: Sockets) -> tuple[Any, Any]:
    sock = sockets.listener()
    sockets.client(sock)
    return sock, sock.getsockname()


@situation
def connected(sockets: Sockets) -> tuple[Any, Any]:
    a, b = sockets.tcp_pair()
    b.send(b"x")
    return a, b.getsockname()


@situation
def connected_unix(sockets: Sockets) -> tuple[Any, Any]:
    a, b = sockets.pair()
    b.send(b"x")
    return a, ""


@situation
def closed_peer(sockets: Sockets) -> tuple[Any, Any]:
    a, b = sockets.tcp_pair()
    name = b.getsockname()
    b.close()
    return a, name


@situation
def closed_unix_peer(sockets: Sockets) -> tuple[Any, Any]:
    a, b = sockets.pair()
    b.close()
    return a, ""


@situation
def closed_unix_peer_with_data(sockets: Sockets) -> tuple[Any, Any]:
    a, b = sockets.pair()
    a.send(b"never read")
    b.send(b"last words")
    b.close()
    return a, ""


@situation
def reset_peer(sockets: Sockets) -> tuple[Any, Any]:
    a, b = sockets.tcp_pair()
    name = b.getsockname()
    reset(b)
    return a, name


@situation
def reset_peer_with_full_buffer(sockets: Sockets) -> tuple[Any, Any]:
    a, b = sockets.tcp_pair()
    name = b.getsockname()
    fill(a)
    reset(b)
    return a, name


@situation
def shut_for_writing(sockets: Sockets) -> tuple[Any, Any]:
    a, b = sockets.tcp_pair()
    b.send(b"x")
    a.shutdown(socket.SHUT_WR)
    return a, b.getsockname()


@situation
def shut_for_reading(sockets: Sockets) -> tuple[Any, Any]:
    a, b = sockets.tcp_pair()
    a.shutdown(socket.SHUT_RD)
    return a, b.getsockname()


@situation
def shut_unix(sockets: Sockets) -> tuple[Any, Any]:
    a, _b = sockets.pair()
    a.shutdown(socket.SHUT_RDWR)
    return a, ""


@situation
def shut_listener(sockets: Sockets) -> tuple[Any, Any]:
    sock = sockets.listener()
    sock.shutdown(socket.SHUT_RDWR)
    return sock, sock.getsockname()


@situation
def no_route(sockets: Sockets) -> tuple[Any, Any]:
    return sockets.new(), ("255.255.255.255", 9)


@situation
def regular_file(sockets: Sockets) -> tuple[Any, Any]:
    return NumberedFile(open(os.devnull, "r+b", buffering=0)), "x"


@situation
def pipe(sockets: Sockets) -> tuple[Any, Any]:
    reader, writer = os.pipe()
    os.write(writer, b"x")
    os.close(writer)
    return NumberedFile(open(reader, "rb", buffering=0)), "x"


def _call(name: str, sock: socket.socket, address: Any) -> Any:
    """What the system call of op `name` says."""
    if name in ("receive", "receive-large"):
        return sock.recv(10 if name == "receive" else 1_000_000)
    if name == "receive-into":
        return sock.recv_into(bytearray(10))
    if name == "send":
        return sock.send(b"x")
    if name == "connect":
        return sock.connect(address)
    accepted, _address = sock.accept()
    accepted.close()
    return True


def _plain(name: str, file: Any, address: Any) -> tuple[str, Any]:
    """(errno, result) of the call, made again when it could not be done at once."""
    if not isinstance(file, socket.socket):
        return "ENOTSOCK", None  # the module's constructor says so, and makes no call
    writing = name in ("send", "connect")
    for _ in range(5):
        try:
            return "", _call(name, file, address)
        except BlockingIOError as exc:
            under_way = exc.errno == errno.EINPROGRESS or (name == "connect" and sys.platform == "win32")
            if under_way or (name != "connect" and _ready(file, writing)):
                if name == "connect":
                    _ready(file, writing)
                    number = file.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    return error_name(number), None
                continue
            return error_name(exc.errno), None
        except OSError as exc:
            return error_name(exc.errno), None
    raise AssertionError("always ready, never done")


def _ready(file: Any, writing: bool) -> bool:
    # A connect that has failed is exceptional on Windows, and writable elsewhere.
    return any(
        select.select([] if writing else [file], [file] if writing else [], [file] if writing else [], 1)
    )


OPS: dict[str, Callable[[Any, Any], Overlapped]] = {
    "receive": lambda file, _: Overlapped(RECV, file.fileno(), size=10),
    "receive-large": lambda file, _: Overlapped(RECV, file.fileno(), size=1_000_000),
    "receive-into": lambda file, _: Overlapped(RECV_INTO, file.fileno(), data=bytearray(10)),
    "send": lambda file, _: Overlapped(SEND, file.fileno(), data=b"x"),
    "accept": lambda file, _: Overlapped(ACCEPT_ONE, file.fileno(), on_done=lambda _op: None),
    "connect": lambda file, address: (
        connect_op(file, address)
        if isinstance(file, socket.socket)
        else Overlapped(CONNECT, file.fileno(), data=bytes(16))
    ),
}


def _skipped(name: str, situation_name: str) -> bool:
    # Operations that rightly wait for ever there.
    return (name, situation_name) in {
        ("receive", "datagram"),
        ("receive-large", "datagram"),
        ("receive-into", "datagram"),
    }


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("situation_name", SITUATIONS)
def test_op_and_system_call_agree(port: LoopPort, sockets: Sockets, situation_name: str, name: str) -> None:
    if _skipped(name, situation_name):
        pytest.skip("waits for ever")
    file, address = SITUATIONS[situation_name](sockets)
    plain = _plain(name, file, address)
    file.close()
    file, address = SITUATIONS[situation_name](sockets)
    with contextlib.closing(file):
        op = port.start(OPS[name](file, address))
        done(port, op)
        port.forget(file.fileno())
    found = (error_of(op), op.result() if not op.error else None)
    if name == "accept" and not op.error:
        socket.close(op.result())
        found = ("", True)
    if name == "connect":
        found, plain = (found[0], None), (plain[0], None)
    assert found == plain


@pytest.mark.parametrize(
    "situation_name", ["connected", "fresh_tcp", "datagram", "regular_file", "shut_listener"]
)
def test_a_listening_accept_fails_as_the_system_call_does(
    port: LoopPort, sockets: Sockets, situation_name: str
) -> None:
    file, address = SITUATIONS[situation_name](sockets)
    plain = _plain("accept", file, address)
    with contextlib.closing(file):
        op = port.start(Overlapped(ACCEPT, file.fileno(), on_done=lambda _op: None))
        done(port, op)
    assert (error_of(op), None) == plain


def test_a_malformed_address(port: LoopPort, sockets: Sockets) -> None:
    for data, expected in ((b"\x02\x00", "EINVAL"), (b"\xff\xff" + bytes(14), "EAFNOSUPPORT")):
        op = port.start(Overlapped(CONNECT, sockets.new().fileno(), data=data))
        done(port, op)
        assert error_of(op) == expected


def test_no_descriptors_are_left_for_an_accept(port: LoopPort, sockets: Sockets) -> None:
    """EMFILE: the connection stays in the queue, and can be accepted later."""
    import resource

    listener = sockets.listener()
    sockets.client(listener)
    port.run(0.001)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(descriptors()) + 1, hard))
    held = []
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        op = port.start(Overlapped(ACCEPT_ONE, listener.fileno(), on_done=lambda _op: None))
        done(port, op)
        error = error_of(op)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            socket.close(fd)
    assert error == "EMFILE"
    op = port.start(Overlapped(ACCEPT_ONE, listener.fileno(), on_done=lambda _op: None))
    done(port, op)
    sockets.keep(socket.socket(fileno=op.result()))
