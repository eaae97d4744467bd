"""What the tests of this folder share: the driver's word, children,
and sockets that are closed afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator

import pytest

from outside.support import Child, Factory, Inside, backend_of

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]  # they look into /proc


@pytest.fixture
def word(loop_factory: Factory) -> str:
    """The driver's name, or "asyncio"."""
    return backend_of(loop_factory)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Closes what the test enters into it."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def child(word: str, stack: contextlib.ExitStack) -> Callable[..., Child]:
    """Starts a loop program on this driver in a process of its own; killed at the end of the test."""

    def start(source: str, *args: object, **options: object) -> Child:
        return stack.enter_context(Child(word, source, *args, **options))  # type: ignore[arg-type]

    return start


@pytest.fixture
def inside(loop: asyncio.AbstractEventLoop, stack: contextlib.ExitStack) -> Inside:
    """The loop, running in a thread of its own, while the test is the peer, with blocking sockets."""
    return stack.enter_context(Inside(loop))
