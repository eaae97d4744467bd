"""TLS with programs: key updates, renegotiation and resumption by the openssl command, and curl."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import pytest

from transports.certs import Certificates
from transports.support import LIMIT, MIB, Echo, Recorder, serving, turns


@contextlib.asynccontextmanager
async def program(*command: str) -> AsyncIterator[tuple[Any, Any]]:
    """Its standard input and output, as a raw socket that the loop reads and writes."""
    ours, its = socket.socketpair()
    with ours, its:
        process = await asyncio.to_thread(_start, command, its)
        its.close()
        ours.setblocking(False)
        try:
            yield process, ours
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


def _start(command: tuple[str, ...], end: socket.socket) -> Any:
    import subprocess

    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.Popen(command, stdin=end, stdout=end, stderr=subprocess.STDOUT)


async def until(sock: socket.socket, word: bytes) -> bytes:
    out = bytearray()
    while word not in out:
        data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 65536), LIMIT)
        assert data, out
        out += data
    return bytes(out)


async def say(sock: socket.socket, words: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, words)


@contextlib.asynccontextmanager
async def s_client(certificates: Certificates, server: Any, *options: str) -> AsyncIterator[Any]:
    async with serving(lambda: server, ssl=certificates.server()) as (_, address):
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{address[1]}", "-CAfile"]
        command += [str(certificates.certificate), "-verify_return_error", *options]
        async with program(*command) as (_, sock):
            await server.until_event("connection_made")
            yield sock
        await server.until_lost()


@contextlib.asynccontextmanager
async def s_server(certificates: Certificates, *options: str) -> AsyncIterator[tuple[Any, int]]:
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", str(certificates.certificate)]
    command += ["-key", str(certificates.key), *options]
    async with program(*command) as (_, sock):
        said = await until(sock, b"ACCEPT 127.0.0.1:")
        while b"\n" not in said.partition(b"ACCEPT 127.0.0.1:")[2]:
            said += await until(sock, b"\n")
        yield sock, int(said.partition(b"ACCEPT 127.0.0.1:")[2].split()[0])


@pytest.mark.parametrize("command", [b"K\n", b"k\n"])
async def test_key_updates_by_a_client(certificates: Certificates, command: bytes) -> None:
    """k: its own keys; K: ours too."""
    server = Echo()
    async with s_client(certificates, server, "-tls1_3") as sock:
        for number in range(3):
            await say(sock, b"before %d\n" % number)
            await until(sock, b"before %d\n" % number)
            await say(sock, command)
            await until(sock, b"KEYUPDATE")
        await say(sock, b"after\n")
        await until(sock, b"after\n")


async def test_renegotiation_by_a_client(certificates: Certificates) -> None:
    """Refused or made, as OpenSSL is built; what was sent before arrives, and nothing hangs."""
    server = Recorder()
    async with s_client(certificates, server, "-tls1_2", "-legacy_renegotiation") as sock:
        await say(sock, b"before\n")
        await server.until_received(7)
        await say(sock, b"R\n")
        await until(sock, b"RENEGOTIATING")


@pytest.mark.parametrize("command", [b"K\n", b"k\n"])
async def test_key_updates_by_a_server(certificates: Certificates, command: bytes) -> None:
    client = Recorder()
    async with s_server(certificates, "-tls1_3") as (sock, port):
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: client, "127.0.0.1", port, ssl=certificates.client(), server_hostname="localhost"
        )
        for number in range(3):
            transport.write(b"to you %d\n" % number)
            await until(sock, b"to you %d\n" % number)
            await say(sock, command)
            transport.write(b"updated %d\n" % number)
            await until(sock, b"updated %d\n" % number)  # it reads its commands first
            await say(sock, b"and %d back\n" % number)
            await client.until(lambda number=number: b"and %d back\n" % number in client.data)
        transport.abort()
        await client.until_lost()


async def test_renegotiation_by_a_server(certificates: Certificates) -> None:
    """TLS 1.2: the handshake goes on while bytes are written and read."""
    client = Recorder()
    context = certificates.client()
    async with s_server(certificates, "-tls1_2") as (sock, port):
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: client, "127.0.0.1", port, ssl=context, server_hostname="localhost"
        )
        transport.write(b"hello\n")
        await until(sock, b"hello\n")
        for number in range(2):
            await say(sock, b"r\n")
            for _ in range(5):
                transport.write(b"p" * 1000)
                await asyncio.sleep(0)
            await until(sock, b"SSL_do_handshake -> 1")
            await say(sock, b"line %d\n" % number)
            transport.write(b"\nend of %d\n" % number)
            await until(sock, b"end of %d\n" % number)
            await client.until(lambda number=number: b"line %d\n" % number in client.data)
        transport.close()
        await client.until_lost()


async def test_the_openssl_client_resumes_its_session(certificates: Certificates, tmp_path: Any) -> None:
    session = str(tmp_path / "session")
    context = certificates.server()
    made: list[Echo] = []

    def factory() -> Echo:
        made.append(Echo())
        return made[-1]

    async with serving(factory, ssl=context) as (_, address):
        for option in ("-sess_out", "-sess_in"):
            command = ["openssl", "s_client", "-connect", f"127.0.0.1:{address[1]}", option, session]
            async with program(*command) as (_, sock):
                await say(sock, b"word\n")
                said = await until(sock, b"word\n")
                await say(sock, b"Q\n")
                await until(sock, b"DONE")
            assert (b"Reused, " in said) == (option == "-sess_in")
        await turns(3)
    assert len(made) == 2


class Page(Recorder):
    """One HTTP answer, then the end of the connection."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.data.endswith(b"\r\n\r\n"):
            body = b"b" * (3 * MIB)
            self.transport.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            self.transport.write(body)
            self.transport.close()


@pytest.mark.programs
async def test_curl(certificates: Certificates) -> None:
    async with serving(Page, ssl=certificates.server()) as (_, address):
        url = f"https://localhost:{address[1]}/"
        command = ["curl", "-sS", "--cacert", str(certificates.certificate), "-o", "/dev/null"]
        command += ["-w", "%{http_code} %{size_download} %{ssl_verify_result}\n", url, "--resolve"]
        async with program(*command, f"localhost:{address[1]}:127.0.0.1") as (process, sock):
            assert b"200 %d 0\n" % (3 * MIB) in await until(sock, b"\n")
            assert await asyncio.to_thread(process.wait) == 0


@pytest.mark.programs
async def test_curl_that_does_not_trust_us(certificates: Certificates) -> None:
    async with serving(Page, ssl=certificates.server()) as (_, address):
        async with program("curl", "-sS", f"https://127.0.0.1:{address[1]}/") as (process, sock):
            assert b"certificate" in await until(sock, b"\n")
            assert await asyncio.to_thread(process.wait) == 60


def test_the_context_of_a_client_that_gives_none(
    loop: asyncio.AbstractEventLoop, certificates: Certificates
) -> None:
    """ssl=True: the system's trust store, which does not know our certificate."""

    async def main() -> None:
        async with serving(Recorder, ssl=certificates.server()) as (_, address):
            with pytest.raises(ssl.SSLCertVerificationError):
                await loop.create_connection(Recorder, *address, ssl=True, server_hostname="localhost")
            await turns(5)

    loop.run_until_complete(main())
