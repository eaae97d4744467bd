"""What several of the loop's tests need: single steps, subclasses, scripts run as a user would run them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Factory = Callable[[], asyncio.AbstractEventLoop]

# seconds; no test waits longer for something that must come
BOUND = 90.0 if sys.platform == "win32" else 20.0


def step(loop: asyncio.AbstractEventLoop, turns: int = 1) -> None:
    """Let the loop make single turns, as programs do that embed it."""
    for _ in range(turns):
        loop.call_soon(loop.stop)
        loop.run_forever()


def run_until(loop: asyncio.AbstractEventLoop, done: Callable[[], bool], bound: float = BOUND) -> None:
    """Run the loop until ``done()`` is true."""

    async def watch() -> None:
        async with asyncio.timeout(bound):
            while not done():
                await asyncio.sleep(0.005)

    loop.run_until_complete(watch())


def backend_of(factory: Factory) -> str | None:
    """The driver this factory makes loops on; None for stock asyncio."""
    if isinstance(factory, functools.partial):
        return str(factory.keywords["backend"])
    return None


def is_stock(loop: asyncio.AbstractEventLoop) -> bool:
    return isinstance(loop, asyncio.SelectorEventLoop)


def subclass(factory: Factory, **namespace: Any) -> Factory:
    """A factory of the same loops, of a subclass that a user wrote."""
    backend = backend_of(factory)
    if backend is None:
        return type("UserLoop", (asyncio.SelectorEventLoop,), namespace)
    import proactorx

    return functools.partial(type("UserLoop", (proactorx.EventLoop,), namespace), backend=backend)


def prelude(factory: Factory) -> str:
    """Python source that defines ``new_loop`` as this factory."""
    backend = backend_of(factory)
    if backend is None:
        return "import asyncio\nnew_loop = asyncio.SelectorEventLoop\n"
    return (
        "import asyncio, functools, proactorx\n"
        f"new_loop = functools.partial(proactorx.new_event_loop, backend={backend!r})\n"
    )


def script_environment(**extra: str) -> dict[str, str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PROACTORX_", "PYTHONASYNCIO"))}
    found = sys.modules.get("proactorx")
    if found is not None and found.__file__ is not None:
        root = str(Path(found.__file__).parent.parent)
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [root, env.get("PYTHONPATH")]))
    return env | extra


def start_script(source: str, *flags: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *flags, "-c", textwrap.dedent(source)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env if env is not None else script_environment(),
    )


def finish(process: subprocess.Popen[str], bound: float = BOUND) -> tuple[str, str]:
    """Wait for a script's end; a script that hangs is killed and fails the test with what it had said."""
    try:
        return process.communicate(timeout=bound)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the script hung\n{out}\n{err}") from None


def run_script(factory: Factory | None, source: str, *flags: str, env: dict[str, str] | None = None) -> str:
    """What a script printed. It must end with status 0 and without a traceback."""
    text = (prelude(factory) if factory is not None else "") + textwrap.dedent(source)
    process = start_script(text, *flags, env=env)
    out, err = finish(process)
    assert process.returncode == 0, f"status {process.returncode}\n{out}\n{err}"
    assert "Traceback" not in err, err
    return out


@contextlib.contextmanager
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        yield left, right


class Thread(threading.Thread):
    """A thread whose exception fails the test that joins it."""

    def __init__(self, target: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._body = target
        self.result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self.result = self._body()
        except BaseException as exc:
            self._error = exc

    def finish(self, bound: float = BOUND) -> Any:
        self.join(bound)
        assert not self.is_alive(), "the thread hung"
        if self._error is not None:
            raise self._error
        return self.result


def in_thread(target: Callable[[], Any]) -> Any:
    """Run this in a new thread, to its end."""
    thread = Thread(target)
    thread.start()
    return thread.finish()
