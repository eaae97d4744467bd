"""The HTTP server of examples/, against curl and wrk, and against what they are too polite to send."""

from __future__ import annotations

import pytest
from serving import Server, Start, curl, wrk

pytestmark = pytest.mark.programs

HELLO = "Hello from proactorx!\n"
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.fixture
def server(example: Start, driver_name: str) -> Server:
    return example("http_hello", driver_name)


def dialogue(server: Server, *pieces: bytes) -> bytes:
    """What the server answers to these pieces, sent one by one, until it ends the connection."""
    with server.connect() as sock:
        for piece in pieces:
            sock.sendall(piece)
        answers = b""
        while data := sock.recv(65536):
            answers += data
    return answers


def test_curl_gets_hello(server: Server) -> None:
    assert curl(server.url) == HELLO


def test_curl_keeps_one_connection_for_many_urls(server: Server) -> None:
    urls = [f"{server.url}/{n}" for n in range(5)]
    assert curl("-w", "%{num_connects},%{http_code},%{http_version}\n", *urls).splitlines() == [
        line for n in range(5) for line in (HELLO.strip(), f"{int(n == 0)},200,1.1")
    ]


def test_curl_head_and_then_get_on_one_connection(server: Server) -> None:
    shown = curl("-I", server.url, "--next", "-sS", "-w", "connects=%{num_connects}", server.url)
    assert shown.startswith("HTTP/1.1 200 OK\r\n")
    assert f"Content-Length: {len(HELLO)}\r\n" in shown
    assert shown.endswith(f"\r\n\r\n{HELLO}connects=0")


@pytest.mark.parametrize(("expect", "connects"), [("Expect:", 0), ("Expect: 100-continue", 1)])
def test_curl_posts_a_body_that_is_not_read(server: Server, expect: str, connects: int) -> None:
    """The next request is found behind a body of a few MiB;
    a body that waits to be asked for is never sent.
    """
    body = b"GET / HTTP/1.1\r\n\r\n" * 100_000
    again = ("--next", "-sS", "--max-time", "5", "-w", "connects=%{num_connects}", server.url)
    shown = curl("-H", expect, "--data-binary", "@-", server.url, *again, stdin=body)
    assert shown == f"{HELLO}{HELLO}connects={connects}"


@pytest.mark.parametrize("options", [["--http1.0"], ["-H", "Connection: close"]])
def test_curl_wants_the_connection_closed(server: Server, options: list[str]) -> None:
    shown = curl(*options, "-w", "%{num_connects}", server.url, server.url)
    assert shown == f"{HELLO}1{HELLO}1"


def test_curl_from_twenty_connections_at_once(server: Server) -> None:
    urls = [f"{server.url}/{n}" for n in range(60)]
    assert curl("--parallel", "--parallel-immediate", "--parallel-max", "20", *urls) == HELLO * 60


def test_wrk(server: Server) -> None:
    assert wrk(server.url) > 0


def test_a_request_in_pieces(server: Server) -> None:
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = dialogue(server, *(bytes([byte]) for byte in last))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(HELLO.encode())


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    head = GET.replace(b"GET", b"HEAD")
    last = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answer = dialogue(server, GET + head + GET * 98 + last)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 101
    assert answer.count(HELLO.encode()) == 100
    assert answer.count(b"Connection: close\r\n") == 1


@pytest.mark.parametrize(
    "request_head",
    [
        b"nonsense",
        b"GET / HTTP/2.0\r\nHost: h",
        b"GET /a b HTTP/1.1\r\nHost: h",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: -1",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2",
        b"GET / HTTP/1.1\r\nHost: h\r\nno colon",
        b"GET / HTTP/1.1\r\nHost: h\r\nBad Name: x",
    ],
)
def test_what_is_not_http_gets_400_and_the_end(server: Server, request_head: bytes) -> None:
    assert dialogue(server, request_head + b"\r\n\r\n").startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_a_head_without_end_is_refused(server: Server) -> None:
    assert b" 431 " in dialogue(server, b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 16384)


def test_chunked_bodies_are_refused(server: Server) -> None:
    assert (
        curl(
            "-o", "/dev/null", "-w", "%{http_code}", "-H", "Transfer-Encoding: chunked", "-d", "x", server.url
        )
        == "501"
    )
