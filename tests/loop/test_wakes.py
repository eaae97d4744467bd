"""A loop that has decided to sleep hears of what is posted before it does, by its own thread too.

A finalizer or a signal handler comes in wherever bytecode runs.  On drivers written in C none runs there.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from proactorx import drivers

from .helpers import Factory, in_thread, is_stock

FAR = 60.0  # seconds: what the loop would sleep
SOON = 30.0  # seconds: it was woken

Loop = asyncio.AbstractEventLoop


def interrupt_sleep(loop: Loop, intruder: Callable[[], Any]) -> None:
    """Have `intruder` called once, by the loop's thread, when it has decided to sleep and does not yet."""
    loop.run_until_complete(asyncio.sleep(0.001))  # the driver is opened
    found: Any = loop
    selector = found._selector if is_stock(loop) else getattr(found._port.driver, "_selector", None)
    if selector is None:
        pytest.skip("no bytecode runs there")
    select = selector.select

    def interrupted(timeout: float | None = None) -> Any:
        nonlocal intruder
        if timeout is None or timeout > 1:
            called, intruder = intruder, lambda: None
            called()
        return select(timeout)

    selector.select = interrupted


def time_until_stopped(loop: Loop) -> float:
    guard = loop.call_later(FAR, loop.stop)
    before = time.monotonic()
    loop.run_forever()
    guard.cancel()
    return time.monotonic() - before


def test_a_threadsafe_call(loop: Loop) -> None:
    interrupt_sleep(loop, lambda: loop.call_soon_threadsafe(loop.stop))
    assert time_until_stopped(loop) < SOON


@pytest.mark.ours  # on stock asyncio it waits for something else to happen
@pytest.mark.parametrize("call", ["call_soon", "call_later"])
def test_a_call_that_is_not_meant_for_threads(loop: Loop, call: str) -> None:
    arguments: tuple[Any, ...] = (loop.stop,) if call == "call_soon" else (0.01, loop.stop)
    interrupt_sleep(loop, lambda: getattr(loop, call)(*arguments))
    assert time_until_stopped(loop) < SOON


@pytest.mark.ours
def test_a_write(loop: Loop) -> None:
    """The peer gets what a finalizer has written."""
    writers: list[asyncio.StreamWriter] = []
    interrupt_sleep(loop, lambda: writers[0].write(b"last words"))
    left, right = socket.socketpair()
    with right:
        right.setblocking(False)
        writers.append(loop.run_until_complete(asyncio.open_connection(sock=left))[1])
        loop.add_reader(right, loop.stop)
        assert time_until_stopped(loop) < SOON
        assert right.recv(100) == b"last words"
        loop.remove_reader(right)
        writers[0].close()
        loop.run_until_complete(writers[0].wait_closed())


@pytest.mark.ours
def test_an_operation(loop: Loop) -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.send(b"there already")
        tasks: list[asyncio.Task[bytes]] = []

        def receive() -> None:
            tasks.append(loop.create_task(loop.sock_recv(left, 100)))
            tasks[0].add_done_callback(lambda _: loop.stop())

        interrupt_sleep(loop, receive)
        assert time_until_stopped(loop) < SOON
        assert tasks[0].result() == b"there already"


@pytest.fixture
def auto_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses the first choice of ``auto`` when its ring is opened."""
    found = drivers.probe("io_uring")
    if not (found.available and found.suitable):
        pytest.skip("auto does not take io_uring here")
    from proactorx.drivers.io_uring.driver import UringDriver

    monkeypatch.delenv("PROACTORX_BACKEND", raising=False)
    monkeypatch.setattr(
        "proactorx.drivers.io_uring.probe.make_driver", lambda *_, **__: UringDriver(entries=0)
    )


@pytest.mark.usefixtures("auto_falls_back")
def test_a_post_while_the_loop_changes_its_driver() -> None:
    """... at its first sleep."""
    import proactorx

    def run() -> float:
        loop: Any = proactorx.new_event_loop()
        fall_back = loop._choice.fall_back

        def change(error: OSError) -> Any:
            in_thread(lambda: loop.call_soon_threadsafe(loop.stop))
            return fall_back(error)

        loop._choice.fall_back = change
        try:
            took = time_until_stopped(loop)
            assert loop.backend_info().name != "io_uring"
        finally:
            loop.close()
        return took

    assert in_thread(run) < SOON  # in the main thread the loop needs its driver before, for signals


@pytest.mark.usefixtures("auto_falls_back")
def test_posts_while_a_loop_changes_its_driver() -> None:
    import proactorx

    for _ in range(30):
        live_with_a_poster(proactorx.new_event_loop)


@pytest.mark.ours
def test_posts_while_a_loop_is_opened_and_closed(loop_factory: Factory) -> None:
    """Many short lives, with a thread that posts at any time of them."""
    for _ in range(30):
        live_with_a_poster(loop_factory)


def live_with_a_poster(factory: Factory) -> None:
    """A loop is made, run and closed in a thread, while another one posts to it."""
    loop = factory()
    over = threading.Event()

    def post() -> None:
        try:
            while not over.is_set():
                loop.call_soon_threadsafe(int)
        except RuntimeError:
            return  # it is closed

    def live() -> float:
        timer = threading.Timer(0.002, loop.call_soon_threadsafe, (loop.stop,))
        timer.start()
        took = time_until_stopped(loop)
        timer.join()
        loop.close()
        return took

    thread = threading.Thread(target=post)
    thread.start()
    try:
        assert in_thread(live) < SOON
    finally:
        over.set()
        thread.join()
