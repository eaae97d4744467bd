"""The options of a TLS connection: what they are where they are not given, and what they cannot be."""

from __future__ import annotations

import ssl


def seconds(value: float | None, default: float, name: str) -> float:
    """A time-out, `default` unless given.

    Raises:
        ValueError: it is not positive.
    """
    if value is None:
        return default
    if value <= 0:
        raise ValueError(f"{name} should be a positive number, got {value}")
    return value


def default_context(server_side: bool, server_hostname: str | None) -> ssl.SSLContext:
    """The context of a client that was given none.

    Raises:
        ValueError: of a server, which needs a certificate.
    """
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    context = ssl.create_default_context()
    if not server_hostname:
        context.check_hostname = False
    return context
