"""Two ends that do at random what a protocol may do, in its callbacks and outside of them:
the contract holds.

A seed that fails is printed by pytest: it is the test's parameter.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from .certs import Certificates
from .support import LIMIT

PATTERN = bytes(n * 7 % 251 for n in range(251 * 1400))
SIZES = (1, 10, 1000, 5000, 70_000, 300_000)
MOST = 1_500_000


class OnPurpose(Exception):
    """Raised by a callback."""


class End:
    """What one end has done and heard, whatever protocols it had."""

    def __init__(self, seed: str, secure: bool) -> None:
        self.rng = random.Random(seed)
        self.secure = secure
        self.transport: Any = None
        self.lost = asyncio.get_running_loop().create_future()
        self.calls: list[str] = []
        self.wrote = self.got = 0
        self.paused = self.told_to_pause = self.gone = self.half_closed = self.quiet = self.failed = False

    def heard(self, name: str) -> None:
        """A callback: it must be one that may come now."""
        assert "connection_lost" not in self.calls, (name, "after connection_lost")
        assert (name == "connection_made") == (not self.calls), (name, self.calls[-3:])
        self.calls.append(name)

    def took(self, data: bytes | memoryview) -> None:
        self.heard("data")
        assert not self.paused, "data while paused"
        assert not self.gone, "data after close()"
        assert "eof_received" not in self.calls, "data after eof_received"
        start = self.got % 251
        assert data == PATTERN[start : start + len(data)], "wrong bytes"
        self.got += len(data)
        self.act()

    def act(self) -> None:
        """A few things at random, those of a callback."""
        for _ in range(self.rng.choice((0, 1, 1, 2))):
            if self.rng.random() < 0.01 and not self.quiet:
                self.failed = True
                raise OnPurpose
            self.act_once()

    def act_once(self) -> None:
        if self.transport is None or self.lost.done() or self.quiet:
            return
        actions: list[tuple[Callable[[], None], int]] = [
            (self.write, 35),
            (self.pause, 8),
            (self.resume, 20),
            (self.change_protocol, 4),
            (self.change_limits, 4),
            (self.ask, 4),
            (self.end, 3),
        ]
        self.rng.choices([action for action, _ in actions], [weight for _, weight in actions])[0]()

    def write(self) -> None:
        if self.transport.is_closing() or self.half_closed or self.told_to_pause or self.wrote > MOST:
            return
        start, size = self.wrote % 251, self.rng.choice(SIZES)
        data = PATTERN[start : start + size]
        self.wrote += size  # before: the write may call pause_writing()
        if self.rng.random() < 0.3:
            self.transport.writelines([data[: size // 2], bytearray(data[size // 2 :])])
        else:
            self.transport.write(self.rng.choice((bytes, bytearray, memoryview))(data))

    def pause(self) -> None:
        self.transport.pause_reading()
        self.paused = not self.transport.is_closing()

    def resume(self) -> None:
        self.paused = False
        self.transport.resume_reading()

    def change_protocol(self) -> None:
        self.transport.set_protocol(self.protocol())

    def change_limits(self) -> None:
        self.transport.set_write_buffer_limits(high=self.rng.choice((0, 1, 1000, 100_000)))

    def ask(self) -> None:
        repr(self.transport)
        assert self.transport.get_write_buffer_size() >= 0
        assert self.transport.is_reading() in (True, False)
        # A TLS transport lets go of the one underneath before connection_lost(), as on stock asyncio.
        assert self.transport.get_extra_info("socket") is not None or self.secure

    def end(self) -> None:
        how = self.rng.random()
        if how < 0.3 and self.transport.can_write_eof():
            self.half_closed = True
            self.transport.write_eof()
        else:
            self.gone, self.paused = True, False
            self.transport.close() if how < 0.7 else self.transport.abort()

    def protocol(self) -> asyncio.BaseProtocol:
        return self.rng.choice((Plain, Buffered))(self)

    @property
    def untouched(self) -> bool:
        return self.transport is not None and not (
            self.gone or self.failed or self.half_closed or self.lost.done()
        )


class Common(asyncio.BaseProtocol):
    def __init__(self, end: End) -> None:
        self.its = end

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.its.transport = transport
        self.its.heard("connection_made")
        self.its.act()

    def pause_writing(self) -> None:
        self.its.heard("pause_writing")
        assert not self.its.told_to_pause
        self.its.told_to_pause = True

    def resume_writing(self) -> None:
        self.its.heard("resume_writing")
        assert self.its.told_to_pause
        self.its.told_to_pause = False
        self.its.act()

    def eof_received(self) -> bool:
        self.its.heard("eof_received")
        assert not self.its.paused
        assert self.its.calls.count("eof_received") == 1
        self.its.act()
        return not self.its.secure and self.its.rng.random() < 0.5

    def connection_lost(self, exc: Exception | None) -> None:
        self.its.heard("connection_lost")
        self.its.lost.set_result(exc)


class Plain(Common, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        self.its.took(data)


class Buffered(Common, asyncio.BufferedProtocol):
    def get_buffer(self, sizehint: int) -> bytearray:
        self.buffer = bytearray(self.its.rng.choice((1, 10, 1000, 70_000)) if not self.its.quiet else 70_000)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.its.took(memoryview(self.buffer)[:nbytes])


async def _connected(kind: str, ends: list[End], certificates: Certificates) -> None:
    """`ends` on the two sides of a connection; a callback may break it before it is made."""
    loop = asyncio.get_running_loop()
    if kind == "unix":
        left, right = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            left, right = socket.create_connection(listener.getsockname()), listener.accept()[0]
    if ends[0].rng.random() < 0.5:
        for sock in (left, right):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client: dict[str, Any] = {}
    server: dict[str, Any] = {}
    if kind == "tls":
        client = {"ssl": certificates.client(), "server_hostname": "localhost", "ssl_shutdown_timeout": 0.3}
        server = {"ssl": certificates.server(), "ssl_shutdown_timeout": 0.3}
    made = await asyncio.gather(
        loop.create_connection(ends[0].protocol, sock=left, **client),
        loop.connect_accepted_socket(ends[1].protocol, right, **server),
        return_exceptions=True,
    )
    assert [
        one for one in made if isinstance(one, BaseException) and not isinstance(one, (OSError, OnPurpose))
    ] == []


async def _one(kind: str, seed: int, certificates: Certificates, reported: list[dict[str, Any]]) -> None:
    rng = random.Random(seed)
    ends = [End(f"{seed} {name}", kind == "tls") for name in ("client", "server")]
    connecting = asyncio.ensure_future(_connected(kind, ends, certificates))
    for _ in range(rng.choice((0, 5, 20, 60))):
        await asyncio.sleep(rng.choice((0, 0, 0, 0.0003)))
        rng.choice(ends).act_once()
    await asyncio.wait_for(connecting, LIMIT)
    for end in ends:
        end.quiet = True
        if end.transport is not None and not end.lost.done():
            end.resume()
    if all(end.untouched for end in ends):
        # Nobody has ended it: all that was written arrives.
        deadline = time.monotonic() + LIMIT
        while (ends[0].got, ends[1].got) != (ends[1].wrote, ends[0].wrote):
            assert time.monotonic() < deadline, [(end.wrote, end.got) for end in ends]
            await asyncio.sleep(0.001)
    for end in ends:
        if end.transport is not None:
            end.gone = True
            end.transport.close()
    made = [end.lost for end in ends if end.transport is not None]
    if made:
        await asyncio.wait(made, timeout=0.1)
        for end in ends:
            if end.transport is not None and not end.lost.done() and not end.secure:
                # two that close, and of which neither reads what the other has still to send
                end.transport.abort()
        await asyncio.wait_for(asyncio.gather(*made), LIMIT)
    for context in reported:
        exc = context["exception"]
        assert isinstance(exc, OnPurpose) or (kind == "tls" and isinstance(exc, OSError)), context


@pytest.mark.ours  # stock asyncio's transports raise when they are written to after connection_lost()
@pytest.mark.parametrize("kind", ["unix", "tcp", "tls"])
@pytest.mark.parametrize(
    "first", [0, *(pytest.param(n, marks=pytest.mark.exhaustive) for n in range(30, 120, 30))]
)
async def test_thirty_seeds(kind: str, first: int, certificates: Certificates) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    for seed in range(first, first + 30):
        try:
            await _one(kind, seed, certificates, reported)
        except BaseException as exc:
            exc.add_note(f"seed {seed}")
            raise
        reported.clear()
