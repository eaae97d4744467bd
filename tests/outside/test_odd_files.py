"""What can be watched is for the kernel to say: epoll_ctl(2)'s own answer, not the kind of a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select

import pytest

PATHS = (
    "/proc/self/mounts",
    "/proc/pressure/memory",
    "/proc/pressure/cpu",
    "/sys/class/net/lo/carrier",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
    "/dev/full",
    "/etc/passwd",
    "/tmp",
    "/proc/self/fd",
    "/proc/self/status",
)


def epoll_says(fd: int, mask: int) -> str:
    """Whether the kernel would watch it, and whether something is there already."""
    with contextlib.closing(select.epoll()) as epoll:
        try:
            epoll.register(fd, mask)
        except PermissionError:
            return "refused"
        return "called" if epoll.poll(0) else "silent"


@pytest.mark.parametrize("path", PATHS)
async def test_add_reader_takes_what_the_kernel_would_watch(path: str) -> None:
    loop = asyncio.get_running_loop()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        pytest.skip("is not here")
    try:
        expected = epoll_says(fd, select.EPOLLIN)
        calls: list[int] = []
        try:
            loop.add_reader(fd, calls.append, 1)
        except PermissionError:
            found = "refused"
        else:
            for _ in range(4):
                await asyncio.sleep(0.002)
            found = "called" if calls else "silent"
            assert loop.remove_reader(fd)
        assert found == expected
    finally:
        os.close(fd)


@pytest.mark.parametrize("path", ["/dev/null", "/dev/full", "regular"])
async def test_add_writer_takes_what_the_kernel_would_watch(path: str, tmp_path: object) -> None:
    loop = asyncio.get_running_loop()
    fd = os.open(f"{tmp_path}/file" if path == "regular" else path, os.O_WRONLY | os.O_CREAT)
    try:
        expected = epoll_says(fd, select.EPOLLOUT)
        if expected == "refused":
            with pytest.raises(PermissionError):
                loop.add_writer(fd, lambda: None)
        else:
            loop.add_writer(fd, lambda: None)
            assert loop.remove_writer(fd)
    finally:
        os.close(fd)


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
    with contextlib.closing(select.epoll()) as epoll:
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
