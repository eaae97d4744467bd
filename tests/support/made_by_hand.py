"""Makes an object of each compiled class without its ``__init__``, and calls everything that it has.

Run as a program: ``python made_by_hand.py proactorx.transports.``.  Each class is tried in a process of its
own.  Where a signal ends that, a line is printed, and the rest of the class is tried in another one, so that
one crash hides no other.  A call may raise whatever it likes, and it may wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import pkgutil
import random
import resource
import signal
import socket
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import proactorx

TRIES = 24
WAIT = 3  # seconds: a method that waits is not waited for any longer
# What a call of these does to the process is no crash of ours.
LEFT_OUT = {"__class__", "__init_subclass__", "__subclasshook__", "__getattribute__", "__dir__", "__sizeof__"}


def methods(cls: type) -> list[str]:
    """What is there to be called, but for what every object has."""
    return [
        name
        for name in dir(cls)
        if name not in LEFT_OUT and getattr(cls, name) is not getattr(object, name, None)
    ]


def classes() -> Iterator[type]:
    """Every extension class of the package."""
    seen = set()
    for found in pkgutil.walk_packages(proactorx.__path__, "proactorx."):
        if found.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(found.name)
        except ImportError:
            continue  # of another system
        for value in vars(module).values():
            # A class in Python has the flag of the heap (Py_TPFLAGS_HEAPTYPE), one in Cython has not.
            if (
                isinstance(value, type)
                and value.__module__ == found.name
                and not value.__flags__ & 1 << 9
                and value not in seen
            ):
                seen.add(value)
                yield value


class World:
    """What calls are made with."""

    def __init__(self) -> None:
        self.loop: Any = proactorx.new_event_loop(backend="select")
        self.left, self.right = socket.socketpair()
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.plain: list[Any] = [
            None, True, 0, 1, -1, 7, 255, 1 << 16, -(1 << 31), (1 << 31) - 1, 1 << 63, 1 << 80, 0.1,
            float("nan"), b"", b"x" * 300, bytearray(b"abc"), memoryview(b"abcdef")[::2], "", "x\0y",
            "\ud800", "/nowhere", (), [], {},
            {"a": 1}, print, ("127.0.0.1", 1), ("\ud800", 1), [None], object(), type, mock.MagicMock(),
            asyncio.Protocol(), self.left.fileno(), self.left, self.udp,
        ]  # fmt: skip
        self.others: list[Any] = []
        for cls in classes():
            with contextlib.suppress(TypeError, RuntimeError, ValueError):
                self.others.append(cls.__new__(cls))

    def value(self, source: random.Random) -> Any:
        """Something that might be meant, or something absurd."""
        what = source.random()
        if what < 0.2:
            return source.choice((self.loop, self.loop._port, self.loop._port.driver))
        return source.choice(self.plain if what < 0.8 else self.others)


def use(result: Any) -> None:
    """Go as far as possible without a loop that runs."""
    if isinstance(result, types.CoroutineType):
        for _ in range(3):
            result.send(None)
        result.close()
    elif hasattr(result, "__next__"):
        next(result)


def attempt(cls: type, name: str, world: World) -> None:
    """Call one method of new objects of the class, with this and that."""
    source = random.Random(f"{cls.__name__}.{name}")
    for n in range(TRIES):
        try:
            made = cls.__new__(cls)
        except Exception:
            made = cls.__new__(cls, *[world.value(source) for _ in range(source.randint(1, 6))])
        for _ in range(source.randint(1, 2)):
            args = [world.value(source) for _ in range(n % 8)]
            with contextlib.suppress(Exception):
                found = getattr(made, name)
                if callable(found):
                    use(found(*args))
                elif args:
                    setattr(made, name, args[0])
        with contextlib.suppress(Exception):
            repr(made)
        if name == "__init__":  # whatever it has come to: everything else
            for other in methods(cls):
                with contextlib.suppress(Exception):
                    use(getattr(made, other)())
        del made


def in_a_process(cls: type, names: list[str], world: World) -> tuple[int, int]:
    """The signal that has ended it, 0: none; and how many of the methods were begun by then."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, 1)
            os.dup2(devnull, 2)
            world.loop = proactorx.new_event_loop(backend="select")  # the parent's own is of no use here
            for name in names:
                signal.alarm(WAIT)
                os.write(write, b".")
                attempt(cls, name, world)
            gc.collect()
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as progress:
        begun = len(progress.read())
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, begun


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    world = World()
    gc.freeze()
    count = 0
    for cls in classes():
        if not cls.__module__.startswith(sys.argv[1]):
            continue
        names = sorted({*methods(cls), "__init__", "__repr__"})
        count += len(names)
        while names:
            ended, begun = in_a_process(cls, names, world)
            if ended not in (0, signal.SIGALRM):
                print(
                    f"{cls.__module__}.{cls.__name__}.{names[begun - 1]}: {signal.Signals(ended).name}",
                    flush=True,
                )
            names = names[begun:]
    print(f"{count} methods", file=sys.stderr)


if __name__ == "__main__":
    main()
