"""A chat: every line that a client sends goes to all clients, and no client can delay the others.

Run it, and talk to it from two terminals or more:

    python examples/chat.py
    nc 127.0.0.1 8888            (Ctrl-D leaves)

A client that does not read is dropped once 256 KiB are queued for it. Waiting for it would delay the others,
and queueing without a limit would exhaust the memory.
"""

import argparse
import asyncio
import functools
from typing import cast

from common import parser, serve

import proactorx

WAITING_LIMIT = 256 * 1024
LINE_LIMIT = 4 * 1024


class Room:
    def __init__(self) -> None:
        self.clients: set[Client] = set()

    def say(self, line: bytes) -> None:
        for client in tuple(self.clients):  # a copy: dropping a slow client changes the set
            client.transport.write(line)


class Client(asyncio.Protocol):
    def __init__(self, room: Room) -> None:
        self.room = room
        self.unfinished = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(WAITING_LIMIT)
        self.name = "{}:{}".format(*transport.get_extra_info("peername")).encode()
        self.room.clients.add(self)
        self.room.say(b"* %b joined\n" % self.name)

    def data_received(self, data: bytes) -> None:
        *lines, self.unfinished = (self.unfinished + data).split(b"\n")
        for line in lines:
            self.room.say(b"%b: %b\n" % (self.name, line.rstrip(b"\r")))
        if len(self.unfinished) > LINE_LIMIT:
            self.transport.abort()

    def pause_writing(self) -> None:  # this client has too much unread data
        self.room.clients.discard(self)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.room.clients.discard(self)
        self.room.say(b"* %b left\n" % self.name)


async def main(args: argparse.Namespace) -> None:
    room = Room()
    server = await asyncio.get_running_loop().create_server(
        functools.partial(Client, room), args.host, args.port
    )
    await serve(server)


if __name__ == "__main__":
    args = parser(__doc__).parse_args()
    with asyncio.Runner(loop_factory=functools.partial(proactorx.new_event_loop, args.backend)) as runner:
        runner.run(main(args))
