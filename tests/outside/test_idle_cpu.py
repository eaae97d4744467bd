"""While nothing happens nothing is done: no callback and no CPU, whatever state a descriptor is in.

A callback of ``add_reader`` or ``add_writer`` is called exactly when poll(2) says so of what was asked for,
as stock asyncio does; and no transport or call spins in any state.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

import pytest

from .states import STATES, Held, held
from .support import Factory

SECONDS = 0.3
# of CPU time in it; a loop that spins uses as much as the machine has, one that sleeps some microseconds
SPIN = 0.03

ASKED = {"read": select.POLLIN, "write": select.POLLOUT, "both": select.POLLIN | select.POLLOUT}


def what_poll_says(fd: int, ask: str) -> set[str]:
    """Who is called: an error or a hang-up concerns whoever is there."""
    poll = select.poll()
    poll.register(fd, ASKED[ask])
    found = poll.poll(0)
    events = found[0][1] if found else 0
    called = set()
    if events & ~select.POLLOUT and ask != "write":
        called.add("reader")
    if events & ~select.POLLIN and ask != "read":
        called.add("writer")
    return called


def what_select_says(fd: int, ask: str) -> set[str]:
    """The same for select(2), which has no word for a hang-up of what is to be written."""
    reading, writing, _ = select.select([fd], [fd], [], 0)
    called = {"reader"} if reading and ask != "write" else set()
    return called | {"writer"} if writing and ask != "read" else called


async def calls(fd: int, ask: str) -> dict[str, int]:
    """How often each callback is called in some turns."""
    loop = asyncio.get_running_loop()
    counts = {"reader": 0, "writer": 0}

    def count(name: str) -> None:
        counts[name] += 1

    if ask != "write":
        loop.add_reader(fd, count, "reader")
    if ask != "read":
        loop.add_writer(fd, count, "writer")
    for _ in range(5):
        await asyncio.sleep(0.002)
    loop.remove_reader(fd)
    loop.remove_writer(fd)
    return counts


@pytest.mark.parametrize("ask", ASKED)
async def test_callbacks_are_called_when_poll_says_so(ask: str) -> None:
    wrong = {}
    for name in STATES:
        with held(name) as state:
            expected = what_poll_says(state.fd, ask)
            counts = await calls(state.fd, ask)
            called = {who for who, count in counts.items() if count}
            if called not in (expected, what_poll_says(state.fd, ask), what_select_says(state.fd, ask)):
                wrong[name] = (called, expected)
    assert wrong == {}


def refill(fd: int) -> None:
    """What was full may move a little once more, when the kernel has thought about its buffers."""
    with contextlib.suppress(OSError):
        while True:
            os.write(fd, bytes(1 << 16))


@pytest.mark.parametrize("ask", ASKED)
async def test_nothing_is_done_for_callbacks_that_are_not_called(ask: str) -> None:
    loop = asyncio.get_running_loop()

    def watch(state: Held) -> Callable[[], object]:
        if ask != "write":
            loop.add_reader(state.fd, lambda: None)
        if ask != "read":
            loop.add_writer(state.fd, refill, state.fd)
        return lambda: (loop.remove_reader(state.fd), loop.remove_writer(state.fd))

    quiet = []
    for name in STATES:
        with held(name) as state:
            if not what_poll_says(state.fd, ask):
                quiet.append(name)
    assert len(quiet) >= 5
    await nothing_is_done(quiet, watch)


async def cpu_of(names: list[str], begin: Callable[[Held], Any]) -> float:
    """The CPU time that the loop uses while descriptors in all these states are in its care."""
    with contextlib.ExitStack() as stack:
        for name in names:
            state = stack.enter_context(held(name))
            ending = begin(state)
            if asyncio.iscoroutine(ending):
                ending = await ending
            if ending is not None:
                stack.callback(ending)
        await asyncio.sleep(0.1)
        before = time.process_time()
        await asyncio.sleep(SECONDS)
        used = time.process_time() - before
        stack.pop_all().close()
        await asyncio.sleep(0.01)
    return used


async def nothing_is_done(names: list[str], begin: Callable[[Held], Any]) -> None:
    """In all states at once; only if that costs something, one by one, to say which."""
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    if await cpu_of(names, begin) < SPIN:
        return
    spinning = {name: used for name in names if (used := await cpu_of([name], begin)) >= SPIN}
    assert spinning == {}


class Open(asyncio.Protocol):
    """Stays open after the peer's end."""

    def eof_received(self) -> bool:
        return True


class Datagrams(asyncio.DatagramProtocol):
    """Ignores what comes."""


#: Larger than the buffers of a descriptor in any of the states.
MUCH = bytes(1 << 20)

#: What is done with a transport, once it is there.
USES: dict[str, Callable[[Any], object]] = {
    "read": lambda transport: None,
    "pause": lambda transport: transport.pause_reading(),
    "write": lambda transport: transport.write(MUCH),
    "pause, write": lambda transport: (transport.pause_reading(), transport.write(MUCH)),
    "write, end": lambda transport: (transport.write(MUCH), transport.write_eof()),
    "end": lambda transport: transport.write_eof(),
    "write, close": lambda transport: (transport.write(MUCH), transport.close()),
}

CONNECTED = [
    name
    for name in STATES
    if name.startswith(("TCP", "Unix:"))
    and not any(word in name for word in ("new", "bound", "listen", "ing", "refused"))
]


@pytest.mark.parametrize(
    "protocol",
    [
        pytest.param(Open, id="stays open"),
        pytest.param(asyncio.Protocol, id="ends", marks=pytest.mark.exhaustive),
    ],
)
@pytest.mark.parametrize("use", USES)
async def test_no_stream_transport_spins(use: str, protocol: Callable[[], asyncio.Protocol]) -> None:
    async def begin(state: Held) -> Callable[[], object]:
        assert state.sock is not None
        transport, _ = await asyncio.get_running_loop().create_connection(protocol, sock=state.sock.dup())
        if not transport.is_closing():
            with contextlib.suppress(RuntimeError, OSError):  # the end was told before
                USES[use](transport)
        return transport.abort

    await nothing_is_done(CONNECTED, begin)


@pytest.mark.parametrize("call", ["sock_recv", "sock_sendall", "both"])
async def test_no_call_on_a_socket_spins(call: str) -> None:
    loop = asyncio.get_running_loop()

    def begin(state: Held) -> Callable[[], object]:
        assert state.sock is not None
        tasks = []
        if call != "sock_sendall":
            tasks.append(asyncio.ensure_future(loop.sock_recv(state.sock, 10)))
        if call != "sock_recv":
            tasks.append(asyncio.ensure_future(loop.sock_sendall(state.sock, MUCH)))
        for task in tasks:
            task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return lambda: [task.cancel() for task in tasks]

    await nothing_is_done(CONNECTED, begin)


@pytest.fixture
def file() -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(MUCH)
        yield file


@pytest.mark.parametrize("way", ["sendfile", "drain", "read"])
async def test_no_stream_spins(way: str, file: IO[bytes]) -> None:
    loop = asyncio.get_running_loop()

    async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if way == "sendfile":
            await loop.sendfile(writer.transport, file)
        elif way == "drain":
            writer.write(MUCH)
            await writer.drain()
        else:
            await reader.readexactly(1 << 20)

    async def begin(state: Held) -> Callable[[], object]:
        assert state.sock is not None
        reader, writer = await asyncio.open_connection(sock=state.sock.dup())
        task = asyncio.create_task(use(reader, writer))
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return lambda: (task.cancel(), writer.transport.abort())

    await nothing_is_done(CONNECTED, begin)


async def test_no_listener_spins() -> None:
    """A backlog whose visitors have been accepted is empty."""
    names = [name for name in STATES if "listening" in name]

    async def begin(state: Held) -> Callable[[], object]:
        assert state.sock is not None
        loop = asyncio.get_running_loop()
        start = loop.create_unix_server if state.sock.family.name == "AF_UNIX" else loop.create_server
        server = await start(asyncio.Protocol, sock=state.sock.dup())  # type: ignore[operator]
        return server.close

    await nothing_is_done(names, begin)


@pytest.mark.parametrize("use", ["read", "send"])
async def test_no_datagram_transport_spins(use: str) -> None:
    names = [name for name in STATES if "datagram" in name or "UDP" in name]

    async def begin(state: Held) -> Callable[[], object]:
        assert state.sock is not None
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Datagrams, sock=state.sock.dup()
        )
        if use == "send":
            for _ in range(300):
                transport.sendto(bytes(1000))
        return transport.abort

    await nothing_is_done(names, begin)


@pytest.mark.parametrize("use", ["read", "pause"])
async def test_no_pipe_to_read_spins(use: str) -> None:
    names = [name for name in STATES if name.startswith(("pipe to read", "terminal")) and "full" not in name]

    async def begin(state: Held) -> Callable[[], object]:
        file = _file(state, "rb")
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(Open, file)
        if use == "pause":
            transport.pause_reading()
        return transport.close

    await nothing_is_done(names, begin)


@pytest.mark.parametrize("use", ["idle", "write", "write, close"])
async def test_no_pipe_to_write_spins(use: str) -> None:
    # A controller whose terminal is closed by all takes no more and reports a hang-up, asked or not:
    # stock spins too.
    names = [
        name
        for name in STATES
        if name.startswith(("pipe to write", "terminal")) and "controller: cl" not in name
    ]

    async def begin(state: Held) -> Callable[[], object]:
        file = _file(state, "wb")
        transport, _ = await asyncio.get_running_loop().connect_write_pipe(asyncio.Protocol, file)
        if use != "idle":
            transport.write(MUCH)
        if use == "write, close":
            transport.close()

        def end() -> None:
            with contextlib.suppress(AttributeError):  # stock asyncio's, when it has ended already
                transport.abort()

        return end

    await nothing_is_done(names, begin)


def _file(state: Held, mode: str) -> IO[bytes]:
    return os.fdopen(os.dup(state.fd), mode, buffering=0)


def test_an_idle_loop_uses_nothing(loop_factory: Factory) -> None:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(nothing_is_done([], lambda state: None))
