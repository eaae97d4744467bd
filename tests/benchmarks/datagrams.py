"""What one-way trains of datagrams cost: bytes for each second of CPU time, a table of loops and peers.

    python tests/benchmarks/datagrams.py [--loops io_uring,epoll,asyncio,uvloop] [--rounds 3] [--train 32]
                                         [--size 1200] [--megabytes 40]

A protocol sends a train in each turn, to one peer over loopback.  "plain" peers receive one datagram in each
call; "merging" ones set UDP_GRO, and are nearer to a peer behind a network card that cuts trains: over
loopback the sender pays for its peer's receive path.  The CPU time is the sender's, system and user; rounds
are interleaved.  "arrived" is the share of the bytes that the peer took.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import socket
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

from loop_server import new_loop

PEERS = ("plain", "merging")
SOL_UDP, UDP_GRO = 17, 104


def sink(kind: str, done: Connection) -> None:
    """Take datagrams until none have come for a while, in a process of its own; how many bytes came."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
        if kind == "merging":
            sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        sock.bind(("127.0.0.1", 0))
        done.send(sock.getsockname())
        buffer = bytearray(65536)
        total = 0
        with contextlib.suppress(TimeoutError):
            while True:
                total += sock.recv_into(buffer)
                sock.settimeout(0.5)
        done.send(total)


async def send(address: Any, train: int, size: int, total: int) -> tuple[float, int]:
    """Send about `total` bytes; the CPU time in seconds, and how many they were."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=address)
    payload = bytes(size)
    count = total // (train * size)
    before = time.process_time()
    for _ in range(count):
        for _ in range(train):
            transport.sendto(payload)
        await asyncio.sleep(0)
    used = time.process_time() - before
    transport.close()
    return used, count * train * size


def sender(word: str, address: Any, train: int, size: int, total: int, done: Connection) -> None:
    """One sample, in a process of its own."""
    with asyncio.Runner(loop_factory=lambda: new_loop(word)) as runner:
        done.send(runner.run(send(address, train, size, total)))


def measure(word: str, kind: str, train: int, size: int, total: int) -> tuple[float, float]:
    """MB for each second of the sender's CPU time, and the share that arrived."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    mine, other = context.Pipe()
    taker = context.Process(target=sink, args=(kind, there))
    taker.start()
    address = here.recv()
    giver = context.Process(target=sender, args=(word, address, train, size, total, other))
    giver.start()
    used, sent = mine.recv()
    giver.join()
    arrived = here.recv()
    taker.join()
    return sent / used / 1e6, arrived / sent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", default="io_uring,epoll,asyncio,uvloop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--train", type=int, default=32)
    parser.add_argument("--size", type=int, default=1200)
    parser.add_argument("--megabytes", type=int, default=40)
    args = parser.parse_args()
    loops = args.loops.split(",")
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(args.rounds):
        for kind in PEERS:
            for word in loops:
                one = measure(word, kind, args.train, args.size, args.megabytes * 1_000_000)
                found.setdefault((word, kind), []).append(one)
    print(f"{'loop':10} {'peer':8} {'MB/CPU s':>9} {'arrived':>8}")
    for (word, kind), rounds in found.items():
        rate = statistics.median(rate for rate, _ in rounds)
        share = statistics.median(share for _, share in rounds)
        print(f"{word:10} {kind:8} {rate:9.0f} {share:7.0%}")


if __name__ == "__main__":
    main()
