"""Much ordinary work on several watched loops: nothing of it is a stall.

An hour of a service that turns a hundred times a second, at the speed of this machine.
"""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from loop.helpers import BOUND, Thread

from observe.planted import ALSO, Loop, busy
from proactorx import files
from proactorx.observe.stall import CPU, GIL, UNKNOWN, Stall

pytestmark = pytest.mark.ours

HOUR = 360_000  # turns
AFTER = 2.0  # on a machine with other work a turn did take 0.5 s


async def streams() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for size in (1, 1000, 200_000, 1):
            writer.write(bytes(size))
            await reader.readexactly(size)
        writer.close()
        await writer.wait_closed()


async def datagrams() -> None:
    class Echo(asyncio.DatagramProtocol):
        def __init__(self) -> None:
            self.got = asyncio.Event()

        def datagram_received(self, data: bytes, addr: object) -> None:
            self.got.set()

    loop = asyncio.get_running_loop()
    receiver, protocol = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    sender, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=receiver.get_extra_info("sockname")
    )
    sender.sendto(b"x" * 500)
    await protocol.got.wait()
    sender.close()
    receiver.close()


async def threads() -> None:
    loop = asyncio.get_running_loop()
    await asyncio.gather(*[asyncio.to_thread(time.sleep, 0.001) for _ in range(4)])
    await loop.getaddrinfo("127.0.0.1", 80)


async def timers() -> None:
    loop = asyncio.get_running_loop()
    for handle in [loop.call_later(random.random(), int) for _ in range(100)]:
        handle.cancel()
    await asyncio.gather(*[asyncio.sleep(random.random() / 100) for _ in range(50)])


async def queues() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(2)

    async def put() -> None:
        for number in range(50):
            await queue.put(number)

    task = asyncio.create_task(put())
    for _ in range(50):
        await queue.get()
    await task


async def work() -> None:
    """What a program computes in a turn: some milliseconds, in Python and in C."""
    sum(range(100_000))
    sorted(random.random() for _ in range(10_000))
    gc.collect()
    await asyncio.sleep(0)


async def turns() -> None:
    for _ in range(2000):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    "amount", [pytest.param(HOUR // 10, id="six minutes"), pytest.param(HOUR, marks=pytest.mark.exhaustive)]
)
def test_no_false_alarm(loop_factory: Callable[[], Loop], tmp_path: Path, amount: int) -> None:
    stalls: list[Stall] = []
    done: list[int] = []

    async def file() -> None:
        path = tmp_path / threading.current_thread().name
        async with files.open(path, "wb") as handle:
            await handle.write(bytes(100_000))
        async with files.open(path, "rb") as handle:
            assert len(await handle.read()) == 100_000

    kinds: tuple[Callable[[], Awaitable[None]], ...]
    kinds = (streams, datagrams, threads, timers, queues, work, turns, file)

    async def main(loop: Loop) -> None:
        while loop.stats().turns < amount // 3:
            await asyncio.wait_for(asyncio.gather(*[kind() for kind in kinds]), BOUND)
            await asyncio.sleep(0.005)

    def run() -> None:
        loop = loop_factory()
        loop.watch(AFTER, report=stalls.append)
        try:
            loop.run_until_complete(main(loop))
            done.append(loop.stats().turns)
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    def compute() -> None:
        """A thread that computes beside the loops, in Python."""
        while not over.is_set():
            sum(range(1000))
            time.sleep(0.0001)

    over = threading.Event()
    beside = Thread(compute)
    loops = [Thread(run) for _ in range(3)]
    for thread in (beside, *loops):
        thread.start()
    try:
        for thread in loops:
            thread.join()
    finally:
        over.set()
    for thread in (beside, *loops):
        thread.finish()
    assert sum(done) >= amount // 3 * 3
    # Where others have all processors, whoever has the GIL may be without one for that long, and is named.
    known = ALSO | ({CPU, GIL, UNKNOWN} if busy() else set())
    assert [str(stall) for stall in stalls if stall.kind not in known] == []
