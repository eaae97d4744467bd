"""A file belongs to one port at a time, with one key, until it is closed, unbound or bound elsewhere."""

from __future__ import annotations

import errno
import gc
import os
import socket
from pathlib import Path

import pytest

from proactorx import CompletionPort

from .conftest import WINDOWS, NewPort
from .support import LIMIT, Pairs


def test_the_key_comes_with_each_packet(port: CompletionPort, pairs: Pairs) -> None:
    for key in ("text", 7, None, ["unhashable"]):
        sock, peer = pairs.pair()
        port.bind(sock, key)
        port.send(sock, b"x")
        assert port.get(LIMIT).key is key
        peer.recv(1)


def test_twice_is_refused(new_port: NewPort, pairs: Pairs) -> None:
    one, other = new_port(), new_port()
    sock, _ = pairs.pair()
    one.bind(sock)
    with pytest.raises(ValueError, match="bound already, to this port"):
        one.bind(sock)
    with pytest.raises(ValueError, match="bound already, to another port"):
        other.bind(sock)
    with pytest.raises(ValueError, match="bound already"):
        other.bind(sock.fileno())


def test_an_operation_on_a_file_that_is_not_bound(new_port: NewPort, pairs: Pairs) -> None:
    one, other = new_port(), new_port()
    sock, _ = pairs.pair()
    with pytest.raises(ValueError, match="not bound to this port"):
        one.recv(sock, 1)
    one.bind(sock)
    with pytest.raises(ValueError, match="not bound to this port"):
        other.send(sock, b"")
    assert one.in_flight == other.in_flight == 0


def test_unbind(new_port: NewPort, pairs: Pairs) -> None:
    one, other = new_port(), new_port()
    sock, peer = pairs.pair()
    one.bind(sock, "first")
    op = one.recv(sock, 10)
    one.unbind(sock)
    with pytest.raises(ValueError, match="not bound"):
        one.unbind(sock)
    with pytest.raises(ValueError, match="not bound"):
        one.recv(sock, 10)
    other.bind(sock, "second")
    peer.send(b"data")
    packet = one.get(LIMIT)  # what was in flight comes to where it began
    assert (packet.key, packet.overlapped, op.result()) == ("first", op, b"data")


def test_rebind(new_port: NewPort, pairs: Pairs) -> None:
    """FileReplaceCompletionInformation."""
    one, other = new_port(), new_port()
    sock, peer = pairs.pair()
    one.bind(sock, "first")
    with pytest.raises(ValueError, match="not bound"):
        other.rebind(sock, one)
    one.rebind(sock, other, "second")
    with pytest.raises(ValueError, match="not bound"):
        one.recv(sock, 10)
    peer.send(b"data")
    other.recv(sock, 10)
    assert other.get(LIMIT).key == "second"
    other.rebind(sock, other, "third")
    other.send(sock, b"x")
    assert other.get(LIMIT).key == "third"


def test_a_descriptor_or_its_object(port: CompletionPort, pairs: Pairs) -> None:
    one, other = pairs.pair()
    port.bind(one.fileno(), "number")
    port.bind(other, "object")
    port.send(one, b"a")
    assert port.get(LIMIT).key == "number"
    port.send(one.fileno(), b"b")
    assert port.get(LIMIT).key == "number"
    port.recv(other.fileno(), 10)
    packet = port.get(LIMIT)
    assert (packet.key, packet.overlapped.result()) == ("object", b"ab")
    port.unbind(other.fileno())


def test_a_duplicate_is_another_file(port: CompletionPort, pairs: Pairs) -> None:
    sock, _ = pairs.pair()
    port.bind(sock)
    with sock.dup() as copy:
        with pytest.raises(ValueError, match="not bound"):
            port.recv(copy, 1)


@pytest.mark.skipif(WINDOWS, reason="numbers of handles are used again as the kernel has it")
def test_closing_a_file_unbinds_it(new_port: NewPort, pairs: Pairs) -> None:
    """The next file with its number is not taken for it, and may be bound anywhere."""
    one, other = new_port(), new_port()
    for by_number in (False, True):
        first, _ = pairs.pair()
        fd = first.fileno()
        one.bind(fd if by_number else first, "first")
        first.close()
        second = pairs.keep(socket.socket())
        assert second.fileno() == fd
        with pytest.raises(ValueError, match="not bound"):
            one.recv(second, 1)
        with pytest.raises(ValueError, match="not bound"):
            one.recv(fd, 1)
        other.bind(second, "second")
        second.close()


def test_the_same_regular_file_opened_again(new_port: NewPort, tmp_path: Path) -> None:
    one, other = new_port(), new_port()
    path = tmp_path / "file"
    path.write_bytes(b"")
    with path.open("rb") as file:
        fd = file.fileno()
        one.bind(file)
    with path.open("rb") as file:
        assert file.fileno() == fd
        other.bind(file)


def test_a_key_is_let_go_with_its_file(port: CompletionPort, pairs: Pairs) -> None:
    class Key:
        pass

    import weakref

    key = Key()
    ref = weakref.ref(key)
    sock = socket.socket()
    port.bind(sock, key)
    sock.close()
    del sock, key
    gc.collect()
    assert ref() is None


def test_what_cannot_be_bound(port: CompletionPort, pairs: Pairs) -> None:
    sock, _ = pairs.pair()
    sock.close()
    with pytest.raises(ValueError, match="closed"):
        port.bind(sock)
    with pytest.raises(ValueError, match="closed"):
        port.bind(-1)
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        port.bind(0x7FFFFFF0 if WINDOWS else writer)  # what os.pipe gives is no handle
    for wrong in ("name", None, 1.5):
        with pytest.raises(TypeError, match="a socket, a file object or a descriptor"):
            port.bind(wrong)  # type: ignore[arg-type]


def test_a_bound_socket_is_non_blocking(port: CompletionPort) -> None:
    one, other = socket.socketpair()
    with one, other:
        port.bind(one)
        port.bind(other.fileno())
        assert one.gettimeout() == 0
        with pytest.raises(BlockingIOError):
            other.recv(1)


@pytest.mark.skipif(WINDOWS, reason="numbers of handles are used again as the kernel has it")
def test_operations_on_a_closed_file_take_nothing_from_the_next_one(
    port: CompletionPort, pairs: Pairs
) -> None:
    """Its user's mistake; but the bytes go where they belong, and the packet of the old operation comes."""
    first, _ = pairs.pair()
    port.bind(first, "first")
    old = port.recv(first, 10)
    number = first.fileno()
    first.close()
    second, other = pairs.pair()
    if second.fileno() != number:
        second, other = other, second
    assert second.fileno() == number
    port.bind(second, "second")
    new = port.recv(second, 10)
    other.send(b"hello")
    packets = {packet.key: packet for packet in (port.get(LIMIT), port.get(LIMIT))}
    assert packets["first"].overlapped is old
    assert packets["first"].error == errno.ECANCELED
    assert packets["second"].overlapped is new
    assert new.result() == b"hello"
