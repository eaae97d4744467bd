"""What a download over aioquic costs: CPU time for each MB, of the server and of the client, by loop.

    python tests/benchmarks/quic.py [--loops io_uring,epoll,asyncio,uvloop] [--rounds 3] [--megabytes 100]

aioquic as it is on PyPI serves so many bytes on one stream, over loopback, to a client in another process on
the same kind of loop.  Rounds alternate between the loops.  Needs aioquic, and the program openssl.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import ssl
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from loop_server import new_loop
from loops import certify

PIECE = 1 << 20


async def serve(paths: list[str], megabytes: int, answer: Connection) -> None:
    """Serve the bytes to each stream; tell the port, and the CPU time once the client has ended."""
    from aioquic.asyncio import serve as listen
    from aioquic.quic.configuration import QuicConfiguration

    tasks = set()

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        for _ in range(megabytes):
            writer.write(bytes(PIECE))
            await writer.drain()
        writer.write_eof()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(send(reader, writer))
        tasks.add(task)

    configuration = QuicConfiguration(is_client=False)
    configuration.load_cert_chain(*paths)
    server: Any = await listen("127.0.0.1", 0, configuration=configuration, stream_handler=connected)
    answer.send(server._transport.get_extra_info("sockname")[1])
    while not answer.poll():
        await asyncio.sleep(0.05)
    answer.send(time.process_time())


async def fetch(port: int, megabytes: int, answer: Connection) -> None:
    """Read the bytes, and tell the CPU time."""
    from aioquic.asyncio import connect
    from aioquic.quic.configuration import QuicConfiguration

    configuration = QuicConfiguration(is_client=True, verify_mode=ssl.CERT_NONE)
    async with connect("127.0.0.1", port, configuration=configuration) as client:
        reader, writer = await client.create_stream()
        writer.write_eof()
        left = megabytes * PIECE
        while data := await reader.read(PIECE):
            left -= len(data)
        if left:
            raise RuntimeError(f"{left} bytes have not come")
    answer.send(time.process_time())


def run(word: str, work: Any, *args: Any) -> None:
    """A process: `work` on the loop called `word`."""
    with asyncio.Runner(loop_factory=lambda: new_loop(word)) as runner:
        runner.run(work(*args))


def sample(word: str, paths: list[str], megabytes: int) -> tuple[float, float]:
    """CPU time for each MB: the server's, the client's, in ms."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    mine, theirs = context.Pipe()
    server = context.Process(target=run, args=(word, serve, paths, megabytes, there))
    server.start()
    client = context.Process(target=run, args=(word, fetch, here.recv(), megabytes, theirs))
    client.start()
    spent = mine.recv()
    here.send(None)
    served = here.recv()
    client.join()
    server.join()
    return served / megabytes * 1e3, spent / megabytes * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loops", default="io_uring,epoll,asyncio,uvloop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=100)
    args = parser.parse_args()
    loops = args.loops.split(",")
    found: dict[str, list[tuple[float, float]]] = {word: [] for word in loops}
    with tempfile.TemporaryDirectory() as folder:
        paths = certify(Path(folder))
        for turn in range(args.rounds):
            for word in loops[turn % len(loops) :] + loops[: turn % len(loops)]:
                found[word].append(sample(word, paths, args.megabytes))
    print(f"{'loop':10} {'server, ms/MB':>14} {'client, ms/MB':>14}")
    for word, rounds in found.items():
        served, spent = map(statistics.median, zip(*rounds, strict=True))
        print(f"{word:10} {served:14.1f} {spent:14.1f}")


if __name__ == "__main__":
    main()
