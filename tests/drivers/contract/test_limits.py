"""More ops at once than rings and buffers hold, and transfers larger than any buffer: nothing is lost."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Callable, Iterator

import pytest

from proactorx.ops.constants import ACCEPT, POLL, POLLIN, RECV, RECV_INTO, SEND
from proactorx.ops.op import Overlapped, Watch
from proactorx.port.loop_port import LoopPort

from .support import Owner, Sockets, done, drain, error_of, fill, quiet, until

if sys.platform != "win32":
    import resource

PAIRS = 500
OPS_OF_EACH = 4
EACH_KIND = pytest.mark.parametrize("kind", ["pair", "tcp_pair"])


Many = list[tuple[socket.socket, socket.socket]]


@pytest.fixture
def many(sockets: Sockets, variant: str) -> Iterator[Many]:
    """500 socket pairs; a ring of 4 entries and 2 buffers is full with fewer."""
    count = PAIRS // 5 if variant.endswith("small") else PAIRS
    if sys.platform == "win32":
        yield [sockets.pair() for _ in range(count)]
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * PAIRS)), hard))
    yield [sockets.pair() for _ in range(count)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ops_of(many: Many) -> int:
    return OPS_OF_EACH * len(many)


def _message(i: int) -> bytes:
    return b"%06d" % i


def test_two_thousand_receives_started_before_the_data(port: LoopPort, many: Many) -> None:
    ops = [port.start(Overlapped(RECV, many[i % len(many)][0].fileno(), size=6)) for i in range(ops_of(many))]
    port.run(0)
    for i in range(ops_of(many)):
        many[i % len(many)][1].send(_message(i))
    done(port, *ops)
    assert sorted(op.result() for op in ops) == [_message(i) for i in range(ops_of(many))]
    for i in range(ops_of(many)):
        assert int(ops[i].result()) % len(many) == i % len(many)


def test_two_thousand_receives_started_after_the_data(port: LoopPort, many: Many) -> None:
    for i in range(ops_of(many)):
        many[i % len(many)][1].send(_message(i))
    ops = [port.start(Overlapped(RECV, many[i % len(many)][0].fileno(), size=6)) for i in range(ops_of(many))]
    done(port, *ops)
    assert sorted(op.result() for op in ops) == [_message(i) for i in range(ops_of(many))]


def test_two_thousand_receives_into_buffers_and_sends(port: LoopPort, many: Many) -> None:
    buffers = [bytearray(6) for _ in range(ops_of(many))]
    receives = [
        port.start(Overlapped(RECV_INTO, many[i % len(many)][0].fileno(), data=buffers[i]))
        for i in range(ops_of(many))
    ]
    sends = [
        port.start(Overlapped(SEND, many[i % len(many)][1].fileno(), data=_message(i)))
        for i in range(ops_of(many))
    ]
    done(port, *sends, *receives)
    assert {op.result() for op in (*receives, *sends)} == {6}
    assert sorted(map(bytes, buffers)) == [_message(i) for i in range(ops_of(many))]


def test_two_thousand_ops_that_all_wait_and_are_cancelled(port: LoopPort, many: Many) -> None:
    owners = [Owner() for _ in range(ops_of(many))]
    ops = []
    for i, owner in enumerate(owners):
        fd = many[i % len(many)][0].fileno()
        op = (
            Overlapped(RECV, fd, size=6, on_done=owner)
            if i % 2
            else Overlapped(POLL, fd, events=POLLIN, on_done=owner)
        )
        ops.append(port.start(op))
    port.run(0)
    for op in ops:
        assert port.stop(op)
    done(port, *ops)
    quiet(port)
    assert {error_of(op) for op in ops} == {"ECANCELED"}
    assert {owner.times for owner in owners} == {1}
    assert port.driver.inflight == []
    for i, (a, b) in enumerate(many):
        b.send(_message(i))
        assert a.recv(100) == _message(i)


def test_two_thousand_ops_at_the_close(new_port: Callable[[], LoopPort], many: Many) -> None:
    port = new_port()
    owners = [Owner() for _ in range(ops_of(many))]
    for i, owner in enumerate(owners):
        port.start(Overlapped(RECV, many[i % len(many)][0].fileno(), size=6, on_done=owner))
    for i in range(0, ops_of(many), 3):
        many[i % len(many)][1].send(_message(i))
    port.close()
    assert {owner.times for owner in owners} == {1}
    received = sum(not owner.ended[0].error for owner in owners)
    assert received + sum(len(drain(a)) for a, _b in many) // 6 == len(range(0, ops_of(many), 3))


def test_sends_that_wait_on_every_socket(port: LoopPort, many: Many) -> None:
    filled = [fill(a) for a, _b in many]
    ops = [port.start(Overlapped(SEND, a.fileno(), data=_message(i))) for i, (a, _b) in enumerate(many)]
    quiet(port)
    assert not any(op.done for op in ops)
    received = [drain(b) for _a, b in many]
    done(port, *ops)
    for i, (_a, b) in enumerate(many):
        assert (received[i] + drain(b))[filled[i] :] == _message(i)


def test_watches_on_every_socket(port: LoopPort, many: Many) -> None:
    calls = [0] * len(many)

    def watch(i: int) -> Watch:
        def ready() -> None:
            calls[i] += 1
            drain(many[i][0])

        return Watch(many[i][0].fileno(), POLLIN, ready)

    watches = [port.start(watch(i)) for i in range(len(many))]
    for round_ in range(1, 4):
        for _a, b in many:
            b.send(b"x")
        until(port, lambda round_=round_: min(calls) >= round_)
    for each in watches:
        port.stop(each)
    until(port, lambda: not port.driver.inflight)


def test_three_hundred_connections_at_once(port: LoopPort, sockets: Sockets) -> None:
    listener = sockets.listener(512)
    owner = Owner()
    port.start(Overlapped(ACCEPT, listener.fileno(), on_done=owner))
    for _ in range(100):
        sockets.client(listener)
    port.run(0)
    for _ in range(200):
        sockets.client(listener)
    until(port, lambda: len(owner.accepted) == 300)
    names = {sockets.keep(socket.socket(fileno=fd)).getpeername() for fd in owner.accepted}
    assert len(names) == 300


@EACH_KIND
@pytest.mark.parametrize("size", [1, 100, 5000, 300_000])
def test_a_send_larger_than_the_buffers_with_a_slow_reader(
    port: LoopPort, sockets: Sockets, kind: str, size: int
) -> None:
    """The reader takes a little in each turn, so that each write is short."""
    data = os.urandom(1_000_000 if size > 1 else 100_000)
    a, b = getattr(sockets, kind)(send_buffer=8192)
    send = port.start(Overlapped(SEND, a.fileno(), data=data))
    received = hashlib.sha256()
    count = 0
    while count < len(data):
        receive = port.start(Overlapped(RECV, b.fileno(), size=size if size > 1 else 997))
        done(port, receive)
        piece = receive.result()
        assert 0 < len(piece) <= max(size, 997)
        received.update(piece)
        count += len(piece)
    done(port, send)
    assert send.result() == send.nbytes == len(data)
    assert received.digest() == hashlib.sha256(data).digest()


@EACH_KIND
def test_large_transfers_in_both_directions(port: LoopPort, sockets: Sockets, kind: str) -> None:
    data = os.urandom(3_000_000)
    ends = getattr(sockets, kind)(send_buffer=16384)
    got = [bytearray(), bytearray()]

    def receive(i: int) -> None:
        def more(op: Overlapped) -> None:
            got[i] += op.result()
            if len(got[i]) < len(data):
                receive(i)

        port.start(Overlapped(RECV, ends[i].fileno(), size=70_000 if i else 16384, on_done=more))

    sends = [port.start(Overlapped(SEND, sock.fileno(), data=data)) for sock in ends]
    receive(0)
    receive(1)
    until(port, lambda: all(len(each) == len(data) for each in got), limit=20)
    done(port, *sends)
    assert got[0] == got[1] == data


def test_receive_into_piece_by_piece(port: LoopPort, sockets: Sockets) -> None:
    data = os.urandom(2_000_000)
    a, b = sockets.pair(send_buffer=16384)
    port.start(Overlapped(SEND, a.fileno(), data=data))
    target = bytearray(len(data))
    place = 0
    while place < len(data):
        op = port.start(Overlapped(RECV_INTO, b.fileno(), data=memoryview(target)[place : place + 123_457]))
        done(port, op)
        assert op.result() > 0
        place += op.result()
    assert target == data


@pytest.mark.parametrize("size", [100, 50_000])
def test_ops_on_one_descriptor_are_served_in_the_order_of_their_start(
    port: LoopPort, sockets: Sockets, size: int
) -> None:
    a, b = sockets.pair()
    ended: list[int] = []
    receives = [
        Overlapped(
            RECV, a.fileno(), size=1 if size == 100 else size, on_done=lambda _op, i=i: ended.append(i)
        )
        for i in range(10)
    ]
    for op in receives:
        port.start(op)
    port.run(0)
    for i in range(10):
        b.send(b"%d" % i)
        if size != 100:
            until(port, lambda i=i: len(ended) == i + 1)
    done(port, *receives)
    assert [op.result() for op in receives] == [b"%d" % i for i in range(10)]
    assert ended == list(range(10))


def test_sends_on_one_descriptor_do_not_mix(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair(send_buffer=4096)
    ended: list[int] = []
    sends = [
        Overlapped(SEND, a.fileno(), data=b"%d" % i * 50_000, on_done=lambda _op, i=i: ended.append(i))
        for i in range(4)
    ]
    for op in sends:
        port.start(op)
    received = b""
    while len(received) < 200_000:
        port.run(0.01)
        try:
            received += b.recv(1000)
        except BlockingIOError:
            continue
    done(port, *sends)
    assert ended == [0, 1, 2, 3]
    assert received == b"".join(b"%d" % i * 50_000 for i in range(4))
