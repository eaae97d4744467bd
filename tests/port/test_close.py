"""The end of a port: waiters, packets, operations in flight, and what a forked child may do."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from proactorx import CompletionPort, Packet, PortClosed

from .conftest import NewPort
from .support import LIMIT, Member, Pairs, keys, members, until


def test_waiting_threads_are_sent_away(new_port: NewPort) -> None:
    port = new_port()
    with members(port, 2) as (one, other):
        one.wait()
        other.wait()
        assert port.close() == []
        assert isinstance(one.outcome(), PortClosed)
        assert isinstance(other.outcome(), PortClosed)
        assert port.associated == port.running == 0


def test_also_one_that_waits_in_the_driver(new_port: NewPort, pairs: Pairs) -> None:
    port = new_port()
    sock, _ = pairs.pair()
    port.bind(sock, "sock")
    with members(port, 2) as (one, other):
        one.wait()
        other.wait()
        op = port.recv(sock, 100)
        assert keys(port.close()) == ["sock"]
        assert isinstance(one.outcome(), PortClosed)
        assert isinstance(other.outcome(), PortClosed)
    with pytest.raises(OSError) as caught:
        op.result()
    assert caught.value.errno == errno.ECANCELED


def test_packets_that_nobody_has_taken_are_returned(port: CompletionPort) -> None:
    port.post("one", 1)
    port.post("two", 2)
    assert port.close() == [Packet("one", 1, 0, 0), Packet("two", 2, 0, 0)]
    assert port.queued == 0


def test_closing_twice(port: CompletionPort) -> None:
    port.post("one")
    assert len(port.close()) == 1
    assert port.close() == []
    assert port.closed


def test_a_closed_port_refuses_everything(port: CompletionPort, pairs: Pairs) -> None:
    sock, _ = pairs.pair()
    port.bind(sock)
    port.close()
    calls: list[Callable[[], Any]] = [
        port.post,
        port.get,
        lambda: port.get_many(2, 0),
        lambda: port.bind(sock),
        lambda: port.recv(sock, 10),
        lambda: port.send(sock, b""),
        lambda: port.accept(sock),
    ]
    for call in calls:
        with pytest.raises(PortClosed, match="closed"):
            call()
    port.dissociate()
    with port.blocking():
        pass
    assert (port.associated, port.running, port.queued, port.in_flight) == (0, 0, 0, 0)


def test_as_a_context_manager(new_port: NewPort) -> None:
    with new_port() as port:
        port.post()
    assert port.closed


def test_operations_in_flight_end_with_the_port(port: CompletionPort, pairs: Pairs) -> None:
    """Each with a packet, and their buffers are free then."""
    buffer = bytearray(100)
    ops = []
    for number in range(20):
        sock, _ = pairs.pair()
        port.bind(sock, number)
        ops.append(port.recv_into(sock, buffer))
    assert port.in_flight == 20
    with pytest.raises(BufferError):
        buffer.clear()
    left = port.close()
    assert sorted(keys(left)) == list(range(20))
    assert all(packet.error == errno.ECANCELED and packet.overlapped in ops for packet in left)
    assert port.in_flight == 0
    buffer.clear()


def test_bound_files_stay_open_and_can_be_bound_again(new_port: NewPort, pairs: Pairs) -> None:
    one, other = new_port(), new_port()
    sock, peer = pairs.pair()
    one.bind(sock)
    one.close()
    other.bind(sock, "again")
    peer.send(b"data")
    other.recv(sock, 10)
    packet = other.get(LIMIT)
    assert (packet.key, packet.overlapped.result()) == ("again", b"data")


def test_an_accepted_connection_that_nobody_takes_is_closed(port: CompletionPort, pairs: Pairs) -> None:
    listener = pairs.listener()
    port.bind(listener)
    op = port.accept(listener)
    with socket.create_connection(listener.getsockname(), LIMIT) as client:
        assert port.get(LIMIT).overlapped is op
        del op
        assert client.recv(1) == b""  # and the fixture looks for descriptors


def test_closing_while_others_post_and_get(new_port: NewPort) -> None:
    """Each packet is got, or returned by close, or was refused."""
    port = new_port(4)
    posted = [0] * 2
    stop = threading.Event()

    def post(index: int) -> None:
        while True:
            try:
                port.post(index)
            except PortClosed:
                return
            posted[index] += 1

    def get() -> int:
        count = 0
        try:
            while True:
                port.get()
                count += 1
        except PortClosed:
            return count

    threads = [Member(port) for _ in range(4)]
    for index in range(2):
        threads[index].begin(lambda index=index: post(index))  # type: ignore[misc]
        threads[2 + index].begin(get)
    until(lambda: min(posted) > 500)
    stop.set()
    left = port.close()
    got = [thread.outcome() for thread in threads]
    for thread in threads:
        thread.end()
    assert got[2] + got[3] + len(left) == sum(posted)


def test_closing_while_others_submit(new_port: NewPort, pairs: Pairs) -> None:
    """Each operation that was begun has a packet, or is returned by close."""
    port = new_port(4)
    socks = [pairs.pair()[0] for _ in range(2)]
    for sock in socks:
        port.bind(sock)
    begun = [0, 0]

    def submit(index: int) -> None:
        try:
            while begun[index] < 3000:
                port.recv(socks[index], 10)
                begun[index] += 1
        except PortClosed:
            return

    threads = [Member(port) for _ in range(2)]
    for index, thread in enumerate(threads):
        thread.begin(lambda index=index: submit(index))  # type: ignore[misc]
    until(lambda: min(begun) > 20)
    left = port.close()
    for thread in threads:
        thread.outcome()
        thread.end()
    assert len(left) == sum(begun)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_cannot_use_it(port: CompletionPort, variant: str, pairs: Pairs) -> None:
    """It may bind what it has inherited to a port of its own, and the parent's goes on."""
    sock, peer = pairs.pair()
    port.bind(sock, "parent")
    op = port.recv(sock, 10)
    port.get_many(1, 0)

    def child() -> None:
        calls: list[Callable[[], Any]] = [
            port.post,
            port.get,
            port.close,
            port.dissociate,
            op.cancel,
            lambda: port.recv(sock, 1),
            lambda: port.queued,
            lambda: port.bind(sock),
        ]
        for call in calls:
            with pytest.raises(RuntimeError, match="belongs to the parent process"):
                call()
        with port, contextlib.suppress(KeyError):  # to leave the block is no use of it
            raise KeyError
        with CompletionPort(backend=variant.partition("-")[0]) as own:
            own.bind(peer, "child")
            own.send(peer, b"hello")
            packet = own.get(LIMIT)
            assert (packet.key, packet.error, own.associated) == ("child", 0, 1)

    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert port.get(LIMIT).overlapped.result() == b"hello"
    port.post("still")
    assert port.get(0).key == "still"
