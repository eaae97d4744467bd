"""The echo servers of examples/, in all their styles, as their clients see them."""

from __future__ import annotations

import contextlib
import hashlib
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest
from serving import EXAMPLES, Server, Start, script, tool

pytestmark = pytest.mark.programs

STYLES = ["echo_protocol", "echo_buffered", "echo_streams", "echo_sockets", "threaded_echo_server"]
MIB = 1 << 20


@pytest.fixture(params=STYLES)
def server(request: pytest.FixtureRequest, example: Start, driver_name: str) -> Server:
    return example(request.param, driver_name)


def exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or what came before the end."""
    data = bytearray()
    while len(data) < size and (part := sock.recv(min(size - len(data), MIB))):
        data += part
    return bytes(data)


def reset(sock: socket.socket) -> None:
    """Close the connection the rude way: the peer is told that it is gone, with whatever was under way."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_what_is_sent_comes_back_and_then_the_end(server: Server) -> None:
    with server.connect() as sock:
        for text in (b"a", b"hello\n", b"x" * 1000, bytes(range(256)) * 40):
            sock.sendall(text)
            assert exactly(sock, len(text)) == text
        sock.sendall(b"the last words")
        sock.shutdown(socket.SHUT_WR)
        assert exactly(sock, 100) == b"the last words"


def test_eight_mib_there_and_back(server: Server) -> None:
    data = b"".join(hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(8 * MIB // 32))
    with server.connect() as sock:
        sender = threading.Thread(target=sock.sendall, args=(data,))
        sender.start()
        back = exactly(sock, len(data))
        sender.join()
    assert hashlib.sha256(back).hexdigest() == hashlib.sha256(data).hexdigest()


def test_a_hundred_clients_at_once(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(server.connect()) for _ in range(100)]
        for turn in range(3):
            for n, sock in enumerate(socks):
                sock.sendall(b"%d of %d" % (turn, n))
            for n, sock in enumerate(socks):
                text = b"%d of %d" % (turn, n)
                assert exactly(sock, len(text)) == text


def test_clients_that_vanish_leave_the_others_alone(server: Server) -> None:
    with server.connect() as faithful:
        for n in range(20):
            rude = server.connect()
            rude.sendall(b"x" * (n * 10_000))
            reset(rude)
            faithful.sendall(b"still here?")
            assert exactly(faithful, 11) == b"still here?"


def test_a_client_that_only_sends_is_held_back(server: Server) -> None:
    """Its echoes do not pile up in the server; and none is lost when it reads them at last."""
    piece = b"y" * 65536
    with server.connect() as sock:
        sent = 0
        sock.setblocking(False)
        while select.select([], [sock], [], 0.4)[1]:
            with contextlib.suppress(BlockingIOError):
                sent += sock.send(piece)
            assert sent < 64 * MIB, "the server takes for ever what nobody reads"
        sock.settimeout(10)
        received = len(exactly(sock, sent))
        assert received == sent
        sock.sendall(b"z")
        assert exactly(sock, 1) == b"z"


def test_curl_as_a_telnet_client(server: Server) -> None:
    """A program that nobody here has written, on a server that knows nothing of it."""
    argv = [tool("curl"), "--disable", "-sS", "--noproxy", "*", "-N", f"telnet://{server.host}:{server.port}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as curl:
        assert curl.stdin is not None
        assert curl.stdout is not None
        for line in (b"one\n", b"two\n"):
            curl.stdin.write(line)
            curl.stdin.flush()
            assert curl.stdout.readline() == line
        curl.kill()  # it would stay until the server ends the connection


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_stops_at_once_when_asked(style: str, signum: signal.Signals, driver_name: str) -> None:
    """Exit code 0, nothing printed, and the client that is still connected sees the end."""
    with script(EXAMPLES / f"{style}.py", driver_name) as server, server.connect() as sock:
        sock.sendall(b"ping")
        assert exactly(sock, 4) == b"ping"
        assert server.stop(signum) == 0
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            server.connect()
    # before, a server could not end its clients, and warns of those that are left
    if sys.version_info >= (3, 13):
        assert re.fullmatch(r"listening on .+\n", server.printed), server.printed
