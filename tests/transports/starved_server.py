"""A server that runs out of descriptors, run by test_listener.py in a process of its own.

    python starved_server.py BACKEND

Prints one JSON object of what happened."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import sys
import time
from typing import Any

CLIENTS = 8
LIMIT = 15.0


def new_loop(backend: str) -> asyncio.AbstractEventLoop:
    if backend == "asyncio":
        return asyncio.SelectorEventLoop()
    import proactorx

    return proactorx.new_event_loop(backend)


class Echo(asyncio.Protocol):
    transport: Any

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def take_all() -> list[int]:
    """Every descriptor that this process may still have."""
    taken = []
    while True:
        try:
            taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            return taken


async def ask(client: socket.socket, word: bytes) -> bool:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, word)
    return await asyncio.wait_for(loop.sock_recv(client, 100), LIMIT) == word


async def main() -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    reports: list[dict[str, Any]] = []
    starved = asyncio.Event()

    def report(_loop: Any, context: dict[str, Any]) -> None:
        reports.append(context)
        starved.set()

    loop.set_exception_handler(report)
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()

    old = socket.create_connection(address)
    old.setblocking(False)
    result: dict[str, Any] = {"before": await ask(old, b"before")}

    clients = [socket.socket() for _ in range(CLIENTS)]
    taken = take_all()
    for client in clients:
        client.setblocking(False)
        client.connect_ex(address)
    await asyncio.wait_for(starved.wait(), LIMIT)

    began = time.process_time()
    result["while starved"] = await ask(old, b"while")
    await asyncio.sleep(0.3)
    result["cpu while starved"] = time.process_time() - began
    result["serving while starved"] = server.is_serving()
    result["reports"] = len(reports)
    result["errno"] = [getattr(context.get("exception"), "errno", None) for context in reports]

    for fd in taken:
        os.close(fd)
    answers = await asyncio.gather(*(ask(client, b"word %d" % i) for i, client in enumerate(clients)))
    result["after"] = all(answers)
    result["old after"] = await ask(old, b"after")
    server.close()
    for client in [old, *clients]:
        client.close()
    await asyncio.sleep(0.05)
    return result


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    running = new_loop(sys.argv[1])
    try:
        print(json.dumps(running.run_until_complete(main())))
    finally:
        running.close()
