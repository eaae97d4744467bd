"""What was written is the system's by then: whatever ends the connection, the run or the program,
the peer gets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transports.certs import Certificates, make_certificates

from outside.support import LIMIT, Child, Peer, Thread, dial, pair

Factory = Callable[[], asyncio.AbstractEventLoop]

#: A server's connection, one made with the user's socket, the same of Unix sockets, and a server's with TLS.
KINDS = ["accepted", "given", "unix", "given-unix", "tls"]
each_kind = pytest.mark.parametrize("kind", KINDS)
each_end = pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
LAST = b"the last words"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


class Does(asyncio.Protocol):
    """Calls what it was told to in each callback, and notes the callbacks."""

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        self.hooks = hooks
        self.seen: list[str] = []
        self.data = b""
        self.transport: Any = None

    def note(self, name: str) -> Any:
        self.seen.append(name)
        hook = self.hooks.get(name)
        return hook(self) if hook is not None else None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.note("connection_made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.note("data_received")

    def eof_received(self) -> Any:
        return self.note("eof_received")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.note("connection_lost")


class DoesBuffered(Does, asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    def get_buffer(self, sizehint: int) -> bytearray:
        self.buffer = bytearray(100)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]
        self.note("buffer_updated")


class Bench:
    """A loop that runs when the test says so, and blocking peers."""

    def __init__(
        self, loop: Any, stack: contextlib.ExitStack, certificates: Certificates, path: Path
    ) -> None:
        self.loop, self.stack, self.certificates, self.path = loop, stack, certificates, path
        self.protocols: list[Does] = []
        self.given: list[socket.socket] = []

    def until(self, condition: Callable[[], Any]) -> None:
        async def body() -> None:
            async with asyncio.timeout(LIMIT):
                while not condition():
                    await asyncio.sleep(0.001)

        self.loop.run_until_complete(body())

    def connect(self, kind: str, protocol: Any = None) -> tuple[Any, Peer]:
        """The protocol, whose connection is made, and the peer."""
        protocol = Does() if protocol is None else protocol
        self.protocols.append(protocol)
        if kind.startswith("given"):
            ours, theirs = pair("unix" if kind == "given-unix" else "tcp")
            self.given.append(ours)
            self.loop.run_until_complete(self.loop.create_connection(lambda: protocol, sock=ours))
            return protocol, self.stack.enter_context(Peer(theirs))
        context = self.certificates.server() if kind == "tls" else None
        if kind == "unix":
            path = str(self.path / f"{len(self.protocols)}")
            server = self.loop.run_until_complete(self.loop.create_unix_server(lambda: protocol, path))
            address: Any = path
        else:
            server = self.loop.run_until_complete(
                self.loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=context)
            )
            address = server.sockets[0].getsockname()
        dialled: Callable[[], Peer] = (
            (lambda: self._secured(address)) if kind == "tls" else (lambda: dial(address))
        )
        thread = Thread(dialled)
        self.until(lambda: "connection_made" in protocol.seen)
        server.close()
        return protocol, self.stack.enter_context(thread.finish())

    def _secured(self, address: Any) -> Peer:
        peer = dial(address)
        context = self.certificates.client()
        return Peer(context.wrap_socket(peer.sock, server_hostname="localhost", suppress_ragged_eofs=True))

    def end(self) -> None:
        for protocol in self.protocols:
            if protocol.transport is not None and not self.loop.is_closed():
                protocol.transport.abort()
        if not self.loop.is_closed():
            self.loop.run_until_complete(asyncio.sleep(0.01))
        self.protocols.clear()
        self.given.clear()
        gc.collect()  # here, where what a closed loop has left may say so


@pytest.fixture
def bench(
    loop: asyncio.AbstractEventLoop, stack: contextlib.ExitStack, certificates: Certificates, tmp_path: Path
) -> Iterator[Bench]:
    loop.set_exception_handler(lambda _loop, _context: None)
    bench = Bench(loop, stack, certificates, tmp_path)
    yield bench
    bench.end()


def write(protocol: Does) -> None:
    protocol.transport.write(LAST)


def write_and(last: Callable[[Does], Any]) -> Callable[[Does], Any]:
    def both(protocol: Does) -> Any:
        protocol.transport.write(LAST)
        return last(protocol)

    return both


def abort(protocol: Does) -> None:
    protocol.transport.abort()


def fail(_protocol: Does) -> None:
    raise ZeroDivisionError


async def soon(function: Callable[..., Any], *args: Any) -> Any:
    """Call it in a task."""
    await asyncio.sleep(0)
    return function(*args)


# ---------------------------------------------------------------------------------------- the connection ends


@each_kind
def test_abort_in_a_task(bench: Bench, kind: str) -> None:
    protocol, peer = bench.connect(kind)
    bench.loop.run_until_complete(soon(write_and(abort), protocol))
    assert peer.take(len(LAST)) == LAST


@each_kind
def test_many_writes_and_abort_in_a_task(bench: Bench, kind: str) -> None:
    """The second time it is known that a turn writes often."""
    protocol, peer = bench.connect(kind)

    def many() -> None:
        for _ in range(3):
            protocol.transport.write(LAST)

    bench.loop.run_until_complete(soon(many))
    bench.loop.run_until_complete(soon(many))

    def last() -> None:
        protocol.transport.write(LAST)
        protocol.transport.write(LAST)
        protocol.transport.abort()

    bench.loop.run_until_complete(soon(last))
    assert peer.take(8 * len(LAST)) == 8 * LAST


@each_kind
@pytest.mark.parametrize("last", [abort, fail], ids=["abort", "error"])
def test_the_end_in_data_received(bench: Bench, kind: str, last: Callable[[Does], Any]) -> None:
    protocol, peer = bench.connect(kind, Does(data_received=write_and(last)))
    peer.send(b"x")
    bench.until(lambda: "connection_lost" in protocol.seen)
    assert peer.take(len(LAST)) == LAST


@each_kind
def test_abort_in_connection_made(bench: Bench, kind: str) -> None:
    protocol, peer = bench.connect(kind, Does(connection_made=write_and(abort)))
    bench.until(lambda: "connection_lost" in protocol.seen)
    assert peer.take(len(LAST)) == LAST


@each_kind
def test_written_by_another_connection_and_aborted_soon(bench: Bench, kind: str) -> None:
    victim, peer = bench.connect(kind)

    def both(_protocol: Does) -> None:
        victim.transport.write(LAST)
        bench.loop.call_soon(victim.transport.abort)

    _other, sender = bench.connect("accepted", Does(data_received=both))
    sender.send(b"x")
    bench.until(lambda: "connection_lost" in victim.seen)
    assert peer.take(len(LAST)) == LAST


# ----------------------------------------------------------------------------------------------- the run ends


def run_to_its_end(bench: Bench, end: type[BaseException]) -> None:
    async def forever() -> None:
        await asyncio.sleep(LIMIT)

    task = bench.loop.create_task(forever())
    with pytest.raises(end):
        bench.loop.run_until_complete(task)
    task.cancel()


@each_kind
@each_end
@pytest.mark.parametrize("close", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("where", ["data_received", "call_soon", "another"])
@pytest.mark.filterwarnings("ignore:unclosed")
def test_a_run_that_an_exception_ends(
    bench: Bench, kind: str, end: type[BaseException], close: bool, where: str
) -> None:
    def interrupt(_protocol: Does) -> None:
        raise end

    if where == "data_received":
        _protocol, peer = bench.connect(kind, Does(data_received=write_and(interrupt)))
        peer.send(b"x")
    else:
        protocol, peer = bench.connect(kind)
        if where == "call_soon":
            bench.loop.call_soon(write_and(interrupt), protocol)
        else:

            def other(_other: Does) -> None:
                write(protocol)
                raise end

            _other, sender = bench.connect("accepted", Does(data_received=other))
            sender.send(b"x")
    run_to_its_end(bench, end)
    if close:
        bench.loop.run_until_complete(asyncio.sleep(0))
        bench.loop.close()
    assert peer.take(len(LAST)) == LAST


@each_kind
@pytest.mark.filterwarnings("ignore:unclosed")
def test_written_while_the_loop_does_not_run(bench: Bench, kind: str) -> None:
    protocol, peer = bench.connect(kind)
    write(protocol)
    assert peer.take(len(LAST)) == LAST
    write(protocol)
    bench.loop.close()
    assert peer.take(len(LAST)) == LAST


@each_kind
@each_end
@pytest.mark.parametrize("callback", ["data_received", "buffer_updated", "eof_received"])
def test_a_connection_lives_on_after_an_interrupted_run(
    bench: Bench, kind: str, end: type[BaseException], callback: str
) -> None:
    """It is not mute, and not deaf."""
    first = [True]

    def interrupt(protocol: Does) -> Any:
        write(protocol)
        if first.pop():
            first.append(False)
            raise end
        first.append(False)
        return True

    protocol: Does = (DoesBuffered if callback == "buffer_updated" else Does)(**{callback: interrupt})
    _protocol, peer = bench.connect(kind, protocol)
    if callback == "eof_received":
        if kind == "tls":
            pytest.skip("the end of TLS is the end of the connection")
        peer.finish()
    else:
        peer.send(b"x")
    run_to_its_end(bench, end)
    assert peer.take(len(LAST)) == LAST
    bench.loop.run_until_complete(soon(protocol.transport.write, b"and more"))
    if callback == "eof_received":  # it has not answered yet, so it is asked again
        bench.until(lambda: protocol.seen.count(callback) > 1)
        got = peer.take(8 + len(LAST))
        assert got in (b"and more" + LAST, LAST + b"and more")
        return
    assert peer.take(8) == b"and more"
    peer.send(b"y")
    bench.until(lambda: protocol.data == b"xy")
    assert peer.take(len(LAST)) == LAST


@each_end
def test_an_endpoint_lives_on_after_an_interrupted_run(bench: Bench, end: type[BaseException]) -> None:
    got: list[bytes] = []

    class Answers(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            got.append(data)
            self.transport.sendto(LAST, address)
            if data == b"x":
                raise end

    loop = bench.loop
    transport, _ = loop.run_until_complete(loop.create_datagram_endpoint(Answers, ("127.0.0.1", 0)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
        peer.settimeout(LIMIT)
        peer.connect(transport.get_extra_info("sockname"))
        peer.send(b"x")
        run_to_its_end(bench, end)
        assert peer.recv(100) == LAST
        peer.send(b"y")
        bench.until(lambda: got == [b"x", b"y"])
        assert peer.recv(100) == LAST
    transport.abort()
    bench.until(lambda: True)


# ---------------------------------------------------------------------------------- others use the descriptor


@pytest.mark.parametrize("kind", ["accepted", "given", "unix", "given-unix"])
@pytest.mark.parametrize("where", ["task", "data_received", "another"])
@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
def test_shutdown_of_the_socket(bench: Bench, kind: str, where: str, early: bool) -> None:
    """As relays pass on the end of a stream."""
    sockets: list[Any] = []

    def pass_on(protocol: Does) -> None:
        write(protocol)
        sock = sockets[0] if early else protocol.transport.get_extra_info("socket")
        sock.shutdown(socket.SHUT_WR)

    protocol, peer = bench.connect(kind, Does(data_received=pass_on))
    if early:
        sockets.append(protocol.transport.get_extra_info("socket"))
    if where == "task":
        bench.loop.run_until_complete(soon(pass_on, protocol))
    elif where == "data_received":
        peer.send(b"x")
        bench.until(lambda: protocol.data)
    else:
        other, sender = bench.connect("accepted", Does(data_received=lambda _: pass_on(protocol)))
        sender.send(b"x")
        bench.until(lambda: other.data)
    assert peer.take_all() == LAST


@pytest.mark.parametrize("kind", ["given", "given-unix"])
@pytest.mark.parametrize("where", ["task", "data_received"])
def test_the_user_closes_the_socket_that_he_gave(bench: Bench, kind: str, where: str) -> None:
    def close(_protocol: Does) -> None:
        bench.given[0].close()

    protocol, peer = bench.connect(kind, Does(data_received=write_and(close)))
    if where == "task":
        bench.loop.run_until_complete(soon(write_and(close), protocol))
    else:
        peer.send(b"x")
        bench.until(lambda: protocol.data)
    assert peer.take(len(LAST)) == LAST


@pytest.mark.parametrize("kind", ["accepted", "given", "unix"])
@pytest.mark.parametrize("where", ["task", "data_received"])
def test_a_child_writes_after_us(bench: Bench, kind: str, where: str) -> None:
    def spawn(protocol: Does) -> None:
        protocol.transport.write(b"head ")
        protocol.transport.write(b"and ")
        code = "import os; os.write(1, b'body')"
        descriptor = protocol.transport.get_extra_info("socket").fileno()
        subprocess.run([sys.executable, "-S", "-c", code], stdout=descriptor, check=True)

    protocol, peer = bench.connect(kind, Does(data_received=spawn))
    if where == "task":
        for _ in range(2):
            bench.loop.run_until_complete(soon(spawn, protocol))
        assert peer.take(26) == 2 * b"head and body"
    else:
        peer.send(b"x")
        bench.until(lambda: protocol.data)
        assert peer.take(13) == b"head and body"


ENDS = {
    "exit": "os._exit(0)",
    "exec": "os.execv('/bin/true', ['true'])",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize("end", ENDS)
def test_the_program_ends(child: Callable[..., Child], end: str) -> None:
    program = child(
        f"""
        async def serve(reader, writer):
            await reader.readline()
            writer.write(b"the last ")
            writer.write(b"words")
            await writer.drain()
            {ENDS[end]}

        async def main():
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            say(server.sockets[0].getsockname())
            await forever()

        run(main())
        """
    )
    with dial(tuple(program.hear())) as peer:
        peer.send(b"go\n")
        assert peer.take_all() == LAST


# -------------------------------------------------------------------------------------- the thread is blocked


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
def test_waiting_for_the_answer_in_the_loops_thread(bench: Bench, secure: bool) -> None:
    """Who has awaited ``drain()`` may block the thread until the peer answers."""
    arrived = threading.Event()
    waited: list[bool] = []

    async def ask(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            writer.write(LAST)
            writer.write(LAST)
            await writer.drain()
            waited.append(arrived.wait(LIMIT))
        writer.close()

    context = bench.certificates.server() if secure else None
    server = bench.loop.run_until_complete(asyncio.start_server(ask, "127.0.0.1", 0, ssl=context))
    address = server.sockets[0].getsockname()

    def answer() -> None:
        with bench._secured(address) if secure else dial(address) as peer:
            for _ in range(2):
                assert peer.take(2 * len(LAST)) == 2 * LAST
                arrived.set()
            peer.take_all()

    thread = Thread(answer)
    bench.until(lambda: not thread.is_alive())
    thread.finish()
    server.close()
    assert waited == [True, True]


# ------------------------------------------------------------------------------------------------- TLS closes


class Answers(asyncio.Protocol):
    """Sends a long answer to the first bytes, and closes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lost = threading.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(bytes(self.size))
            self.transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set()


@pytest.mark.ours  # stock asyncio: an SSLError, and the rest of the answer is dropped
def test_tls_close_while_the_peer_sends(inside: Any, certificates: Certificates) -> None:
    """All of the answer comes, and then the end, though the peer has more to say."""
    size = 1 << 20
    protocol = Answers(size)

    async def serve() -> Any:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=certificates.server())

    server = inside.run(serve())
    raw = dial(server.sockets[0].getsockname())
    with certificates.client().wrap_socket(raw.sock, server_hostname="localhost") as sock:
        sock.settimeout(LIMIT)

        def upload() -> None:
            with contextlib.suppress(OSError):  # the connection is closed once we have said our end
                while True:
                    sock.sendall(bytes(1 << 14))

        thread = Thread(upload)
        got = 0
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while piece := sock.recv(1 << 16):
                got += len(piece)
        assert got == size
        with contextlib.suppress(OSError):
            sock.unwrap()
        sock.close()
        thread.finish()
    assert protocol.lost.wait(LIMIT)
    inside.call(server.close)
