"""The tools of this folder: a meter that measured nothing would let every test pass."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from outside.support import (
    Child,
    Inside,
    Peer,
    cpu_time,
    descriptors,
    dial,
    listening,
    pair,
    state_of,
    threads,
)

SERVER = """
async def main():
    async def serve(reader, writer):
        writer.write(await reader.read(100))
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    def command(value):
        if value == "spin":
            end = time.process_time() + 0.2
            while time.process_time() < end:
                pass
        say(value, type(asyncio.get_running_loop()).__module__)
    told(command)
    say(server.sockets[0].getsockname())
    await forever()
run(main())
"""


def test_a_child_is_a_peer_and_can_be_measured(child: Callable[..., Child], word: str) -> None:
    program = child(SERVER)
    with dial(program.hear()) as peer:
        peer.send(b"hello")
        assert peer.take_all() == b"hello"
    value, module = program.ask("idle")
    assert value == "idle"
    assert ("asyncio" if word == "asyncio" else "proactorx") in module
    before = program.cpu_time()
    time.sleep(0.3)
    assert program.cpu_time() - before < 0.1
    assert state_of(program.pid) == "S"
    program.ask("spin")
    assert program.cpu_time() - before > 0.15
    assert any("socket" in name for name in descriptors(program.pid).values())
    assert len(threads(program.pid)) >= 2
    assert program.complaints == ""


def test_the_loop_inside_and_the_peer_outside(inside: Inside) -> None:
    ours, other = pair("tcp")
    with Peer(other) as peer:

        async def talk() -> bytes:
            reader, writer = await asyncio.open_connection(sock=ours)
            writer.write(await reader.read(100))
            writer.close()
            await writer.wait_closed()
            return b"done"

        talking = inside.start(talk())
        assert peer.silent(0.05)
        peer.send(b"hello")
        assert peer.take(5) == b"hello"
        assert peer.told() == "FIN"
        assert talking.result(10) == b"done"


def test_the_meters_of_this_process() -> None:
    before, files = cpu_time(), descriptors()
    with listening():
        assert len(descriptors()) == len(files) + 1
    while time.process_time() < before + 0.05:
        pass
    assert cpu_time() >= before + 0.05
    assert abs(cpu_time(os.getpid()) - cpu_time()) < 0.05
