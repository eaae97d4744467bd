"""Operations on sockets: what each brings, how each fails, and whose the buffers are."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from typing import Any

import pytest

import proactorx
from proactorx import CompletionPort, Overlapped, Packet

from .conftest import WINDOWS, NewPort
from .support import LIMIT, MOMENT, Pairs, members, until


def finish(port: CompletionPort, *ops: Overlapped) -> list[Packet]:
    """Take as many packets as there are operations, in the order of the operations."""
    found = {id(packet.overlapped): packet for packet in (port.get(LIMIT) for _ in ops)}
    return [found[id(op)] for op in ops]


def test_recv_and_send(port: CompletionPort, pairs: Pairs) -> None:
    one, other = pairs.connected()
    port.bind(one, "one")
    port.bind(other, "other")
    received = port.recv(other, 100)
    assert not received.done
    with pytest.raises(RuntimeError, match="in flight"):
        received.result()
    sent = port.send(one, b"hello")
    assert finish(port, sent, received) == [Packet("one", sent, 5, 0), Packet("other", received, 5, 0)]
    assert (sent.result(), received.result()) == (5, b"hello")
    assert received.done
    assert received.nbytes == 5


def test_the_end_of_a_stream(port: CompletionPort, pairs: Pairs) -> None:
    one, other = pairs.pair()
    port.bind(one)
    op = port.recv(one, 10)
    other.close()
    assert finish(port, op)[0].error == 0
    assert op.result() == b""


def test_recv_into(port: CompletionPort, pairs: Pairs) -> None:
    one, other = pairs.pair()
    port.bind(one)
    buffer = bytearray(10)
    op = port.recv_into(one, memoryview(buffer)[2:8])
    other.send(b"0123456789")
    assert finish(port, op)[0].nbytes == 6
    assert op.result() == 6
    assert buffer == bytes(2) + b"012345" + bytes(2)
    buffer.clear()


@pytest.mark.parametrize("kind", ["recv", "recv_into", "recvfrom"])
def test_a_receive_of_nothing_waits_for_something(port: CompletionPort, pairs: Pairs, kind: str) -> None:
    """And leaves it there: the zero-byte read, for those who want no buffer to lie about meanwhile."""
    one, other = pairs.connected()
    port.bind(one)
    op = port.recv_into(one, bytearray()) if kind == "recv_into" else getattr(port, kind)(one, 0)
    with pytest.raises(TimeoutError):
        port.get(MOMENT)
    other.send(b"x")
    assert finish(port, op)[0] == Packet(None, op, 0, 0)
    after = port.recv(one, 10)
    assert finish(port, after)[0].nbytes == 1
    assert after.result() == b"x"


def test_a_large_send_goes_whole(port: CompletionPort, pairs: Pairs) -> None:
    one, other = pairs.pair()
    port.bind(one)
    port.bind(other)
    data = os.urandom(1 << 20)
    sent = port.send(one, data)
    received = bytearray()
    receiving = port.recv(other, 1 << 16)
    while len(received) < len(data):
        packet = port.get(LIMIT)
        if packet.overlapped is receiving:
            received += receiving.result()
            if len(received) < len(data):
                receiving = port.recv(other, 1 << 16)
    until(lambda: sent.done)
    assert sent.result() == len(data)
    assert received == data


def test_one_direction_is_served_in_order(port: CompletionPort, pairs: Pairs) -> None:
    one, other = pairs.connected()
    port.bind(one)
    receives = [port.recv(one, 1) for _ in range(20)]
    other.send(bytes(range(20)))
    finish(port, *receives)
    assert [op.result() for op in receives] == [bytes([number]) for number in range(20)]
    port.bind(other)
    big = [bytes([number]) * 100_000 for number in range(10)]
    sends = [port.send(other, piece) for piece in big]
    got = bytearray()
    left = len(sends)
    one.setblocking(True)
    while len(got) < 1_000_000:
        got += one.recv(1 << 16)
        left -= len(port.get_many(10, 0))
    while left:
        left -= len(port.get_many(10, LIMIT))
    assert got == b"".join(big)
    assert all(op.result() == 100_000 for op in sends)


def test_accept_and_connect(port: CompletionPort, pairs: Pairs) -> None:
    listener, client = pairs.listener(), pairs.tcp()
    port.bind(listener, "listener")
    port.bind(client, "client")
    accepted = port.accept(listener)
    connected = port.connect(client, listener.getsockname())
    finish(port, accepted, connected)
    assert connected.result() is None
    server, address = accepted.result()
    with server:
        assert address == client.getsockname() == server.getpeername()
        assert (server.family, server.type) == (client.family, client.type)
        assert server.gettimeout() == 0
        assert accepted.result()[0] is server
        port.bind(server)
        port.send(server, b"hi")
        port.recv(client, 10)
        assert sorted(packet.nbytes for packet in (port.get(LIMIT), port.get(LIMIT))) == [2, 2]


def test_disconnect(port: CompletionPort, pairs: Pairs) -> None:
    """Behind the sends before it, and nothing of them is lost."""
    one, other = pairs.connected()
    port.bind(one, "one")
    port.bind(other, "other")
    data = os.urandom(3_000_000)
    sends = [port.send(one, data), port.send(one, b"the last")]
    ended = port.disconnect(one)
    assert repr(ended).startswith("<Overlapped disconnect fd=")
    received = bytearray()
    op = port.recv(other, 1 << 16)
    left: list[Overlapped] = [*sends, ended]
    while left or op is not None:
        packet = port.get(LIMIT)
        if packet.overlapped is op:
            received += op.result()
            op = port.recv(other, 1 << 16) if op.result() else None
        else:
            left.remove(packet.overlapped)
            assert packet == Packet("one", packet.overlapped, packet.overlapped.nbytes, 0)
    assert received == data + b"the last"
    assert ended.result() is None
    late = port.send(one, b"late")
    assert finish(port, late)[0].error
    assert one.getsockname()  # it is open: its owner closes it


def test_disconnect_without_a_connection(port: CompletionPort, pairs: Pairs) -> None:
    sock = pairs.tcp()
    port.bind(sock)
    op = port.disconnect(sock)
    assert port.get(LIMIT) == Packet(None, op, 0, errno.ENOTCONN)


def test_several_accepts(port: CompletionPort, pairs: Pairs) -> None:
    listener = pairs.listener()
    port.bind(listener)
    ops = [port.accept(listener) for _ in range(5)]
    clients = [pairs.keep(socket.create_connection(listener.getsockname())) for _ in range(5)]
    finish(port, *ops)
    peers = []
    for op in ops:
        with op.result()[0] as server:
            peers.append(server.getpeername())
    assert sorted(peers) == sorted(client.getsockname() for client in clients)


def test_a_refused_connection(port: CompletionPort, pairs: Pairs) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    client = pairs.tcp()
    port.bind(client)
    op = port.connect(client, address)
    assert port.get(LIMIT) == Packet(None, op, 0, errno.ECONNREFUSED)
    with pytest.raises(ConnectionRefusedError):
        op.result()


def test_datagrams(port: CompletionPort, pairs: Pairs) -> None:
    one, other = pairs.udp(), pairs.udp()
    port.bind(one)
    port.bind(other)
    received = port.recvfrom(other, 100)
    sent = port.sendto(one, b"datagram", other.getsockname())
    finish(port, sent, received)
    assert sent.result() == 8
    assert received.result() == (b"datagram", one.getsockname())
    assert received.address == one.getsockname()
    short = port.recvfrom(other, 4)
    port.sendto(one, b"datagram", other.getsockname())
    assert {packet.nbytes for packet in (port.get(LIMIT), port.get(LIMIT))} == {4, 8}
    assert short.result()[0] == b"data"


def test_ipv6_datagrams(port: CompletionPort, pairs: Pairs) -> None:
    one, other = (pairs.keep(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) for _ in range(2))
    for sock in (one, other):
        try:
            sock.bind(("::1", 0))
        except OSError:
            pytest.skip("there is no IPv6 here")
        port.bind(sock)
    port.sendto(one.fileno(), b"six", other.getsockname())
    port.recvfrom(other, 10)
    packets = port.get(LIMIT), port.get(LIMIT)
    (received,) = (p.overlapped for p in packets if not isinstance(p.overlapped.result(), int))
    assert received.result() == (b"six", one.getsockname())


@pytest.mark.parametrize("address", [("localhost", 1), ("1.2.3.4.5", 1), "path", (), ("127.0.0.1",)])
def test_addresses_are_numeric(port: CompletionPort, pairs: Pairs, address: Any) -> None:
    sock, stream = pairs.udp(), pairs.tcp()
    port.bind(sock)
    port.bind(stream)
    with pytest.raises(ValueError, match="numeric address"):
        port.sendto(sock, b"", address)
    with pytest.raises(ValueError, match="numeric address"):
        port.connect(stream, address)
    assert port.in_flight == 0


def test_a_failed_operation_is_a_packet_like_any_other(port: CompletionPort, pairs: Pairs) -> None:
    """Also among others."""
    one, _ = pairs.pair()
    port.bind(one, "fails")
    port.post("first")
    op = port.recv(one, 10)
    op.cancel()
    port.post("last")
    until(lambda: port.queued == 3)
    packets = port.get_many(10)
    assert [(packet.key, packet.error) for packet in packets] == [
        ("first", 0),
        ("fails", errno.ECANCELED),
        ("last", 0),
    ]


def test_a_connection_that_is_reset(port: CompletionPort, pairs: Pairs) -> None:
    one, other = pairs.connected()
    port.bind(one, "reset")
    op = port.recv(one, 10)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()
    assert port.get(LIMIT) == Packet("reset", op, 0, errno.ECONNRESET)
    with pytest.raises(ConnectionResetError):
        op.result()


@pytest.mark.skipif(WINDOWS, reason="os.pipe gives no handles for overlapped use")
def test_what_is_no_socket(port: CompletionPort) -> None:
    reader, writer = os.pipe()
    try:
        port.bind(reader)
        os.write(writer, b"x")
        op = port.recv(reader, 10)
        assert port.get(LIMIT).error == errno.ENOTSOCK
        with pytest.raises(OSError, match="socket"):
            op.result()
    finally:
        os.close(reader)
        os.close(writer)


def test_wrong_arguments_start_nothing(port: CompletionPort, pairs: Pairs) -> None:
    sock, _ = pairs.pair()
    port.bind(sock)
    with pytest.raises(ValueError, match="negative"):
        port.recv(sock, -1)
    with pytest.raises(TypeError, match="writable"):
        port.recv_into(sock, b"read-only")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        port.send(sock, "text")  # type: ignore[arg-type]
    with pytest.raises(BufferError):
        port.send(sock, memoryview(b"abcdef")[::2])
    assert port.in_flight == 0
    assert port.get_many(1, 0) == []


def test_an_overlapped_is_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match="made by"):
        Overlapped()


def test_the_buffer_is_the_operation_s_until_its_packet(port: CompletionPort, pairs: Pairs) -> None:
    one, other = pairs.pair()
    port.bind(one)
    buffer = bytearray(10)
    op = port.recv_into(one, buffer)
    del op  # nobody holds it
    with pytest.raises(BufferError):
        buffer.append(0)
    other.send(b"0123456789")
    packet = port.get(LIMIT)
    assert packet.overlapped.result() == 10
    buffer.append(0)
    assert buffer == b"0123456789\0"


def test_a_file_is_kept_open_by_its_operations(port: CompletionPort, pairs: Pairs) -> None:
    one, other = socket.socketpair()
    with other:
        port.bind(one, "kept")
        port.recv(one, 10)
        del one
        other.send(b"data")
        with pytest.warns(ResourceWarning, match="unclosed <socket"):  # nobody else has closed it
            packet = port.get(LIMIT)
        assert packet.overlapped.result() == b"data"


def test_a_submit_reaches_a_thread_that_sleeps_in_the_driver(new_port: NewPort, pairs: Pairs) -> None:
    port = new_port(1)
    one, other = pairs.pair()
    quiet, _ = pairs.pair()
    for sock in (one, quiet):
        port.bind(sock, sock)
    port.recv(quiet, 1)
    with members(port, 1) as (member,):
        member.wait()
        time.sleep(MOMENT)  # asleep by now, most likely
        port.recv(one, 10)
        other.send(b"x")
        assert member.outcome().key is one


def test_an_operation_outlives_the_thread_that_began_it(port: CompletionPort, pairs: Pairs) -> None:
    """The kernel ends what a thread has begun when it ends; nobody notices."""
    listener, (one, other), client = pairs.listener(), pairs.connected(), pairs.udp()
    for sock in (listener, one, client):
        port.bind(sock, sock)
    thread = threading.Thread(
        target=lambda: (port.recv(one, 10), port.accept(listener), port.recvfrom(client, 10)),
    )
    thread.start()
    thread.join()
    assert port.get_many(5, MOMENT) == []
    assert port.in_flight == 3
    other.send(b"later")
    assert port.get(LIMIT).overlapped.result() == b"later"
    client.sendto(b"later", client.getsockname())
    assert port.get(LIMIT).overlapped.result()[0] == b"later"
    with socket.create_connection(listener.getsockname()):
        port.get(LIMIT).overlapped.result()[0].close()


def test_the_last_to_come_is_served_first_by_operations_too(new_port: NewPort, pairs: Pairs) -> None:
    port = new_port(3)
    one, other = pairs.pair()
    port.bind(one)
    with members(port, 3) as (first, second, third):
        for member in (first, second, third):
            member.wait()
        for _ in range(2):
            port.recv(one, 1)
            other.send(b"x")
            assert third.outcome().overlapped.result() == b"x"
            third.wait()


def test_posts_do_not_keep_operations_waiting_for_ever(port: CompletionPort, pairs: Pairs) -> None:
    """One thread that always finds a post in the queue."""
    one, other = pairs.pair()
    port.bind(one, "op")
    port.recv(one, 1)
    other.send(b"x")
    deadline = time.monotonic() + LIMIT
    key = ""
    for _ in range(10):
        port.post("post")
    while key != "op":
        assert time.monotonic() < deadline
        port.post("post")
        key = port.get(0).key


def test_thousands_of_bound_sockets(port: CompletionPort) -> None:
    limit = 2000
    if not WINDOWS:
        import resource

        limit = min(limit, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100) // 2)
    socks = [socket.socketpair() for _ in range(limit)]
    try:
        for number, (one, _) in enumerate(socks):
            port.bind(one, number)
            port.recv(one, 10)
        for _, other in socks[::100]:
            other.send(b"x")
        found = [port.get(LIMIT).key for _ in socks[::100]]
        assert sorted(found) == list(range(limit))[::100]
        port.close()
    finally:
        for one, other in socks:
            one.close()
            other.close()


def test_it_says_what_it_is(port: CompletionPort, pairs: Pairs) -> None:
    one, _ = pairs.pair()
    port.bind(one)
    op = port.recv(one, 1)
    assert repr(op) == f"<Overlapped recv fd={one.fileno()} IN_FLIGHT nbytes=0>"
    assert isinstance(op, proactorx.Overlapped)
