"""What can be watched by add_reader and add_writer: what the kernel says of each file, not what kind of file it is."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Callable
from contextlib import ExitStack, suppress

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
    "/proc/self/maps",
    "/proc/cpuinfo",
    "/proc/kmsg",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/class/net/lo/operstate",
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
    }
    if name in made:
        fd = made[name]()
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


MADE = ["pipe", "pipe's other end", "terminal", "eventfd", "memfd", "pidfd", "O_PATH"]


@pytest.mark.parametrize("what", ["reader", "writer"])
@pytest.mark.parametrize("name", [*FILES, *MADE])
def test_a_file_is_watched_where_stock_asyncio_watches_it(
    loop: asyncio.AbstractEventLoop, stack: ExitStack, name: str, what: str
) -> None:
    fd = opened(name, stack)
    stock = asyncio.SelectorEventLoop()
    stack.callback(stock.close)
    expected = watched(stock, fd, what)
    assert watched(loop, fd, what) == expected
