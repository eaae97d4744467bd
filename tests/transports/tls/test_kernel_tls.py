"""Files that the kernel encrypts, ``loop.sendfile`` over TLS.

What shows that a connection's keys are right is tested on every Linux.  That the kernel takes them needs one
with TLS: ``python tests/kernels/user_mode.py python -m pytest tests/transports/tls/test_kernel_tls.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from proactorx.transports import tls_direct
from transports.certs import Certificates
from transports.support import LIMIT, Recorder, dial, reset, serving, turns

from .support import Peer, accepted

pytestmark = [
    pytest.mark.ours,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux is looked at"),
    pytest.mark.skipif(
        bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="the ssl module does it all there"
    ),
]
IN_KERNEL = tls_direct.refuse_kernel("") == ""
needs_kernel = pytest.mark.skipif(not IN_KERNEL, reason="the kernel has no TLS, or its module is not loaded")

KIB = 1024
FIRST = 16 * KIB  # what is sent to show that the keys are right
CONTENTS = bytes(range(251)) * 4000  # no page is like another
LARGE = CONTENTS * 20  # more than the socket takes at once
SUITES = pytest.mark.parametrize(
    ("version", "ciphers"),
    [
        (ssl.TLSVersion.TLSv1_3, None),  # AES-256-GCM
        (ssl.TLSVersion.TLSv1_2, "ECDHE+AESGCM"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE+CHACHA20"),
    ],
)


@pytest.fixture(autouse=True)
def way() -> Iterator[None]:  # in the place of the room's, which goes through all ways
    allowed, refused = tls_direct.allow("kernel"), tls_direct.refuse_kernel("")
    yield
    tls_direct.allow(allowed)
    tls_direct.refuse_kernel(refused)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[IO[bytes]]:
    path = tmp_path / "file"
    path.write_bytes(CONTENTS)
    with path.open("rb") as opened:
        yield opened


def shrink(transport: Any, size: int) -> None:
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def running() -> Any:
    return asyncio.get_running_loop()


def client(certificates: Certificates, version: ssl.TLSVersion, ciphers: str | None) -> ssl.SSLContext:
    context = certificates.client()
    context.maximum_version = version
    if ciphers is not None:
        context.set_ciphers(ciphers)
    return context


# What shows that the keys are right


@SUITES
@pytest.mark.parametrize("size", [1, 100, FIRST, 100_000])
async def test_the_keys_are_proved(
    certificates: Certificates, version: ssl.TLSVersion, ciphers: str | None, size: int
) -> None:
    """Whatever was sent before. The kernel refuses, as it was not asked whether it does TLS at all."""
    server = Recorder()
    async with accepted(certificates, server, peer=client(certificates, version, ciphers)) as peer:
        for _ in range(7):
            server.transport.write(bytes(size))
            await turns(1)
        assert await peer.receive(7 * size) == bytes(7 * size)
        server.transport._prove(CONTENTS[:FIRST])
        assert await peer.receive(FIRST) == CONTENTS[:FIRST]
        with pytest.raises(asyncio.SendfileNotAvailableError, match="the kernel refuses"):
            server.transport._hand_over()
        server.transport.write(b"here as before")
        assert await peer.receive(14) == b"here as before"
        with pytest.raises(asyncio.SendfileNotAvailableError, match="are in doubt"):
            server.transport._hand_over()
        server.transport._prove(CONTENTS[:FIRST])  # counted on from the last proof
        assert await peer.receive(FIRST) == CONTENTS[:FIRST]
        with pytest.raises(asyncio.SendfileNotAvailableError, match="the kernel refuses"):
            server.transport._hand_over()


@SUITES
async def test_the_keys_are_proved_where_the_socket_takes_parts(
    certificates: Certificates, version: ssl.TLSVersion, ciphers: str | None
) -> None:
    """The rest of a record that the socket took in part is no record of its own."""
    server = Recorder()
    async with accepted(certificates, server, peer=client(certificates, version, ciphers)) as peer:
        shrink(server.transport, 4096)
        for _ in range(40):
            server.transport.write(CONTENTS[:15_000])
            await turns(1)
        assert await peer.receive(600_000) == CONTENTS[:15_000] * 40
        server.transport._prove(CONTENTS[:FIRST])
        assert await peer.receive(FIRST) == CONTENTS[:FIRST]
        with pytest.raises(asyncio.SendfileNotAvailableError, match="the kernel refuses"):
            server.transport._hand_over()


async def until(condition: Any) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.01)


class Commanded:
    """``openssl s_client``, which takes single letters for commands: K asks for new keys of both sides, R for
    another handshake.
    """

    def __init__(self, certificates: Certificates, address: Any, *options: str) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("the openssl command is not installed")
        where = f"{address[0]}:{address[1]}"
        self.process = subprocess.Popen(
            ["openssl", "s_client", "-connect", where, "-CAfile", str(certificates.certificate), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def say(self, command: bytes, until: Any) -> None:
        """Give the command, and then text until the server has done something: what comes in one read with a
        command is no text.
        """
        assert self.process.stdin is not None
        for line in (command, *[b"text"] * 100):
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()
            await asyncio.sleep(0.05)
            if until():
                return
        raise AssertionError("nothing happened")

    def __enter__(self) -> Commanded:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


async def test_other_keys_are_not_the_kernels(certificates: Certificates) -> None:
    """The peer has asked for new ones: OpenSSL makes them with the next record. Up to 3.1 it tells nobody."""
    told = ssl.OPENSSL_VERSION_INFO >= (3, 2)
    server = Recorder()
    async with serving(lambda: server, ssl=certificates.server()) as (_, address):
        with Commanded(certificates, address, "-tls1_3") as peer:
            await server.until_event("connection_made")
            await peer.say(b"K", lambda: server.data)
            for number in range(3):  # the first record has OpenSSL's answer before it
                server.transport._prove(CONTENTS[:FIRST])
                await until(server.transport._flushed)
                said = "the kernel refuses" if told and number else "are in doubt"
                with pytest.raises(asyncio.SendfileNotAvailableError, match=said):
                    server.transport._hand_over()
            server.transport.abort()
            await server.until_lost()


async def test_what_the_kernel_cannot_is_done_here(certificates: Certificates, file: IO[bytes]) -> None:
    """A cipher that it does not have; and, where it has no TLS, all of them."""
    server = Recorder()
    context = client(certificates, ssl.TLSVersion.TLSv1_2, "ECDHE+AES+SHA256:!AESGCM:!AESCCM")
    async with accepted(certificates, server, peer=context) as peer:
        with pytest.raises((asyncio.SendfileNotAvailableError, RuntimeError)):
            await running().sendfile(server.transport, file, fallback=False)
        sending = asyncio.create_task(running().sendfile(server.transport, file))
        assert await peer.receive(len(CONTENTS)) == CONTENTS
        assert await sending == len(CONTENTS)
        assert not server.transport._in_kernel


class Mover(asyncio.Transport):
    """A transport of another package: what it is made of, it does not say."""

    _start_tls_compatible = True

    def __init__(self, transport: Any) -> None:
        super().__init__()
        passed_on = "write close abort pause_reading resume_reading set_protocol is_closing"
        for name in passed_on.split():
            setattr(self, name, getattr(transport, name))


async def test_a_transport_without_a_socket(certificates: Certificates, file: IO[bytes]) -> None:
    server = Recorder()
    async with serving(lambda: server, ssl=certificates.server()) as (_, address):
        transport, _ = await running().create_connection(Recorder, *address)
        secured = await running().start_tls(
            Mover(transport), Recorder(), certificates.client(), server_hostname="localhost"
        )
        assert await running().sendfile(secured, file) == len(CONTENTS)
        assert await server.until_received(len(CONTENTS)) == CONTENTS
        secured.close()
        await server.until_lost()


def test_it_is_reported() -> None:
    assert tls_direct.kernel() == "yes (loop.sendfile of 64 KiB or more)"
    tls_direct.refuse_kernel("for a reason")
    assert tls_direct.kernel() == "no (for a reason)"
    tls_direct.allow("direct")
    assert tls_direct.kernel() == "no (switched off)"


@pytest.mark.parametrize("value", ["", "kernel", "direct", "buffers", "ssl"])
def test_the_switch(value: str) -> None:
    code = "from proactorx.transports import tls_direct; print(tls_direct.kernel())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PROACTORX_TLS": value},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    if value in ("", "kernel"):
        assert done.stdout.startswith("yes (" if IN_KERNEL else "no (the kernel has no TLS")
    else:
        assert f"PROACTORX_TLS={value}" in done.stdout


# Where the kernel has it


async def handed(server: Any, peer: Peer, file: IO[bytes]) -> None:
    """The connection, after a first file."""
    sending = asyncio.create_task(running().sendfile(server.transport, file, fallback=False))
    assert await peer.receive(len(CONTENTS)) == CONTENTS
    assert await asyncio.wait_for(sending, LIMIT) == len(CONTENTS)
    assert server.transport._in_kernel


@contextlib.asynccontextmanager
async def half_way(certificates: Certificates, tmp_path: Path) -> AsyncIterator[Any]:
    """The server's protocol, the peer, the file, and the task that sends it, a part of which has gone."""
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    server = Recorder()
    async with accepted(certificates, server) as peer:
        with path.open("rb") as large:
            sending = asyncio.create_task(running().sendfile(server.transport, large))
            await until(lambda: server.transport._in_kernel)
            yield server, peer, large, sending


@contextlib.asynccontextmanager
async def slow_peer(certificates: Certificates, server: Recorder) -> AsyncIterator[Peer]:
    """Of a server; it takes little at a time."""
    async with serving(lambda: server, ssl=certificates.server()) as (_, address):
        with dial(address, receive_buffer=4096) as sock:
            peer = Peer(sock, certificates.client())
            await peer.handshake()
            await server.until_event("connection_made")
            yield peer


@needs_kernel
@SUITES
async def test_files_and_writes_keep_their_order(
    certificates: Certificates, file: IO[bytes], version: ssl.TLSVersion, ciphers: str | None
) -> None:
    server = Recorder()
    async with accepted(certificates, server, peer=client(certificates, version, ciphers)) as peer:
        server.transport.write(b"before" * 100_000)
        sending = asyncio.create_task(running().sendfile(server.transport, file, fallback=False))
        await turns(1)
        with pytest.raises(RuntimeError, match="sendfile is in progress"):
            server.transport.write(b"between")
        await peer.send(b"meanwhile")
        assert await peer.receive(600_000 + len(CONTENTS)) == b"before" * 100_000 + CONTENTS
        assert await asyncio.wait_for(sending, LIMIT) == len(CONTENTS)
        assert file.tell() == len(CONTENTS)
        assert server.transport._in_kernel
        for part in (b"small", CONTENTS, b"also small"):
            server.transport.write(part)
        again = asyncio.create_task(running().sendfile(server.transport, file, 1000, 100_000, fallback=False))
        expected = b"small" + CONTENTS + b"also small" + CONTENTS[1000:101_000]
        assert await peer.receive(len(expected)) == expected
        assert await asyncio.wait_for(again, LIMIT) == 100_000
        assert file.tell() == 101_000
        server.transport.write(b"last")
        server.transport.close()
        assert await peer.receive_all() == b"last"  # and close_notify
        await peer.say_end()
        assert await server.until_lost() is None
        assert server.data == b"meanwhile"


@needs_kernel
async def test_a_client_and_start_tls_too(certificates: Certificates, file: IO[bytes]) -> None:
    upgraded, server = Recorder(), Recorder()
    async with serving(lambda: server, ssl=certificates.server()) as (_, address):
        transport, plain = await running().create_connection(Recorder, *address)
        plain.transport = None
        secured = await running().start_tls(
            transport, upgraded, certificates.client(), server_hostname="localhost"
        )
        assert await running().sendfile(secured, file, fallback=False) == len(CONTENTS)
        assert secured._in_kernel
        secured.write(b"after")
        assert await server.until_received(len(CONTENTS) + 5) == CONTENTS + b"after"
        secured.close()
        await server.until_lost()
        await upgraded.until_lost()


@needs_kernel
async def test_small_files_are_encrypted_here(certificates: Certificates, file: IO[bytes]) -> None:
    server = Recorder()
    async with accepted(certificates, server) as peer:
        with pytest.raises(asyncio.SendfileNotAvailableError, match="too few"):
            await running().sendfile(server.transport, file, 0, 65_535, fallback=False)
        assert await running().sendfile(server.transport, file, 0, 65_535) == 65_535
        assert await peer.receive(65_535) == CONTENTS[:65_535]
        assert not server.transport._in_kernel
        await handed(server, peer, file)


@needs_kernel
async def test_cancelled_half_way(certificates: Certificates, tmp_path: Path) -> None:
    """The position tells how much has gone; the connection can be used on."""
    async with half_way(certificates, tmp_path) as (server, peer, large, sending):
        await asyncio.sleep(0.1)  # as much as the socket takes
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        sent = os.lseek(large.fileno(), 0, os.SEEK_CUR)
        assert FIRST < sent < len(LARGE)
        server.transport.write(b"then this")
        assert await peer.receive(sent + 9) == LARGE[:sent] + b"then this"


@needs_kernel
async def test_cancelled_before_the_kernel_has_it(certificates: Certificates, file: IO[bytes]) -> None:
    """The record that is to show the keys is a part of the file too."""
    server = Recorder()
    async with slow_peer(certificates, server) as peer:
        shrink(server.transport, 2048)
        sending = asyncio.create_task(running().sendfile(server.transport, file))
        await until(lambda: not server.transport._flushed())
        assert not server.transport._in_kernel
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert file.tell() == FIRST
        server.transport.write(b"then this")
        assert await peer.receive(FIRST + 9) == CONTENTS[:FIRST] + b"then this"
        server.transport.abort()
        await server.until_lost()


@needs_kernel
async def test_the_position_of_a_file_that_has_read_ahead(
    certificates: Certificates, file: IO[bytes]
) -> None:
    server = Recorder()
    async with accepted(certificates, server) as peer:
        for _ in range(2):  # the second one is the kernel's from its beginning
            file.seek(0)
            assert file.read(100) == CONTENTS[:100]
            sending = asyncio.create_task(
                running().sendfile(server.transport, file, 50, 70_000, fallback=False)
            )
            assert await peer.receive(70_000) == CONTENTS[50:70_050]
            assert await sending == 70_000
            assert file.tell() == 70_050
            assert file.read(100) == CONTENTS[70_050:70_150]


@needs_kernel
@pytest.mark.parametrize("early", ["", "close_notify", "FIN", "close_notify and FIN"])
@pytest.mark.parametrize("size", [100, 5000, 16_384, 30_000, 90_000])
async def test_the_last_bytes_come_to_who_reads_slowly(
    certificates: Certificates, file: IO[bytes], size: int, early: str
) -> None:
    """The kernel keeps a record that TCP has no room for, and close(2) drops it. Where the peer has said its
    end, nothing of its is waited for.
    """
    server = Recorder()
    async with slow_peer(certificates, server) as peer:
        await handed(server, peer, file)
        shrink(server.transport, 2048)
        for byte in (b"a", b"b", b"c"):
            server.transport.write(byte * size)
            await turns(1)
        if "close_notify" in early:
            await peer.say_end()
        if "FIN" in early:
            peer.sock.shutdown(socket.SHUT_WR)
        server.transport.close()
        await asyncio.sleep(0.05)  # nothing is read meanwhile
        assert await peer.receive(3 * size) == b"a" * size + b"b" * size + b"c" * size
        if early != "FIN":
            assert await peer.receive_all() == b""
        if not early:
            await peer.say_end()
        assert await server.until_lost() is None


@needs_kernel
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_closed_meanwhile(certificates: Certificates, tmp_path: Path, how: str) -> None:
    async with half_way(certificates, tmp_path) as (server, peer, _, sending):
        await asyncio.sleep(0.05)
        getattr(server.transport, how)()
        if how == "close":
            got = await peer.receive_all()  # a part of the file, and close_notify
            assert got == LARGE[: len(got)]
            await peer.say_end()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(sending, LIMIT)
        assert await server.until_lost() is None


@needs_kernel
async def test_the_peer_goes_away(certificates: Certificates, tmp_path: Path) -> None:
    async with half_way(certificates, tmp_path) as (server, peer, _, sending):
        reset(peer.sock)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(sending, LIMIT)
        await server.until_lost()


@needs_kernel
async def test_a_session_can_be_resumed(certificates: Certificates, file: IO[bytes]) -> None:
    """One without close_notify could not, RFC 5246 section 7.2.1."""
    context, peer_context = certificates.server(), certificates.client()
    context.options |= ssl.OP_NO_TICKET  # so that the server's OpenSSL keeps it
    peer_context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def visit(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        server = Recorder()
        async with serving(lambda: server, ssl=context) as (_, address):
            with dial(address) as sock:
                peer = Peer(sock, peer_context, session=session)
                await peer.handshake()
                assert peer.ssl.session_reused == (session is not None)
                await server.until_event("connection_made")
                await handed(server, peer, file)
                server.transport.close()
                assert await peer.receive_all() == b""
                await peer.say_end()
                assert await server.until_lost() is None
                return peer.ssl.session

    await visit(await visit(None))


@needs_kernel
async def test_the_file_is_cut_meanwhile(certificates: Certificates, tmp_path: Path) -> None:
    """As without TLS, what there was is sent; what is written afterwards arrives."""
    async with half_way(certificates, tmp_path) as (server, peer, large, sending):
        await asyncio.sleep(0.05)
        os.truncate(large.name, 10_000_000)
        got = bytearray()
        while not sending.done():
            got += await peer.receive(1)
            await turns(1)
        sent = await sending
        server.transport.write(b"afterwards")
        got += await peer.receive(sent + 10 - len(got))
        assert got == LARGE[:sent] + b"afterwards"


@needs_kernel
async def test_writes_are_limited_as_before(certificates: Certificates, file: IO[bytes]) -> None:
    """pause_writing and resume_writing, and no byte is lost between them."""
    server = Recorder()
    async with accepted(certificates, server) as peer:
        await handed(server, peer, file)
        while "pause_writing" not in server.events:
            server.transport.write(CONTENTS)
        size = server.transport.get_write_buffer_size()
        assert size >= server.transport.get_write_buffer_limits()[1]
        total = bytearray()
        while "resume_writing" not in server.events:
            total += await peer.receive(1)
        server.transport.write(b"the last")
        while not total.endswith(b"the last"):
            total += await peer.receive(1)
        writes = (len(total) - 8) // len(CONTENTS)
        assert total == CONTENTS * writes + b"the last"
        assert server.transport.get_write_buffer_size() == 0


@needs_kernel
@pytest.mark.parametrize(("version", "command"), [("-tls1_3", b"K"), ("-tls1_2", b"R")])
async def test_other_keys_end_the_connection(
    certificates: Certificates, file: IO[bytes], version: str, command: bytes
) -> None:
    """OpenSSL's answer would have a number that the kernel has used: it must not go out."""
    server = Recorder()
    async with serving(lambda: server, ssl=certificates.server()) as (_, address):
        with Commanded(certificates, address, version) as peer:
            await server.until_event("connection_made")
            assert await running().sendfile(server.transport, file, fallback=False) == len(CONTENTS)
            await peer.say(command, lambda: "connection_lost" in server.events)
            error = await server.until_lost()
            assert isinstance(error, ConnectionAbortedError)
            assert "changes the keys" in str(error)


@needs_kernel
async def test_the_users_own_object_sends_nothing_afterwards(
    certificates: Certificates, file: IO[bytes]
) -> None:
    server = Recorder()
    async with accepted(certificates, server) as peer:
        await handed(server, peer, file)
        with pytest.raises(ssl.SSLError):
            server.transport.get_extra_info("ssl_object").write(b"numbered twice")
        await peer.send(b"anything")
        error = await server.until_lost()
        assert isinstance(error, ConnectionAbortedError)
        with pytest.raises((EOFError, ConnectionError)):
            await peer.receive(1)
