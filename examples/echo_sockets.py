"""An echo server on plain sockets: loop.sock_accept, loop.sock_recv and loop.sock_sendall.

Run it, and talk to it:

    python examples/echo_sockets.py
    nc 127.0.0.1 8888            (what you type comes back; Ctrl-D ends it)
"""

import argparse
import asyncio
import functools
import socket

from common import announce, listen, parser, stop_signal

import proactorx


async def echo(client: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with client:
        try:
            while data := await loop.sock_recv(client, 64 * 1024):
                await loop.sock_sendall(client, data)
        except ConnectionError:
            pass  # the client reset the connection


async def accept(listener: socket.socket, clients: set[asyncio.Task[None]]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        client, _ = await loop.sock_accept(listener)
        task = loop.create_task(echo(client))
        clients.add(task)  # the loop holds tasks only weakly
        task.add_done_callback(clients.discard)


async def main(args: argparse.Namespace) -> None:
    stop = stop_signal()
    clients: set[asyncio.Task[None]] = set()
    with listen(args) as listener:
        listener.setblocking(False)
        accepting = asyncio.create_task(accept(listener, clients))
        announce(listener.getsockname())
        await stop.wait()
        tasks = [accepting, *clients]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    args = parser(__doc__).parse_args()
    with asyncio.Runner(loop_factory=functools.partial(proactorx.new_event_loop, args.backend)) as runner:
        runner.run(main(args))
