"""Datagrams between real programs: the echo example, and OpenSSL's DTLS through a relay on the loop."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import EXAMPLES, PATIENCE, Server, Start, call, script, tool

pytestmark = pytest.mark.programs


@pytest.fixture
def server(example: Start, driver_name: str) -> Server:
    return example("echo_datagram", driver_name)


@contextlib.contextmanager
def client(server: Server) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(server.address)
        yield sock


@pytest.mark.parametrize("size", [0, 1, 1000, 65507])
def test_what_is_sent_comes_back(server: Server, size: int) -> None:
    data = bytes(range(256)) * 256
    with client(server) as sock:
        for _ in range(3):
            sock.send(data[:size])
            assert sock.recv(70_000) == data[:size]


def test_a_hundred_clients_at_once(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(client(server)) for _ in range(100)]
        for turn in range(3):
            for n, sock in enumerate(socks):
                sock.send(b"%d of %d" % (turn, n))
            for n, sock in enumerate(socks):
                assert sock.recv(100) == b"%d of %d" % (turn, n)


def test_clients_that_vanish_leave_the_others_alone(server: Server) -> None:
    """Their answers are refused, and the server hears of it or not: it goes on."""
    with client(server) as faithful:
        for n in range(20):
            with client(server) as rude:
                for _ in range(n):
                    rude.send(b"x" * 1000)
            faithful.send(b"still here?")
            assert faithful.recv(100) == b"still here?"


def test_socat(server: Server) -> None:
    shown = call("socat", "-t", "5", "-", f"UDP:{server.host}:{server.port},end-close", stdin=b"hello\n")
    assert shown == "hello\n"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_stops_at_once_when_asked(signum: signal.Signals, driver_name: str) -> None:
    with script(EXAMPLES / "echo_datagram.py", driver_name) as server, client(server) as sock:
        sock.send(b"ping")
        assert sock.recv(100) == b"ping"
        assert server.stop(signum) == 0
        assert server.printed.count("\n") == 1, server.printed


@contextlib.contextmanager
def dtls(*args: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """An openssl with its standard input and output in our hands."""
    argv = [tool("openssl"), *args]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[bytes], line: bytes) -> None:
    """Wait until the program has shown this line."""
    assert process.stdout is not None
    while shown := process.stdout.readline():
        if shown == line:
            return
    raise AssertionError(f"{line!r} has not come")


def say(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)


def test_dtls_through_a_relay(driver_name: str, certificate: tuple[Path, Path]) -> None:
    """A handshake in flights of datagrams, and then lines both ways."""
    cert, key = certificate
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ("-accept", f"127.0.0.1:{port}", "-cert", cert, "-key", key)
    relay = Path(__file__).with_name("datagram_relay.py")
    with dtls("s_server", "-dtls1_2", *where) as server:
        said(server, b"ACCEPT\n")
        with script(relay, driver_name, "--upstream", f"127.0.0.1:{port}") as between:
            trust = ("-CAfile", cert, "-verify_return_error", "-quiet")
            with dtls("s_client", "-dtls1_2", "-connect", f"{between.host}:{between.port}", *trust) as client:
                for n in range(20):
                    say(client, b"%d there\n" % n)
                    said(server, b"%d there\n" % n)
                    say(server, b"%d back\n" % n)
                    said(client, b"%d back\n" % n)
