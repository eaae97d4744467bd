"""An operation that waits takes nothing that is not its port's:
others who have the socket see nothing of it.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from proactorx import CompletionPort

from .conftest import WINDOWS
from .support import LIMIT, Pairs, until

pytestmark = pytest.mark.skipif(
    WINDOWS, reason="there the port is the kernel's, which keeps what it has begun"
)

CLOSED = (errno.ECANCELED, errno.EBADF, errno.ENOTCONN)


@pytest.fixture
def driven(port: CompletionPort) -> Iterator[Callable[[], None]]:
    """Call it, and a thread waits on the port; its packets are dropped."""
    threads: list[threading.Thread] = []

    def wait() -> None:
        while not ended.is_set():
            port.get_many(10, 0.02)
        port.dissociate()

    def begin() -> None:
        threads.append(threading.Thread(target=wait))
        threads[0].start()
        until(lambda: port.associated, "the thread's first get")

    ended = threading.Event()
    yield begin
    ended.set()
    for thread in threads:
        thread.join()


def test_what_nobody_takes_stays_for_others(port: CompletionPort, pairs: Pairs) -> None:
    """No thread waits on the port: a receive through a duplicate gets the bytes."""
    one, other = pairs.connected()
    duplicate = pairs.keep(one.dup())
    port.bind(one)
    waiting = port.recv(one, 100)
    other.send(b"for whoever comes first")
    duplicate.settimeout(LIMIT)
    assert duplicate.recv(100) == b"for whoever comes first"
    waiting.cancel()
    assert port.get(LIMIT).error == errno.ECANCELED


def test_a_connection_that_nobody_takes_is_a_siblings(port: CompletionPort, pairs: Pairs) -> None:
    """A port that is not served keeps no place in the line of a listener that is shared."""
    listener = pairs.listener()
    sibling = pairs.keep(listener.dup())
    port.bind(listener)
    waiting = port.accept(listener)
    sibling.settimeout(LIMIT)
    for _ in range(5):
        with socket.create_connection(listener.getsockname()), sibling.accept()[0]:
            pass
    waiting.cancel()
    assert port.get(LIMIT).error == errno.ECANCELED


@pytest.mark.parametrize("served", [False, True], ids=["nobody-waits", "a-thread-waits"])
def test_the_peer_sees_a_close(port: CompletionPort, driven: Callable[[], None], served: bool) -> None:
    """... under a receive that waits."""
    with Pairs() as pairs:
        one, other = pairs.connected()
        port.bind(one)
        if served:
            driven()
        waiting = port.recv(one, 100)
        one.close()
        other.settimeout(LIMIT)
        assert other.recv(100) == b""
        waiting.cancel()
        if not served:
            assert port.get(LIMIT).error in CLOSED


def test_the_port_of_a_closed_listener_is_free(port: CompletionPort) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    port.bind(listener)
    waiting = port.accept(listener)
    listener.close()
    with pytest.raises(ConnectionRefusedError), socket.socket() as client:
        client.connect(address)
    with socket.socket() as again:
        again.bind(address)  # without SO_REUSEADDR
        again.listen()
    waiting.cancel()
    assert port.get(LIMIT).error in CLOSED
