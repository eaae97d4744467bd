"""nest_asyncio, which replaces a loop's turn by one of its own: it is refused, and every loop goes on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.programs, pytest.mark.ours]

CODE = """
import asyncio, json, sys
import proactorx
import nest_asyncio

backend = sys.argv[1]
said = []

def apply(*args):
    try:
        nest_asyncio.apply(*args)
    except ValueError as exc:
        said.append(str(exc))

async def talk():
    apply()
    async def serve(reader, writer):
        writer.write(await reader.readexactly(4))
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"ping")
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
        return answer.decode()

def factory():
    return proactorx.new_event_loop(backend)

loop = factory()
apply(loop)
answers = [loop.run_until_complete(talk())]
loop.close()
with asyncio.Runner(loop_factory=factory) as runner:
    answers.append(runner.run(talk()))
    patched = hasattr(runner.get_loop(), "_nest_patched")
print(json.dumps([answers, said, patched]))
"""


def test_it_is_refused(driver_name: str) -> None:
    pytest.importorskip("nest_asyncio")
    done = subprocess.run(
        [sys.executable, "-c", CODE, driver_name], stdout=subprocess.PIPE, timeout=40, check=True
    )
    answers, said, patched = json.loads(done.stdout)
    assert answers == ["ping", "ping"]
    assert len(said) == 3
    assert all("Can't patch loop of type <class 'proactorx." in line for line in said)
    assert patched is False
