"""The client of ``bench``, a process of its own: that of the demo, and one for TLS.

With TLS, each connection sends a request, then each reads its answer. Blocking sockets do for that: the
server's CPU time per request is compared, and it has as many requests at once as there are connections.
"""

from __future__ import annotations

import random
import socket
import ssl
import sys
import time
from typing import Any

from proactorx.cli.load import PATIENCE, Load, LoadError, execute, plain_congestion_control


class TlsLoad:
    """TLS connections to one server."""

    def __init__(self, port: int, connections: int, size: int) -> None:
        self._size = size
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the certificate was made a moment ago
        self._sockets: list[ssl.SSLSocket] = []
        try:
            for _ in range(connections):
                sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plain_congestion_control(sock)
                self._sockets.append(context.wrap_socket(sock))
        except OSError as error:
            self.close()
            raise LoadError(f"no TLS connection: {error}") from None

    def close(self) -> None:
        """Close every connection."""
        for sock in self._sockets:
            sock.close()

    def check(self) -> None:
        """Compare the answers with the requests, which differ."""
        for turn in range(3):
            self._turn(
                [random.Random(f"{turn} {n}").randbytes(self._size) for n in range(len(self._sockets))]
            )

    def _turn(self, messages: list[bytes]) -> None:
        for sock, message in zip(self._sockets, messages, strict=True):
            sock.sendall(message)
        for sock, message in zip(self._sockets, messages, strict=True):
            answer = b""
            while len(answer) < len(message):
                data = sock.recv(len(message) - len(answer))
                if not data:
                    raise LoadError("the server closed a connection")
                answer += data
            if answer != message:
                raise LoadError("the echo differs from the request")

    def go(self, seconds: float) -> dict[str, Any]:
        """Run the load for `seconds`; the server is idle before and after."""
        messages = [random.randbytes(self._size)] * len(self._sockets)
        start, requests = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            self._turn(messages)
            requests += len(messages)
        return {"requests": requests, "wall": time.perf_counter() - start}


if __name__ == "__main__":
    sys.exit(execute({"plain": Load, "tls": TlsLoad}))
