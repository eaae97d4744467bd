"""More kinds of stalls, of those that the system makes: the culprit has to be named in the right category."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from files import slow_disk
from loop.helpers import BOUND, finish, start_script

from observe.planted import ALSO, FREE_THREADED, LINUX, Loop, Seen, first, may_block
from proactorx.observe.stall import BLOCKED, COMPUTING, CPU, UNKNOWN, Stall

pytestmark = pytest.mark.ours

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has none")


def blocked(seen: Seen, body: Callable[[], object], release: Callable[[], object]) -> Stall:
    """What is said of a task that blocks in `body` until something is said, and `release` lets it go on."""

    def help_it() -> None:
        seen.block()
        release()

    async def main() -> None:
        thread.start()
        body()

    thread = threading.Thread(target=help_it)
    seen.run(main)
    thread.join()
    stall = first(seen)
    assert stall.kind in may_block()
    assert stall.task == "the culprit"
    assert not stall.keeps_gil
    return stall


class TestBlocking:
    def test_a_name_server_that_does_not_answer(self, seen: Seen) -> None:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            for sock in (server, client):
                sock.bind(("127.0.0.1", 0))
            client.connect(server.getsockname())
            stall = blocked(seen, lambda: client.recv(512), lambda: server.sendto(b"x", client.getsockname()))
        assert "client.recv(512)" in stall.stack

    @POSIX
    def test_a_fifo_that_nobody_has_opened(self, seen: Seen, tmp_path: Path) -> None:
        path = tmp_path / "fifo"
        os.mkfifo(path)
        fds: list[int] = []
        stall = blocked(
            seen,
            lambda: fds.append(os.open(path, os.O_RDONLY)),
            lambda: fds.append(os.open(path, os.O_WRONLY)),
        )
        for fd in fds:
            os.close(fd)
        assert "os.open(path, os.O_RDONLY)" in stall.stack

    @POSIX
    def test_print_to_a_full_terminal(self, seen: Seen) -> None:
        outer, inner = os.openpty()

        def drain() -> None:
            while b"the end" not in os.read(outer, 1 << 16):
                continue

        with open(inner, "w") as terminal:
            stall = blocked(seen, lambda: print("x" * 200_000, "\nthe end", file=terminal, flush=True), drain)
        os.close(outer)
        assert "print(" in stall.stack

    @POSIX
    def test_a_child_that_is_stopped(self, seen: Seen) -> None:
        child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
        os.kill(child.pid, signal.SIGSTOP)

        stall = blocked(seen, child.wait, child.kill)  # SIGKILL ends what is stopped as well, signal(7)
        assert child.stdin is not None
        child.stdin.close()
        assert "in wait" in stall.stack

    @POSIX
    def test_a_file_that_another_process_has_locked(self, seen: Seen, tmp_path: Path) -> None:
        fcntl = pytest.importorskip("fcntl")
        with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as two:
            fcntl.flock(one, fcntl.LOCK_EX)
            stall = blocked(
                seen, lambda: fcntl.flock(two, fcntl.LOCK_EX), lambda: fcntl.flock(one, fcntl.LOCK_UN)
            )
        assert "fcntl.flock(two" in stall.stack


#: The opcode of fsync in linux/fuse.h, as the server of the slow disk prints it.
FSYNC = b"20\n"
RESOLVER = """
import fcntl, os, struct, sys, time
fd = int(sys.argv[1])
while True:
    touched = struct.unpack_from("Q", os.read(fd, 32), 16)[0]  # by somebody who waits for the page
    time.sleep(0.4)
    fcntl.ioctl(fd, 0xC020AA04, struct.pack("QQQq", touched & ~4095, 4096, 0, 0))
"""
PAGES = 20


@pytest.mark.skipif(not LINUX or os.uname().machine != "x86_64", reason="needs userfaultfd, by its number")
def test_a_page_that_takes_long_to_come(seen: Seen) -> None:
    """A page fault, as of a mapped file on a slow disk: it blocks, and keeps the GIL."""
    fcntl = pytest.importorskip("fcntl")
    fd = ctypes.CDLL(None, use_errno=True).syscall(323, 1)  # of user mode only, which needs no privilege
    if fd < 0:
        pytest.skip("this kernel refuses userfaultfd")
    memory = mmap.mmap(-1, PAGES * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(fd, 0xC018AA3F, struct.pack("QQQ", 0xAA, 0, 0))
    fcntl.ioctl(fd, 0xC020AA00, struct.pack("QQQQ", start, PAGES * 4096, 1, 0))

    async def main() -> None:
        for page in range(PAGES):  # a watchdog that has no processor meanwhile says nothing
            assert memory[page * 4096] == 0
            if seen.begun.is_set():
                return

    with subprocess.Popen([sys.executable, "-S", "-c", RESOLVER, str(fd)], pass_fds=[fd]) as resolver:
        try:
            seen.run(main)
        finally:
            resolver.kill()
            os.close(fd)
    stall = seen.stalls[0]
    assert stall.kind in {BLOCKED, CPU}
    assert stall.keeps_gil or FREE_THREADED or stall.kind == CPU


@pytest.mark.skipif(not LINUX, reason="needs FUSE")
def test_fsync(seen: Seen, tmp_path: Path) -> None:
    """... of a file whose file system takes its time: the one of the tests of files."""
    if not os.access("/dev/fuse", os.W_OK) or os.geteuid():
        pytest.skip("mounting takes root, and /dev/fuse")
    folder = tmp_path / "slow"
    folder.mkdir()
    command = [sys.executable, "-S", slow_disk.__file__, str(folder)]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )

    def serve() -> None:
        for line in server.stdout or ():
            if line == FSYNC:
                seen.block()
            assert server.stdin is not None
            server.stdin.write(b"x")
            server.stdin.flush()

    async def main() -> None:
        os.fsync(fd)

    assert server.stdout is not None
    answers = threading.Thread(target=serve)
    try:
        if server.stdout.readline() != b"ready\n":
            pytest.skip("this system mounts no FUSE")
        answers.start()
        fd = os.open(folder / "f", os.O_RDWR)
        seen.run(main)
        os.close(fd)
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
        server.kill()
        server.communicate()
    answers.join()
    assert first(seen).kind in may_block()
    assert first(seen).task == "the culprit"
    assert "os.fsync(fd)" in first(seen).stack


@POSIX
def test_print_to_a_full_pipe(loop: Loop) -> None:
    """The standard output of a process, which nobody reads until the stall has been reported."""
    script = f"""
    import asyncio, proactorx, sys

    def report(stall):
        words = [stall.phase, stall.task, stall.kind, "in main" in stall.stack]
        print(*words, sep="|", file=sys.stderr, flush=True)

    async def main():
        asyncio.current_task().set_name("the culprit")
        asyncio.get_running_loop().watch(0.05, report=report)
        await asyncio.sleep(0.001)
        print("x" * 300_000)
        await asyncio.sleep(0.2)

    proactorx.run(main(), backend={loop.backend_info().name!r})
    """
    process = start_script(script)
    assert process.stderr is not None
    words = process.stderr.readline().rstrip().split("|")
    out, _ = finish(process)
    # io_uring may interrupt a write, and Python drops the rest where it has no buffer.
    assert len(out) > 60_000
    assert process.returncode == 0
    assert words[:2] + words[3:] == ["begins", "the culprit", "True"]
    assert words[2] in may_block()


class TestComputing:
    """Too much for one turn, without anything that is slow."""

    def test_a_huge_gather(self, seen: Seen) -> None:
        async def nothing() -> None:
            pass

        async def main() -> None:
            for _ in range(100):
                await asyncio.gather(*[nothing() for _ in range(50_000)])
                if seen.begun.is_set():
                    return

        seen.run(main)
        assert seen.stalls[0].kind in {COMPUTING, UNKNOWN} | ALSO

    def test_a_storm_of_timers(self, seen: Seen) -> None:
        async def main() -> None:
            for _ in range(20):
                now = seen.loop.time()
                for _ in range(500_000):
                    seen.loop.call_at(now, int)
                await asyncio.sleep(0)
                if seen.begun.is_set():
                    return

        seen.run(main)
        assert seen.stalls[0].kind in {COMPUTING, UNKNOWN} | ALSO


def test_a_loop_with_much_to_do_has_no_stall(loop: Loop) -> None:
    """Thousands of short turns, sleeps, packets and threads: no alarm but for want of a processor."""

    async def client(address: tuple[str, int]) -> None:
        for _ in range(5):
            reader, writer = await asyncio.open_connection(*address)
            for size in (1, 1000, 100_000):
                writer.write(bytes(size))
                await reader.readexactly(size)
            writer.close()
            await asyncio.to_thread(time.sleep, 0.01)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(client(server.sockets[0].getsockname()))
                for _ in range(20):
                    await asyncio.sleep(0.05)

    seen = Seen(loop)
    loop.watch(0.4, report=seen)
    loop.run_until_complete(asyncio.wait_for(main(), BOUND))
    loop.watch(None)
    assert [str(stall) for stall in seen.stalls if stall.kind not in ALSO] == []
    assert loop.stats().turns > 50


@pytest.mark.skipif(not LINUX, reason="needs a limit of descriptors, and the length of the queue")
def test_a_listener_without_descriptors(loop: Loop, errors: list[dict[str, object]]) -> None:
    """It is no stall: the loop turns on, and the listener shows who waits."""
    resource = pytest.importorskip("resource")

    async def main() -> int | None:
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        client = socket.socket()
        "host".encode("idna")  # imports what connect() needs
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))  # no new descriptor is less than this
        try:
            client.connect(server.sockets[0].getsockname())
            async with asyncio.timeout(BOUND):
                while not errors and not loop.stats().listeners[0].waiting:
                    await asyncio.sleep(0.005)
            return loop.stats().listeners[0].waiting
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            client.close()
            server.close()

    seen = Seen(loop)
    loop.watch(0.4, report=seen)
    assert loop.run_until_complete(main()) == 1 or errors
    loop.watch(None)
    assert [stall for stall in seen.stalls if stall.kind not in ALSO] == []
