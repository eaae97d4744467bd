"""An echo server on asyncio.BufferedProtocol: the loop receives into the protocol's own buffer.

Run it, and talk to it:

    python examples/echo_buffered.py
    nc 127.0.0.1 8888            (what you type comes back; Ctrl-D ends it)

There is one buffer per client. With a write limit of 0 the transport calls pause_writing as soon as it queues
anything, so that nothing is received over bytes that have not been sent.
"""

import argparse
import asyncio
from typing import cast

from common import parser, serve

import proactorx


class BufferedEcho(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(64 * 1024))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(0)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.transport.write(self.buffer[:nbytes])

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


async def main(args: argparse.Namespace) -> None:
    server = await asyncio.get_running_loop().create_server(BufferedEcho, args.host, args.port)
    await serve(server)


if __name__ == "__main__":
    args = parser(__doc__).parse_args()
    proactorx.run(main(args), backend=args.backend)
