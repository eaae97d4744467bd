"""``loop.stats()`` and ``proactorx.loops()``: each count is compared with one that the test makes itself."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import gc
import itertools
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from loop.helpers import BOUND, Thread, in_thread, run_script

import proactorx
from observe.planted import FREE_THREADED
from proactorx.observe.stats import BOUNDS, Histogram, LoopStats

pytestmark = pytest.mark.ours

Loop = proactorx.EventLoop


def until(done: Callable[[], bool]) -> None:
    """Wait in a thread that runs no loop."""
    end = time.monotonic() + BOUND
    while not done():
        assert time.monotonic() < end
        time.sleep(0.001)


def added(after: LoopStats, before: LoopStats, name: str) -> int:
    value: int = getattr(after, name).count - getattr(before, name).count
    return value


def test_of_a_loop_that_has_never_run(loop: Loop) -> None:
    stats = loop.stats()
    assert (stats.turns, stats.callbacks, stats.packets, stats.timers, stats.ready) == (0, 0, 0, 0, 0)
    assert (stats.running, stats.idle, stats.current_turn, stats.idle_share) == (0, 0, 0, 1)
    assert stats.thread is None
    assert stats.turn_length.count == stats.lag.count == stats.gil_wait.count == 0
    assert (dict(stats.ops), stats.listeners, dict(stats.transports)) == ({}, (), {})
    assert stats.backend == loop.backend_info().name


def test_it_cannot_be_changed(loop: Loop) -> None:
    stats = loop.stats()
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.turns = 7  # type: ignore[misc]
    with pytest.raises(TypeError):
        stats.ops["recv"] = None  # type: ignore[index]


def test_turns_and_callbacks(loop: Loop) -> None:
    calls = 0

    def call(left: int) -> None:
        nonlocal calls
        calls += 1
        if left:
            loop.call_soon(call, left - 1)
        else:
            loop.stop()

    loop.call_soon(call, 99)
    loop.run_forever()
    stats = loop.stats()
    assert calls == stats.callbacks == 100
    assert stats.turns == 100
    assert stats.turn_length.count >= 100
    # each of the turns but the first began with a callback that was ready
    assert stats.lag.count == 100


def test_ready_and_timers(loop: Loop) -> None:
    for _ in range(5):
        loop.call_soon(print)
    handles = [loop.call_later(1000 + n, print) for n in range(7)]
    handles[2].cancel()
    handles[4].cancel()
    stats = loop.stats()
    assert (stats.ready, stats.timers, stats.cancelled_timers) == (5, 7, 2)


def test_a_long_turn_is_found_in_its_bucket(loop: Loop) -> None:
    loop.call_soon(time.sleep, 0.05)
    loop.call_soon(loop.call_soon, loop.stop)
    before = time.monotonic()
    loop.run_forever()
    took = time.monotonic() - before
    turns = loop.stats().turn_length
    assert 0.05 <= turns.longest <= took
    assert sum(turns.counts[BOUNDS.index(0.032768) + 1 :]) == 1
    assert 0.05 <= turns.total <= took


def test_lag_of_a_timer_behind_a_long_callback(loop: Loop) -> None:
    async def main() -> LoopStats:
        loop.call_later(0.001, int)
        loop.call_soon(time.sleep, 0.05)
        await asyncio.sleep(0.01)
        return loop.stats()

    stats = loop.run_until_complete(main())
    assert stats.lag.longest >= 0.03


def test_a_timer_of_the_past_is_not_late_since_then(loop: Loop) -> None:
    before = time.monotonic()
    loop.call_at(loop.time() - 1000, loop.stop)
    loop.call_at(float("-inf"), int)
    loop.run_forever()
    assert loop.stats().lag.longest <= time.monotonic() - before


def test_sleeping_is_idle_and_working_is_not(loop: Loop) -> None:
    loop.run_until_complete(asyncio.sleep(0.05))
    slept = loop.stats()
    assert 0.045 <= slept.idle <= slept.running
    loop.call_soon(time.sleep, 0.05)
    loop.call_soon(loop.stop)
    loop.run_forever()
    worked = loop.stats()
    assert worked.running - slept.running >= 0.05
    assert worked.idle_share_since(slept) < 0.5
    assert 0 <= worked.idle_share <= 1
    parts = worked.in_flush + worked.in_dispatch + worked.in_callbacks
    assert parts == pytest.approx(worked.running - worked.idle, abs=1e-6)


def test_a_running_loop_is_asked_from_another_thread(loop: Loop) -> None:
    """... while it sleeps, and while a callback keeps it from turning."""
    inside, go_on = threading.Event(), threading.Event()

    def block() -> None:
        inside.set()
        assert go_on.wait(BOUND)

    def look() -> None:
        try:
            until(lambda: loop.is_running() and loop.stats().idle > 0)
            asleep = loop.stats()
            assert asleep.current_turn == 0
            assert asleep.thread == ident
            loop.call_soon_threadsafe(block)
            assert inside.wait(BOUND)
            until(lambda: loop.stats().current_turn > 0.01)
        finally:
            go_on.set()
            loop.call_soon_threadsafe(loop.stop)

    ident = threading.get_ident()
    thread = Thread(look)
    loop.call_later(0.001, int)  # so that one sleep is over
    thread.start()
    loop.run_forever()
    thread.finish()
    assert loop.stats().thread is None


def test_the_loops_that_run(loop: Loop) -> None:
    assert loop not in proactorx.loops()

    async def main() -> tuple[Loop, ...]:
        return proactorx.loops()

    assert loop in loop.run_until_complete(main())
    assert loop not in proactorx.loops()


def test_loops_of_two_threads() -> None:
    def other() -> None:
        async def main() -> None:
            seen.append(asyncio.get_running_loop())
            both.wait(BOUND)
            await asyncio.sleep(0.001)
            done.wait(BOUND)

        proactorx.run(main())

    seen: list[asyncio.AbstractEventLoop] = []
    both, done = threading.Barrier(3), threading.Event()
    threads = [Thread(other), Thread(other)]
    for thread in threads:
        thread.start()
    both.wait(BOUND)
    assert set(seen) <= set(proactorx.loops())
    done.set()
    for thread in threads:
        thread.finish()
    assert not set(seen) & set(proactorx.loops())


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_forked_child_has_none() -> None:
    script = """
    import asyncio, os, proactorx, sys

    async def main():
        pid = os.fork()
        if not pid:
            print(proactorx.loops(), flush=True)
            os._exit(0)
        os.waitpid(pid, 0)

    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    proactorx.run(main())
    """
    assert run_script(None, script).strip() == "()"


async def test_ops_transports_and_listeners() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, proactorx.EventLoop)
    made: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.append(writer)
        await reader.read(1)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    listener = server.sockets[0]
    before = loop.stats()
    assert [each.fd for each in before.listeners] == [listener.fileno()]
    clients = [await asyncio.open_connection(*listener.getsockname()) for _ in range(5)]
    async with asyncio.timeout(BOUND):
        while len(made) < 5:
            await asyncio.sleep(0.001)
    endpoint, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    clients[0][1].transport.pause_reading()
    stats = loop.stats()
    assert {kind: each.open for kind, each in stats.transports.items()} == {"stream": 10, "datagram": 1}
    assert stats.transports["stream"].paused_reading == 1
    assert stats.transports["stream"].buffered == 0
    kinds = {kind: each.count for kind, each in stats.ops.items()}
    assert sum(count for kind, count in kinds.items() if "dgram" in kind) == 1
    assert sum(count for kind, count in kinds.items() if kind.startswith("recv_stream")) in (9, 10)
    assert all(each.oldest is not None and each.oldest >= 0 for each in stats.ops.values())
    assert stats.ops["accept"].oldest > stats.ops["recv_stream"].oldest  # type: ignore[operator]
    assert stats.packets > before.packets
    for _, writer in clients:
        writer.close()
    for writer in made:
        writer.close()
    endpoint.close()
    server.close()
    async with asyncio.timeout(BOUND):
        while loop.stats().transports or loop.stats().listeners:
            await asyncio.sleep(0.001)


async def test_bytes_that_the_peer_does_not_take() -> None:
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with right:
        _, writer = await asyncio.open_connection(sock=left)
        writer.write(bytes(8 << 20))
        await asyncio.sleep(0.001)
        waits = loop.stats().transports["stream"]  # type: ignore[attr-defined]
        assert waits.buffered == writer.transport.get_write_buffer_size() > 0
        assert waits.paused_writing == 1
        writer.transport.abort()
        await asyncio.sleep(0.001)
    assert not loop.stats().transports  # type: ignore[attr-defined]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says it")
def test_connections_that_nobody_accepts(loop: Loop) -> None:
    """A blocked loop accepts nothing; the kernel goes on connecting."""

    def look() -> tuple[int | None, ...]:
        with listener.dup(), socket.create_connection(listener.getsockname()):
            with socket.create_connection(listener.getsockname()):
                found = loop.stats().listeners
                return tuple(each.waiting for each in found)

    async def main() -> tuple[int | None, ...]:
        nonlocal listener
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, backlog=9)
        async with server:
            listener = server.sockets[0]
            (stats,) = loop.stats().listeners
            assert (stats.waiting, stats.limit) == (0, 9)
            found: tuple[int | None, ...] = in_thread(look)
            await asyncio.sleep(0.01)
            return found

    listener: Any = None
    assert loop.run_until_complete(main()) == (2,)


def test_threads_of_both_pools(loop: Loop) -> None:
    began, go_on = threading.Barrier(4), threading.Event()

    def work() -> None:
        began.wait(BOUND)
        go_on.wait(BOUND)

    async def main() -> LoopStats:
        work_there = [loop.run_in_executor(None, work), loop.io_pool.call(loop, work)]
        work_there.append(loop.run_in_executor(None, work))
        began.wait(BOUND)
        found = loop.stats()
        go_on.set()
        await asyncio.gather(*work_there)
        return found

    before = loop.stats()
    assert (before.workers.threads, before.io_threads.threads) == (0, 0)
    stats = loop.run_until_complete(main())
    assert (stats.workers.threads, stats.workers.active, stats.workers.queued) == (2, 2, 0)
    assert (stats.io_threads.threads, stats.io_threads.active, stats.io_threads.queued) == (1, 1, 0)
    loop.run_until_complete(loop.shutdown_default_executor())


def test_the_ring(loop: Loop) -> None:
    ring = loop.stats().ring
    if loop.backend_info().name != "io_uring":
        assert ring is None
        return
    assert ring is not None
    assert ring.submission_entries >= 64
    assert (ring.in_kernel, ring.overflows, ring.starved, ring.rebuilds) == (0, 0, 0, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="readiness comes by more packets there")
async def test_packets_of_a_reader() -> None:
    """Each packet of a watched descriptor is one call of its callback."""
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    calls = 0

    def read() -> None:
        nonlocal calls
        calls += 1
        left.recv(1)

    with left, right:
        left.setblocking(False)
        loop.add_reader(left, read)
        before = loop.stats()  # type: ignore[attr-defined]
        for count in range(1, 21):
            right.send(b"x")
            async with asyncio.timeout(BOUND):
                while calls < count:
                    await asyncio.sleep(0.001)
        stats = loop.stats()  # type: ignore[attr-defined]
        loop.remove_reader(left)
    assert stats.packets - before.packets == calls == 20


async def test_the_age_of_an_operation() -> None:
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        before = time.monotonic()
        receiver = asyncio.create_task(loop.sock_recv(left, 1))
        await asyncio.sleep(0.001)
        began = time.monotonic()
        await asyncio.sleep(0.05)
        least = time.monotonic() - began
        op = loop.stats().ops["recv"]  # type: ignore[attr-defined]
        most = time.monotonic() - before
        assert op.count == 1
        assert least <= op.oldest <= most
        right.send(b"x")
        assert await receiver == b"x"


async def test_calls_that_wait_for_an_io_thread() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, proactorx.EventLoop)
    inside, go_on = threading.Event(), threading.Event()

    def block() -> None:
        inside.set()
        go_on.wait(BOUND)

    loop.io_pool.min_threads = loop.io_pool.max_threads = 1
    calls = [loop.io_pool.call(loop, block)]
    assert inside.wait(BOUND)
    before = time.monotonic()
    calls += [loop.io_pool.call(loop, int) for _ in range(3)]
    began = time.monotonic()
    await asyncio.sleep(0.03)
    least = time.monotonic() - began
    threads = loop.stats().io_threads
    most = time.monotonic() - before
    go_on.set()
    await asyncio.gather(*calls)
    assert (threads.threads, threads.active, threads.queued) == (1, 1, 3)
    assert threads.oldest_wait is not None
    assert least <= threads.oldest_wait <= most
    assert loop.stats().io_threads.queued == 0


@pytest.mark.skipif(FREE_THREADED, reason="there is no GIL")
@pytest.mark.skipif(sys.platform == "win32", reason="needs a function of C that sleeps")
def test_waits_for_the_gil(loop: Loop) -> None:
    """Another thread keeps it for a known time, within which the loop's sleep ends.

    On a busy machine the loop may go to sleep later than that: then once more.
    """
    if loop.backend_info().name == "select":
        pytest.skip("it does not tell when its sleep has ended")
    held: list[tuple[float, float]] = []

    def hold() -> None:
        time.sleep(0.02)
        before = time.monotonic()
        ctypes.PyDLL(None).usleep(100_000)
        held.append((before, time.monotonic()))

    async def main() -> None:
        thread.start()
        await asyncio.sleep(0.05)  # the other one begins to hold it within
        while thread.is_alive():
            await asyncio.sleep(0.001)

    for _ in range(5):
        thread = threading.Thread(target=hold)
        loop.run_until_complete(main())
        waits = loop.stats().gil_wait
        if waits.longest > 0.03:
            break
    before, after = held[-1]
    assert 0.03 < waits.longest < after - before + 1
    assert waits.longest <= waits.total
    assert waits.count >= 1


def test_a_ring_of_two_threads(loop: Loop) -> None:
    """... which is made anew for a run in another thread."""
    if loop.backend_info().name != "io_uring":
        pytest.skip("has no ring")

    async def main() -> int:
        async with await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            await asyncio.sleep(0.01)
            ring = loop.stats().ring
            assert ring is not None
            writer.close()
            await writer.wait_closed()
            return ring.rebuilds

    assert loop.run_until_complete(main()) == 0
    assert in_thread(lambda: loop.run_until_complete(main())) == 1
    assert loop.run_until_complete(main()) == 2


def test_a_turn_costs_no_call_of_python(loop: Loop) -> None:
    """Whatever is measured per turn is measured by compiled code."""
    calls: list[str] = []

    def trace(frame: Any, event: str, _arg: object) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)

    def begin() -> None:
        sys.setprofile(trace)
        loop.call_soon(int)
        loop.call_later(0.001, int)
        loop.call_later(0.002, end)

    def end() -> None:
        sys.setprofile(None)
        loop.stop()

    loop.call_soon(begin)
    loop.run_forever()
    ours = [name for name in calls if name not in ("end", "_before_sleep", "_acquire_signals")]
    if loop.backend_info().name == "select":
        return  # its waits are written in Python
    assert [name for name in ours if "stat" in name or "meter" in name] == []


def test_looking_at_loops_that_are_being_closed() -> None:
    """Readers of many threads meet connections that come and go."""

    async def main() -> None:
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            for _ in range(100):
                _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
                writer.close()

    def look() -> None:
        while not over.is_set():
            for loop in proactorx.loops():
                stats = loop.stats()
                assert stats.idle <= stats.running + 1e-3

    over = threading.Event()
    threads = [Thread(look), Thread(look)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            proactorx.run(main())
            gc.collect()
    finally:
        over.set()
    for thread in threads:
        thread.finish()


class TestHistogram:
    def test_of_nothing(self) -> None:
        empty = Histogram((0,) * 27, 0.0, 0.0)
        assert (empty.count, empty.mean, empty.quantile(0.5), empty.quantile(1)) == (0, 0, 0, 0)

    def test_quantiles(self) -> None:
        counts = [0] * 27
        counts[1], counts[10] = 90, 10  # 1 to 2 us; 512 to 1024 us
        times = Histogram(tuple(counts), 0.01, 0.0007)
        assert times.count == 100
        assert times.quantile(0.5) == times.quantile(0.9) == BOUNDS[1] == 2e-6
        assert times.quantile(0.95) == times.quantile(1) == 0.0007  # never more than the longest
        assert times.mean == pytest.approx(1e-4)
        with pytest.raises(ValueError, match="between 0 and 1"):
            times.quantile(1.5)

    def test_bounds_double(self) -> None:
        assert BOUNDS[0] == 1e-6
        assert all(wider == pytest.approx(2 * bound) for bound, wider in itertools.pairwise(BOUNDS))
        assert len(BOUNDS) == 26

    def test_since(self) -> None:
        early = Histogram((1,) * 27, 1.0, 0.5)
        late = Histogram((1,) * 26 + (3,), 3.5, 2.0)
        assert late.since(early) == Histogram((0,) * 26 + (2,), 2.5, 2.0)
