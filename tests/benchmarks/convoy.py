"""Requests beside threads that compute: a table of loops and numbers of busy threads.

    python tests/benchmarks/convoy.py [--loops io_uring,epoll,asyncio,uvloop] [--busy 0,1,2] [--seconds 3]
                                      [--rounds 1] [--json FILE]

An echo server of 512 bytes, 8 connections, one request at a time on each; the busy threads count in Python.
The server and its threads share one core and the client has another.  "kept" is the share of the core that
the busy threads have, by their own CPU time: of what they would have alone.  The rounds alternate between the
loops; each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import selectors
import socket
import statistics
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from loop_server import new_loop

CONNECTIONS = 8
MESSAGE = b"x" * 512
KEYS = ("busy", "loop", "rate", "p50", "p99", "kept")


class Echo(asyncio.Protocol):
    """Sends back what it is given."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def pin(core: int) -> None:
    """Stay on one core, where the system has such a thing."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # there is only one
            os.sched_setaffinity(0, {core})


def ask(address: Any, seconds: float, done: Connection) -> None:
    """Ask on all connections for so long; how long each answer took."""
    pin(1)
    selector = selectors.DefaultSelector()
    sent: dict[socket.socket, float] = {}
    for _ in range(CONNECTIONS):
        sock = socket.create_connection(address)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ)
    end = time.monotonic() + seconds
    waits: list[float] = []
    for key in list(selector.get_map().values()):
        sent[key.fileobj] = time.monotonic()  # type: ignore[index]
        key.fileobj.send(MESSAGE)  # type: ignore[union-attr]
    while (now := time.monotonic()) < end:
        for key, _ in selector.select(0.1):
            sock = key.fileobj  # type: ignore[assignment]
            sock.recv(65536)
            now = time.monotonic()
            waits.append(now - sent[sock])
            sent[sock] = now
            sock.send(MESSAGE)
    done.send(waits)


async def serve(busy: int, seconds: float) -> tuple[list[float], float]:
    """The waits, and the share of the process's CPU time that the busy threads had."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    stop = False

    def count() -> None:
        x = 0
        while not stop:
            x += 1

    def used() -> float:
        clocks = [time.pthread_getcpuclockid(thread.ident) for thread in threads if thread.ident]
        return sum(map(time.clock_gettime, clocks))

    threads = [threading.Thread(target=count) for _ in range(busy)]
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    client = context.Process(target=ask, args=(server.sockets[0].getsockname(), seconds, there))
    client.start()
    for thread in threads:
        thread.start()
    before, began = used(), time.monotonic()
    while not here.poll():
        await asyncio.sleep(0.1)
    share = (used() - before) / (time.monotonic() - began)
    stop = True
    for thread in threads:
        await asyncio.to_thread(thread.join)
    waits = here.recv()
    client.join()
    server.close()
    return waits, share


def run(word: str, busy: int, seconds: float, done: Connection) -> None:
    """One cell of the table, in a process of its own."""
    pin(0)
    with asyncio.Runner(loop_factory=lambda: new_loop(word)) as runner:
        done.send(runner.run(serve(busy, seconds)))


def sample(word: str, busy: int, seconds: float) -> tuple[float, ...]:
    """Requests a second, median and 99th percentile of the waits in ms, and what the busy threads kept."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=run, args=(word, busy, seconds, there))
    process.start()
    waits, share = here.recv()
    process.join()
    waits.sort()
    p50, p99 = (waits[int(len(waits) * part)] * 1e3 for part in (0.5, 0.99))
    return len(waits) / seconds, p50, p99, share


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", default="io_uring,epoll,asyncio,uvloop")
    parser.add_argument("--busy", default="0,1,2")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json")
    args = parser.parse_args()
    loops, found = args.loops.split(","), []
    print(f"{'busy':>4} {'loop':10} {'requests/s':>10} {'p50, ms':>8} {'p99, ms':>8} {'kept':>5}")
    for busy in map(int, args.busy.split(",")):
        cells: dict[str, list[tuple[float, ...]]] = {word: [] for word in loops}
        for turn in range(args.rounds):
            for word in loops[turn % len(loops) :] + loops[: turn % len(loops)]:
                cells[word].append(sample(word, busy, args.seconds))
        for word, rounds in cells.items():
            rate, p50, p99, share = map(statistics.median, zip(*rounds, strict=True))
            print(f"{busy:4} {word:10} {rate:10.0f} {p50:8.2f} {p99:8.2f} {share:5.0%}", flush=True)
            found.append(dict(zip(KEYS, (busy, word, rate, p50, p99, share), strict=True)))
    if args.json:
        Path(args.json).write_text("[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n")


if __name__ == "__main__":
    main()
