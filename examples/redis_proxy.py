"""A TCP proxy in front of a redis server (or of anything else that speaks over a stream).

Run it, and talk to it:

    python examples/redis_proxy.py --upstream /run/redis/redis.sock   (or host:port; default 127.0.0.1:6379)
    redis-cli -p 8888 PING
"""

import argparse
import asyncio

from common import parser, serve

import proactorx


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 * 1024):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def proxy(upstream: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writers = [writer]
    try:
        host, colon, port = upstream.rpartition(":")
        connecting = (
            asyncio.open_connection(host, int(port)) if colon else asyncio.open_unix_connection(upstream)
        )
        from_upstream, to_upstream = await connecting
        writers.append(to_upstream)
        async with asyncio.TaskGroup() as pumps:  # ends when both directions have ended or one fails
            pumps.create_task(pump(reader, to_upstream))
            pumps.create_task(pump(from_upstream, writer))
    except* OSError as failed:
        print("a connection failed:", *failed.exceptions, flush=True)
    finally:
        for writer in writers:
            writer.close()


async def main(args: argparse.Namespace) -> None:
    # asyncio holds tasks only weakly
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy(args.upstream, reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await serve(await asyncio.start_server(connected, args.host, args.port))


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument(
        "--upstream", default="127.0.0.1:6379", help="host:port, or the path of a Unix socket"
    )
    args = arguments.parse_args()
    proactorx.run(main(args), backend=args.backend)
