"""Cancelling is a request: from any thread, at any time, and the packet comes all the same."""

from __future__ import annotations

import errno
import socket
import threading

import pytest

from proactorx import CompletionPort

from .conftest import NewPort
from .support import LIMIT, Pairs, members


def test_a_cancelled_operation_has_its_packet(port: CompletionPort, pairs: Pairs) -> None:
    one, _ = pairs.pair()
    port.bind(one, "key")
    op = port.recv(one, 10)
    assert op.cancel() is True
    packet = port.get(LIMIT)
    assert (packet.key, packet.overlapped, packet.nbytes, packet.error) == ("key", op, 0, errno.ECANCELED)
    with pytest.raises(OSError) as caught:
        op.result()
    assert caught.value.errno == errno.ECANCELED


def test_cancelling_again_or_too_late(port: CompletionPort, pairs: Pairs) -> None:
    one, other = pairs.pair()
    port.bind(one)
    op = port.recv(one, 10)
    assert op.cancel()
    op.cancel()
    assert port.get(LIMIT).overlapped is op
    assert op.cancel() is False
    other.send(b"data")
    op = port.recv(one, 10)
    port.get(LIMIT)
    assert op.cancel() is False
    assert op.result() == b"data"
    assert port.get_many(1, 0) == []


def test_cancel_wakes_a_thread_that_sleeps_in_the_driver(new_port: NewPort, pairs: Pairs) -> None:
    port = new_port(1)
    one, _ = pairs.pair()
    port.bind(one)
    op = port.recv(one, 10)
    with members(port, 1) as (member,):
        member.wait()
        assert op.cancel()
        assert member.outcome().error == errno.ECANCELED


def test_every_kind(port: CompletionPort, pairs: Pairs) -> None:
    one, _ = pairs.pair()
    listener, udp, full = pairs.listener(), pairs.udp(), pairs.pair()[0]
    buffer = bytearray(10)
    for sock in (one, listener, udp, full):
        port.bind(sock)
    ops = [
        port.recv(one, 10),
        port.recv_into(one, buffer),
        port.accept(listener),
        port.recvfrom(udp, 10),
        port.send(full, bytes(10_000_000)),
    ]
    for op in ops:
        assert op.cancel()
    packets = [port.get(LIMIT) for _ in ops]
    assert {id(packet.overlapped) for packet in packets} == {id(op) for op in ops}
    assert {packet.error for packet in packets} == {errno.ECANCELED}
    assert 0 < ops[4].nbytes < 10_000_000  # how far it had got
    buffer.clear()


def test_cancel_and_data_at_once(port: CompletionPort, pairs: Pairs) -> None:
    """Either the operation has the bytes, or they wait for the next one; none is lost."""
    one, other = pairs.connected()
    port.bind(one)
    got = b""
    for number in range(200):
        op = port.recv(one, 10)
        sender = threading.Thread(target=other.send, args=(bytes([number]),))
        sender.start()
        op.cancel()
        assert port.get(LIMIT).overlapped is op
        if not op.error:
            got += op.result()
        sender.join()
    while len(got) < 200:
        op = port.recv(one, 300)
        port.get(LIMIT)
        got += op.result()
    assert got == bytes(range(200))


def test_an_accept_that_succeeded_all_the_same(port: CompletionPort, pairs: Pairs) -> None:
    """Its connection is there, or is closed with the operation; the fixture looks for descriptors."""
    listener = pairs.listener()
    port.bind(listener)
    for number in range(50):
        op = port.accept(listener)
        client = socket.create_connection(listener.getsockname())
        op.cancel()
        packet = port.get(LIMIT)
        if packet.error:
            assert packet.error == errno.ECANCELED
            listener.setblocking(True)
            listener.accept()[0].close()
            listener.setblocking(False)
        elif number % 2:
            op.result()[0].close()
        del op, packet
        client.close()


def test_many_threads_cancel_each_other_s_operations(new_port: NewPort, pairs: Pairs) -> None:
    port = new_port(8)
    pool = [pairs.pair() for _ in range(4)]
    for one, _ in pool:
        port.bind(one)
    begun: list[int] = []

    def work(one: socket.socket, other: socket.socket) -> int:
        count = 0
        for number in range(150):
            op = port.recv(one, 1)
            count += 1
            if number % 3 == 0:
                other.send(b"x")
            if number % 3 != 1:
                op.cancel()
        return count

    with members(port, 4) as threads:
        for thread, (one, other) in zip(threads, pool, strict=True):
            thread.begin(lambda one=one, other=other: work(one, other))  # type: ignore[misc]
        begun = [thread.outcome() for thread in threads]
        left = port.queued
        got = []
        while len(got) < left:
            got += port.get_many(100, LIMIT)
        got += port.close()
    assert len(got) == sum(begun) == 600
    assert len({id(packet.overlapped) for packet in got}) == 600
