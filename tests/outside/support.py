"""Peers with blocking sockets and deadlines, meters, and loop programs in processes of their own.

A test is a peer: it blocks on its own sockets, in the main thread, while the loop runs elsewhere: in a thread
(``inside``) or in a process (``child``), which it can stop, kill and measure.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

LIMIT = 15.0  # seconds: the longest that a test waits for what must come; a busy machine takes some of it
QUIET = 0.3  # seconds: how long what must not come has to come

Factory = Callable[[], asyncio.AbstractEventLoop]


def backend_of(factory: Factory) -> str:
    """The driver's name, or "asyncio", of a value of the ``loop_factory`` fixture."""
    keywords: dict[str, str] = getattr(factory, "keywords", {})
    return keywords.get("backend", "asyncio")


def eventually(condition: Callable[[], Any], what: str, limit: float = LIMIT) -> None:
    """Wait, in a thread where no loop runs, until the condition holds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        time.sleep(0.002)


# What /proc and the clocks say of a process, this one by default


def cpu_time(pid: int | None = None) -> float:
    """Seconds of CPU that all threads of the process have used,
    to the microsecond (clock_getcpuclockid(3)).
    """
    return time.process_time() if pid is None else time.clock_gettime((~pid << 3) | 2)


def descriptors(pid: int | None = None) -> dict[int, str]:
    """What the descriptors of the process lead to."""
    folder = f"/proc/{'self' if pid is None else pid}/fd"
    found = {}
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):  # the one that listed the folder
            found[int(name)] = os.readlink(f"{folder}/{name}")
    return found


def threads(pid: int | None = None) -> list[str]:
    """The names of the threads of the process."""
    folder = Path(f"/proc/{'self' if pid is None else pid}/task")
    found = []
    for task in folder.iterdir():
        with contextlib.suppress(OSError):
            found.append((task / "comm").read_text().strip())
    return found


def state_of(pid: int) -> str:
    """The state of the main thread of the process: R (runs), S (sleeps), T (is halted), Z (has ended)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# Threads


class Thread(threading.Thread):
    """A thread whose exception fails the test that joins it; as a context it is joined at the end."""

    def __init__(self, target: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._body = lambda: target(*args)
        self.result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._body()
        except BaseException as exc:
            self._error = exc

    def finish(self, limit: float = LIMIT) -> Any:
        """What the function returned."""
        self.join(limit)
        assert not self.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self.result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.finish()


class Inside:
    """A loop that runs in a thread of its own while the test, outside, is its peer.

    ``run`` takes a coroutine, ``call`` a plain function; both give back what it returned, in the test's
    thread.  While the loop is starved or blocked they raise TimeoutError.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.errors: list[dict[str, Any]] = []
        self._kept: list[Any] = []
        loop.set_exception_handler(lambda _loop, context: self.errors.append(context))

    def __enter__(self) -> Self:
        started = threading.Event()
        self.loop.call_soon(started.set)
        self.thread = Thread(self._work)
        assert started.wait(LIMIT), "the loop does not start"
        return self

    def _work(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
            for task in (tasks := asyncio.all_tasks(self.loop)):
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        finally:
            asyncio.set_event_loop(None)

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """The loop stops, and is not closed."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.finish()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """A future for a thread (concurrent.futures) of the coroutine."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, Any], limit: float = LIMIT) -> Any:
        """What the coroutine returns, in the loop."""
        return self.start(coroutine).result(limit)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """What the function returns, in the loop's thread."""

        async def body() -> Any:
            return function(*args)

        return self.run(body())

    def turns(self, count: int = 5) -> None:
        """Let the loop make some turns, each of which may look at the kernel."""

        async def body() -> None:
            for _ in range(count):
                await asyncio.sleep(0.001)

        self.run(body())


# Peers


class Peer:
    """The other end: a blocking socket with a deadline for each step."""

    def __init__(self, sock: socket.socket, limit: float = LIMIT) -> None:
        self.sock = sock
        self.sock.settimeout(limit)
        self.send = sock.sendall

    def take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        out = bytearray()
        while len(out) < count:
            chunk = self.sock.recv(min(count - len(out), 1 << 20))
            assert chunk, f"the end came after {len(out)} of {count} bytes: {bytes(out[:100])!r}"
            out += chunk
        return bytes(out)

    def take_all(self) -> bytes:
        """All bytes to the end, which must be a FIN."""
        out = bytearray()
        while chunk := self.sock.recv(1 << 20):
            out += chunk
        return bytes(out)

    def told(self) -> str:
        """How the stream ends: "FIN" or "RST"; what it still carries is thrown away."""
        try:
            self.take_all()
        except ConnectionResetError:
            return "RST"
        return "FIN"

    def silent(self, seconds: float = QUIET) -> bool:
        """Does nothing come, no byte and no end?"""
        return not select.select([self.sock], [], [], seconds)[0]

    def fill(self) -> int:
        """Send until nothing more goes in; how much did."""
        return fill(self.sock)

    def finish(self) -> None:
        """Nothing more will be sent (FIN)."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def fill(sock: socket.socket, patience: float = 0.02) -> int:
    """Send zeros until nothing more goes in for this long: then the buffers of both sides are full."""
    before, count = sock.gettimeout(), 0
    sock.settimeout(patience)
    try:
        while True:
            count += sock.send(bytes(1 << 16))
    except TimeoutError:
        return count
    finally:
        sock.settimeout(before)


def listening(host: str = "127.0.0.1", *, port: int = 0, backlog: int = 128) -> socket.socket:
    """A non-blocking listener, for a loop: TCP, or Unix if the host is a path."""
    if "/" in host:
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(host)
    else:
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    sock.listen(backlog)
    sock.setblocking(False)
    return sock


def dial(address: Any, limit: float = LIMIT) -> Peer:
    """A peer that has connected to this address, TCP or Unix."""
    if isinstance(address, str):
        with contextlib.ExitStack() as undo:
            sock = undo.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(limit)
            sock.connect(address)
            undo.pop_all()
        return Peer(sock, limit)
    return Peer(socket.create_connection(address[:2], limit), limit)


def tcp_pair(*, buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection over loopback, blocking; with small buffers if asked for."""
    with socket.socket() as listener, contextlib.ExitStack() as undo:
        if buffers is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        one = undo.enter_context(socket.socket())
        if buffers is not None:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffers)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
        one.connect(listener.getsockname())
        other, _ = listener.accept()
        undo.pop_all()
    return one, other


def pair(kind: str, *, buffers: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Two connected stream sockets, "tcp" or "unix"; the first is meant for the loop and does not block."""
    one, other = tcp_pair(buffers=buffers) if kind == "tcp" else socket.socketpair()
    if kind == "unix" and buffers is not None:
        for sock in (one, other):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers)
    one.setblocking(False)
    return one, other


class Flood(Thread):
    """Sends for ever what the loop has to digest, on connections of its own, until the end of the context."""

    def __init__(
        self, address: Any, *, size: int = 1 << 20, count: int = 1, kind: str = "stream", head: bytes = b""
    ) -> None:
        self.ended = threading.Event()
        self.sent = 0
        self._size, self._kind = size, kind
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        style = socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
        self._socks = [socket.socket(family, style) for _ in range(count)]
        for sock in self._socks:
            sock.connect(address)
            sock.sendall(head) if head else None
            sock.setblocking(False)
        super().__init__(self._send)

    def _send(self) -> None:
        piece = bytes(self._size)
        while not self.ended.is_set():
            _, ready, _ = select.select([], self._socks, [], 0.05)
            for sock in ready:
                with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                    self.sent += sock.send(piece)

    def __exit__(self, *exc: object) -> None:
        self.ended.set()
        self.finish()
        for sock in self._socks:
            sock.close()


# Loop programs in processes of their own

PRELUDE = """
import asyncio, json, os, signal, socket, sys, threading, time

WORD, ARGS = sys.argv[1], json.loads(sys.argv[2])

def new_loop():
    if WORD == "asyncio":
        return asyncio.SelectorEventLoop()
    if WORD == "uvloop":
        import uvloop
        return uvloop.new_event_loop()
    import proactorx
    return proactorx.new_event_loop(WORD)

def run(main):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(main)

def say(*values):
    os.write(1, json.dumps(values[0] if len(values) == 1 else values).encode() + b"\\n")

_rest = b""

def hear():
    '''Blocks; at the end of the test the process ends.'''
    global _rest
    while b"\\n" not in _rest:
        data = os.read(0, 65536)
        if not data:
            os._exit(99)
        _rest += data
    line, _, _rest = _rest.partition(b"\\n")
    return json.loads(line)

def told(callback):
    '''From now on call this in the running loop with each value that the test tells.'''
    loop = asyncio.get_running_loop()
    def listen():
        while True:
            loop.call_soon_threadsafe(callback, hear())
    threading.Thread(target=listen, daemon=True).start()

async def forever():
    await asyncio.get_running_loop().create_future()

"""


def environment(word: str) -> dict[str, str]:
    """For a program that uses proactorx: the one under test, on this driver."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PROACTORX_", "PYTHONASYNCIO"))}
    env |= {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    if word not in ("asyncio", "uvloop"):
        import proactorx

        assert proactorx.__file__ is not None
        root = str(Path(proactorx.__file__).parent.parent)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
        env["PROACTORX_BACKEND"] = word
    return env


def _readable(fd: int, limit: float) -> bool:
    """Whether it is so within `limit` seconds; select(2) takes no number from 1,024 on."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(limit * 1000))


class Child:
    """A program with a loop, in a process, that talks with the test in lines of JSON.

    The program finds ``new_loop()``, ``run(coroutine)``, ``say(value, ...)``, ``hear()``, ``told(callback)``,
    ``forever()`` and ``ARGS``; descriptors in ``pass_fds`` keep their numbers.  It is killed at the end of
    the context, and its complaints (standard error) are in ``complaints``.
    """

    def __init__(
        self, word: str, source: str, *args: Any, pass_fds: Sequence[int] = (), flags: Sequence[str] = ()
    ) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by __exit__)
        self._lines: collections.deque[Any] = collections.deque()
        self._rest = b""
        self.process = subprocess.Popen(
            [sys.executable, *flags, "-c", PRELUDE + textwrap.dedent(source), word, json.dumps(args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment(word),
            pass_fds=tuple(pass_fds),
            bufsize=0,
        )
        self.pid = self.process.pid

    @property
    def complaints(self) -> str:
        """What it has written to its standard error."""
        return os.pread(self.errors.fileno(), 1 << 20, 0).decode(errors="replace")

    def hear(self, limit: float = LIMIT) -> Any:
        """The next value that the program says."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + limit
        while not self._lines:
            left = deadline - time.monotonic()
            if left <= 0 or not _readable(self.process.stdout.fileno(), left):
                raise TimeoutError(f"the program says nothing; it complains:\n{self.complaints}")
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, (
                f"the program has ended, with {self.process.wait(LIMIT)}; it complains:\n{self.complaints}"
            )
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines.extend(json.loads(line) for line in lines)
        return self._lines.popleft()

    def tell(self, value: Any = None) -> None:
        """The program hears this."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value).encode() + b"\n")

    def ask(self, value: Any = None, limit: float = LIMIT) -> Any:
        """Tell, and hear the answer."""
        self.tell(value)
        return self.hear(limit)

    def kill(self, signum: signal.Signals = signal.SIGKILL) -> None:
        """Send the signal; the process may be running still when this returns."""
        self.process.send_signal(signum)

    def wait(self, limit: float = LIMIT) -> int:
        """Its exit code, when it has ended."""
        return self.process.wait(limit)

    def cpu_time(self) -> float:
        """Seconds of CPU that it has used."""
        return cpu_time(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if exc is not None and (said := self.complaints):
            exc.add_note(f"the program complained:\n{said}")
        for stream in (self.process.stdin, self.process.stdout, self.errors):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets, which tmp_path need not be."""
    with tempfile.TemporaryDirectory(prefix="px", dir="/tmp") as folder:
        yield Path(folder)
