"""The demo's echo server, a process of its own: ``python -m proactorx.cli.echo_server --loop proactorx``.

It prints one JSON line when it listens. Then it answers each line on its standard input with a JSON line that
holds its CPU time so far, and stops at the end of standard input. A thread does this, blocked in a read while
the load runs, so that the loop does nothing but echo.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

from proactorx.cli.load import plain_congestion_control

BACKLOG = 1024


class Echo(asyncio.Protocol):
    """Sends back what it receives, and stops reading while the client does not read."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the standard input ends; report in lines of JSON."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--loop", choices=("proactorx", "asyncio"), required=True)
    parser.add_argument("--backend")
    options = parser.parse_args(argv)
    settle_malloc()
    try:
        loop, about = _make_loop(options.loop, options.backend)
    except (RuntimeError, ValueError) as error:
        _say(error=str(error), usage=isinstance(error, ValueError))
        return 1
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(_serve(about))
    return 0


def _make_loop(name: str, backend: str | None) -> tuple[asyncio.AbstractEventLoop, dict[str, Any]]:
    if name == "asyncio":
        loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        return loop, {"name": type(getattr(loop, "_selector", loop)).__name__}
    import proactorx

    ours = proactorx.new_event_loop(backend=backend)
    info = ours.backend_info()
    return ours, {"name": info.name, "reason": info.reason, "tier": info.tier, "kernel": info.kernel}


def settle_malloc() -> None:
    """Free one large block, as any process older than a few seconds has done.

    Until then glibc maps and unmaps memory on each read of stock asyncio (its read size is 256 KiB), which
    triples its CPU time per request. The allocator causes this, not the loop,
    so it would bias the comparison in our favour.
    """
    block = bytearray(1 << 20)
    del block


async def _serve(about: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    sock = socket.create_server(("127.0.0.1", 0))
    plain_congestion_control(sock)  # what it accepts inherits it
    async with await loop.create_server(Echo, sock=sock, backlog=BACKLOG):
        _say(port=sock.getsockname()[1], **about)
        threading.Thread(target=_answer, args=(loop, stop), daemon=True).start()
        await stop.wait()


def _answer(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    for _ in sys.stdin.buffer:
        # user and system time of every thread of this process, to the microsecond
        _say(cpu=time.process_time())
    with contextlib.suppress(RuntimeError):  # the loop has already ended
        loop.call_soon_threadsafe(stop.set)


def _say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main())
