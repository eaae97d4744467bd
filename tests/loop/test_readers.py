"""add_reader, add_writer and their counterparts: when callbacks are called,
and on descriptors that come and go.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        yield left, right


def running() -> Any:
    return asyncio.get_running_loop()


async def turns(count: int = 5) -> None:
    """Turns of the loop, with time for the system in between."""
    for _ in range(count):
        await asyncio.sleep(0.001)


async def until(happened: Any) -> None:
    async with asyncio.timeout(10):
        while not happened():
            await asyncio.sleep(0)


async def test_a_reader_is_called_as_long_as_there_is_something(pair: Pair) -> None:
    left, right = pair
    seen: list[str] = []
    running().add_reader(left, seen.append, "ready")
    try:
        await turns()
        assert seen == []
        right.send(b"abc")
        await until(lambda: len(seen) >= 3)  # nobody has read
        assert left.recv(10) == b"abc"
        await turns()
        count = len(seen)
        await turns()
        assert len(seen) == count
        right.send(b"d")
        await until(lambda: len(seen) > count)
    finally:
        assert running().remove_reader(left)


async def test_a_part_is_read_in_each_turn(pair: Pair) -> None:
    left, right = pair
    got = bytearray()
    running().add_reader(left, lambda: got.extend(left.recv(1)))
    try:
        right.send(b"one by one")
        await until(lambda: got == b"one by one")
    finally:
        running().remove_reader(left)


async def test_a_writer_is_called_when_there_is_room(pair: Pair) -> None:
    left, right = pair
    size = 0
    with pytest.raises(BlockingIOError):
        while True:
            size += left.send(bytes(65536))
    seen: list[int] = []
    running().add_writer(left, lambda: seen.append(left.send(b"x")) or running().remove_writer(left))
    await turns()
    assert seen == []
    while size:
        size -= len(right.recv(1 << 20))
    await until(lambda: seen)
    await turns()
    assert seen == [1]
    assert right.recv(10) == b"x"


async def test_both_on_one_descriptor(pair: Pair) -> None:
    left, right = pair
    seen: list[str] = []
    running().add_writer(left, seen.append, "write")
    running().add_reader(left, seen.append, "read")
    await until(lambda: "write" in seen)
    assert "read" not in seen
    right.send(b"x")
    await until(lambda: "read" in seen)
    assert running().remove_writer(left)
    await turns(2)
    seen.clear()
    await until(lambda: "read" in seen)
    assert "write" not in seen
    assert running().remove_reader(left)
    seen.clear()
    await turns()
    assert seen == []


async def test_what_the_calls_answer(pair: Pair) -> None:
    left, _ = pair
    assert not running().remove_reader(left)
    assert not running().remove_writer(left.fileno())
    running().add_reader(left, print)
    assert not running().remove_writer(left)
    assert running().remove_reader(left.fileno())
    assert not running().remove_reader(left)


@pytest.mark.ours  # only stock asyncio's private methods return it
async def test_the_handle_of_a_callback(pair: Pair) -> None:
    left, _ = pair
    handle = running().add_reader(left, print)
    assert isinstance(handle, asyncio.Handle)
    assert running().remove_reader(left)
    assert handle.cancelled()


@pytest.mark.ours
async def test_a_watch_whose_handle_was_cancelled_ends(pair: Pair) -> None:
    left, right = pair
    seen: list[str] = []
    running().add_reader(left, seen.append, "cancelled").cancel()
    running().add_writer(left, seen.append, "cancelled").cancel()
    right.send(b"x")
    before = running().stats().turns
    await asyncio.sleep(0.2)
    assert running().stats().turns - before < 100, "the loop turns for what nobody takes"
    assert not running().remove_reader(left)
    assert not running().remove_writer(left)
    # The end of that watch is not the end of the next one.
    running().add_reader(left, seen.append, "first").cancel()
    running().add_reader(left, seen.append, "second")
    await until(lambda: "second" in seen)
    assert running().remove_reader(left)
    assert set(seen) == {"second"}


async def test_the_second_callback_replaces_the_first(pair: Pair) -> None:
    left, right = pair
    seen: list[str] = []
    running().add_reader(left, seen.append, "first")
    right.send(b"x")
    running().add_reader(left, seen.append, "second")
    await until(lambda: seen)
    running().remove_reader(left)
    assert "first" not in seen


async def test_removed_before_its_turn(pair: Pair) -> None:
    """Both are ready in the same turn, and the first removes the second."""
    left, right = pair
    seen: list[str] = []

    def one(name: str, other: socket.socket) -> None:
        seen.append(name)
        for sock in pair:
            running().remove_reader(sock)

    running().add_reader(left, one, "left", right)
    running().add_reader(right, one, "right", left)
    right.send(b"x")
    left.send(b"x")
    await until(lambda: seen)
    await turns()
    assert len(seen) == 1


async def test_the_end_of_the_peer_is_something_to_read_and_to_write(pair: Pair) -> None:
    left, right = pair
    with pytest.raises(BlockingIOError):
        while True:
            left.send(bytes(65536))
    seen: list[str] = []
    running().add_reader(left, seen.append, "read")
    running().add_writer(left, seen.append, "write")
    right.close()
    await until(lambda: {"read", "write"} <= set(seen))
    running().remove_reader(left)
    running().remove_writer(left)


async def test_a_callback_that_raises_is_called_again(pair: Pair) -> None:
    left, right = pair
    errors: list[Any] = []
    running().set_exception_handler(lambda _loop, context: errors.append(context["exception"]))

    def fail() -> None:
        left.recv(1)
        raise ZeroDivisionError

    running().add_reader(left, fail)
    try:
        right.send(b"xy")
        await until(lambda: len(errors) == 2)
    finally:
        running().remove_reader(left)
    assert {type(error) for error in errors} == {ZeroDivisionError}


async def test_kinds_of_files() -> None:
    seen: list[int] = []
    pty, tty = pytest.importorskip("pty"), pytest.importorskip("tty")
    read, write = os.pipe()
    master, slave = pty.openpty()
    tty.setraw(slave)
    try:
        for reader, writer in ((read, write), (slave, master)):
            running().add_reader(reader, seen.append, reader)
            await turns(2)
            assert seen == []
            os.write(writer, b"x")
            await until(lambda: seen)
            assert running().remove_reader(reader)
            seen.clear()
            running().add_writer(writer, seen.append, writer)
            await until(lambda: seen)
            assert running().remove_writer(writer)
            await turns(1)
            seen.clear()
    finally:
        for fd in (read, write, master, slave):
            os.close(fd)


@pytest.mark.ours  # a selectors.SelectSelector takes it, and says that it is ready
async def test_a_regular_file_is_refused() -> None:
    with tempfile.TemporaryFile() as file:
        with pytest.raises(PermissionError):
            running().add_reader(file, print)
        assert not running().remove_reader(file)


@pytest.mark.parametrize("value", [-1, "name", None, 1.5, object()])
async def test_what_is_no_descriptor(value: Any) -> None:
    with pytest.raises(ValueError):
        running().add_reader(value, print)
    with pytest.raises(ValueError):
        running().remove_writer(value)


async def test_a_closed_one_is_refused(pair: Pair) -> None:
    await turns(1)  # the loop has its own descriptors by then, and none of them gets this number
    left, _ = pair
    number = left.fileno()
    left.close()
    with pytest.raises(ValueError):
        running().add_reader(left, print)  # its number is -1 by now
    with pytest.raises((ValueError, OSError)):
        running().add_reader(number, print)
    assert not running().remove_reader(number)


# ------------------------------------------------------------------------------- descriptors that come and go


# stock asyncio hears nothing of the new file where the old one was not removed before it was closed
@pytest.mark.ours
@pytest.mark.parametrize("removed", ["before", "after", "never"])
async def test_a_number_that_is_used_again(removed: str) -> None:
    """The old callback is not called for the new file, whenever it was removed."""
    old: list[str] = []
    new: list[str] = []
    left, right = socket.socketpair()
    number = left.fileno()
    running().add_reader(number, old.append, "old")
    await turns(1)
    if removed == "before":
        assert running().remove_reader(number)
    left.close()
    right.close()
    if removed == "after":
        running().remove_reader(number)
    left, right = socket.socketpair()
    with left, right:
        assert left.fileno() == number
        running().add_reader(left, new.append, "new")
        await turns(2)
        assert new == []
        old.clear()  # the end of the old socket, where it was told of before the close
        right.send(b"x")
        await until(lambda: new)
        assert running().remove_reader(left)
        assert old == []


async def test_closed_while_ready_and_the_number_used_again_at_once() -> None:
    """The packet of the old file is on its way when the new one is there."""
    for _ in range(20):
        old: list[str] = []
        new: list[str] = []
        left, right = socket.socketpair()
        running().add_reader(left, old.append, "old")
        right.send(b"x")
        running().remove_reader(left)
        number = left.fileno()
        left.close()
        right.close()
        left, right = socket.socketpair()
        with left, right:
            assert left.fileno() == number
            running().add_reader(left, new.append, "new")
            await turns(1)
            assert (old, new) == ([], [])
            right.send(b"y")
            await until(lambda new=new: new)
            running().remove_reader(left)
            assert old == []


async def test_closed_by_its_own_callback(pair: Pair) -> None:
    left, right = pair
    done: list[bool] = []

    def last() -> None:
        done.append(running().remove_reader(left))
        left.close()

    running().add_reader(left, last)
    right.send(b"x")
    await until(lambda: done)
    await turns()
    assert done == [True]


async def test_closed_without_a_word_costs_no_time(pair: Pair) -> None:
    """A duplicate keeps the file open, and so the system reports it: nobody is called,
    and the loop sleeps.
    """
    left, right = pair
    seen: list[str] = []
    running().add_reader(left, seen.append, "ready")
    await turns(2)
    number = left.fileno()
    duplicate = os.dup(number)
    try:
        running().remove_reader(left)
        left.close()
        right.send(b"x")
        used = time.process_time()
        await asyncio.sleep(0.3)
        assert time.process_time() - used < 0.15
        assert seen == []
    finally:
        os.close(duplicate)


async def test_the_same_file_under_two_numbers(pair: Pair) -> None:
    left, right = pair
    seen: list[str] = []
    duplicate = left.dup()
    with duplicate:
        running().add_reader(left, seen.append, "left")
        running().add_reader(duplicate, seen.append, "duplicate")
        right.send(b"x")
        await until(lambda: set(seen) == {"left", "duplicate"})
        assert running().remove_reader(duplicate)
        await turns(1)
        seen.clear()
        await until(lambda: seen)
        assert set(seen) == {"left"}
        assert running().remove_reader(left)


async def test_a_task_that_waits_by_readers_is_cancelled(pair: Pair) -> None:
    """What libraries do: a future, a callback that sets it, and a finally that removes it."""
    left, right = pair

    async def readable() -> bytes:
        future = running().create_future()
        running().add_reader(left, lambda: future.done() or future.set_result(None))
        try:
            await future
            return left.recv(10)
        finally:
            assert running().remove_reader(left)

    for count in range(4):
        task = asyncio.create_task(readable())
        for _ in range(count):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    task = asyncio.create_task(readable())
    await turns(1)
    right.send(b"well")
    assert await task == b"well"


def test_they_belong_to_the_loop_and_end_with_it(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    left, right = pair
    seen: list[str] = []
    loop.add_reader(left, seen.append, "ready")
    right.send(b"x")
    loop.close()
    assert seen == []
    with pytest.raises(RuntimeError):
        loop.add_reader(left, print)
    assert left.recv(1) == b"x"


def test_between_two_runs(loop: asyncio.AbstractEventLoop, pair: Pair) -> None:
    """Added while the loop stands still, and still there in the next run."""
    left, right = pair
    got: list[bytes] = []
    loop.add_reader(left, lambda: got.append(left.recv(1)))
    right.send(b"a")
    loop.run_until_complete(until(lambda: got == [b"a"]))
    right.send(b"b")
    loop.run_until_complete(until(lambda: got == [b"a", b"b"]))
    assert loop.remove_reader(left)


@pytest.mark.ours
def test_a_removal_that_was_interrupted(loop: Any, pair: Pair) -> None:
    class Interrupted(dict[Any, Any]):
        def __delitem__(self, key: Any) -> None:
            super().__delitem__(key)
            raise KeyboardInterrupt

    left, right = pair
    seen: list[str] = []
    loop.add_reader(left, seen.append, "called")
    right.send(b"x")
    loop._watches = Interrupted(loop._watches)
    with pytest.raises(KeyboardInterrupt):
        loop.remove_reader(left)
    loop.run_until_complete(asyncio.sleep(0.02))
    before = loop.stats().turns
    loop.run_until_complete(asyncio.sleep(0.2))
    assert loop.stats().turns - before < 100, "the loop turns for what nobody takes"
    assert not seen


@pytest.mark.parametrize("replace", [False, True])
async def test_the_finalizer_of_an_argument_sets_another_callback(pair: Pair, replace: bool) -> None:
    left, right = pair
    seen: list[str] = []

    class Argument:
        def __del__(self) -> None:
            loop.add_reader(left, seen.append, "last")

    loop = running()
    right.send(b"x")
    loop.add_reader(left, print, Argument())
    if replace:
        loop.add_reader(left, seen.append, "replaced")
    else:
        loop.remove_reader(left)
    await until(lambda: seen)
    assert set(seen) == {"last"}
    assert loop.remove_reader(left)
    seen.clear()
    await turns()
    assert not seen
