"""``sock_connect`` again, with what only the socket module knows; and who has connected,
though he has gone.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from typing import Any

import pytest

from .support import LIMIT, Recorder, dead_address, listening, reset, socket_directory

linux = pytest.mark.skipif(sys.platform != "linux", reason="a family, or a kind of name, of Linux")


def client(family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock


def drain(listener: socket.socket) -> None:
    """Accept what waits, so that there is room for more."""
    listener.setblocking(False)
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return


@pytest.mark.skipif(sys.platform == "win32", reason="a full backlog refuses there")
@pytest.mark.parametrize("first", ["a call that timed out", "connect_ex"])
async def test_connect_again(first: str) -> None:
    """An attempt that was made before goes on in the kernel, and the new call waits for its outcome."""
    loop = asyncio.get_running_loop()
    with listening(backlog=0) as listener:
        address = listener.getsockname()
        fillers = [client() for _ in range(4)]
        for filler in fillers:
            filler.connect_ex(address)
        with client() as sock:
            if first == "connect_ex":
                assert sock.connect_ex(address) == errno.EINPROGRESS
            else:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(loop.sock_connect(sock, address), 0.05)
            again = asyncio.ensure_future(loop.sock_connect(sock, address))
            await asyncio.sleep(0.05)
            assert not again.done()
            while not again.done():
                drain(listener)
                await asyncio.wait([again], timeout=0.05)
            again.result()
            assert sock.getpeername() == address
        for filler in fillers:
            filler.close()


@pytest.mark.skipif(sys.platform == "win32", reason="a full backlog refuses there")
async def test_connect_again_can_be_cancelled_again() -> None:
    loop = asyncio.get_running_loop()
    with dead_address() as address, client() as sock:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_connect(sock, address), 0.02)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_port_that_is_none(family: int) -> None:
    loop = asyncio.get_running_loop()
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with client(family) as sock:
        with pytest.raises(OverflowError, match="port must be 0-65535"):
            await loop.sock_connect(sock, (host, 70000))
    with client(family, socket.SOCK_DGRAM) as sock:
        with pytest.raises(OverflowError, match="port must be 0-65535"):
            await loop.sock_sendto(sock, b"x", (host, 70000))


@linux
@pytest.mark.parametrize(
    "name", [bytearray(b"\0proactorx-%d" % os.getpid()), b"\0" + b"%7d" % os.getpid() + b"x" * 100]
)
async def test_unix_names(name: Any) -> None:
    """A bytearray; and an abstract name that fills all of the space, unix(7)."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listener, client(socket.AF_UNIX) as sock:
        listener.bind(bytes(name))
        listener.listen()
        await loop.sock_connect(sock, name)
        assert sock.getpeername() == bytes(name)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as target,
        client(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
    ):
        target.bind(bytes(name))
        assert await loop.sock_sendto(sock, b"x", name) == 1
        assert target.recv(10) == b"x"


@linux
@pytest.mark.parametrize("name", ["x" * 108, b"\0" + b"x" * 108, "x" * 2000])
async def test_unix_names_that_are_too_long(name: Any) -> None:
    with client(socket.AF_UNIX) as sock:
        with pytest.raises(OSError, match="AF_UNIX path too long"):
            await asyncio.get_running_loop().sock_connect(sock, name)


@linux
@pytest.mark.parametrize("address", [None, 5, ("a", "b"), b"\xff\0\xff"])
async def test_errors_of_unix_addresses(address: Any) -> None:
    """What is wrong is said by the socket module."""
    with client(socket.AF_UNIX) as one, client(socket.AF_UNIX) as other:
        with pytest.raises((TypeError, OSError)) as expected:
            one.connect(address)
        with pytest.raises(expected.type) as found:
            await asyncio.get_running_loop().sock_connect(other, address)
        if expected.type is TypeError:
            assert str(found.value) == str(expected.value)


@pytest.mark.skipif(sys.platform == "win32", reason="each attempt to connect waits there")
async def test_what_connect_refuses_at_once_is_told_in_its_words() -> None:
    loop = asyncio.get_running_loop()
    with socket_directory() as folder, client(socket.AF_UNIX) as sock:
        with pytest.raises(FileNotFoundError) as missing:
            await loop.sock_connect(sock, f"{folder}/missing")
        assert missing.value.strerror == os.strerror(errno.ENOENT)
    with client() as sock:
        with pytest.raises(OSError, match=r"\[Errno") as broadcast:
            await loop.sock_connect(sock, ("255.255.255.255", 1))
        assert broadcast.value.errno is not None
        assert broadcast.value.strerror == os.strerror(broadcast.value.errno)


@linux
async def test_netlink() -> None:
    """A family that the socket module knows and the loop does not."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.setblocking(False)
        sock.bind((0, 0))
        await loop.sock_connect(sock, (0, 0))
        assert sock.getpeername() == (0, 0)
        # RTM_GETLINK with NLM_F_REQUEST | NLM_F_DUMP, rtnetlink(7)
        request = (
            (32).to_bytes(4, sys.byteorder)
            + (18).to_bytes(2, sys.byteorder)
            + (0x301).to_bytes(2, sys.byteorder)
        )
        request += bytes(24)
        assert await loop.sock_sendto(sock, request, (0, 0)) == 32
        answer, address = await asyncio.wait_for(loop.sock_recvfrom(sock, 65536), LIMIT)
        assert len(answer) > 32
        assert address == (0, 0)
        await loop.sock_sendall(sock, request)
        assert await asyncio.wait_for(loop.sock_recv(sock, 65536), LIMIT)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.setblocking(False)
        with pytest.raises(TypeError):
            await loop.sock_connect(sock, "no address")


# Clients that reset before they are accepted


@pytest.mark.skipif(sys.platform == "win32", reason="such a connection is not accepted there")
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_sock_accept_of_a_client_that_has_reset(family: int) -> None:
    loop = asyncio.get_running_loop()
    with listening("127.0.0.1" if family == socket.AF_INET else "::1") as listener:
        listener.setblocking(False)
        for _ in range(3):
            with socket.socket(family) as gone:
                gone.connect(listener.getsockname())
                address = gone.getsockname()
                reset(gone)
            conn, found = await asyncio.wait_for(loop.sock_accept(listener), LIMIT)
            with conn:
                assert found == address
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(conn, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="such a connection is not accepted there")
async def test_a_cancelled_accept_keeps_the_address() -> None:
    """It is that of the client, who may have gone by the time when another accept gets the connection."""
    loop = asyncio.get_running_loop()
    with listening() as listener:
        listener.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await asyncio.sleep(0.01)
        with socket.socket() as gone:
            gone.connect(listener.getsockname())
            address = gone.getsockname()
            accepting.cancel()
            await asyncio.wait([accepting])
            reset(gone)
        conn, found = await asyncio.wait_for(loop.sock_accept(listener), LIMIT)
        conn.close()
        assert found == address


@pytest.mark.skipif(sys.platform == "win32", reason="such a connection is not accepted there")
async def test_the_peername_of_a_client_that_has_reset() -> None:
    loop = asyncio.get_running_loop()
    names: list[Any] = []

    class Asked(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            names.append(transport.get_extra_info("peername"))

    with listening() as listener:
        listener.setblocking(False)
        addresses = []
        for _ in range(3):
            with socket.socket() as gone:
                gone.connect(listener.getsockname())
                addresses.append(gone.getsockname())
                reset(gone)
        server = await loop.create_server(Asked, sock=listener)
        async with asyncio.timeout(LIMIT):
            while len(names) < 3:
                await asyncio.sleep(0.001)
        assert names == addresses
        server.close()
        await server.wait_closed()


@linux
async def test_the_peername_of_unix_clients() -> None:
    """Of one without a name, and of one that has an abstract one and has gone."""
    loop = asyncio.get_running_loop()
    names: list[Any] = []

    class Asked(Recorder):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            names.append(transport.get_extra_info("peername"))
            super().connection_made(transport)

    with socket_directory() as directory:
        server = await loop.create_unix_server(Asked, f"{directory}/socket")
        own = b"\0proactorx-client-%d" % os.getpid()
        for name in (b"", own):
            with socket.socket(socket.AF_UNIX) as sock:
                if name:
                    sock.bind(name)
                sock.connect(f"{directory}/socket")
        async with asyncio.timeout(LIMIT):
            while len(names) < 2:
                await asyncio.sleep(0.001)
        assert names == ["", own]
        server.close()
        await server.wait_closed()
