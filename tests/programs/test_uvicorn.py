"""uvicorn on our loop, started by its own command line, with curl and wrk as its clients."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import EXAMPLES, Server, Start, complaints, curl, environment, running, tool, wrk

pytest.importorskip("uvicorn", minversion="0.36", reason="the first uvicorn whose --loop takes any factory")
pytestmark = pytest.mark.programs

HELLO = "Hello from proactorx!\n"
COMMAND = (
    sys.executable,
    "-m",
    "uvicorn",
    "--loop",
    "proactorx:new_event_loop",
    "--app-dir",
    EXAMPLES,
    "asgi_app:app",
)
# When it has shut down well uvicorn raises the signal again: SIGINT is then expected,
# SIGTERM ends the process.
CODES = {signal.SIGINT: 0, signal.SIGTERM: -signal.SIGTERM}


@contextlib.contextmanager
def uvicorn(driver: str, *options: str | Path) -> Iterator[Server]:
    """uvicorn with these options; at the end it is stopped, and must end well without a complaint."""
    server = Server([*COMMAND, *options], environment(driver))
    try:
        if "--uds" in options:
            server.wait_for(r"Uvicorn running on unix socket")
        else:
            server.find_address(r"Uvicorn running on https?://(.+):(\d+)")
        yield server
        if not server.stopped:
            assert server.stop() == CODES[signal.SIGTERM], server.printed
        assert complaints(server.printed) == [], server.printed
    finally:
        server.kill()


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], Server]]:
    """Starts one uvicorn for each driver, for the tests that can share it."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda driver: stack.enter_context(uvicorn(driver, "--port", "0")))


@pytest.fixture
def server(servers: Start, driver_name: str) -> Server:
    return servers(driver_name)


def random_body(size: int) -> bytes:
    return hashlib.shake_128(b"body").digest(size)


def test_hello_on_the_named_driver(server: Server, driver_name: str) -> None:
    assert curl(server.url) == HELLO
    if sys.platform == "linux":
        on_a_ring = any("io_uring" in name for name in server.open_files())
        assert on_a_ring == (driver_name == "io_uring")


def test_several_urls_on_one_connection(server: Server) -> None:
    urls = [f"{server.url}/?{n}" for n in range(5)]
    assert curl("-w", "%{num_connects}", *urls) == f"{HELLO}1" + f"{HELLO}0" * 4


def test_wrk(server: Server) -> None:
    assert wrk(server.url) > 0


@pytest.mark.parametrize("framing", ["Content-Length", "Transfer-Encoding: chunked"])
def test_upload_of_some_mib(server: Server, framing: str, tmp_path: Path) -> None:
    body = random_body(5 << 20)
    (tmp_path / "body").write_bytes(body)
    chunked = ("-H", framing) if ":" in framing else ()
    answer = curl(*chunked, "-T", tmp_path / "body", f"{server.url}/upload")
    assert answer == f"{len(body)} {hashlib.sha256(body).hexdigest()}\n"


def test_download_of_some_mib(server: Server, tmp_path: Path) -> None:
    """In many pieces, to several clients at once, one of them slow."""
    size = 5_000_001
    expected = hashlib.sha256((bytes(range(256)) * (size // 256 + 1))[:size]).hexdigest()
    url = f"{server.url}/download/{size}"
    argv = [
        tool("curl"),
        "--disable",
        "-sS",
        "--noproxy",
        "*",
        "--limit-rate",
        "10M",
        "-o",
        tmp_path / "slow",
        url,
    ]
    with running(*argv) as slow:
        targets = [option for n in range(4) for option in ("-o", tmp_path / str(n), url)]
        curl("--parallel", "--parallel-immediate", *targets)
        assert slow.wait() == 0
    for name in ("0", "1", "2", "3", "slow"):
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == expected


def test_a_client_that_leaves_is_noticed(server: Server) -> None:
    """The application waits for the end of an answer without end, and is told of it."""
    with running(tool("curl"), "--disable", "-sS", "-N", "--noproxy", "*", f"{server.url}/ticks") as listener:
        listener.wait_for("tick\ntick")
    server.wait_for("the listener has gone")
    assert curl(server.url) == HELLO


@pytest.mark.parametrize(
    "request_text",
    [
        b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000,
        b"GET /download/100000000 HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /ticks HTTP/1.1\r\nHo",
    ],
    ids=["upload", "download", "head"],
)
@pytest.mark.parametrize("how", ["close", "reset"])
def test_clients_that_disconnect_in_the_middle(server: Server, request_text: bytes, how: str) -> None:
    for _ in range(5):
        with server.connect() as sock:
            sock.sendall(request_text)
            if b"download" in request_text:
                assert sock.recv(1000)
            if how == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert curl(server.url) == HELLO


def test_unix_socket(driver_name: str, short_path: Path) -> None:
    path = short_path / f"uvicorn.{driver_name}"
    with uvicorn(driver_name, "--uds", path):
        urls = [f"http://localhost/?{n}" for n in range(3)]
        assert curl("--unix-socket", path, "-w", "%{num_connects}", *urls) == f"{HELLO}1{HELLO}0{HELLO}0"
        body = random_body(3 << 20)
        answer = curl("--unix-socket", path, "--data-binary", "@-", "http://localhost/upload", stdin=body)
        assert answer == f"{len(body)} {hashlib.sha256(body).hexdigest()}\n"


def test_tls(driver_name: str, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    with uvicorn(driver_name, "--port", "0", "--ssl-certfile", cert, "--ssl-keyfile", key) as server:
        url = f"https://localhost:{server.port}"
        ours = ("--cacert", cert, "--resolve", f"localhost:{server.port}:127.0.0.1")
        assert curl(*ours, url, url, "-w", "%{num_connects}") == f"{HELLO}1{HELLO}0"
        body = random_body(3 << 20)
        answer = curl(*ours, "--data-binary", "@-", f"{url}/upload", stdin=body)
        assert answer == f"{len(body)} {hashlib.sha256(body).hexdigest()}\n"
        assert (
            curl(*ours, "-o", "/dev/null", "-w", "%{size_download}", f"{url}/download/3000000") == "3000000"
        )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_shuts_down_gracefully(driver_name: str, signum: signal.Signals) -> None:
    """The answer that is under way is finished, an idle connection is closed, and then uvicorn ends."""
    with uvicorn(driver_name, "--port", "0") as server, server.connect() as idle, server.connect() as busy:
        for sock in (idle, busy):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        busy.sendall(b"GET /download/30000000 HTTP/1.1\r\nHost: h\r\n\r\n")
        received = len(busy.recv(65536))
        server.process.send_signal(signum)
        server.stopped = True
        server.wait_for("Shutting down")
        while data := busy.recv(1 << 20):
            received += len(data)
        assert received > 30_000_000
        while idle.recv(65536):
            pass
        assert server.wait() == CODES[signum], server.printed
        assert "Finished server process" in server.printed


def test_two_worker_processes_on_one_listener(driver_name: str) -> None:
    with uvicorn(driver_name, "--port", "0", "--workers", "2") as server:
        server.wait_for(r"(?s)Application startup complete.*Application startup complete")
        assert curl(*(["-H", "Connection: close"] + [f"{server.url}/?{n}" for n in range(20)])) == HELLO * 20
        server.stop()
        assert server.printed.count("Finished server process") == 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_example_runs_uvicorn_by_itself(driver_name: str, signum: signal.Signals) -> None:
    argv = [sys.executable, EXAMPLES / "asgi_app.py", "--port", "0", "--backend", driver_name]
    server = Server(argv, environment())
    try:
        server.find_address(r"\Alistening on (.+):(\d+)\n")
        assert curl(server.url) == HELLO
        assert server.stop(signum) == 0, server.printed
        assert complaints(server.printed) == []
    finally:
        server.kill()
