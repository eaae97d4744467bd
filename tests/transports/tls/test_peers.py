"""TLS with peers that are not ours: Python's blocking ssl sockets and the openssl command."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import socket
import ssl
import subprocess
import sys
from typing import Any

import pytest

from transports.certs import Certificates
from transports.support import LIMIT, MIB, Echo, Recorder, collect_errors, dial, listening, serving, turns


def ask(address: Any, context: ssl.SSLContext, data: bytes) -> bytes:
    """A blocking TLS client, which ends its connection properly."""
    with dial(address) as raw, context.wrap_socket(raw, server_hostname="localhost") as client:
        client.sendall(data)
        out = bytearray()
        while len(out) < len(data):
            out += client.recv(65536)
        with contextlib.suppress(ssl.SSLError, OSError):
            client.unwrap()
        return bytes(out)


async def test_an_ssl_socket_as_client(certificates: Certificates) -> None:
    async with serving(Echo, ssl=certificates.server()) as (_, address):
        assert await asyncio.to_thread(ask, address, certificates.client(), b"hello") == b"hello"


async def test_many_ssl_sockets_as_clients(certificates: Certificates) -> None:
    async with serving(Echo, ssl=certificates.server()) as (_, address):
        words = [b"%04d" % i for i in range(20)]
        tasks = [asyncio.to_thread(ask, address, certificates.client(), word) for word in words]
        assert await asyncio.wait_for(asyncio.gather(*tasks), LIMIT) == words


async def test_tls_1_2(certificates: Certificates) -> None:
    context = certificates.client()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(Echo, ssl=certificates.server()) as (_, address):
        assert await asyncio.to_thread(ask, address, context, b"older") == b"older"


def _serve_once(listener: socket.socket, context: ssl.SSLContext, data: bytes) -> bytes:
    """A blocking TLS server: sends the data, then reads to the end."""
    raw, _ = listener.accept()
    with raw, context.wrap_socket(raw, server_side=True) as conn:
        conn.settimeout(LIMIT)
        conn.sendall(data)
        out = bytearray()
        while chunk := conn.recv(65536):
            out += chunk
        return bytes(out)


async def test_an_ssl_socket_as_server(certificates: Certificates) -> None:
    data = random.Random(1).randbytes(2 * MIB)
    client = Recorder()
    with listening() as listener:
        served = asyncio.create_task(asyncio.to_thread(_serve_once, listener, certificates.server(), data))
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: client, *listener.getsockname(), ssl=certificates.client(), server_hostname="localhost"
        )
        got = await client.until_received(len(data))
        assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
        transport.write(data)
        transport.close()
        assert await asyncio.wait_for(served, LIMIT) == data
        await client.until_lost()


async def test_our_close_is_told_to_the_peer(certificates: Certificates) -> None:
    """close_notify: the peer can tell the end from a cut."""

    def read_to_end(address: Any) -> bytes:
        context = certificates.client()
        with dial(address) as raw:
            with context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as client:
                out = bytearray()
                while chunk := client.recv(100):
                    out += chunk
                return bytes(out)

    def say_and_leave(protocol: Recorder) -> None:
        protocol.transport.write(b"bye")
        protocol.transport.close()

    async with serving(lambda: Recorder(connection_made=say_and_leave), ssl=certificates.server()) as (
        _,
        address,
    ):
        assert await asyncio.to_thread(read_to_end, address) == b"bye"
        await turns(10)


@pytest.mark.skipif(sys.platform == "win32", reason="no openssl command belongs to Windows")
async def test_the_openssl_client(certificates: Certificates) -> None:
    async with serving(Echo, ssl=certificates.server()) as (_, address):
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{address[1]}", "-quiet", "-no_ign_eof"]
        command += [
            "-verify_return_error",
            "-verify_hostname",
            "localhost",
            "-CAfile",
            str(certificates.certificate),
        ]

        def run() -> bytes:
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(b"from the command line\n")
                process.stdin.flush()
                line = process.stdout.readline()
                process.stdin.close()
                process.wait(LIMIT)
                return line

        assert await asyncio.wait_for(asyncio.to_thread(run), LIMIT) == b"from the command line\n"
        await turns(10)


async def test_a_peer_that_is_cut_off(certificates: Certificates) -> None:
    """The connection ends without close_notify: the protocol hears of the end, once."""
    server = Recorder()
    collect_errors()
    async with serving(lambda: server, ssl=certificates.server()) as (_, address):

        def cut() -> None:
            with dial(address) as raw:
                client = certificates.client().wrap_socket(raw, server_hostname="localhost")
                client.sendall(b"half a mess")
                client.recv(1)
                client.close()

        cutting = asyncio.create_task(asyncio.to_thread(cut))
        await server.until_received(11)
        server.transport.write(b"!")
        await cutting
        await server.until_lost()
        assert server.events.count("connection_lost") == 1


async def test_a_client_that_speaks_no_tls(certificates: Certificates) -> None:
    """It is dropped, and the next one is served."""
    collect_errors()
    async with serving(Echo, ssl=certificates.server()) as (_, address):
        with dial(address) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                while await asyncio.to_thread(client.recv, 1000):
                    pass
        assert await asyncio.to_thread(ask, address, certificates.client(), b"next") == b"next"


@pytest.mark.parametrize("size", [1, 16_384, 16_385, 1_000_000])
async def test_records_of_every_size(certificates: Certificates, size: int) -> None:
    data = random.Random(size).randbytes(size)
    async with serving(Echo, ssl=certificates.server()) as (_, address):
        assert (
            await asyncio.wait_for(asyncio.to_thread(_ask_large, address, certificates, data), LIMIT) == data
        )


def _ask_large(address: Any, certificates: Certificates, data: bytes) -> bytes:
    """Sends in pieces that are read back at once, so that neither side has to hold much."""
    out = bytearray()
    with dial(address) as raw, certificates.client().wrap_socket(raw, server_hostname="localhost") as client:
        for start in range(0, len(data), 20_000):
            piece = data[start : start + 20_000]
            client.sendall(piece)
            wanted = len(out) + len(piece)
            while len(out) < wanted:
                out += client.recv(65536)
    return bytes(out)
