"""A service with a fault behind each of its commands: see docs, "A service in trouble".

    python -m proactorx run --top --watchdog 100ms examples/troubled_service.py

It takes lines: ``hello``, ``lookup HOST``, ``check TEXT``, ``report``, ``subscribe`` and ``transfer AMOUNT``.
"""

import asyncio
import re
import socket
import threading

import common

import proactorx

WORDS = re.compile(r"(\w+ ?)+;")
FEED = b"something has happened\n" * 10_000


class Service:
    def __init__(self, name_server: tuple[str, int]) -> None:
        self.name_server = name_server
        self.balance = 100
        self.account = asyncio.Lock()

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            command, _, argument = line.decode().strip().partition(" ")
            task = asyncio.current_task()
            assert task is not None
            task.set_name(command)
            if command == "subscribe":
                await self.subscribe(writer)
            else:
                writer.write(f"{await self.answer(command, argument)}\n".encode())
        writer.close()

    async def answer(self, command: str, argument: str) -> str:
        if command == "lookup":
            return await self.lookup(argument)
        if command == "check":
            return "good" if WORDS.fullmatch(argument) else "bad"  # the time doubles with each letter
        if command == "report":
            threading.Thread(target=add_up, name="report").start()
            return "begun"
        if command == "transfer":
            return await self.transfer(int(argument))
        return "hello"

    async def lookup(self, host: str) -> str:
        return resolve(self.name_server, host)  # as a library does that knows nothing of asyncio

    async def subscribe(self, writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(FEED)  # without drain(), and the client may not read
            await asyncio.sleep(0.01)

    async def transfer(self, amount: int) -> str:
        await self.account.acquire()
        if amount > self.balance:
            return "refused"  # and the account stays locked
        self.balance -= amount
        self.account.release()
        return "done"


def resolve(server: tuple[str, int], host: str) -> str:
    """Ask a name server for an address, and wait for the answer."""
    labels = b"".join(bytes([len(label)]) + label for label in host.encode().split(b"."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.sendto(b"\0\1\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1", server)
        try:
            return str(sock.recvfrom(512)[0][-4:])
        except TimeoutError:
            return "unknown"


def add_up() -> None:
    for _ in range(3):
        sum(range(10_000_000))  # one call in C: it keeps the GIL


async def main() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as name_server:  # one that does not answer
        name_server.bind(("127.0.0.1", 0))
        service = Service(name_server.getsockname())
        await common.serve(await asyncio.start_server(service.client, args.host, args.port))


if __name__ == "__main__":
    args = common.parser(__doc__).parse_args()
    proactorx.run(main(), backend=args.backend)
