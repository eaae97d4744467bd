"""A Unix socket where other processes of the same user ask what the loops of this process do.

Read-only: a client names one of three questions and gets one JSON object. The socket has mode 0600 in a
folder of mode 0700 that belongs to the user, and where the kernel tells who asks, others are refused. A
thread of its own answers, also while a loop is stuck; a client that is slow is dropped.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import os
import socket
import stat
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from proactorx.observe.flight import buffers_of, flights_of
from proactorx.observe.running import loops
from proactorx.observe.stats import calls_of, stats_of
from proactorx.observe.tasks import tasks_of
from proactorx.observe.trace import trace_of
from proactorx.pool.jobs import name_this_thread

NAME = "proactorx-top"
LONGEST_QUESTION = 64
PATIENCE = 2.0  # seconds for a client to ask, and to take each piece of the answer
MOST_OPS = 1000
MOST_CALLS = 100
MOST_TURNS = 20_000
REFUSED = "this Python has no Unix sockets: top cannot look at processes here"

Answer = dict[str, Any]


def folder() -> Path:
    """Where the sockets of this user are; it is made, if there is none.

    Raises:
        RuntimeError: it belongs to somebody else, or others may enter it.
    """
    if sys.platform == "win32":
        raise RuntimeError(REFUSED)
    base = os.environ.get("XDG_RUNTIME_DIR")
    path = Path(base, "proactorx") if base else Path(tempfile.gettempdir(), f"proactorx-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise RuntimeError(f"{path} must be a folder of this user's that nobody else can enter")
    return path


def _unix() -> int:
    if sys.platform == "win32":
        raise RuntimeError(REFUSED)
    return socket.AF_UNIX


def peer_uid(sock: socket.socket) -> int | None:
    """The user at the other end; None: the kernel does not tell, and only the folder keeps others out."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    size = struct.calcsize("3i")
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(uid)


def plain(value: Any) -> Any:
    """A value of ours as JSON has it."""
    if dataclasses.is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def answer_stats() -> Answer:
    """What every loop counts, and the operations that are in flight."""
    found = []
    for loop in loops():
        stats = plain(stats_of(loop))
        stats["number"] = loop._number
        stats["thread_name"] = _thread_name(loop._thread_id)
        stats["in_flight"] = plain(flights_of(loop, MOST_OPS))
        stats["calls"] = plain(calls_of(loop)[:MOST_CALLS])
        stats["buffers"] = plain(buffers_of(loop))
        found.append(stats)
    return {"pid": os.getpid(), "argv": sys.argv[:20], "time": time.time(), "loops": found}


def answer_tasks() -> Answer:
    """The tasks of every loop."""
    return {
        "pid": os.getpid(),
        "loops": [{"number": loop._number, "tasks": plain(tasks_of(loop))} for loop in loops()],
    }


def answer_trace() -> Answer:
    """The last turns of every loop."""
    return {"pid": os.getpid(), "traces": [trace_of(loop, MOST_TURNS) for loop in loops()]}


QUESTIONS: dict[bytes, Callable[[], Answer]] = {
    b"stats": answer_stats,
    b"tasks": answer_tasks,
    b"trace": answer_trace,
}


def _thread_name(ident: int | None) -> str:
    for thread in threading.enumerate():
        if thread.ident == ident:
            return thread.name
    return ""


class Exposed:
    """The socket, and the thread that answers on it.

    Raises:
        RuntimeError: this Python has no Unix sockets, or the folder is not safe.
        OSError: the socket cannot be made.
    """

    def __init__(self) -> None:
        self.path: Path = folder() / f"{os.getpid()}.sock"
        self.path.unlink(missing_ok=True)  # of a process that had our number
        self._socket = socket.socket(_unix())
        try:
            self._socket.bind(str(self.path))
            self.path.chmod(0o600)
            self._socket.listen(8)
        except BaseException:
            self._socket.close()
            raise
        self._thread = threading.Thread(target=self._main, name=NAME, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        name_this_thread(NAME)
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                if self._socket.fileno() < 0:
                    return
                time.sleep(0.1)  # no descriptor is left, say
                continue
            with client, contextlib.suppress(OSError):
                self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        if sys.platform == "win32":
            raise RuntimeError(REFUSED)
        client.settimeout(PATIENCE)
        if peer_uid(client) not in (None, os.getuid(), 0):
            return
        question = b""
        until = time.monotonic() + PATIENCE
        while not question.endswith(b"\n") and len(question) <= LONGEST_QUESTION:
            piece = client.recv(LONGEST_QUESTION)
            if not piece or time.monotonic() > until:
                return
            question += piece
        ask = QUESTIONS.get(question.strip())
        if ask is None:
            return
        try:
            answer = ask()
        except Exception as exc:  # of a repr() of the user's, say
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        client.sendall(json.dumps(answer).encode() + b"\n")

    def close(self) -> None:
        """Answer no more."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """In a forked child: the socket is the parent's."""
        self._socket.close()


_exposed: Exposed | None = None
_lock = threading.Lock()


def expose() -> Path:
    """Answer other processes of this user from now on; where: the path of the socket."""
    global _exposed
    with _lock:
        if _exposed is None:
            _exposed = Exposed()
            atexit.register(_exposed.close)
        return _exposed.path


def _after_fork() -> None:
    global _exposed, _lock
    _lock = threading.Lock()
    if _exposed is not None:
        atexit.unregister(_exposed.close)
        _exposed.abandon()
        _exposed = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# -------------------------------------------------------------------------------------------- the other end


def processes() -> list[int]:
    """The processes of this user that answer."""
    if sys.platform == "win32":
        raise RuntimeError(REFUSED)
    return sorted(int(path.stem) for path in folder().glob("*.sock") if path.stem.isdigit() and _lives(path))


def _lives(path: Path) -> bool:
    if sys.platform == "win32":
        raise RuntimeError(REFUSED)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        try:
            sock.connect(str(path))
        except OSError:
            return False
        return True


def ask(pid: int, question: str) -> Answer:
    """Ask one of those.

    Raises:
        OSError: it does not listen, or not any more.
        ValueError: what it said is no answer.
    """
    if sys.platform == "win32":
        raise RuntimeError(REFUSED)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5 * PATIENCE)
        sock.connect(str(folder() / f"{pid}.sock"))
        sock.sendall(question.encode() + b"\n")
        with sock.makefile("rb") as file:
            answer = json.loads(file.readline() or b"null")
    if not isinstance(answer, dict):
        raise ValueError(f"process {pid} gave no answer")
    if "error" in answer:
        raise ValueError(f"process {pid}: {answer['error']}")
    return answer
