"""Servers that the tests of a module share, and the certificate of those that speak TLS."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import EXAMPLES, Server, Start, call, script


@pytest.fixture(scope="module")
def example() -> Iterator[Start]:
    """Starts an example (name, driver, arguments), once per module.

    It is stopped after the last test of the module,
    and then must end well and have printed nothing but its first line.
    """
    with contextlib.ExitStack() as stack:
        servers: list[Server] = []

        @functools.cache
        def start(name: str, driver: str, *args: str | Path) -> Server:
            server = stack.enter_context(script(EXAMPLES / f"{name}.py", driver, *args))
            servers.append(server)
            return server

        yield start
        stack.close()
        assert {
            server.argv[3]: server.printed.splitlines()[1:]
            for server in servers
            if server.printed.count("\n") > 1
        } == {}


@pytest.fixture(scope="session")
def short_path() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets, which tmp_path need not be."""
    with tempfile.TemporaryDirectory(prefix="px", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    cert, key = folder / "cert.pem", folder / "key.pem"
    call(
        *(
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ),
        *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        *("-keyout", key, "-out", cert),
    )
    return cert, key
