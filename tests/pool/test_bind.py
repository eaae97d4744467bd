"""``pool.bind``: completion threads, on every driver."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from proactorx import BackendError, IOThreadPool, Packet
from proactorx.port.packet import PortClosed

from .support import LIMIT, Blocker, until

pytestmark = pytest.mark.ours


@pytest.fixture
def pool(driver_name: str) -> Iterator[IOThreadPool]:
    with IOThreadPool(backend=driver_name) as pool:
        yield pool


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_a_packet_goes_to_the_callback_on_an_io_thread(
    pool: IOThreadPool, pair: tuple[socket.socket, socket.socket]
) -> None:
    seen: list[tuple[bytes, int, str]] = []

    def received(packet: Packet) -> None:
        seen.append((packet.overlapped.result(), packet.nbytes, threading.current_thread().name))

    pool.bind(pair[0], received)
    pool.port.recv(pair[0], 100)
    pair[1].sendall(b"hello")
    until(lambda: seen)
    assert seen[0][:2] == (b"hello", 5)
    assert seen[0][2].startswith("proactorx-io-")


def test_an_echo_server(pool: IOThreadPool) -> None:
    """Accept, receive and send, each from the callback of the one before; 20 clients at once."""
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def accepted(packet: Packet) -> None:
        if packet.error:
            return
        pool.port.accept(listener)
        connection, _ = packet.overlapped.result()
        connections.append(connection)
        pool.bind(connection, lambda packet: arrived(connection, packet))
        pool.port.recv(connection, 1000)

    def arrived(connection: socket.socket, packet: Packet) -> None:
        if packet.error:
            return
        data = packet.overlapped.result()
        if isinstance(data, int):  # a send has ended
            pool.port.recv(connection, 1000)
        elif data:
            pool.port.send(connection, data)
        else:
            connection.close()

    def client(number: int) -> None:
        with socket.create_connection(listener.getsockname(), timeout=LIMIT) as sock:
            for turn in range(10):
                text = b"%d %d" % (number, turn)
                sock.sendall(text)
                assert sock.recv(1000) == text
                answers.append(text)

    answers: list[bytes] = []
    pool.bind(listener, accepted)
    pool.port.accept(listener)
    threads = [threading.Thread(target=client, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(set(answers)) == 200
    until(lambda: len(connections) == 20 and all(connection.fileno() == -1 for connection in connections))
    pool.close()
    listener.close()


def test_callbacks_that_block_delay_no_other(
    driver_name: str, pair: tuple[socket.socket, socket.socket]
) -> None:
    """They are compensated, and the thread that takes packets runs none of them."""
    seen: list[bytes] = []
    with IOThreadPool(1, 8, gate=0.05, backend=driver_name) as pool, Blocker() as block:
        for _ in range(3):
            pool.port.post(lambda packet: block())
        block.wait_for(3)
        pool.bind(pair[0], lambda packet: seen.append(packet.overlapped.result()))
        pool.port.recv(pair[0], 10)
        pair[1].sendall(b"through")
        until(lambda: seen == [b"through"])


def test_what_raises_loses_no_other_packet(pool: IOThreadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_type))
    seen: list[int] = []

    def callback(packet: Packet) -> None:
        if packet.nbytes % 2:
            raise ValueError(packet.nbytes)
        seen.append(packet.nbytes)

    for number in range(200):
        pool.port.post(callback, None, number)
    pool.port.post("no callback")
    until(lambda: pool.stats().completed == 201)
    assert sorted(seen) == list(range(0, 200, 2))
    assert sorted(told, key=str) == [TypeError] + [ValueError] * 100


def test_an_error_is_a_packet_like_any_other(pool: IOThreadPool) -> None:
    seen: list[int] = []
    with socket.socket() as sock, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        pool.bind(sock, lambda packet: seen.append(packet.error))
        pool.port.connect(sock, nobody.getsockname())
        until(lambda: seen == [errno.ECONNREFUSED])


def test_closing_ends_what_is_in_flight(driver_name: str, pair: tuple[socket.socket, socket.socket]) -> None:
    seen: list[int] = []
    pool = IOThreadPool(backend=driver_name)
    pool.bind(pair[0], lambda packet: seen.append(packet.error))
    pool.port.recv(pair[0], 10)
    port = pool.port
    pool.close()
    assert seen == [errno.ECANCELED]
    with pytest.raises(RuntimeError, match="the pool is closed"):
        pool.bind(pair[1], print)
    with pytest.raises(PortClosed):
        port.recv(pair[0], 10)
    with IOThreadPool(backend=driver_name) as other:
        other.bind(pair[0], print)  # it is free


def test_closing_from_a_callback(driver_name: str, pair: tuple[socket.socket, socket.socket]) -> None:
    pool = IOThreadPool(backend=driver_name)
    seen: list[int] = []

    def callback(packet: Packet) -> None:
        pool.close(wait=False)
        seen.append(packet.error)

    pool.bind(pair[0], callback)
    pool.port.recv(pair[0], 10)
    pair[1].sendall(b"x")
    until(lambda: seen == [0] and pool.stats().active == 0)


def test_errors_of_bind(pool: IOThreadPool, pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(TypeError, match="callable"):
        pool.bind(pair[0], None)  # type: ignore[arg-type]
    pool.bind(pair[0], print)
    with pytest.raises(ValueError, match="bound already"):
        pool.bind(pair[0], print)
    pool.port.unbind(pair[0])
    pool.bind(pair[0], print)
    pair[1].close()
    with pytest.raises(ValueError, match="closed"):
        pool.bind(pair[1], print)


def test_an_unknown_backend() -> None:
    with IOThreadPool(backend="kqueue") as pool, pytest.raises((ValueError, BackendError), match="kqueue"):
        pool.port  # noqa: B018


def test_a_pool_without_bound_files_has_no_port() -> None:
    before = set(threading.enumerate())
    with IOThreadPool() as pool:
        pool.queue(int)
        until(lambda: pool.stats().completed == 1)
        assert {thread.name[:13] for thread in set(threading.enumerate()) - before} == {"proactorx-io-"}


def test_the_system_refuses_the_thread(pool: IOThreadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            pool.port  # noqa: B018
    done: list[Any] = []
    pool.port.post(done.append)
    until(lambda: done)


def test_a_loops_pool_uses_the_loops_driver(loop: Any) -> None:
    assert loop.io_pool.port.backend.name == loop.backend_info().name
