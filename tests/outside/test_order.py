"""The order in which a program is told what happened, where it can rely on stock asyncio's."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from .support import Peer, dial, listening, pair, tcp_pair

LIMIT = 10.0


async def settle() -> None:
    for _ in range(4):
        await asyncio.sleep(0.003)


class Teller(asyncio.Protocol):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.owner: Any = None
        self.owners: list[Any] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.told.append(data.decode())
        self.owners.append(self.owner)

    def eof_received(self) -> None:
        self.told.append("end")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.told.append(type(exc).__name__ if exc else "lost")


@pytest.mark.parametrize("way", ["given", "accepted", "connected"])
async def test_who_connects_has_the_protocol_before_its_data_comes(way: str) -> None:
    """The data lies there already; what the caller does first with the protocol is done before it is told of
    any.
    """
    loop = asyncio.get_running_loop()

    async def connect() -> Teller:
        if way == "connected":
            _, teller = await loop.create_connection(Teller, *listener.getsockname())
        elif way == "given":
            _, teller = await loop.create_connection(Teller, sock=sock)
        else:
            _, teller = await loop.connect_accepted_socket(Teller, sock)
        teller.told.append("connected")
        teller.owner = "caller"
        return teller

    with listening() as listener:
        listener.settimeout(LIMIT)
        making = asyncio.create_task(connect()) if way == "connected" else None
        if making is None:
            peer = dial(listener.getsockname(), LIMIT)
            sock, _ = listener.accept()
        else:
            peer = Peer((await asyncio.to_thread(listener.accept))[0], LIMIT)
        peer.send(b"data")
        peer.finish()
        teller = await (making or connect())
        with peer:
            async with asyncio.timeout(LIMIT):
                while "lost" not in teller.told:
                    await asyncio.sleep(0.001)
    assert teller.told == ["made", "connected", "data", "end", "lost"]
    assert teller.owners == ["caller"]


async def test_a_reset_while_reading_is_paused_is_told_when_it_is_resumed() -> None:
    ours, other = tcp_pair()
    ours.setblocking(False)
    transport, teller = await asyncio.get_running_loop().create_connection(Teller, sock=ours)
    await settle()
    transport.pause_reading()
    await settle()
    Peer(other).reset()
    await settle()
    assert teller.told == ["made"]
    transport.resume_reading()
    async with asyncio.timeout(LIMIT):
        while len(teller.told) == 1:
            await asyncio.sleep(0.001)
    assert teller.told == ["made", "ConnectionResetError"]


@pytest.mark.parametrize("way", ["sock_recv", "sock_recv_into"])
async def test_a_receive_of_nothing_is_done_at_once(way: str) -> None:
    loop = asyncio.get_running_loop()
    ours, other = pair("tcp")
    with ours, other:
        async with asyncio.timeout(LIMIT):
            if way == "sock_recv":
                assert await loop.sock_recv(ours, 0) == b""
            else:
                assert await loop.sock_recv_into(ours, bytearray()) == 0
        other.send(b"x")
        assert await loop.sock_recv(ours, 10) == b"x"


@pytest.mark.parametrize("way", ["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_accept"])
async def test_what_is_there_already_is_taken_at_once(way: str) -> None:
    """A program may poll with a time-out of nothing."""
    loop = asyncio.get_running_loop()
    if way == "sock_accept":
        with listening() as sock, socket.create_connection(sock.getsockname()):
            async with asyncio.timeout(0):
                accepted, _ = await loop.sock_accept(sock)
            accepted.close()
            return
    ours, other = pair("tcp")
    with ours, other:
        other.send(b"x")
        async with asyncio.timeout(0):
            result = await getattr(loop, way)(ours, bytearray(5) if way == "sock_recv_into" else 5)
        assert result in (b"x", 1, (b"x", None))
