"""An echo server on asyncio streams: one coroutine per client, which reads and writes in turn.

Run it, and talk to it:

    python examples/echo_streams.py
    nc 127.0.0.1 8888            (what you type comes back; Ctrl-D ends it)
"""

import argparse
import asyncio

from common import parser, serve

import proactorx


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(64 * 1024):
            writer.write(data)
            await writer.drain()  # waits while the client does not read
    except (ConnectionError, asyncio.CancelledError):
        pass  # the client reset the connection, or the server stops
    finally:
        writer.close()


async def main(args: argparse.Namespace) -> None:
    await serve(await asyncio.start_server(echo, args.host, args.port))


if __name__ == "__main__":
    args = parser(__doc__).parse_args()
    proactorx.run(main(args), backend=args.backend)
