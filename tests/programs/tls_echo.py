"""An echo server with ``ssl=``, for the tests: echoes lines, and ends the connection on "bye"."""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

from common import parser, serve

import proactorx


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while (line := await reader.readline()) not in (b"", b"bye\n"):
            writer.write(line)
            await writer.drain()
    finally:
        writer.close()


async def main(host: str, port: int, context: ssl.SSLContext) -> None:
    await serve(await asyncio.start_server(echo, host, port, ssl=context, limit=1 << 20))


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--cert", required=True)
    arguments.add_argument("--key", required=True)
    args = arguments.parse_args()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(args.cert, args.key)
    proactorx.run(main(args.host, args.port, context), backend=args.backend)
