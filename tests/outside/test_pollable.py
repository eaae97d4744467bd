"""What can be watched by add_reader and add_writer: what the kernel says of each file,
not what kind of file it is.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import tempfile
import tty
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress

import pytest

FILES = [
    "/proc/self/mounts",
    "/proc/mdstat",
    "/proc/pressure/cpu",
    "/proc/pressure/memory",
    "/proc/pressure/io",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/random/boot_id",
    "/proc/self/status",
    "/proc/self/fd",
    "/proc/self/maps",
    "/proc/cpuinfo",
    "/proc/kmsg",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/class/net/lo/operstate",
    "/sys/class/net/lo/carrier",
    "/sys/fs/cgroup/cgroup.events",
    "/sys/fs/cgroup/memory.pressure",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/urandom",
    "/dev/random",
    "/dev/kmsg",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/fuse",
    "/dev/net/tun",
    "/dev/rtc0",
    "/etc/passwd",
    "/",
    "/tmp",
]


def opened(name: str, stack: ExitStack) -> int:
    """A descriptor of the file or of one that is made, skipping what this machine has not."""
    made: dict[str, Callable[[], int]] = {
        "pipe": lambda: pipe(stack)[0],
        "pipe's other end": lambda: pipe(stack)[1],
        "terminal": lambda: terminal(stack),
        "eventfd": lambda: os.eventfd(0),
        "memfd": lambda: os.memfd_create("proactorx"),
        "pidfd": lambda: os.pidfd_open(os.getpid()),
        "O_PATH": lambda: os.open("/dev/null", os.O_PATH),
        "regular file": lambda: stack.enter_context(tempfile.TemporaryFile()).fileno(),  # noqa: SIM115
        "socket": lambda: sockets(stack)[0].fileno(),
        "listener": lambda: stack.enter_context(socket.create_server(("127.0.0.1", 0))).fileno(),
        "datagrams": lambda: stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)).fileno(),
        "epoll set": lambda: stack.enter_context(closing(select.epoll())).fileno(),
    }
    if name in made:
        fd = made[name]()
        if name in ("eventfd", "memfd", "pidfd", "O_PATH"):
            stack.callback(close, fd)
    else:
        for flags in (os.O_RDWR, os.O_RDONLY):
            with suppress(OSError):
                fd = os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)
                break
        else:
            pytest.skip("not here")
        stack.callback(close, fd)
    return fd


def close(fd: int) -> None:
    with suppress(OSError):
        os.close(fd)


def pipe(stack: ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    for fd in ends:
        stack.callback(close, fd)
    return ends


def sockets(stack: ExitStack) -> tuple[socket.socket, socket.socket]:
    one, other = socket.socketpair()
    return stack.enter_context(one), stack.enter_context(other)


def terminal(stack: ExitStack) -> int:
    ours, other = os.openpty()
    tty.setraw(other)
    stack.callback(close, other)
    return ours


def watched(loop: asyncio.AbstractEventLoop, fd: int, what: str) -> tuple[str, bool]:
    """Whether the loop watches it, and whether it is ready at once."""
    called: list[str] = []
    try:
        getattr(loop, f"add_{what}")(fd, called.append, what)
    except OSError as exc:
        return type(exc).__name__, False

    async def turns() -> None:
        for _ in range(5):
            await asyncio.sleep(0.002)

    loop.run_until_complete(turns())
    assert getattr(loop, f"remove_{what}")(fd) is True
    return "watched", bool(called)


def kernel_says(fd: int, what: str) -> tuple[str, bool]:
    """The same, as epoll_ctl(2) and epoll_wait(2) answer."""
    with closing(select.epoll()) as epoll:
        try:
            epoll.register(fd, select.EPOLLIN if what == "reader" else select.EPOLLOUT)
        except OSError as exc:
            return type(exc).__name__, False
        return "watched", bool(epoll.poll(0))


MADE = ["pipe", "pipe's other end", "terminal", "eventfd", "memfd", "pidfd", "O_PATH"]
MADE += ["regular file", "socket", "listener", "datagrams", "epoll set"]


@pytest.mark.parametrize("what", ["reader", "writer"])
@pytest.mark.parametrize("name", [*FILES, *MADE])
def test_a_file_is_watched_where_the_kernel_and_stock_asyncio_watch_it(
    loop: asyncio.AbstractEventLoop, stack: ExitStack, name: str, what: str
) -> None:
    fd = opened(name, stack)
    stock = asyncio.SelectorEventLoop()
    stack.callback(stock.close)
    # The kernel may say something, and another test mount something, at any moment: that makes these ready.
    told = 1 if name in ("/proc/kmsg", "/proc/self/mounts", "/proc/self/mountinfo") else 2
    expected = watched(stock, fd, what)[:told]
    assert watched(loop, fd, what)[:told] == expected
    assert expected == kernel_says(fd, what)[:told]


async def test_an_eventfd_is_watched() -> None:
    loop = asyncio.get_running_loop()
    number = os.eventfd(0, os.EFD_NONBLOCK)
    came: asyncio.Future[int] = loop.create_future()

    def read() -> None:
        came.set_result(os.eventfd_read(number))
        loop.remove_reader(number)

    try:
        loop.add_reader(number, read)
        await asyncio.sleep(0.01)
        assert not came.done()
        os.eventfd_write(number, 3)
        assert await asyncio.wait_for(came, 10) == 3
    finally:
        os.close(number)


async def test_an_epoll_set_of_the_users_own_is_watched() -> None:
    loop = asyncio.get_running_loop()
    reading, writing = os.pipe()
    with closing(select.epoll()) as epoll:
        epoll.register(reading, select.EPOLLIN)
        came: asyncio.Future[None] = loop.create_future()

        def ready() -> None:
            loop.remove_reader(epoll.fileno())
            came.set_result(None)

        loop.add_reader(epoll.fileno(), ready)
        await asyncio.sleep(0.01)
        assert not came.done()
        os.write(writing, b"x")
        await asyncio.wait_for(came, 10)
        assert epoll.poll(0) == [(reading, select.EPOLLIN)]
    os.close(reading)
    os.close(writing)
