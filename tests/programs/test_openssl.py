"""``openssl s_client`` as the client of a server with ``ssl=``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, call, script

pytestmark = pytest.mark.programs


@pytest.fixture
def server(driver_name: str, certificate: tuple[Path, Path]) -> Iterator[Server]:
    cert, key = certificate
    with script(Path(__file__).with_name("tls_echo.py"), driver_name, "--cert", cert, "--key", key) as server:
        yield server


def s_client(
    server: Server, certificate: tuple[Path, Path], *options: str, stdin: bytes, code: int = 0
) -> str:
    where = ("-connect", f"{server.host}:{server.port}", "-servername", "localhost")
    trust = ("-CAfile", str(certificate[0]), "-verify_return_error", "-verify_hostname", "localhost")
    return call("openssl", "s_client", *where, *trust, *options, stdin=stdin, code=code)


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_lines_come_back(server: Server, certificate: tuple[Path, Path], version: str) -> None:
    assert s_client(server, certificate, version, "-quiet", stdin=b"one\ntwo\nbye\n") == "one\ntwo\n"


def test_some_mib_come_back(server: Server, certificate: tuple[Path, Path]) -> None:
    text = b"".join(b"%0999d\n" % n for n in range(3000))
    assert s_client(server, certificate, "-quiet", stdin=text + b"bye\n").encode() == text


def test_a_session_is_resumed(server: Server, certificate: tuple[Path, Path]) -> None:
    """``-reconnect`` connects five times more with the session of the first time."""
    shown = s_client(server, certificate, "-tls1_2", "-reconnect", stdin=b"bye\n")
    assert shown.count("Reused, TLSv1.2") == 5, shown


def test_a_client_that_finds_the_certificate_wrong(server: Server, certificate: tuple[Path, Path]) -> None:
    """It breaks the handshake off; the server has nothing to say about it and serves the next."""
    s_client(server, certificate, "-quiet", "-verify_hostname", "example.org", stdin=b"", code=1)
    assert s_client(server, certificate, "-quiet", stdin=b"still there?\nbye\n") == "still there?\n"
