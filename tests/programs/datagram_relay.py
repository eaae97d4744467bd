"""Passes datagrams between clients and one server: an endpoint for all clients,
and one to the server for each.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from common import announce, parser, stop_signal

import proactorx


class Upstream(asyncio.DatagramProtocol):
    """What the server says goes to one client."""

    def __init__(self, relay: Relay, client: Any) -> None:
        self.relay = relay
        self.client = client

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.relay.transport.sendto(data, self.client)


class Relay(asyncio.DatagramProtocol):
    """What a client says goes to the server, in order, from a port of its own."""

    transport: asyncio.DatagramTransport

    def __init__(self, server: tuple[str, int]) -> None:
        self.server = server
        self.clients: dict[Any, asyncio.Task[asyncio.DatagramTransport]] = {}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if addr not in self.clients:
            self.clients[addr] = asyncio.create_task(self.dial(addr))
        self.clients[addr].add_done_callback(lambda task: task.result().sendto(data))

    async def dial(self, client: Any) -> asyncio.DatagramTransport:
        loop = asyncio.get_running_loop()
        made = await loop.create_datagram_endpoint(lambda: Upstream(self, client), remote_addr=self.server)
        return made[0]


async def main(args: argparse.Namespace) -> None:
    stop = stop_signal()
    host, port = args.upstream.rsplit(":", 1)
    transport, relay = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Relay((host, int(port))), local_addr=(args.host, args.port)
    )
    announce(transport.get_extra_info("sockname"))
    await stop.wait()
    for task in relay.clients.values():
        (await task).close()
    transport.close()
    await asyncio.sleep(0)  # connection_lost


if __name__ == "__main__":
    command = parser(__doc__)
    command.add_argument("--upstream", required=True, help="HOST:PORT")
    args = command.parse_args()
    with asyncio.Runner(loop_factory=functools.partial(proactorx.new_event_loop, args.backend)) as runner:
        runner.run(main(args))
