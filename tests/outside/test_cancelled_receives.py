"""Several receives on one socket, some of them cancelled at any moment: the bytes come in order,
each of them once.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from .support import Peer, Thread, pair

COUNT = 20_000


def _calls(loop: asyncio.AbstractEventLoop, sock: Any, way: str, out: bytearray) -> Callable[[int], Any]:
    async def receive(count: int) -> None:
        if way == "sock_recv":
            out.extend(await loop.sock_recv(sock, count))
        elif way == "sock_recvfrom":
            out.extend((await loop.sock_recvfrom(sock, count))[0])
        else:
            buffer = bytearray(count)
            out.extend(buffer[: await loop.sock_recv_into(sock, buffer)])

    return receive


@pytest.mark.ours
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("way", ["sock_recv", "sock_recv_into", "sock_recvfrom", "mixed"])
async def test_the_whole_stream_arrives_whoever_is_cancelled(way: str, kind: str, seed: int) -> None:
    """Stock asyncio forgets all receives but the last, and what a cancelled one had received."""
    loop = asyncio.get_running_loop()
    dice = random.Random(seed)
    data, out = dice.randbytes(COUNT), bytearray()
    ours, other = pair(kind)
    ways = ["sock_recv", "sock_recv_into", "sock_recvfrom"] if way == "mixed" else [way]
    with Peer(other) as peer, ours:
        sending = Thread(_send, peer, data, random.Random(seed))
        waiting: list[asyncio.Task[None]] = []
        async with asyncio.timeout(30):
            while len(out) < COUNT:
                for _ in range(dice.randrange(4)):
                    receive = _calls(loop, ours, dice.choice(ways), out)
                    waiting.append(asyncio.create_task(receive(dice.randrange(1, 400))))
                for _ in range(dice.randrange(3)):
                    await asyncio.sleep(0 if dice.random() < 0.8 else 0.0005)
                for task in waiting:
                    if dice.random() < 0.3:
                        task.cancel()
                for task in [task for task in waiting if task.done()]:
                    waiting.remove(task)
                    if not task.cancelled():
                        task.result()
                if not waiting:
                    await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.to_thread(sending.finish)
    assert len(out) == COUNT
    assert bytes(out) == data


def _send(peer: Peer, data: bytes, dice: random.Random) -> None:
    """In pieces, some together and some with a pause between."""
    start = 0
    while start < len(data):
        size = dice.randrange(1, 600)
        peer.send(data[start : start + size])
        start += size
        if dice.random() < 0.1:
            os.sched_yield()


@pytest.mark.ours
@pytest.mark.parametrize("cancelled", range(4))
@pytest.mark.parametrize("when", ["before", "with", "after"])
async def test_a_cancel_in_the_turn_of_the_data_changes_no_order(when: str, cancelled: int) -> None:
    """Four receives of a byte each, one of them cancelled just then (stock asyncio: as above)."""
    loop = asyncio.get_running_loop()
    for turns in range(6):
        ours, other = pair("tcp")
        out = bytearray()
        with Peer(other) as peer, ours:
            receive = _calls(loop, ours, "sock_recv", out)
            tasks = [asyncio.create_task(receive(1)) for _ in range(4)]
            await asyncio.sleep(0.002)
            if when == "before":
                tasks[cancelled].cancel()
            peer.send(b"0123")
            for _ in range(turns):
                await asyncio.sleep(0)
            if when == "with":
                tasks[cancelled].cancel()
            async with asyncio.timeout(10):
                while len(out) < 3:
                    await asyncio.sleep(0)
            if when == "after":
                tasks[cancelled].cancel()
            await asyncio.wait(tasks, timeout=10)
            async with asyncio.timeout(10):
                while len(out) < 4:
                    await receive(1)
        assert out == b"0123"


async def test_receives_that_time_out_lose_nothing() -> None:
    """What is usual, one at a time; each ends before the next begins,
    and none has received when it is cancelled.
    """
    loop = asyncio.get_running_loop()
    data, out = os.urandom(3000), bytearray()
    ours, other = pair("tcp")
    with Peer(other) as peer, ours:
        for start in range(0, len(data), 100):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(ours, 100), 0.001)
            peer.send(data[start : start + 100])
            while len(out) < start + 100:
                out += await asyncio.wait_for(loop.sock_recv(ours, 100), 10)
    assert bytes(out) == data
