"""Ports at which nobody answers."""

from __future__ import annotations

import random
import socket


def unused_port(host: str = "127.0.0.1", kind: int = socket.SOCK_STREAM) -> int:
    """A port that refuses connections, or datagrams with `kind` SOCK_DGRAM.

    It is none of those that a system gives to sockets that ask for any (32,768 and up, ip(7); Windows from
    49,152): a socket that connects to a free one of those may be given it for its own,
    and is then connected to itself.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket(family, kind) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue  # somebody has it
            return port
