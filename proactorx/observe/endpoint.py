"""An HTTP endpoint for the text for Prometheus, on its own thread: it answers while a loop is stuck."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from proactorx.observe.exposition import CONTENT_TYPE, prometheus

NAME = "proactorx-metrics"
PATIENCE = 5.0  # seconds for a client to send its request


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE
    server_version = "proactorx"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one request."""
        if self.path.partition("?")[0] not in ("/", "/metrics"):
            self.send_error(404)
            return
        body = prometheus().encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the standard error stream is the program's."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no error of the program's."""


class Endpoint:
    """Serves ``/metrics`` until it is closed.

    Args:
        host: an address or a name.
        port: 0: any that is free.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, host: str, port: int) -> None:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        kind = type("_Server", (_Server,), {"address_family": family})
        self._server: ThreadingHTTPServer = kind(address[:2], _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name=NAME, daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
