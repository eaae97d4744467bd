"""Behaviours of datagrams, pipes and processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from typing import Any

from rows import Loop, Recorder, arow, error_of, raised, yes

DATAGRAMS, PIPES, PROCESSES = "datagrams", "pipes", "processes"


class Datagrams(asyncio.DatagramProtocol):
    """Notes what comes."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.seen.append(data)

    def error_received(self, exc: Exception) -> None:
        self.seen.append(exc)


@arow(DATAGRAMS, "an empty datagram is sent")
async def empty(loop: Loop) -> str:
    receiver, protocol = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    where = receiver.get_extra_info("sockname")
    sender, _ = await loop.create_datagram_endpoint(Datagrams, remote_addr=where)
    sender.sendto(b"")
    await asyncio.sleep(0.02)
    sender.close()
    receiver.close()
    await asyncio.sleep(0)
    return yes(protocol.seen == [b""])


@arow(DATAGRAMS, "a port where nobody listens: `error_received` is told")
async def unreachable(loop: Loop) -> str:
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        where = taken.getsockname()
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, remote_addr=where)
    transport.sendto(b"x")
    await asyncio.sleep(0.02)
    transport.close()
    await asyncio.sleep(0)
    return ", ".join(type(one).__name__ for one in protocol.seen) or "nothing"


@arow(DATAGRAMS, "a datagram that is too long")
async def too_long(loop: Loop) -> str:
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, remote_addr=("127.0.0.1", 9))
    found = raised(lambda: transport.sendto(bytes(70_000)), otherwise="")
    await asyncio.sleep(0.02)
    transport.close()
    await asyncio.sleep(0)
    return found or ("`error_received`" if protocol.seen else "ignored")


@arow(DATAGRAMS, "`sendto` to another address than the connected one")
async def other_address(loop: Loop) -> str:
    transport, _ = await loop.create_datagram_endpoint(Datagrams, remote_addr=("127.0.0.1", 9))
    try:
        return raised(lambda: transport.sendto(b"x", ("127.0.0.1", 10)))
    finally:
        transport.close()
        await asyncio.sleep(0)


@arow(DATAGRAMS, "100 datagrams in one turn arrive in order")
async def many(loop: Loop) -> str:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(0.2)
        transport, _ = await loop.create_datagram_endpoint(Datagrams, remote_addr=sock.getsockname())
        for number in range(100):
            transport.sendto(b"%d" % number)
        await asyncio.sleep(0.05)
        found = []
        with contextlib.suppress(TimeoutError):
            while len(found) < 100:
                found.append(int(sock.recv(10)))
        transport.close()
        await asyncio.sleep(0)
    return yes(found == list(range(100)))


@arow(PIPES, "`connect_read_pipe` of a plain file")
async def pipe_of_file(loop: Loop) -> str:
    with tempfile.TemporaryFile() as file:
        return await error_of(loop.connect_read_pipe(asyncio.Protocol, file))


@arow(PIPES, "`connect_read_pipe` of `/dev/null`: the end is told")
async def null(loop: Loop) -> str:
    with open(os.devnull, "rb", buffering=0) as file:  # noqa: ASYNC230
        try:
            transport, protocol = await loop.connect_read_pipe(Recorder, file)
        except (ValueError, OSError) as error:
            return type(error).__name__
        try:
            await asyncio.wait_for(asyncio.shield(protocol.lost), 0.2)
        except TimeoutError:
            return "never"
        finally:
            transport.close()
            await asyncio.sleep(0)
    return "yes"


@arow(PIPES, "a reader that goes: the writing side is told at once")
async def broken(loop: Loop) -> str:
    read, write = os.pipe()
    with open(write, "wb", buffering=0) as file:  # noqa: ASYNC230
        transport, protocol = await loop.connect_write_pipe(Recorder, file)
        os.close(read)
        try:
            await asyncio.wait_for(asyncio.shield(protocol.lost), 0.2)
        except TimeoutError:
            transport.abort()
            await protocol.lost
            return "no"
    return "yes"


@arow(PROCESSES, "a child in a thread that is not the main one")
async def in_thread(loop: Loop) -> str:
    kind = type(loop)

    async def run() -> int:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        return await child.wait()

    def call() -> str:
        with asyncio.Runner(loop_factory=kind) as runner:
            return raised(lambda: runner.run(asyncio.wait_for(run(), 2)), otherwise="yes")

    return await asyncio.to_thread(call)


@arow(PROCESSES, "`preexec_fn=`")
async def preexec(loop: Loop) -> str:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import os; print(os.environ.get('X'), os.getpgid(0) == os.getpid())",
        stdout=-1, preexec_fn=os.setpgrp,
    )  # fmt: skip
    return yes(b"True" in (await child.communicate())[0])


@arow(PROCESSES, "`process_group=`, `umask=`")
async def group(loop: Loop) -> str:
    try:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "", process_group=0, umask=0o77, stdout=-1
        )
    except (TypeError, ValueError) as error:
        return type(error).__name__
    return await error_of(child.wait())


@arow(PROCESSES, "a program that does not exist")
async def no_program(loop: Loop) -> str:
    return await error_of(asyncio.create_subprocess_exec("/no/such/program"))


@arow(PROCESSES, "status of a child that a signal has ended")
async def status(loop: Loop) -> str:
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=-1)
    child.terminate()
    return str(await child.wait())


@arow(PROCESSES, "`wait()` while a grandchild keeps the pipe open")
async def grandchild(loop: Loop) -> str:
    code = "import subprocess; subprocess.Popen(['sleep', '1.5'])"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=-1)
    try:
        await asyncio.wait_for(child.wait(), 1)
    except TimeoutError:
        return "waits for the grandchild"
    finally:
        child._transport.close()  # type: ignore[attr-defined]
    return "ends with the child"
