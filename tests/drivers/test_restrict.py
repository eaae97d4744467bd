"""A ring that refuses what the loop does not use, and a loop whose process changes its credentials."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from loop.helpers import script_environment

import proactorx
from proactorx import drivers, files

LINUX = sys.platform == "linux"
NO_RING = not LINUX or not drivers.probe("io_uring").available
ring_only = pytest.mark.skipif(NO_RING, reason="io_uring does not run here")

#: Numbers of io_uring_register(2) and of opcodes.
REGISTER = 427
REGISTER_EVENTFD, REGISTER_PERSONALITY, REGISTER_RESTRICTIONS = 4, 9, 11
NOP, FSYNC, POLL_ADD, SENDMSG, ACCEPT, CONNECT, CLOSE, READ, SEND, SOCKET, URING_CMD = (
    *(0, 3, 6, 9, 13, 16, 19, 22, 26),
    *(45, 46),
)


async def _exchange(loop: asyncio.AbstractEventLoop, folder: Path) -> list[Any]:
    """What the loop does through a ring: connections, files, children."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"line\n")
        found: list[Any] = [await reader.read()]
        writer.close()
    path = folder / "file"
    async with files.open(path, "wb") as file:
        await file.write(b"written")
    async with files.open(path, "r+b") as file:
        await file.write(b"W")
        await file.fsync()
    found.append(await files.read_bytes(path))
    await files.os.rename(path, folder / "other")
    await files.os.remove(folder / "other")
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print('child')", stdout=-1)
    return [*found, (await child.communicate())[0].split(), child.returncode]


def _loop(driver_name: str, *, restrict: bool = True) -> proactorx.EventLoop:
    return proactorx.new_event_loop(None if driver_name == "auto" else driver_name, restrict=restrict)


@pytest.mark.ours
def test_a_restricted_loop_does_all_that_a_loop_does(driver_name: str, tmp_path: Path) -> None:
    with asyncio.Runner(loop_factory=lambda: _loop(driver_name)) as runner:
        found = runner.run(_exchange(runner.get_loop(), tmp_path))
        assert found == [b"line\n", b"Written", [b"child"], 0]


@pytest.mark.ours
def test_backend_info_says_what_is_restricted(driver_name: str) -> None:
    for restrict in (False, True):
        loop = _loop(driver_name, restrict=restrict)
        info = loop.backend_info()
        loop.close()
        if not restrict:
            assert info.restriction == ""
        elif info.name == "io_uring":
            assert "refuses" in info.restriction
        else:
            assert info.restriction.startswith("nothing to restrict")


@ring_only
def test_run_restricts_too() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, proactorx.EventLoop)
        return loop.backend_info().restriction

    assert "refuses" in proactorx.run(main(), backend="io_uring", restrict=True)
    assert proactorx.run(main(), backend="io_uring") == ""


def _ring_of(loop: proactorx.EventLoop) -> int:
    """The descriptor of the ring of a loop, where no other has one."""
    loop.run_until_complete(asyncio.sleep(0.001))
    return _only_ring()


def _only_ring() -> int:
    """The descriptor of the only ring that the process has."""
    rings = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if "io_uring" in os.readlink(f"/proc/self/fd/{name}"):
                rings.append(int(name))
        except OSError:
            pass  # the listing's own
    (ring,) = rings
    return ring


def _register(ring: int, operation: int, count: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_int32(-1)
    done = libc.syscall(
        *map(ctypes.c_long, (REGISTER, ring, operation)), ctypes.byref(number), ctypes.c_long(count)
    )
    return ctypes.get_errno() if done < 0 else 0


@ring_only
@pytest.mark.parametrize(
    ("operation", "count"), [(REGISTER_EVENTFD, 1), (REGISTER_PERSONALITY, 0), (REGISTER_RESTRICTIONS, 1)]
)
def test_the_ring_of_a_loop_refuses_other_registrations(operation: int, count: int) -> None:
    loop = proactorx.new_event_loop("io_uring", restrict=True)
    try:
        assert _register(_ring_of(loop), operation, count) == errno.EACCES
    finally:
        loop.close()


@ring_only
def test_an_unrestricted_ring_does_not_refuse_them() -> None:
    """Else the test above would show nothing: of the arguments, EBADF is what is wrong here."""
    loop = proactorx.new_event_loop("io_uring")
    try:
        assert _register(_ring_of(loop), REGISTER_EVENTFD, 1) == errno.EBADF
    finally:
        loop.close()


@ring_only
@pytest.mark.parametrize("opcode", [SENDMSG, ACCEPT, CONNECT, CLOSE, SEND, SOCKET, URING_CMD])
def test_a_restricted_ring_refuses_what_the_loop_does_not_use(opcode: int) -> None:
    from proactorx.drivers.io_uring.features import answer_to

    assert answer_to(opcode) in (-errno.EACCES, -errno.EINVAL)  # EINVAL: this kernel does not know it
    if opcode < SOCKET:
        assert answer_to(opcode) == -errno.EACCES


@ring_only
@pytest.mark.parametrize(
    ("opcode", "answer"), [(NOP, 0), (FSYNC, -errno.EBADF), (POLL_ADD, -errno.EBADF), (READ, -errno.EBADF)]
)
def test_a_restricted_ring_does_what_the_loop_uses(opcode: int, answer: int) -> None:
    from proactorx.drivers.io_uring.features import answer_to

    assert answer_to(opcode) == answer


@ring_only
def test_a_restricted_ring_refuses_flags_of_entries() -> None:
    """A fixed file, a link: the driver sets none but the one that keeps answers of cancel requests away."""
    from proactorx.drivers.io_uring.features import answer_to

    fixed_file, linked, skip_success = 1, 4, 64
    assert answer_to(NOP, fixed_file) == answer_to(NOP, linked) == -errno.EACCES
    assert answer_to(READ, skip_success) == -errno.EBADF


@ring_only
def test_a_restricted_loop_moves_to_another_thread(tmp_path: Path) -> None:
    """The ring that replaces the first one is restricted too."""
    loop = proactorx.new_event_loop("io_uring", restrict=True)
    try:
        _ring_of(loop)
        found: list[Any] = []
        thread = threading.Thread(
            target=lambda: found.extend(loop.run_until_complete(_exchange(loop, tmp_path)))
        )
        thread.start()
        thread.join()
        assert found == [b"line\n", b"Written", [b"child"], 0]
        assert loop._port.driver.describe()["restricted"]
        assert _register(_ring_of(loop), REGISTER_EVENTFD, 1) == errno.EACCES
    finally:
        loop.close()


# Ports


def _through(port: proactorx.CompletionPort, folder: Path) -> list[Any]:
    """What a port does through a ring: sockets, files."""
    near, far = socket.socketpair()
    with near, far, open(folder / "file", "w+b") as file:
        port.bind(near, "socket")
        port.bind(file, "file")
        receiving = port.recv(near, 100)
        far.sendall(b"received")
        port.get(10)
        port.send(near, b"sent")
        port.get(10)
        writing = port.write(file, b"written", 0)
        port.get(10)
        reading = port.read(file, 100, 0)
        port.get(10)
        return [receiving.result(), far.recv(100), writing.result(), reading.result()]


def test_a_restricted_port_does_all_that_a_port_does(driver_name: str, tmp_path: Path) -> None:
    backend = None if driver_name == "auto" else driver_name
    with proactorx.CompletionPort(1, backend, restrict=True) as port:
        assert port.backend.restriction != ""
        assert _through(port, tmp_path) == [b"received", b"sent", 7, b"written"]
    with proactorx.CompletionPort(1, backend) as port:
        assert port.backend.restriction == ""


@ring_only
def test_the_ring_of_a_port_refuses_other_registrations(tmp_path: Path) -> None:
    for restrict, answer in ((True, errno.EACCES), (False, errno.EBADF)):
        with proactorx.CompletionPort(1, "io_uring", restrict=restrict) as port:
            _through(port, tmp_path)
            assert _register(_only_ring(), REGISTER_EVENTFD, 1) == answer


# Credentials


@pytest.mark.ours
def test_nothing_is_lost_when_credentials_have_changed(driver_name: str, tmp_path: Path) -> None:
    """Connections, a child and a file that are in flight meanwhile; several times."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, proactorx.EventLoop)

        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1000):
                writer.write(data)
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=-1)
        async with server:
            streams = [await asyncio.open_connection(*server.sockets[0].getsockname()) for _ in range(5)]
            for turn in range(10):
                for _, writer in streams:
                    writer.write(b"%d\n" % turn)
                writing = asyncio.ensure_future(files.write_bytes(tmp_path / "file", b"x" * 100_000))
                await asyncio.sleep(0)
                loop.credentials_changed()
                for reader, _ in streams:
                    assert await reader.readline() == b"%d\n" % turn
                assert await writing == 100_000
            for reader, writer in streams:
                writer.close()
                assert await reader.read() == b""
        await child.communicate(b"\n")
        assert child.returncode == 0

    with asyncio.Runner(loop_factory=lambda: _loop(driver_name, restrict=False)) as runner:
        runner.run(main())


@ring_only
def test_the_ring_is_a_new_one() -> None:
    loop = proactorx.new_event_loop("io_uring")
    try:
        loop.credentials_changed()  # nothing was opened yet
        _ring_of(loop)
        for count in (1, 2):
            loop.credentials_changed()
            assert loop._port.driver.rebuilds == count
            _ring_of(loop)
    finally:
        loop.close()


@ring_only
def test_where_no_new_ring_can_be_made_the_old_one_goes_on(tmp_path: Path) -> None:
    """No descriptor is left; or only privileged processes may, after a server has dropped root."""
    import resource

    loop = proactorx.new_event_loop("io_uring")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    try:
        ring = _ring_of(loop)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.dup(ring))
        with pytest.raises(OSError, match="Too many open files"):
            loop.credentials_changed()

        async def again() -> None:
            with pytest.raises(OSError, match="Too many open files"):
                loop.credentials_changed()
            await asyncio.sleep(0.001)

        loop.run_until_complete(again())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in held:
            os.close(fd)
    assert _ring_of(loop) == ring
    assert loop.run_until_complete(_exchange(loop, tmp_path))[-1] == 0
    loop.close()


@pytest.mark.ours
def test_who_may_call_it(driver_name: str) -> None:
    loop = _loop(driver_name)

    async def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="thread"):
            await loop.run_in_executor(None, loop.credentials_changed)

    loop.run_until_complete(elsewhere())
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.credentials_changed()


DROPPED = """
import asyncio, json, os, sys
import proactorx
from proactorx import files

secret, backend = sys.argv[1], sys.argv[2]

async def main():
    loop = asyncio.get_running_loop()
    said = []
    for mode in ("rb", "r+b", "ab"):
        async with files.open(secret, mode):
            said.append(mode)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    loop.credentials_changed()
    for mode in ("rb", "r+b", "ab", "wb"):
        try:
            async with files.open(secret, mode):
                said.append(mode)
        except PermissionError:
            said.append("refused")
    for call in (files.os.remove, files.read_bytes, files.os.listdir):
        try:
            await call(secret if call is not files.os.listdir else os.path.dirname(secret))
            said.append("done")
        except PermissionError:
            said.append("refused")
    writer.write(b"still here\\n")
    said.append((await reader.readline()).decode())
    writer.close()
    return said

async def echo(reader, writer):
    writer.write(await reader.readline())
    writer.close()

with asyncio.Runner(loop_factory=lambda: proactorx.new_event_loop(backend)) as runner:
    server = runner.run(asyncio.start_server(echo, "127.0.0.1", 0))
    print(json.dumps(runner.run(main())))
    server.close()
"""


@pytest.mark.ours
@pytest.mark.skipif(not LINUX or os.geteuid() != 0, reason="needs to be root, to become somebody else")
def test_a_server_that_drops_root_can_open_nothing_of_root(driver_name: str, tmp_path: Path) -> None:
    """The ring opens files and removes names for the user that the process has become."""
    secret = tmp_path / "secret"
    secret.write_text("of root\n")
    secret.chmod(0o600)
    tmp_path.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DROPPED, secret, driver_name],
        env=script_environment(), stdout=subprocess.PIPE, timeout=30, check=True,
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert said == ["rb", "r+b", "ab", *["refused"] * 7, "still here\n"]
    assert secret.read_text() == "of root\n"
