"""Hundreds of rounds of what servers go through, in one process;
prints what the process holds after each batch.

    python tests/programs/soak.py --backend epoll --batches 4 --rounds 60

Each line is a JSON object: fds, threads, rss (bytes), objects (those the garbage collector knows).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import functools
import gc
import json
import os
import resource
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import proactorx

#: glibc's: freed blocks that it keeps for later are no leak;
#: how many they are depends on what ran side by side.
TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None)


def holdings() -> dict[str, int]:
    gc.collect()
    if TRIM is not None:
        TRIM(ctypes.c_size_t(0))
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "fds": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "rss": pages * resource.getpagesize(),
        "objects": len(gc.get_objects()),
    }


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


async def drain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def echo_and_close(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    text = b"x" * 20_000
    writer.write(text)
    assert await reader.readexactly(len(text)) == text
    writer.close()
    await writer.wait_closed()


async def abort_in_the_middle(address: tuple[str, int], *, rude: bool) -> None:
    """With much still to be written, and the echo under way."""
    _, writer = await asyncio.open_connection(*address)
    writer.write(b"x" * 300_000)
    if rude:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def cancelled_connects(address: tuple[str, int]) -> None:
    """Cancelled at every stage: not begun, under way, done but not seen."""
    tasks = [asyncio.create_task(asyncio.open_connection(*address)) for _ in range(6)]
    for n in range(3):
        tasks[2 * n].cancel()
        await asyncio.sleep(0)
        tasks[2 * n + 1].cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, tuple):
            result[1].close()
            await result[1].wait_closed()


async def cancelled_reads(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    for _ in range(3):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.001):
                await reader.readexactly(1)
    writer.write(b"y")
    assert await reader.readexactly(1) == b"y"
    writer.close()
    await writer.wait_closed()


async def plain_sockets(address: tuple[str, int]) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, b"hello")
        assert await loop.sock_recv(sock, 100) == b"hello"
        waiting = loop.create_task(loop.sock_recv(sock, 100))
        await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting


async def timers_and_executor() -> None:
    loop = asyncio.get_running_loop()
    for handle in [loop.call_later(3600 + n, print) for n in range(300)]:
        handle.cancel()
    await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(20)))
    ran = await asyncio.gather(*(loop.run_in_executor(None, threading.get_ident) for _ in range(8)))
    assert threading.get_ident() not in ran
    soon = loop.create_future()
    threading.Thread(target=loop.call_soon_threadsafe, args=(soon.set_result, None)).start()
    await soon


async def one_round(n: int) -> None:
    """A server starts, goes through it all and stops: by turns a protocol and streams."""
    loop = asyncio.get_running_loop()
    if n % 2:
        server = await asyncio.start_server(drain, "127.0.0.1", 0)
    else:
        server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    await asyncio.gather(
        *(echo_and_close(address) for _ in range(5)),
        *(abort_in_the_middle(address, rude=rude) for rude in (True, False)),
        cancelled_connects(address),
        cancelled_reads(address),
        plain_sockets(address),
        timers_and_executor(),
    )
    server.close()
    await server.wait_closed()
    with contextlib.suppress(ConnectionRefusedError):
        await asyncio.open_connection(*address)
        raise AssertionError("a closed server answers")


async def batch(rounds: int) -> None:
    for n in range(rounds):
        await one_round(n)


def main(backend: str | None, batches: int, rounds: int) -> None:
    """Half of each batch on one long-lived loop, half on loops that live for a few rounds."""
    factory = functools.partial(proactorx.new_event_loop, backend)
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.get_loop().set_default_executor(ThreadPoolExecutor(2))  # full from the first batch on
        for _ in range(batches):
            runner.run(batch(rounds // 2))
            inner = threading.Thread(target=short_lives, args=(factory, rounds // 2))
            inner.start()
            inner.join()
            print(json.dumps(holdings()), flush=True)


def short_lives(factory: functools.partial[asyncio.AbstractEventLoop], rounds: int) -> None:
    for _ in range(rounds // 3):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(batch(3))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    main(args.backend, args.batches, args.rounds)
