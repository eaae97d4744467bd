"""An echo server for datagrams (UDP): each datagram goes back to its sender.

Run it, and talk to it:

    python examples/echo_datagram.py
    socat - UDP:127.0.0.1:8888    (what you type comes back; Ctrl-D ends it)
"""

import argparse
import asyncio
import functools
from typing import Any

from common import announce, parser, stop_signal

import proactorx


class Echo(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport
    full = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if not self.full:  # dropped if there is no room, as by any router
            self.transport.sendto(data, addr)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False


async def main(args: argparse.Namespace) -> None:
    stop = stop_signal()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=(args.host, args.port))
    announce(transport.get_extra_info("sockname"))
    await stop.wait()
    transport.close()


if __name__ == "__main__":
    args = parser(__doc__).parse_args()
    with asyncio.Runner(loop_factory=functools.partial(proactorx.new_event_loop, args.backend)) as runner:
        runner.run(main(args))
