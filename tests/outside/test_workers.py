"""Several loops accept on one listening socket: each has its share, and none keeps a client from the others.

The listener is the test's; each worker is a process that inherits it, or a thread with a duplicate of it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from .support import LIMIT, Child, Factory, Thread, dial, eventually, listening, state_of

WORKER = """
FD, NAME, HOW, SECONDS = ARGS

class Named(asyncio.Protocol):
    def connection_made(self, transport):
        time.sleep(SECONDS)
        transport.write(NAME.encode())
        transport.close()

async def accept(loop, sock):
    while True:
        connection, _ = await loop.sock_accept(sock)
        with connection:
            time.sleep(SECONDS)
            await loop.sock_sendall(connection, NAME.encode())

async def start(loop, sock):
    if HOW == "sock_accept":
        return loop.create_task(accept(loop, sock))
    if HOW == "start_server":
        async def serve(reader, writer):
            time.sleep(SECONDS)
            writer.write(NAME.encode())
            writer.close()
        return await asyncio.start_server(serve, sock=sock)
    return await loop.create_server(Named, sock=sock)

loop = new_loop()
asyncio.set_event_loop(loop)
sock = socket.socket(fileno=FD)
sock.setblocking(False)
serving = loop.run_until_complete(start(loop, sock))

def obey(what):
    if what == "block":
        say("blocking")
        time.sleep(60)
    elif what == "stop":
        loop.stop()
    elif what == "close":
        if HOW == "sock_accept":
            serving.cancel()
        else:
            serving.close()
        loop.call_later(0.01, say, "closed")

async def begin():
    told(obey)
    say("ready")

loop.run_until_complete(begin())
loop.run_forever()
say("stopped")
time.sleep(60)
"""

WAYS = ("create_server", "start_server", "sock_accept")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listening(backlog=512) as sock:
        yield sock


Start = Callable[..., list[Child]]


@pytest.fixture
def workers(listener: socket.socket, child: Callable[..., Child]) -> Start:
    """Starts so many workers on the listener, which spend some time on each client."""

    def start(count: int, how: str = "create_server", seconds: float = 0.0) -> list[Child]:
        fd = listener.fileno()
        found = [child(WORKER, fd, chr(ord("A") + n), how, seconds, pass_fds=[fd]) for n in range(count)]
        for worker in found:
            assert worker.hear(60) == "ready"
        return found

    return start


def visit(listener: socket.socket, count: int, limit: float = LIMIT) -> collections.Counter[str]:
    """Who answered so many clients that came one after the other; each is answered within the limit."""
    found: collections.Counter[str] = collections.Counter()
    for _ in range(count):
        with dial(listener.getsockname(), limit) as peer:
            found[peer.take_all().decode()] += 1
    return found


def visit_at_once(listener: socket.socket, count: int) -> collections.Counter[str]:
    """The same for clients that come at once."""
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(dial(listener.getsockname())) for _ in range(count)]
        return collections.Counter(peer.take_all().decode() for peer in peers)


def visit_by_four(listener: socket.socket, count: int) -> collections.Counter[str]:
    """The same for four clients, each of which comes again and again."""
    visitors = [Thread(visit, listener, count // 4) for _ in range(4)]
    return sum((visitor.finish(60) for visitor in visitors), collections.Counter())


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("how", WAYS)
def test_each_worker_has_a_share(count: int, how: str, listener: socket.socket, workers: Start) -> None:
    """While one is busy with a client the others, which are not, take what comes."""
    workers(count, how, 0.003)
    shares = visit_by_four(listener, 200)
    assert shares.total() == 200
    assert len(shares) == count, shares
    assert min(shares.values()) >= 5, shares


HINDRANCES = ("block", "stop", "halt", "close", "kill")


@pytest.mark.parametrize("order", ["first to last", "last to first"])
@pytest.mark.parametrize("how", WAYS)
def test_no_worker_keeps_a_client_from_the_others(
    how: str, order: str, listener: socket.socket, workers: Start
) -> None:
    """One worker after the other is blocked, stopped, halted by a signal, closed, killed:
    the rest serves everybody.
    """
    found = dict(zip("ABCDEF", workers(6, how), strict=True))
    assert set(visit(listener, 20)) <= set(found)
    for hindrance in HINDRANCES:
        name = list(found)[0 if order == "first to last" else -1]
        hinder(found.pop(name), hindrance)
        shares = visit(listener, 15) + visit_at_once(listener, 15)
        assert shares.total() == 30
        assert set(shares) <= set(found), hindrance


def hinder(worker: Child, how: str) -> None:
    """From now on this worker serves nobody."""
    match how:
        case "block":
            assert worker.ask("block") == "blocking"
        case "stop":
            assert worker.ask("stop") == "stopped"
        case "close":
            assert worker.ask("close") == "closed"
        case "halt":
            worker.kill(signal.SIGSTOP)
            eventually(lambda: state_of(worker.pid) == "T", "it is halted")
        case "kill":
            worker.kill()
            worker.wait()


@pytest.mark.parametrize("how", ["create_server", "sock_accept"])
def test_a_worker_that_is_killed_takes_nobody_with_it(
    how: str, listener: socket.socket, workers: Start
) -> None:
    """The clients come while the system still takes the process apart."""
    found = dict(zip("ABCD", workers(4, how), strict=True))
    for name in "ADB":
        found.pop(name).kill()
        # Whom the victim had accepted already, and not answered, sees the end of his connection at once.
        answers = [answer(listener) for _ in range(12)]
        assert answers.count("") <= 1, answers
        assert set(answers) <= {*found, name, ""}
    assert visit(listener, 20) == {"C": 20}


def answer(listener: socket.socket) -> str:
    """The worker's letter, or nothing if it ended before; who hangs fails the test."""
    with dial(listener.getsockname(), 10) as peer:
        try:
            return peer.take_all().decode()
        except ConnectionResetError:
            return ""


# Two loops in one process, each in a thread of its own, on a duplicate of the listener


class Worker:
    """A loop in a thread that answers with a letter, until it is told to stop or to block."""

    def __init__(self, factory: Factory, listener: socket.socket, name: str, how: str) -> None:
        self.loop = factory()
        self.sock = listener.dup()
        self.sock.setblocking(False)
        self.name, self.how = name, how
        self.ready, self.block, self.unblock = threading.Event(), threading.Event(), threading.Event()
        self.thread = Thread(self._work)
        assert self.ready.wait(LIMIT)

    def _work(self) -> None:
        with contextlib.closing(self.loop):
            self.loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self.done = asyncio.Event()
        if self.how == "sock_accept":
            task = asyncio.create_task(self._accept())
            self.ready.set()
            await self.done.wait()
            task.cancel()
            await asyncio.wait([task])
            self.sock.close()
            return
        name = self.name.encode()

        class Named(asyncio.Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                time.sleep(0.003)
                transport.write(name)
                transport.close()

        server = await self.loop.create_server(Named, sock=self.sock)
        self.ready.set()
        await self.done.wait()
        server.close()

    async def _accept(self) -> None:
        while True:
            connection, _ = await self.loop.sock_accept(self.sock)
            with connection:
                time.sleep(0.003)  # noqa: ASYNC251 (it is busy)
                await self.loop.sock_sendall(connection, self.name.encode())

    def hold(self) -> None:
        """Block the loop until ``unblock`` is set."""

        def blocked() -> None:
            self.block.set()
            self.unblock.wait(60)

        self.loop.call_soon_threadsafe(blocked)
        assert self.block.wait(LIMIT)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.unblock.set()
        self.loop.call_soon_threadsafe(self.done_set)
        self.thread.finish()

    def done_set(self) -> None:
        self.done.set()


@pytest.mark.parametrize("how", ["create_server", "sock_accept"])
def test_two_threads_share(how: str, loop_factory: Factory, listener: socket.socket) -> None:
    with Worker(loop_factory, listener, "A", how), Worker(loop_factory, listener, "B", how):
        shares = visit(listener, 100) + visit_at_once(listener, 100)
    assert shares.total() == 200
    # Threads take turns at the interpreter, and who has it may serve many at once.
    assert set(shares) == {"A", "B"}, shares


@pytest.mark.parametrize("how", ["create_server", "sock_accept"])
@pytest.mark.parametrize("blocked", ["A", "B"])
def test_a_thread_that_is_blocked_keeps_nobody(
    blocked: str, how: str, loop_factory: Factory, listener: socket.socket
) -> None:
    with (
        Worker(loop_factory, listener, "A", how) as first,
        Worker(loop_factory, listener, "B", how) as second,
    ):
        visit(listener, 4)
        (first if blocked == "A" else second).hold()
        assert visit(listener, 30) == {"AB".replace(blocked, ""): 30}


def test_a_client_is_served_by_the_loop_that_still_runs(
    loop_factory: Factory, listener: socket.socket
) -> None:
    """A loop that ran on the listener, and is not closed, is no hindrance to one in the same thread."""
    first, second = loop_factory(), loop_factory()
    with (
        contextlib.closing(first),
        contextlib.closing(second),
        listener.dup() as one,
        listener.dup() as other,
    ):
        named = [
            first.create_server(lambda: Letter(b"A"), sock=one),
            second.create_server(lambda: Letter(b"B"), sock=other),
        ]
        servers = [first.run_until_complete(named[0]), second.run_until_complete(named[1])]
        for _ in range(3):
            first.call_soon(first.stop)
            first.run_forever()
        client = Thread(visit, listener, 20)
        second.run_until_complete(asyncio.wait_for(_until(lambda: not client.is_alive()), LIMIT))
        assert client.finish() == {"B": 20}
        for server in servers:
            server.close()


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


class Letter(asyncio.Protocol):
    """Says its letter and closes."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.write(self.name)
        transport.close()
