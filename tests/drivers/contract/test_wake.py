"""A turn that waits can be ended by any thread, and no wake-up is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from proactorx.ops.constants import RECV
from proactorx.ops.op import Overlapped
from proactorx.port.loop_port import LoopPort

from .support import LIMIT, Sockets, done, in_thread

LONG = 6.0  # a wait that the test does not want to see the end of
SOON = 3.0


def _waited(port: LoopPort, timeout: float | None = LONG) -> float:
    before = time.monotonic()
    port.run(timeout)
    return time.monotonic() - before


def test_from_another_thread_while_it_waits(port: LoopPort) -> None:
    port.run(0.01)
    timer = threading.Timer(0.05, port.wake)
    timer.start()
    assert _waited(port, None) < SOON
    timer.join(LIMIT)


def test_before_the_wait(port: LoopPort) -> None:
    port.run(0.01)
    in_thread(port.wake)
    assert _waited(port) < SOON


def test_before_the_port_was_ever_used(port: LoopPort) -> None:
    """Its facility is opened at the first wait, and the wake-up is older."""
    in_thread(port.wake)
    assert _waited(port) < SOON


def test_from_the_thread_that_waits(port: LoopPort) -> None:
    port.run(0.01)
    port.wake()
    assert _waited(port) < SOON


def test_many_are_one(port: LoopPort) -> None:
    port.run(0.01)
    for _ in range(5000):
        port.wake()
    assert _waited(port) < SOON
    before = time.monotonic()
    turns = 0
    while time.monotonic() - before < 0.1:
        port.run(0.05)
        turns += 1
    assert turns < 20


def test_one_after_the_other(port: LoopPort) -> None:
    """Each wake-up ends one wait, a few hundred times in a row."""
    port.run(0.01)
    waiting = threading.Semaphore(0)
    stop = threading.Event()

    def wake() -> None:
        while waiting.acquire() and not stop.is_set():
            port.wake()

    thread = threading.Thread(target=wake)
    thread.start()
    try:
        for _ in range(300):
            waiting.release()
            assert _waited(port) < SOON
    finally:
        stop.set()
        waiting.release()
        thread.join(LIMIT)


def test_from_many_threads(port: LoopPort) -> None:
    port.run(0.01)
    start = threading.Barrier(5)

    def wake() -> None:
        start.wait(LIMIT)
        for _ in range(200):
            port.wake()

    threads = [threading.Thread(target=wake) for _ in range(4)]
    for thread in threads:
        thread.start()
    start.wait(LIMIT)
    assert _waited(port) < SOON
    for thread in threads:
        thread.join(LIMIT)
    port.run(0)
    port.run(0)
    assert _waited(port, 0.05) < SOON


def test_it_does_no_harm_to_ops(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    for i in range(100):
        op = port.start(Overlapped(RECV, a.fileno(), size=10))
        port.wake()
        port.run(LONG)
        port.wake()
        b.send(b"%d" % i)
        done(port, op)
        assert op.result() == b"%d" % i


def test_a_packet_ends_the_wait_too(port: LoopPort, sockets: Sockets) -> None:
    a, b = sockets.pair()
    op = port.start(Overlapped(RECV, a.fileno(), size=1))
    timer = threading.Timer(0.05, b.send, (b"x",))
    timer.start()
    assert _waited(port) < SOON
    timer.join(LIMIT)
    done(port, op)


def test_after_the_port_was_closed(new_port: Callable[[], LoopPort]) -> None:
    """A thread that comes late does no harm: no error, and no other descriptor is written to."""
    port = new_port()
    port.run(0.01)
    port.close()
    port.wake()
    in_thread(port.wake)
