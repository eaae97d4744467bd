"""The process of one loop: ``python -m proactorx.cli.bench.server --loop uvloop``.

It prints a JSON line when it runs. Then it answers each JSON line on its standard input: ``serve`` starts a
server and gives its port, ``run`` makes calls on the loop for some time, ``cpu`` gives the CPU time so far.
As in the demo's server, a thread reads the commands, blocked while the load runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.metadata
import json
import platform
import socket
import ssl
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from proactorx.cli.bench.calls import CALLS, reads
from proactorx.cli.bench.rows import OURS
from proactorx.cli.echo_server import BACKLOG, Echo, settle_malloc
from proactorx.cli.load import plain_congestion_control

CHUNK = 65536
PATIENCE = 60.0  # seconds for what a command asks of the loop


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the standard input ends; report in lines of JSON."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--loop", required=True)
    parser.add_argument("--file", required=True)
    parser.add_argument("--certificate")
    parser.add_argument("--key")
    options = parser.parse_args(argv)
    settle_malloc()
    try:
        loop, what = make_loop(options.loop)
    except Exception as error:  # of whatever loop this is
        _say(error=f"{type(error).__name__}: {error}")
        return 0
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_Server(options).serve(what))
    return 0


def make_loop(name: str) -> tuple[asyncio.AbstractEventLoop, str]:
    """Make the loop of this name, and say what it is."""
    if name in OURS:
        import proactorx

        return proactorx.new_event_loop(name), f"proactorx {proactorx.__version__}, {name}"
    if name == "asyncio":
        loop = asyncio.new_event_loop()
        kind = type(getattr(loop, "_selector", loop)).__name__
        return loop, f"asyncio of Python {platform.python_version()}, {kind}"
    module = importlib.import_module(name)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # a module on the path
        version = "of unknown version"
    return module.new_event_loop(), f"{name} {version}"


class _Server:
    """The servers of one loop, and its calls."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: list[Any] = []  # what is closed at the end
        self._batches = dict(CALLS)

    async def serve(self, what: str) -> None:
        loop = asyncio.get_running_loop()
        self._batches["file-4k"] = await reads(self._options.file, self._options.loop in OURS)
        _say(what=what)
        threading.Thread(target=self._answer, args=(loop,), daemon=True).start()
        await self._stop.wait()
        for one in self._open:
            one.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _answer(self, loop: asyncio.AbstractEventLoop) -> None:
        for line in sys.stdin.buffer:
            command = json.loads(line)
            if command["do"] == "cpu":
                # user and system time of every thread of this process, to the microsecond
                _say(cpu=time.process_time())
                continue
            work = self._listen(command["how"]) if command["do"] == "serve" else self._run(**command)
            try:
                _say(**asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE))
            except Exception as error:  # of whatever loop this is: the row is left out
                _say(failed=f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):  # the loop has already ended
            loop.call_soon_threadsafe(self._stop.set)

    async def _run(self, do: str, row: str, seconds: float) -> dict[str, Any]:
        batch = self._batches[row]
        await batch()
        count = 0
        cpu, start = time.process_time(), time.perf_counter()
        while time.perf_counter() - start < seconds:
            count += await batch()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - start
        return {"count": count, "cpu": cpu, "wall": wall}

    async def _listen(self, how: str) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        sock = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        sock.setblocking(False)
        plain_congestion_control(sock)  # what it accepts inherits it
        port = sock.getsockname()[1]
        if how == "sockets":
            self._open.append(sock)
            self._start(self._accept(loop, sock))
        elif how == "streams":
            self._open.append(await asyncio.start_server(_echo_stream, sock=sock))
        else:
            context = None
            if how == "tls":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self._options.certificate, self._options.key)
            self._open.append(await loop.create_server(Echo, sock=sock, ssl=context))
        return {"port": port}

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, loop: asyncio.AbstractEventLoop, listener: socket.socket) -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as transports do
            self._start(_echo_socket(loop, sock))


async def _echo_socket(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    with sock, contextlib.suppress(ConnectionError):
        while data := await loop.sock_recv(sock, CHUNK):
            await loop.sock_sendall(sock, data)


async def _echo_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.CancelledError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    writer.close()


def _say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main())
