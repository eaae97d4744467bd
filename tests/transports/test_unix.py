"""Unix sockets: names of every kind, files that are in the way, and cleaning up."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import logging
import os
import pathlib
import socket
import stat
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from .support import (
    BIG,
    LIMIT,
    BufferedRecorder,
    Echo,
    Recorder,
    dial,
    linux_only,
    open_fds,
    settled_fds,
    socket_directory,
)

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
new_in_3_13 = pytest.mark.skipif(sys.version_info < (3, 13), reason="new in 3.13")
abstract = pytest.mark.skipif(not linux_only, reason="abstract names are Linux's")


@pytest.fixture
def path() -> Iterator[str]:
    with socket_directory() as directory:
        yield f"{directory}/s"


def exists(path: str) -> bool:
    return os.path.exists(path)


def write(path: str, text: str) -> None:
    pathlib.Path(path).write_text(text, encoding="ascii")


def read(path: str) -> str:
    return pathlib.Path(path).read_text(encoding="ascii")


async def create(*args: Any, factory: Any = Echo, **options: Any) -> Any:
    return await asyncio.get_running_loop().create_unix_server(factory, *args, **options)


async def connect(*args: Any, **options: Any) -> Any:
    return await asyncio.get_running_loop().create_unix_connection(Recorder, *args, **options)


async def check_echo(address: Any) -> None:
    """Through the loop's own client."""
    transport, protocol = await connect(address)
    transport.write(b"ping")
    assert await protocol.until_received(4) == b"ping"
    transport.close()
    await protocol.until_lost()


async def close(server: Any) -> None:
    server.close()
    await asyncio.wait_for(server.wait_closed(), LIMIT)


@pytest.mark.parametrize("convert", [str, os.fsencode, pathlib.Path], ids=["str", "bytes", "path"])
async def test_every_kind_of_path(path: str, convert: Any) -> None:
    server = await create(convert(path))
    assert stat.S_ISSOCK(os.stat(path).st_mode)
    assert server.sockets[0].family == socket.AF_UNIX
    assert server.sockets[0].getsockname() == path
    await check_echo(convert(path))
    with dial(path) as client:
        client.sendall(b"raw")
        assert await asyncio.to_thread(client.recv, 10) == b"raw"
    await close(server)


@pytest.mark.skipif(not hasattr(socket, "SCM_RIGHTS"), reason="descriptors cannot be passed")
@pytest.mark.parametrize("length", [0, 60])
@pytest.mark.parametrize("protocol", [Recorder, BufferedRecorder])
async def test_descriptors_that_a_server_passes(path: str, length: int, protocol: Any) -> None:
    """recv(2) stops behind each of them, short of what there is; whatever the length of the server's name."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path + "x" * length)
        listener.listen()
        loop = asyncio.get_running_loop()
        transport, receiver = await loop.create_unix_connection(protocol, path + "x" * length)
        peer, _ = listener.accept()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [peer.fileno()]))]
    with peer, contextlib.closing(transport):
        for _ in range(3):
            peer.sendmsg([b"a"], rights)
            peer.send(b"b" * 10)
        assert await receiver.until_received(33) == (b"a" + b"b" * 10) * 3
        assert transport.get_extra_info("peername") == path + "x" * length
    await receiver.until_lost()


@abstract
@pytest.mark.parametrize("convert", [str, os.fsencode], ids=["str", "bytes"])
async def test_abstract_names(convert: Any) -> None:
    name = convert(f"\0proactorx-test-{os.getpid()}")
    server = await create(name)
    await check_echo(name)
    await close(server)
    again = await create(name)
    await close(again)


@abstract
async def test_an_abstract_name_in_use() -> None:
    name = f"\0proactorx-test-{os.getpid()}"
    server = await create(name)
    before = await settled_fds()
    with pytest.raises(OSError) as info:
        await create(name)
    assert info.value.errno == errno.EADDRINUSE
    assert open_fds().keys() <= before.keys()
    await close(server)


async def test_addresses(path: str) -> None:
    made: list[Recorder] = []

    def factory() -> Recorder:
        made.append(Recorder())
        return made[-1]

    server = await create(path, factory=factory)
    transport, protocol = await connect(path)
    assert transport.get_extra_info("peername") == path
    assert transport.get_extra_info("sockname") in ("", b"")
    while not made or made[0].transport is None:
        await asyncio.sleep(0.001)
    assert made[0].transport.get_extra_info("sockname") == path
    assert made[0].transport.get_extra_info("peername") in ("", b"", None)
    transport.close()
    await protocol.until_lost()
    await made[0].until_lost()
    await close(server)


async def test_a_stale_socket_file_is_replaced(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(path)
    assert exists(path)
    server = await create(path)
    await check_echo(path)
    await close(server)


async def test_a_file_that_is_no_socket_is_left_alone(path: str) -> None:
    write(path, "precious")
    before = await settled_fds()
    with pytest.raises(OSError, match="is already in use") as info:
        await create(path)
    assert info.value.errno == errno.EADDRINUSE
    assert path in str(info.value)
    assert read(path) == "precious"
    assert open_fds().keys() <= before.keys()


async def test_a_directory_that_is_not_there(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        await create(f"{path}/missing/s")


async def test_a_name_that_is_too_long(path: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, "asyncio"), pytest.raises(OSError):
        await create(path + "x" * 200)
    with pytest.raises(OSError):
        await connect(path + "x" * 200)


async def test_nobody_listens(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        await connect(path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        with pytest.raises(ConnectionRefusedError):
            await connect(path)


@pytest.mark.parametrize("method", ["create_unix_server", "create_unix_connection"])
async def test_arguments_that_make_no_sense(method: str, path: str) -> None:
    call = getattr(asyncio.get_running_loop(), method)
    with pytest.raises(ValueError, match=r"no path and sock|no sock"):
        await call(Recorder)
    with pytest.raises(ValueError):
        await call(Recorder, path, ssl_handshake_timeout=1)
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ValueError, match="same time"):
        await call(Recorder, path, sock=sock)
    with socket.socket() as sock, pytest.raises(ValueError, match="UNIX Domain Stream Socket was expected"):
        await call(Recorder, sock=sock)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, pytest.raises(ValueError):
        await call(Recorder, sock=sock)


async def test_more_arguments_that_make_no_sense(path: str) -> None:
    with pytest.raises(TypeError):
        await create(path, ssl=True)
    with pytest.raises(ValueError):
        await connect(path, server_hostname="x")


async def test_our_own_sockets(path: str) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    server = await create(sock=sock)
    client = dial(path)
    transport, protocol = await connect(sock=client)
    transport.write(b"own")
    assert await protocol.until_received(3) == b"own"
    transport.close()
    await protocol.until_lost()
    await close(server)
    assert sock.fileno() == -1
    assert client.fileno() == -1


async def test_a_server_that_has_not_started(path: str) -> None:
    server = await create(path, start_serving=False)
    with pytest.raises(ConnectionRefusedError):
        await connect(path)
    await server.start_serving()
    await check_echo(path)
    await close(server)


@pytest.mark.parametrize("backlog", [1, 200])
async def test_many_clients(path: str, backlog: int) -> None:
    server = await create(path, backlog=backlog)
    await asyncio.gather(*(asyncio.to_thread(_ask, path) for _ in range(30)))
    await close(server)


def _ask(path: str) -> None:
    with dial(path) as client:
        client.sendall(b"?")
        assert client.recv(10) == b"?"


async def test_a_large_transfer(path: str) -> None:
    server = await create(path)
    transport, protocol = await connect(path)
    transport.write(b"u" * BIG)
    assert await protocol.until_received(BIG) == b"u" * BIG
    transport.close()
    await protocol.until_lost()
    await close(server)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="before 3.13")
async def test_the_file_stays(path: str) -> None:
    server = await create(path)
    await close(server)
    assert exists(path)


@new_in_3_13
async def test_the_file_is_cleaned_up(path: str) -> None:
    server = await create(path)
    await close(server)
    assert not exists(path)


@new_in_3_13
async def test_the_file_of_our_own_socket_is_cleaned_up(path: str) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    server = await create(sock=sock)
    await close(server)
    assert not exists(path)


@new_in_3_13
async def test_the_file_stays_if_asked(path: str) -> None:
    server = await create(path, cleanup_socket=False)
    await close(server)
    assert exists(path)


@new_in_3_13
async def test_the_file_of_a_successor_stays(path: str) -> None:
    first = await create(path)
    second = await create(path)
    await close(first)
    await check_echo(path)
    await close(second)
    assert not exists(path)


@new_in_3_13
async def test_a_file_that_has_gone_already(path: str) -> None:
    server = await create(path)
    os.unlink(path)
    await close(server)


async def test_a_peer_that_vanishes(path: str) -> None:
    server = await create(path)
    for _ in range(30):
        with dial(path) as client:
            client.sendall(b"bye")
    await check_echo(path)
    await close(server)
