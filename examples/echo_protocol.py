"""An echo server on asyncio.Protocol: the style with the least code between the socket and yours.

Run it, and talk to it:

    python examples/echo_protocol.py
    nc 127.0.0.1 8888            (what you type comes back; Ctrl-D ends it)
"""

import argparse
import asyncio
from typing import cast

from common import parser, serve

import proactorx


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    # this client does not read its echoes: stop reading from it
    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


async def main(args: argparse.Namespace) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, args.host, args.port)
    await serve(server)


if __name__ == "__main__":
    args = parser(__doc__).parse_args()
    proactorx.run(main(args), backend=args.backend)
